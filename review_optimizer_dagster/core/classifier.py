"""The model, after the batch plan: sends the batches, and derives every effect from the journal.

A request is reserved in the budget, written to the journal as an intent, sent, its raw outcome
written, and only then read. `read_requests` gives the same answers and costs from the same
journal, whichever run asks; a run that was killed is taken up where its journal ends.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import polars as pl

from review_optimizer_dagster.core.costs import allocate, reply_cost
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.batch_quality import BatchWatch
from review_optimizer_dagster.exchange.prompt import Json, as_json
from review_optimizer_dagster.exchange.reply import Reply, Usage, escalated, read_reply
from review_optimizer_dagster.exchange.run import Endpoint as Endpoint
from review_optimizer_dagster.exchange.run import Journal, Run
from review_optimizer_dagster.exchange.transport import Clock
from review_optimizer_dagster.money.budgets import Budget
from review_optimizer_dagster.money.prices import BATCH_TIER, DEFAULT_TIER, PriceTable
from review_optimizer_dagster.taxonomies import Taxonomy

ANSWERS = pl.Schema(
    {
        "tenant": pl.String(),
        "identity": pl.String(),
        "content_key": pl.String(),
        "status": pl.String(),  # labelled, failed, deferred
        "labels": pl.String(),  # JSON: field to label
        "model": pl.String(),
        "request_id": pl.String(),  # the one that answered
        "reason": pl.String(),  # why failed or deferred
        "attempts": pl.Int64(),
        "tier": pl.String(),  # of the model that answered
        "unsure": pl.Boolean(),  # the model said so, and no better one was asked or knew better
        "next_tier": pl.String(),  # that is still to be asked; null where the answer is final
    }
)

REQUESTS = pl.Schema(
    {
        "request_id": pl.String(),
        "generation": pl.Int64(),
        "batch_id": pl.String(),
        "attempt": pl.Int64(),
        "kind": pl.String(),
        "way": pl.String(),  # sync, or batch: the Batch API
        "tier": pl.String(),
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "identity": pl.String(),
        "engine": pl.String(),
        "simulated": pl.Boolean(),
        "model_requested": pl.String(),
        "model": pl.String(),  # that the response names
        "service_tier": pl.String(),
        "reviews": pl.Int64(),
        "answered": pl.Int64(),
        "escalated": pl.Int64(),  # reviews that went on to the next tier
        "status": pl.String(),  # see `Reply.status`
        "http_status": pl.Int64(),
        "error": pl.String(),
        "prompt_tokens": pl.Int64(),
        "cached_tokens": pl.Int64(),
        "cache_write_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "cost_nanos": pl.Int64(),
        "held_nanos": pl.Int64(),  # the worst case, where the cost is not known
        "sent_at": pl.Datetime("us", "UTC"),
        "latency_ms": pl.Float64(),
        "memory_share": pl.Float64(),  # of the model server, when the request was sent
        "memory_source": pl.String(),
    }
)

SHARES = pl.Schema(
    dict.fromkeys(("request_id", "identity", "content_key", "tenant"), pl.String())
    | {"cost_nanos": pl.Int64()}
)

_CHUNK = 50_000  # rows that are Python objects at a time


@dataclass(frozen=True)
class Readout:
    """What a journal says."""

    answers: pl.DataFrame
    """ANSWERS: labelled and failed; an item that may still be asked has no row."""
    requests: pl.DataFrame
    """REQUESTS: every request of every generation."""
    shares: pl.DataFrame
    """SHARES: what each request cost, split among its items; they add up to it."""


@dataclass(frozen=True)
class Classified:
    """What one run did; the answers themselves are in the journal."""

    unsent: pl.DataFrame
    """ANSWERS rows of what was not asked: deferred (by a budget, by a paused tier, or until the
    Batch API has ended), or failed (the endpoint was given up)."""
    request_ids: tuple[str, ...]


# --- reading the journal --------------------------------------------------------------------

_EVENTS = pl.Schema(
    dict(ANSWERS) | {"order": pl.Int64(), "rank": pl.Int64(), "is_final": pl.Boolean()}
)
_ITEM = ["identity", "content_key"]
# What an item's record tells: 3: labelled; 2: labelled, but unsure; 1: failed, an outcome of a last
# attempt without a label; 0: to be asked again.
_SURE, _UNSURE, _FAILED, _OPEN = 3, 2, 1, 0


class _Rows:
    """Rows of a frame, kept as Python objects for a chunk at a time."""

    def __init__(self, schema: pl.Schema) -> None:
        self._schema = schema
        self._frames = [schema.to_frame()]
        self._rows: list[tuple[object, ...]] = []

    def extend(self, rows: Iterable[tuple[object, ...]]) -> None:
        self._rows.extend(rows)
        if len(self._rows) >= _CHUNK:
            self._pack()

    def _pack(self) -> None:
        self._frames.append(pl.DataFrame(self._rows, self._schema, orient="row"))
        self._rows = []

    def frame(self) -> pl.DataFrame:
        self._pack()
        return pl.concat(self._frames)


def read_requests(
    records: Iterable[Json],
    taxonomies: Mapping[str, Taxonomy],
    prices: PriceTable,
    generation: int,
) -> Readout:
    """Answers, requests and cost shares of a journal's records, in their order; pure.

    Answers are those of one generation whose taxonomy still has the fields and labels that were
    asked. Raises UnknownPrice for a model or tier without a price.
    """
    events, requests, shares = _Rows(_EVENTS), _Rows(REQUESTS), _Rows(SHARES)
    for order, record in enumerate(records):
        reply = read_reply(record)
        cost = reply_cost(record, reply, prices)
        requests.extend([_request_row(record, reply, cost)])
        if reply.status in ("ok", "partial", "invalid"):
            shares.extend(_share_rows(record, cost))
        taxonomy = taxonomies.get(record["taxonomy"])
        is_as_asked = taxonomy is not None and _fields(taxonomy) == record["fields"]
        if is_as_asked and record["generation"] == generation:
            events.extend(_events(record, reply, order))
    return Readout(_best(events.frame()), requests.frame(), shares.frame())


def _fields(taxonomy: Taxonomy) -> dict[str, list[str]]:
    return {asked.name: list(asked.labels) for asked in taxonomy.fields}


def _events(record: Json, reply: Reply, order: int) -> Iterable[tuple[object, ...]]:
    """What a record tells of each of its items."""
    moved, voided = set(escalated(record, reply)), set(record.get("voided", ()))
    gave_up = record["attempts_left"] == 0 and record["outcome"] is not None
    for item_id, content_key, _ in record["items"]:
        if content_key in voided:
            continue  # as if it had not been asked
        status, labels, model, request_id = "failed", None, None, None
        reason, rank = reply.faults.get(item_id), _FAILED if gave_up else _OPEN
        if found := reply.labels.get(item_id):
            rank = _UNSURE if item_id in reply.unsure else _SURE
            status, labels = "labelled", as_json(found).decode()
            model, request_id = reply.model or record["model"], record["request_id"]
        next_tier = record.get("next_tier") if item_id in moved else None
        # An item that was moved up is not done before the next tier gives it up or answers.
        is_final = rank > _OPEN and next_tier is None
        key = (record["tenant"], record["identity"], content_key)
        tier = record.get("tier") if labels else None
        told = (status, labels, model, request_id, reason, 1, tier, rank == _UNSURE, next_tier)
        yield (*key, *told, order, rank, is_final)


def _best(events: pl.DataFrame) -> pl.DataFrame:
    """What each item's requests have given so far: ANSWERS, items without an answer left out.

    Whatever the clocks said: a label counts more than a failure, the first sure one stays, and of
    unsure ones the last, which the best model gave.
    """
    by_item = events.sort("order").group_by(_ITEM)
    state = by_item.agg(
        attempts=pl.len().cast(pl.Int64),
        moved_to=pl.col("next_tier").drop_nulls().last(),
        moved_at=pl.col("order").filter(pl.col("next_tier").is_not_null()).max(),
        ended_at=pl.col("order").filter("is_final").max(),
        has_sure=(pl.col("rank") == _SURE).any(),
    ).with_columns(
        due=~pl.col("has_sure")
        & pl.col("moved_at").is_not_null()
        & (pl.col("ended_at").is_null() | (pl.col("ended_at") < pl.col("moved_at")))
    )
    turn = pl.when(pl.col("rank") == _UNSURE).then(-pl.col("order")).otherwise(pl.col("order"))
    return (
        events.filter(pl.col("rank") > _OPEN)
        .sort(pl.col("rank"), turn, descending=[True, False])
        .unique(_ITEM, keep="first", maintain_order=True)
        .drop("attempts", "next_tier")
        .join(state, on=_ITEM)
        .with_columns(next_tier=pl.when("due").then("moved_to"))
        .sort(_ITEM)
        .select(ANSWERS.names())
    )


def _request_row(record: Json, reply: Reply, cost: int) -> tuple[object, ...]:
    outcome, usage = record["outcome"] or {}, reply.usage or Usage(0, 0, 0)
    memory = record.get("memory") or {}
    values = record | {
        "way": record.get("way", "sync"),
        "tier": record.get("tier"),
        "model_requested": record["model"],
        "model": reply.model,
        "service_tier": BATCH_TIER if record.get("way") == "batch" else reply.service_tier,
        "reviews": len(record["items"]),
        "answered": len(reply.labels),
        "escalated": len(escalated(record, reply)),
        "status": reply.status,
        "http_status": outcome.get("http_status"),
        "error": reply.error,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "cache_write_tokens": usage.cache_write_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_nanos": cost,
        "held_nanos": 0 if reply.cost_known else record["worst_nanos"],
        "sent_at": datetime.fromisoformat(record["sent_at"]),
        "latency_ms": outcome.get("latency_ms"),
        "memory_share": memory.get("share"),
        "memory_source": memory.get("source"),
    }
    return tuple(values[name] for name in REQUESTS)


def _share_rows(record: Json, cost: int) -> list[tuple[str, str, str, str, int]]:
    parts = allocate(cost, [tokens for _, _, tokens in record["items"]])
    return [
        (record["request_id"], record["identity"], content_key, record["tenant"], part)
        for (_, content_key, _), part in zip(record["items"], parts, strict=True)
    ]


# --- asking -----------------------------------------------------------------------------------


def classify(
    plan: pl.DataFrame,
    texts: Callable[[pl.DataFrame], pl.DataFrame],
    taxonomies: Mapping[str, Taxonomy],
    endpoint: Endpoint,
    journal: Journal,
    generation: int,
    budgets: Callable[[str], Budget],
    prices: PriceTable,
    *,
    by_batch: Iterable[str] = (),
    quality: BatchWatch | None = None,
    redact: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
    clock: Clock | None = None,
) -> Classified:
    """Ask for every item that the journal holds no final answer of in this generation.

    plan: PLAN; texts: adds title and text to rows of it, asked for as they are needed; budgets:
    tenant to its budget; by_batch: the tenants that go through the Batch API; quality: samples
    large batches as they come in, and pauses tiers; progress: called with the items done and all
    items. Raises UserError where going on makes no sense (key, credit,
    model, price, another run of the day); everything paid for until then is in the journal.
    """
    clock = clock or Clock()
    with journal.lock():
        records = journal.requests()
        if quality is not None:
            quality.plan(plan)
            records = quality.catch_up(records)
        before = read_requests(records, taxonomies, prices, generation)
        settle_budgets(before.requests, budgets)
        asked = still_asked(plan, before.answers)
        by_batch = frozenset(by_batch)
        jobs = [job for job in journal.jobs() if job["status"] != "ended"]
        run = Run(
            taxonomies, endpoint, journal, generation, before.requests.height, budgets, prices,
            redact, seed, clock, progress, plan.height, texts, by_batch, quality,
        )  # fmt: skip
        run.advance(plan.height - asked.height)
        if asked.height or jobs:
            today = clock.now().date()
            tenants = set(asked["tenant"].unique())
            ways = [DEFAULT_TIER] * bool(tenants - by_batch) + [BATCH_TIER] * bool(
                tenants & by_batch
            )
            for tier in endpoint.ladder:
                for way in ways:
                    prices.check_model(tier.model, today, way)
            _in_own_loop(run.ask(asked, jobs))
    unsent = pl.DataFrame(run.unsent, ANSWERS, orient="row")
    failed = before.answers.filter(pl.col("status") == "failed").select(_ITEM)
    known = before.answers.filter(pl.col("status") == "labelled").select(_ITEM)
    # A text that failed before stays failed, and an unsure label is better than none.
    untold = unsent.join(pl.concat([failed, known]), on=_ITEM, how="anti")
    return Classified(untold, tuple(run.request_ids))


def still_asked(plan: pl.DataFrame, answers: pl.DataFrame) -> pl.DataFrame:
    """The rows of a plan without a final answer; `tier` is the one to ask next."""
    labelled = answers.filter(pl.col("status") == "labelled")
    final = labelled.filter(pl.col("next_tier").is_null())
    moved = answers.filter(pl.col("next_tier").is_not_null()).select(*_ITEM, "next_tier")
    return (
        plan.join(final, on=_ITEM, how="anti", maintain_order="left")
        .join(moved, on=_ITEM, how="left", maintain_order="left")
        .with_columns(tier=pl.coalesce("next_tier", "tier"))
        .select(plan.columns)
    )


def settle_budgets(requests: pl.DataFrame, budgets: Callable[[str], Budget]) -> None:
    """Settle what a run that was killed had no time to settle."""
    known = requests.filter(pl.col("held_nanos") == 0)
    for (tenant,), paid in known.group_by("tenant", maintain_order=True):
        try:
            budget = budgets(str(tenant))
        except UserError:
            continue  # a tenant that is gone has no budget; the ledger has its costs
        months = paid.with_columns(month=pl.col("sent_at").dt.truncate("1mo"))
        for (month,), sent in months.group_by("month", maintain_order=True):
            held = sent.filter(pl.col("request_id").is_in(list(budget.held(month))))
            for row in held.select("request_id", "cost_nanos", "sent_at").iter_rows():
                budget.settle(*row)


def _in_own_loop(asking: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, in a thread of its own where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(_stoppable(asking))
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asking).result()


async def _stoppable(asking: Coroutine[Any, Any, None]) -> None:
    """Let an interrupt stop the run in order: nothing new is sent, what is in flight comes in.

    SIGTERM, which a scheduler sends, means the same. A second one does not wait. Raises
    KeyboardInterrupt.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(asking)
    interrupts = []

    def stop() -> None:
        interrupts.append(True)
        task.cancel()

    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            handlers[number] = signal.getsignal(number)
            loop.add_signal_handler(number, stop)
    try:
        await task
    except asyncio.CancelledError:
        if interrupts:
            raise KeyboardInterrupt from None
        raise
    finally:
        for number, handler in handlers.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
