"""What the assets are handed: the home folder, the warehouse, and the engine that answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import dagster as dg
from pydantic import Field

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.cache import Identity
from review_optimizer_dagster.core.classifier import (
    Endpoint,
    Readout,
    prompt_identity,
    read_requests,
)
from review_optimizer_dagster.core.costs import Budget, PriceTable, State, load_prices, period_key
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster.text import NORMALISER_VERSION

if TYPE_CHECKING:
    from review_optimizer_dagster.learning.embeddings import EmbeddingEndpoint
    from review_optimizer_dagster.simulator.judge import Judge


class Listener:
    """Hears how a run goes on. The command draws it; nobody listens in a scheduled run."""

    def step(self, name: str) -> None:
        """A step has begun."""

    def texts(self, done: int, total: int) -> None:
        """So many texts of this run have an answer, of so many that the model is asked about."""


listener: ContextVar[Listener] = ContextVar("listener", default=Listener())  # noqa: B039 (stateless)


@contextmanager
def step(name: str) -> Iterator[None]:
    """A step of a run: announced, and with what the user must mend shown as it is.

    Raises Failure, which is never retried, in place of UserError.
    """
    listener.get().step(name)
    try:
        yield
    except UserError as error:
        raise dg.Failure(description=str(error), allow_retries=False) from error


class HomeFolder(dg.ConfigurableResource[Home]):
    """The state folder, and what is read from it."""

    folder: str = Field(description="The state folder; $REVIEW_OPTIMIZER_HOME by default.")

    @property
    def home(self) -> Home:
        """Paths and settings. Raises ConfigError where tenants.toml is not valid."""
        return Home(Path(self.folder))

    def prices(self) -> PriceTable:
        """The shipped prices and those of `prices.toml` in the home."""
        return load_prices(self.home.folder / "prices.toml")

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


def budget(home: Home, state: State, tenant: str, simulated: bool, now: datetime) -> Budget:
    """A tenant's budget for the period that a moment falls in.

    Simulated spend has counters of its own: it must never use up real money.
    """
    settings = home.tenant(tenant)
    period = period_key(settings.budget_period, now)
    return Budget(
        state, tenant, settings.budget_nanos, f"simulated:{period}" if simulated else period
    )


class Engine(dg.ConfigurableResource["Engine"]):
    """Who answers what the cache cannot, in this run."""

    name: Literal["openai", "simulator", "configured"] = Field(
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
    latency_seconds: float = Field(
        default=0.05, ge=0.0, description="Simulator only: response time of a request."
    )
    reclassify: bool = Field(
        default=False, description="Ask the model again about every text, and pay again."
    )

    def resolved(self, home: Home) -> str:
        """The engine's name: the run's own choice, else the home's."""
        name = home.settings.engine.name if self.name == "configured" else self.name
        if name != "simulator" and (self.answers or self.answer_error):
            raise UserError(f"--answers and --answer-error need the simulator, not {name!r}")
        return name

    def simulated(self, home: Home) -> bool:
        """Whether a simulator answers."""
        return self.resolved(home) == "simulator"

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
        )

    def identities(self, home: Home, tenants: list[str], judge: Judge | None) -> dict[str, str]:
        """The identity that each tenant's answers are kept under."""
        # The same name may be another model elsewhere.
        answerer = judge.policy if judge else urlsplit(home.settings.engine.base_url).netloc
        policy = f"{home.settings.engine.model}@{answerer}"
        identities = {}
        for tenant in tenants:
            taxonomy = home.taxonomy(tenant)
            identities[tenant] = Identity(
                scope=home.tenant(tenant).pool or tenant,
                taxonomy=taxonomy.identity,
                prompt=prompt_identity(taxonomy),
                model_policy=policy,
                normaliser=NORMALISER_VERSION,
                simulated=judge is not None,
            ).key
        return identities

    @contextmanager
    def endpoint(self, home: Home, judge: Judge | None) -> Iterator[Endpoint]:
        """The endpoint to send to; a simulator lives as long as this block."""
        settings = home.settings.engine
        if judge is None:
            yield Endpoint(
                name=self.resolved(home),
                base_url=settings.base_url,
                api_key=settings.api_key(),
                model=settings.model,
                simulated=False,
                timeout_seconds=settings.timeout_seconds,
                in_flight=settings.in_flight,
                max_attempts=settings.max_attempts,
            )
            return
        from review_optimizer_dagster.simulator.server import Simulator

        with Simulator(judge, latency_seconds=self.latency_seconds) as simulator:
            yield Endpoint(
                name="simulator",
                base_url=simulator.base_url,
                api_key="simulated",
                model=settings.model,
                simulated=True,
                timeout_seconds=settings.timeout_seconds,
                in_flight=settings.in_flight,
                max_attempts=settings.max_attempts,
            )

    @contextmanager
    def embedding_endpoint(self, home: Home) -> Iterator[EmbeddingEndpoint]:
        """The endpoint to embed with; a simulator lives as long as this block."""
        from review_optimizer_dagster.learning.embeddings import EmbeddingEndpoint
        from review_optimizer_dagster.simulator.judge import LexiconJudge
        from review_optimizer_dagster.simulator.server import Simulator

        engine, model = home.settings.engine, home.settings.patterns.embedding_model
        limits = (engine.timeout_seconds, engine.max_attempts)
        if not self.simulated(home):
            asked = home.settings.patterns
            key = engine.api_key(asked.embedding_key_env)
            yield EmbeddingEndpoint(asked.embedding_base_url, key, model, *limits)
            return
        with Simulator(LexiconJudge(), latency_seconds=self.latency_seconds) as simulator:
            yield EmbeddingEndpoint(simulator.base_url, "simulated", model, *limits, simulated=True)


def utc_now() -> datetime:
    """Now, in UTC."""
    return datetime.now(UTC)
