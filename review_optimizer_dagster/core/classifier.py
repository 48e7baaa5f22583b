"""The model, after the batch plan: sends the batches, and derives every effect from the journal.

A request is reserved in the budget, written to the journal as an intent, sent, its raw outcome
written, and only then read. `read_requests` gives the same answers and costs from the same
journal, whichever run asks; a run that was killed is taken up where its journal ends.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import math
import random
import re
import time
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any, NamedTuple, Protocol

import polars as pl

from review_optimizer_dagster.core.batching import (
    Json,
    Reply,
    as_json,
    most_input_tokens,
    read_reply,
    request_body,
)
from review_optimizer_dagster.core.batching import prompt_identity as prompt_identity
from review_optimizer_dagster.core.costs import (
    Budget,
    PriceTable,
    Usage,
    allocate,
    request_cost,
    worst_case,
)
from review_optimizer_dagster.errors import UserError
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
    }
)

REQUESTS = pl.Schema(
    {
        "request_id": pl.String(),
        "generation": pl.Int64(),
        "batch_id": pl.String(),
        "attempt": pl.Int64(),
        "kind": pl.String(),
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
        "status": pl.String(),  # ok, partial, invalid, http_error, timeout, connection, unknown
        "http_status": pl.Int64(),
        "error": pl.String(),
        "prompt_tokens": pl.Int64(),
        "cached_tokens": pl.Int64(),
        "completion_tokens": pl.Int64(),
        "cost_nanos": pl.Int64(),
        "held_nanos": pl.Int64(),  # the worst case, where the cost is not known
        "sent_at": pl.Datetime("us", "UTC"),
        "latency_ms": pl.Float64(),
    }
)

SHARES = pl.Schema(
    dict.fromkeys(("request_id", "identity", "content_key", "tenant"), pl.String())
    | {"cost_nanos": pl.Int64()}
)

FIRST_IN_FLIGHT = 4
FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 60.0  # for a limit to fill up again; a part of it is enough to go on
LONGEST_WAIT_SECONDS = 120.0  # an endpoint that asks for more is asked again by another run
UNEXPLAINED_REFUSALS = 3  # before anything was answered: the settings are at fault, not a text
ERROR_BODY_CHARS = 2_000
SHORTEST_SECRET = 8  # shorter keys are what local servers take: "none", "x"
KEPT_HEADERS = re.compile(r"retry-after|x-ratelimit-|x-request-id$|date$")
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")


class Journal(Protocol):
    """The durable record of one delivery day's requests."""

    @property
    def day(self) -> date:
        """The day of delivery."""

    def lock(self) -> AbstractContextManager[None]:
        """The sole right to send for this day; raises UserError where another process has it."""

    def intend(self, request: Json) -> None:
        """Make a request durable before it is sent, under its new request_id."""

    def settle(self, request_id: str, outcome: Json) -> None:
        """Make the raw outcome of a request durable before it is used."""

    def requests(self) -> list[Json]:
        """Every intent with its `outcome` (None: unknown), by sent_at, then request_id."""


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, and how hard."""

    name: str
    base_url: str
    api_key: str = field(repr=False)
    model: str
    simulated: bool
    timeout_seconds: float
    in_flight: int
    max_attempts: int


@dataclass(frozen=True)
class Clock:
    """Time as the engine sees it; tests hand in their own."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


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

    deferred: pl.DataFrame
    """ANSWERS rows of what the budget kept back."""
    request_ids: tuple[str, ...]


# --- reading the journal --------------------------------------------------------------------


def _cost(record: Json, reply: Reply, prices: PriceTable) -> int:
    """Nano-dollars of a request, by the model and tier that its response names."""
    day = datetime.fromisoformat(record["sent_at"]).date()
    named = reply.model or record["model"], reply.service_tier or "default"
    return request_cost(prices.price(*named, day), reply.usage) if reply.usage else 0


