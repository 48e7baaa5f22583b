"""What the assets are handed: the home folder, the warehouse, and the engine that answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.batching import Tier
from review_optimizer_dagster.core.cache import Identity
from review_optimizer_dagster.core.classifier import Endpoint, Readout, read_requests
from review_optimizer_dagster.errors import UserError, system_problem
from review_optimizer_dagster.exchange.prompt import Asking, Form, prompt_identity, reply_form
from review_optimizer_dagster.money.budgets import Budget, Spend, State, budget_version
from review_optimizer_dagster.money.prices import PriceTable, load_prices
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster.text import NORMALISER_VERSION

if TYPE_CHECKING:
    from review_optimizer_dagster.learning.embeddings import EmbeddingEndpoint
    from review_optimizer_dagster.simulator.judge import Judge
    from review_optimizer_dagster.simulator.server import Simulator

LOCAL_IN_FLIGHT = 2  # a small model on this machine's own cores gains nothing from more
LOCAL_SECONDS_PER_REVIEW = 20.0


class Listener:
    """Hears how a run goes on. The command draws it; nobody listens in a scheduled run."""

    def begin(self, steps: int) -> None:
        """A run of so many steps has begun."""

    def step(self, name: str) -> None:
        """A step has begun."""

    def texts(self, done: int, total: int) -> None:
        """So many texts of this run have an answer, of so many that the model is asked about."""

    def spend(self, spend: Spend) -> None:
        """Where a tenant's budget stands: once before anything is sent, then after each change."""


listener: ContextVar[Listener] = ContextVar("listener", default=Listener())  # noqa: B039 (stateless)


@contextmanager
def step(name: str) -> Iterator[None]:
    """A step of a run: announced, and with what the user must mend shown as it is.

    Raises Failure, which is never retried, in place of UserError, and of what the system refuses:
    a full disk, a folder that may not be written.
    """
    listener.get().step(name)
    try:
        yield
    except KeyboardInterrupt as stopped:
        raise dg.DagsterExecutionInterruptedError from stopped  # a cancelled run, not a broken one
    except UserError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error
    except Exception as error:
        if (refused := system_problem(error)) is None:
            raise
        raise dg.Failure(description=refused, allow_retries=False) from error


class HomeFolder(dg.ConfigurableResource[Home]):
    """The state folder, and what is read from it."""

    folder: str = Field(description="The state folder; $REVIEW_OPTIMIZER_HOME by default.")

    @property
    def home(self) -> Home:
        """Paths and settings. Raises ConfigError where tenants.toml is not valid."""
        return Home(Path(self.folder))

    def prices(self) -> PriceTable:
        """The shipped prices and those of `prices.toml` in the home."""
        return load_prices(self.home.prices_file)

    @contextmanager
    def journal(self, day: date) -> Iterator[DayJournal]:
        """The journal of one day's requests."""
        journal = DayJournal(self.home.journal, day)
        try:
            yield journal
        finally:
            journal.close()

    @contextmanager
    def state(self) -> Iterator[StateStore]:
        """Counters and alert states that outlive a run."""
        state = StateStore(self.home.journal)
        try:
            yield state
        finally:
            state.close()

    def paid_for(self, journal: DayJournal, taxonomies: Mapping[str, Taxonomy]) -> Readout:
        """What a day's requests came to, read from the journal alone."""
        return read_requests(journal.requests(), taxonomies, self.prices(), journal.generation)

    def taxonomies(self, tenants: list[str]) -> dict[str, Taxonomy]:
        """The taxonomies that these tenants use, by name."""
        used = [self.home.taxonomy(tenant) for tenant in tenants]
        return {taxonomy.name: taxonomy for taxonomy in used}


def budget(
    home: Home,
    state: State,
    tenant: str,
    simulated: bool,
    watch: Callable[[Spend], None] = lambda _: None,
) -> Budget:
    """A tenant's budget as it is configured now; simulated spend has counters of its own.

    watch: told where the budget stands after every change.
    """
    settings = home.tenant(tenant)
    version = budget_version(
        state, tenant, settings.budget_nanos, settings.budget_period, utc_now()
    )
    hold = timedelta(hours=settings.hold_hours)
    return Budget(state, tenant, version, simulated=simulated, hold=hold, watch=watch)