def read_requests(
    records: Sequence[Json],
    taxonomies: Mapping[str, Taxonomy],
    prices: PriceTable,
    generation: int | None = None,
) -> Readout:
    """Answers, requests and cost shares of a journal's records; pure.

    Answers are those of one generation (the newest by default) whose taxonomy still has the
    fields and labels that were asked. Raises UnknownPrice for a model or tier without a price.
    """
    newest = max((record["generation"] for record in records), default=0)
    wanted = newest if generation is None else generation
    answers: dict[tuple[str, str], _Answer] = {}
    requests, shares = [], []
    for record in records:
        reply = read_reply(record)
        cost = _cost(record, reply, prices)
        requests.append(_request_row(record, reply, cost))
        if reply.status in ("ok", "partial", "invalid"):
            shares += _share_rows(record, cost)
        taxonomy = taxonomies.get(record["taxonomy"])
        if record["generation"] == wanted and taxonomy and _fields(taxonomy) == record["fields"]:
            _note_answers(answers, record, reply)
    final = [answer.row for answer in answers.values() if answer.rank > 0]
    return Readout(
        pl.DataFrame(final, ANSWERS, orient="row").sort("identity", "content_key"),
        pl.DataFrame(requests, REQUESTS, orient="row"),
        pl.DataFrame(shares, SHARES, orient="row"),
    )


def _fields(taxonomy: Taxonomy) -> dict[str, list[str]]:
    return {asked.name: list(asked.labels) for asked in taxonomy.fields}


class _Answer(NamedTuple):
    """What a generation's requests have given for one content so far, as a row of ANSWERS."""

    row: tuple[str | int | None, ...]
    attempts: int
    rank: int
    """2: labelled; 1: failed, an outcome of a last attempt without a label; 0: to be asked."""


def _note_answers(answers: dict[tuple[str, str], _Answer], record: Json, reply: Reply) -> None:
    for item_id, content_key, _ in record["items"]:
        key = (record["identity"], content_key)
        before = answers.get(key, _Answer((), 0, -1))
        rank = int(record["attempts_left"] == 0 and record["outcome"] is not None)
        told: tuple[str | None, ...] = ("failed", None, None, None, reply.faults.get(item_id))
        if labels := reply.labels.get(item_id):
            rank, model = 2, reply.model or record["model"]
            told = ("labelled", as_json(labels).decode(), model, record["request_id"], None)
        # Whatever the clocks said: a label counts more than a failure, and the first one stays.
        row = (record["tenant"], *key, *told) if rank > before.rank else before.row[:-1]
        attempts = before.attempts + 1
        answers[key] = _Answer((*row, attempts), attempts, max(rank, before.rank))


def _request_row(record: Json, reply: Reply, cost: int) -> tuple[object, ...]:
    outcome, usage = record["outcome"] or {}, reply.usage or Usage(0, 0, 0)
    values = record | {
        "model_requested": record["model"],
        "model": reply.model,
        "service_tier": reply.service_tier,
        "reviews": len(record["items"]),
        "answered": len(reply.labels),
        "status": reply.status,
        "http_status": outcome.get("http_status"),
        "error": reply.error,
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "cost_nanos": cost,
        "held_nanos": 0 if reply.cost_known else record["worst_nanos"],
        "sent_at": datetime.fromisoformat(record["sent_at"]),
        "latency_ms": outcome.get("latency_ms"),
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
    batches: pl.DataFrame,
    taxonomies: Mapping[str, Taxonomy],
    endpoint: Endpoint,
    journal: Journal,
    generation: int,
    budgets: Callable[[str], Budget],
    prices: PriceTable,
    *,
    redact: bool = True,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda *_: None,
    clock: Clock | None = None,
) -> Classified:
    """Ask for every item that the journal holds no answer of in this generation.

    batches: PLAN with title and text; budgets: tenant to its budget; progress: called with the
    items done and all items. Raises UserError where going on makes no sense (key, credit, model,
    price, another run of the day); everything paid for until then is in the journal.
    """
    keys = ["identity", "content_key"]
    clock = clock or Clock()
    with journal.lock():
        records = journal.requests()
        before = read_requests(records, taxonomies, prices, generation)
        settle_budgets(before.requests, budgets)
        labelled = before.answers.filter(pl.col("status") == "labelled").select(keys)
        asked = batches.join(labelled, on=keys, how="anti", maintain_order="left")
        run = _Run(
            taxonomies, endpoint, journal, generation, len(records), cache(budgets), prices,
            redact, seed, clock, progress, batches.height,
        )  # fmt: skip
        run.advance(batches.height - asked.height)
        if asked.height:
            prices.check_model(endpoint.model, clock.now().date())
            works = asked.partition_by("batch_id", maintain_order=True)
            _in_own_loop(run.ask(_Work(rows, 1, endpoint.max_attempts - 1) for rows in works))
    failed = before.answers.filter(pl.col("status") == "failed").select(keys)
    deferred = pl.DataFrame(run.deferred, ANSWERS, orient="row").join(failed, on=keys, how="anti")
    return Classified(deferred, tuple(run.request_ids))


def settle_budgets(requests: pl.DataFrame, budgets: Callable[[str], Budget]) -> None:
    """Settle what a run that was killed had no time to settle."""
    known = requests.filter(pl.col("status") != "unknown", pl.col("held_nanos") == 0)
    for (tenant,), paid in known.group_by("tenant", maintain_order=True):
        try:
            budget = budgets(str(tenant))
        except UserError:
            continue  # a tenant that is gone has no budget; the ledger has its costs
        if budget.reserved():
            for request_id, cost in paid.select("request_id", "cost_nanos").iter_rows():
                budget.settle(request_id, cost)


def _in_own_loop(asking: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, in a thread of its own where a loop is running already."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(asking)
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, asking).result()


@dataclass(frozen=True)
class _Work:
    """Items that are asked together: a batch, or what is left of one."""

    rows: pl.DataFrame
    attempt: int
    attempts_left: int
    """After this one."""

    @property
    def tenant(self) -> str:
        return str(self.rows["tenant"][0])

    def parts(self, count: int) -> list[_Work]:
        """The same items in at most `count` works of nearly one size."""
        size = -(-self.rows.height // count)
        return [replace(self, rows=rows) for rows in self.rows.iter_slices(size)]


class _Pace:
    """How many requests may be in flight: one more a round, half as many where it is too much."""

    def __init__(self, most: int) -> None:
        self.most, self.limit = most, float(min(FIRST_IN_FLIGHT, most))
        self.resume_at = self._halved_at = -math.inf

    def faster(self) -> None:
        self.limit = min(self.most, self.limit + 1 / self.limit)

    def slower(self, sent_at: float, now: float) -> None:
        if sent_at > self._halved_at:  # earlier requests tell nothing about the pace since then
            self.limit, self._halved_at = max(1.0, self.limit / 2), now


@dataclass
class _Run:
    """One run's queue and counters; all in one event loop, so nothing needs a lock."""

    taxonomies: Mapping[str, Taxonomy]
    endpoint: Endpoint
    journal: Journal
    generation: int
    earlier: int  # requests that the journal held before
    budget: Callable[[str], Budget]
    prices: PriceTable
    redact: bool
    seed: int
    clock: Clock
    progress: Callable[[int, int], None]
    total: int

    def __post_init__(self) -> None:
        self.done = 0
        self.pace = _Pace(self.endpoint.in_flight)
        self.request_ids: list[str] = []
        self.deferred: list[tuple[str | int | None, ...]] = []
        self._ready: deque[_Work] = deque()
        self._later: list[tuple[float, int, _Work]] = []  # heap: ready at, tie-break, work
        self._order = itertools.count()
        self._in_flight: Counter[str] = Counter()  # by tenant, as the next two
        self._short: defaultdict[str, list[_Work]] = defaultdict(list)
        self._spent: set[str] = set()
        self._answered, self._refusals = False, 0
        self._stop: str | None = None

    def advance(self, items: int) -> None:
        self.done += items
        self.progress(self.done, self.total)

    async def ask(self, works: Iterable[_Work]) -> None:
        """Send until every item is answered, failed or deferred."""
        from openai import AsyncOpenAI  # start-up that a run without misses does not pay

        self._ready.extend(works)
        endpoint, running = self.endpoint, set[asyncio.Task[None]]()
        async with AsyncOpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_seconds,
            max_retries=0,
        ) as client:
            try:
                while True:
                    self._start(client, running)
                    if not running and (self._stop or not (self._ready or self._later)):
                        break
                    await self._wait(running)
            except asyncio.CancelledError:
                for task in running:
                    task.cancel()
                raise
            finally:  # what is in flight is paid for: let it reach the journal
                await asyncio.gather(*running, return_exceptions=True)
        if self._stop:
            raise UserError(f"{self._stop}. What was answered is kept; run again to go on.")

    def _start(self, client: Any, running: set[asyncio.Task[None]]) -> None:
        while not self._stop and len(running) < int(self.pace.limit):
            now = self.clock.monotonic()
            if now < self.pace.resume_at:
                return
            if self._later and self._later[0][0] <= now:
                work = heapq.heappop(self._later)[2]
            elif self._ready:
                work = self._ready.popleft()
            else:
                return
            if (admitted := self._admitted(work)) is not None:
                running.add(asyncio.create_task(self._exchange(client, work, *admitted)))

    async def _wait(self, running: set[asyncio.Task[None]]) -> None:
        """Until a request is done, or the next one may be sent."""
        timer: set[asyncio.Future[None]] = set()
        if not self._stop and len(running) < int(self.pace.limit) and (self._ready or self._later):
            at = max(self.pace.resume_at, -math.inf if self._ready else self._later[0][0])
            seconds = max(0.0, at - self.clock.monotonic())
            timer = {asyncio.ensure_future(self.clock.sleep(seconds))}
        done, _ = await asyncio.wait(running | timer, return_when=asyncio.FIRST_COMPLETED)
        for future in timer:
            future.cancel()
        for task in running & done:
            running.discard(task)
            task.result()

    def _admitted(self, work: _Work) -> tuple[Json, Json] | None:
        """Body and record of a request, reserved and intended; None where money is short."""
        tenant = work.tenant
        taxonomy = self.taxonomies[work.rows["taxonomy"][0]]
        body = request_body(work.rows, taxonomy, self.endpoint.model, self.redact)
        sent_at = self.clock.now()
        price = self.prices.price(self.endpoint.model, "default", sent_at.date())
        worst = worst_case(price, most_input_tokens(body), body["max_completion_tokens"])
        record = self._record(work, taxonomy, sent_at, worst)
        if tenant not in self._spent and self.budget(tenant).reserve(record["request_id"], worst):
            self.journal.intend(record)
            self.request_ids.append(record["request_id"])
            self._in_flight[tenant] += 1
            return body, record
        if self._in_flight[tenant]:  # settling those frees what they do not cost
            self._short[tenant].append(work)
        elif work.rows.height > 1 and tenant not in self._spent:
            self._ready.extendleft(reversed(work.parts(2)))
        else:
            self._spent.add(tenant)
            told = ("deferred", None, None, None, "budget", work.attempt - 1)
            keys = work.rows.select("tenant", "identity", "content_key").iter_rows()
            self.deferred += [(*key, *told) for key in keys]
            self.advance(work.rows.height)
        return None

    def _record(self, work: _Work, taxonomy: Taxonomy, sent_at: datetime, worst: int) -> Json:
        items = [list(item) for item in work.rows.select("item_id", "content_key", "tokens").rows()]
        first = work.rows.row(0, named=True)
        # The same contents and attempt come again only in a later run, which finds more in the
        # journal; a run that died between reserving and intending is met by the same id.
        name = [self.journal.day, self.generation, self.earlier, first["tenant"], first["identity"]]
        name += [work.attempt, *sorted(content_key for _, content_key, _ in items)]
        digest = hashlib.blake2b("|".join(map(str, name)).encode(), digest_size=12).hexdigest()
        return {key: first[key] for key in ("batch_id", "tenant", "taxonomy", "identity")} | {
            "request_id": f"{self.journal.day}-{digest}",
            "kind": first["purpose"],
            "generation": self.generation,
            "attempt": work.attempt,
            "attempts_left": work.attempts_left,
            "engine": self.endpoint.name,
            "simulated": self.endpoint.simulated,
            "model": self.endpoint.model,
            "fields": _fields(taxonomy),
            "items": items,
            "worst_nanos": worst,
            "sent_at": sent_at.isoformat(),
        }

    async def _exchange(self, client: Any, work: _Work, body: Json, record: Json) -> None:
        """Send one request; its raw outcome is durable before anything is made of it."""
        started = self.clock.monotonic()
        record["outcome"] = await _sent(client, body, record, self.endpoint, self.clock)
        self.journal.settle(record["request_id"], record["outcome"])
        self._in_flight[work.tenant] -= 1
        self._ready.extendleft(reversed(self._short.pop(work.tenant, [])))
        reply = read_reply(record)
        if reply.cost_known:  # else the reservation stays: the money may be gone
            cost = _cost(record, reply, self.prices)
            self.budget(work.tenant).settle(record["request_id"], cost)
        self._set_pace(reply, started)
        self._ask_again(work, record, reply)

    def _set_pace(self, reply: Reply, started: float) -> None:
        """Learn from an outcome how fast to go on, or that going on makes no sense."""
        now = self.clock.monotonic()
        if reply.was_read:
            self._answered = True
            self.pace.faster()
        elif reply.is_busy:
            self.pace.slower(started, now)
        wait = reply.retry_after or 0.0
        pause = max(wait, min(reply.exhausted_for, LONGEST_PAUSE_SECONDS))
        self.pace.resume_at = max(self.pace.resume_at, now + pause)
        self._refusals += reply.is_unexplained
        remedy = reply.remedy
        if wait > LONGEST_WAIT_SECONDS:
            remedy = f"it wants to be left alone for {wait:.0f} s"
        elif self._refusals == UNEXPLAINED_REFUSALS and not self._answered:
            remedy = "it refuses every request: does the model know strict json_schema replies?"
        if remedy and not self._stop:
            self._stop = f"{self.endpoint.base_url}, {self.endpoint.model}: {reply.error}: {remedy}"

    def _ask_again(self, work: _Work, record: Json, reply: Reply) -> None:
        """Queue what has no valid answer; smaller, where the size or one text may be at fault."""
        rest = work.rows.filter(pl.col("item_id").is_in(list(reply.faults)))
        left = work.attempts_left
        self.advance(len(reply.labels) + (rest.height if left == 0 else 0))
        if rest.is_empty() or left == 0:
            return
        # In steps that end at one by one, so that no text takes others with it for good.
        count = max(2, math.ceil(rest.height ** (1 / left))) if reply.wants_less else 1
        ready_at = self.clock.monotonic() + self._backoff(record, reply)
        for part in _Work(rest, work.attempt + 1, left - 1).parts(count):
            heapq.heappush(self._later, (ready_at, next(self._order), part))

    def _backoff(self, record: Json, reply: Reply) -> float:
        """Seconds before an item is asked again: none after a completion or a plain refusal."""
        if reply.was_read or reply.wants_less or reply.retry_after is not None:
            return reply.retry_after or 0.0
        doubled: float = FIRST_BACKOFF_SECONDS * 2.0 ** min(record["attempt"] - 1, 10)
        jitter = random.Random(f"{self.seed}|{record['request_id']}").uniform(0.75, 1.0)  # noqa: S311
        return min(LONGEST_BACKOFF_SECONDS, doubled) * jitter