class Engine(dg.ConfigurableResource["Engine"]):
    """Who answers what the cache cannot, in this run."""

    name: Literal["openai", "simulator", "local", "configured"] = Field(
        default="configured",
        description="`configured` is the one of tenants.toml, or the simulator in a demo home.",
    )
    answers: str = Field(
        default="",
        description="Simulator only: a file of texts and labels that it answers from.",
    )
    answer_error: float = Field(
        default=0.0, ge=0.0, le=1.0, description="Simulator only: share of answers that are wrong."
    )
    flips: dict[str, float] = Field(
        default={},
        description="Simulator only: share of the answers to a category, by its name, that are "
        "wrong, as of a model that goes wrong without a word; `answers` has the categories.",
    )
    latency_seconds: float = Field(
        default=0.05, ge=0.0, description="Simulator only: response time of a request."
    )
    seconds_per_token: float = Field(
        default=0.0, ge=0.0, description="Simulator only: response time of each output token."
    )
    latency_sigma: float = Field(
        default=0.0, ge=0.0, description="Simulator only: spread of the lognormal response time."
    )
    faults: dict[str, float] = Field(
        default={}, description="Simulator only: share of requests that meet each fault, by name."
    )
    model_errors: dict[str, float] = Field(
        default={}, description="Simulator only: share of answers that are wrong, by model."
    )
    reclassify: bool = Field(
        default=False, description="Ask the model again about every text, and pay again."
    )

    def resolved(self, home: Home) -> str:
        """The engine's name: the run's own choice, else the home's."""
        name = home.settings.engine.name if self.name == "configured" else self.name
        chosen = self.answers or self.answer_error or self.model_errors or self.faults or self.flips
        if name != "simulator" and chosen:
            raise UserError(
                "--answers, --answer-error, --model-error, --flip and --fault need the "
                f"simulator, not {name!r}"
            )
        if self.flips and not self.answers:
            raise UserError("--flip needs --answers FILE, which has the categories")
        return name

    def simulated(self, home: Home) -> bool:
        """Whether a simulator answers."""
        return self.resolved(home) == "simulator"

    def ladder(self, home: Home) -> tuple[Tier, ...]:
        """The models that may be asked, the cheapest first, and how many reviews each takes."""
        if self.resolved(home) == "local":
            from review_optimizer_dagster.local_model import LocalModel

            return (Tier("local", LocalModel.model, max_reviews=LocalModel.most_documents),)
        most = home.settings.batches.max_reviews
        return tuple(
            Tier(
                step.name,
                step.model,
                step.max_complexity,
                step.max_reviews or home.batch_cap(step.model) or most,
                home.settings.engine.effort(step.model),
            )
            for step in home.settings.engine.ladder
        )

    def form(self, home: Home, taxonomy: Taxonomy) -> Form:
        """In which form the replies to a taxonomy come; a small model does not learn codes."""
        if self.resolved(home) == "local":
            return "labels"
        return reply_form(taxonomy, home.settings.engine.reply)

    def asking(
        self, home: Home, taxonomies: Mapping[str, Taxonomy]
    ) -> Callable[[str, Tier], Asking]:
        """How a taxonomy, by name, is asked in a tier."""
        endpoint = self._endpoint(home, "", "")
        return lambda name, tier: endpoint.asking(taxonomies[name], tier)

    def judge(self, home: Home, taxonomies: Mapping[str, Taxonomy]) -> Judge:
        """How the simulator judges: by its lexicon, or by the answers file."""
        from review_optimizer_dagster.simulator.judge import AnswersJudge, LexiconJudge

        if not self.answers:
            return LexiconJudge()
        if len(taxonomies) > 1:
            raise UserError(
                f"--answers holds the labels of one taxonomy, but the day's tenants use "
                f"{', '.join(sorted(taxonomies))}: deliver them on different days"
            )
        (taxonomy,) = taxonomies.values()
        maps = (t.columns for t in home.settings.tenants.values() if t.taxonomy == taxonomy.name)
        return AnswersJudge(
            Path(self.answers),
            taxonomy,
            self.answer_error,
            home.settings.batches.seed,
            columns=next((columns for columns in maps if columns), None),
            flipped=self.flips,
        )

    def identities(self, home: Home, tenants: list[str], judge: Judge | None) -> dict[str, str]:
        """The identity that each tenant's answers are kept under."""
        ladder = self.ladder(home)
        # The same name may be another model elsewhere.
        answerer = judge.policy if judge else urlsplit(home.settings.engine.base_url).netloc
        # A simulator whose model errs gives other answers than one whose model does not.
        errs = sorted((model, rate) for model, rate in self.model_errors.items() if rate)
        answerer += "".join(f"~{model}={rate:g}" for model, rate in errs)
        if self.resolved(home) == "local":
            from review_optimizer_dagster.local_model import LocalModel

            answerer = LocalModel.policy
        models = "+".join(
            tier.model
            + (f":{tier.effort}" if tier.effort else "")
            + ("" if tier is ladder[-1] else f"<={tier.max_complexity:g}")
            for tier in ladder
        )
        policy = f"{models}@{answerer}"
        identities = {}
        for tenant in tenants:
            taxonomy = home.taxonomy(tenant)
            identities[tenant] = Identity(
                scope=home.tenant(tenant).pool or tenant,
                taxonomy=taxonomy.identity,
                prompt=prompt_identity(taxonomy, self.form(home, taxonomy)),
                model_policy=policy,
                normaliser=NORMALISER_VERSION,
                simulated=judge is not None,
            ).key
        return identities

    @contextmanager
    def endpoint(self, home: Home, judge: Judge | None) -> Iterator[Endpoint]:
        """The endpoint to send to; a simulator or local model lives as long as this block."""
        settings, name = home.settings.engine, self.resolved(home)
        if judge is not None:
            with self._simulator(judge) as simulator:
                yield self._endpoint(home, simulator.base_url, "simulated")
        elif name == "local":
            from review_optimizer_dagster.exchange.memory import find_probe
            from review_optimizer_dagster.local_model import LocalModel

            with LocalModel() as local:
                found = self._endpoint(home, local.base_url, "local")
                yield replace(found, memory=find_probe(local.base_url, local.metrics_url, "local"))
        else:
            from review_optimizer_dagster.exchange.memory import find_probe

            key = settings.api_key()
            found = self._endpoint(home, settings.base_url, key)
            yield replace(found, memory=find_probe(settings.base_url, settings.metrics_url, key))

    def _endpoint(self, home: Home, base_url: str, api_key: str) -> Endpoint:
        settings = home.settings.engine
        is_local = self.resolved(home) == "local"
        return Endpoint(
            name=self.resolved(home),
            base_url=base_url,
            api_key=api_key,
            ladder=self.ladder(home),
            simulated=self.simulated(home),
            form=lambda taxonomy: self.form(home, taxonomy),
            timeout_seconds=settings.timeout_seconds,
            timeout_seconds_per_review=LOCAL_SECONDS_PER_REVIEW
            if is_local
            else settings.timeout_seconds_per_review,
            in_flight=LOCAL_IN_FLIGHT if is_local else settings.in_flight,
            max_attempts=settings.max_attempts,
            tier_attempts=settings.tier_attempts,
            max_escalated=settings.max_escalated,
            max_memory=settings.max_memory,
            batch_wait_seconds=settings.batch_wait_seconds,
        )

    def _simulator(self, judge: Judge) -> Simulator:
        from review_optimizer_dagster.simulator.server import Simulator

        return Simulator(
            judge,
            latency_seconds=self.latency_seconds,
            seconds_per_token=self.seconds_per_token,
            sigma=self.latency_sigma,
            faults=self.faults,
            wrong_rates=self.model_errors,
        )

    @contextmanager
    def embedding_endpoint(self, home: Home) -> Iterator[EmbeddingEndpoint]:
        """The endpoint to embed with; a simulator lives as long as this block."""
        from review_optimizer_dagster.learning.embeddings import EmbeddingEndpoint
        from review_optimizer_dagster.simulator.judge import LexiconJudge

        engine, model = home.settings.engine, home.settings.patterns.embedding_model
        limits = (engine.timeout_seconds, engine.max_attempts)
        if not self.simulated(home):
            asked = home.settings.patterns
            key = engine.api_key(asked.embedding_key_env)
            yield EmbeddingEndpoint(asked.embedding_base_url, key, model, *limits)
            return
        with self._simulator(LexiconJudge()) as simulator:
            yield EmbeddingEndpoint(simulator.base_url, "simulated", model, *limits, simulated=True)


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