async def _sent(client: Any, body: Json, record: Json, endpoint: Endpoint, clock: Clock) -> Json:
    """Send a request once; its raw outcome, whatever it is."""
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    started = clock.monotonic()
    outcome: Json = {"http_status": None, "body": "", "headers": {}}
    outcome |= {"failure": None, "error": None, "maybe_sent": True}
    response = None
    try:
        async with asyncio.timeout(endpoint.timeout_seconds):  # the client's own is for one read
            raw = await client.chat.completions.with_raw_response.create(
                **body, extra_headers={"X-Client-Request-Id": record["request_id"]}
            )
            response = raw.http_response
    except APIStatusError as error:
        response = error.response
    except (APITimeoutError, TimeoutError):
        outcome |= {"failure": "timeout", "error": f"no answer in {endpoint.timeout_seconds:g} s"}
    except APIConnectionError as error:
        cause = type(error.__cause__).__name__
        outcome |= {"failure": "connection", "error": cause, "maybe_sent": cause not in NEVER_SENT}
    if response is not None:
        kept = {k.lower(): v for k, v in response.headers.items() if KEPT_HEADERS.match(k.lower())}
        outcome |= {"http_status": response.status_code, "headers": kept, "body": response.text}
        if not response.is_success:  # some endpoints repeat the key that they refuse
            secret = endpoint.api_key if len(endpoint.api_key) >= SHORTEST_SECRET else "\0"
            outcome["body"] = response.text.replace(secret, "***")[:ERROR_BODY_CHARS]
    latency = {"latency_ms": (clock.monotonic() - started) * 1_000}
    return outcome | latency | {"received_at": clock.now().isoformat()}
