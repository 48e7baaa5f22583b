"""A run's queue: what is asked when, again, in smaller parts, of a better model, or not at all.

All of it is in one event loop, so nothing needs a lock. Whatever is paid for is in the journal
before anything is made of it.
"""

from __future__ import annotations

import asyncio
import hashlib
import heapq
import itertools
import math
import random
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl

from review_optimizer_dagster.core.batching import Tier
from review_optimizer_dagster.core.costs import reply_cost
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.pace import Pace
from review_optimizer_dagster.exchange.prompt import Asking, Form, Json, most_input_tokens
from review_optimizer_dagster.exchange.reply import Reply, escalated, read_reply
from review_optimizer_dagster.exchange.transport import Clock, send_once
from review_optimizer_dagster.money.budgets import Budget
from review_optimizer_dagster.money.prices import BATCH_TIER, DEFAULT_TIER, PriceTable
from review_optimizer_dagster.taxonomies import Taxonomy

if TYPE_CHECKING:
    from review_optimizer_dagster.exchange.batch_quality import BatchWatch
    from review_optimizer_dagster.exchange.memory import MemoryProbe, MemoryReading

FIRST_BACKOFF_SECONDS = 0.5
LONGEST_BACKOFF_SECONDS = 30.0
LONGEST_PAUSE_SECONDS = 60.0  # for a limit to fill up again; a part of it is enough to go on
LONGEST_WAIT_SECONDS = 120.0  # an endpoint that asks for more is asked again by another run
UNEXPLAINED_REFUSALS = 3  # before anything was answered: the settings are at fault, not a text
LEAST_SHARED = 20  # reviews of a part of a straggler: a request has its own price
DRAIN_SECONDS = 20.0  # that a run which is stopped waits for what it has paid for
LOADED_ROWS = 5_000  # whose texts are in memory before they are sent
BUDGET_POLL_SECONDS = 0.5  # between two looks at a budget that other processes hold
MEMORY_SECONDS = 1.0  # between two looks at the model server's memory

_ITEM = ["identity", "content_key"]
Unsent = tuple[str | int | bool | None, ...]


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

    def requests(self) -> Iterator[Json]:
        """Every intent with its `outcome` (None: unknown), by sent_at, then request_id."""

    def intend_job(self, job: Json, requests: list[Json]) -> None:
        """Make a job of the Batch API and its requests durable in one step."""

    def update_job(self, job: Json) -> None:
        """Replace a job's state, under its job_id."""

    def settle_job(self, job: Json, outcomes: Mapping[str, Json]) -> None:
        """Make a job's end and the raw outcomes of its requests durable in one step."""

    def jobs(self) -> list[Json]:
        """Every job of the Batch API, in the order they were made."""


@dataclass(frozen=True)
class Endpoint:
    """Whom to ask, and how hard."""

    name: str
    base_url: str
    api_key: str = field(repr=False)
    ladder: tuple[Tier, ...]
    simulated: bool
    form: Callable[[Taxonomy], Form]
    """In which form the replies to a taxonomy come."""
    timeout_seconds: float = 60.0
    timeout_seconds_per_review: float = 0.6
    in_flight: int = 8
    max_attempts: int = 5
    tier_attempts: int = 2
    max_escalated: float = 0.2
    memory: MemoryProbe | None = None
    max_memory: float = 0.8
    batch_wait_seconds: float = 600.0

    def asking(self, taxonomy: Taxonomy, tier: Tier) -> Asking:
        """How a taxonomy is asked in a tier; only where there is a better one, of doubts too."""
        is_last = tier.name == self.ladder[-1].name
        most = max(100, *(step.max_reviews for step in self.ladder))
        return Asking(taxonomy, self.form(taxonomy), not is_last, most)

    def step(self, name: str) -> int:
        """Where in the ladder a tier is; one that is gone has become the first."""
        return next((n for n, tier in enumerate(self.ladder) if tier.name == name), 0)


@dataclass(frozen=True)
class Work:
    """Items that are asked together: a batch, or what is left of one."""

    rows: pl.DataFrame  # PLAN with title and text
    step: int  # in the ladder
    attempt: int
    attempts_left: int
    """After this one."""
    useless_before: int = 0
    """Useless answers in this tier."""

    @cached_property
    def tenant(self) -> str:
        """Who is billed."""
        return str(self.rows["tenant"][0])

    @cached_property
    def identity(self) -> str:
        """What the answers are kept under."""
        return str(self.rows["identity"][0])

    def parts(self, size: int) -> list[Work]:
        """The same items in works of at most `size`, all nearly as large."""
        count = math.ceil(self.rows.height / size)
        even = math.ceil(self.rows.height / count)
        return [replace(self, rows=rows) for rows in self.rows.iter_slices(even)]


@dataclass
class Run:
    """One run's queue and counters."""

    taxonomies: Mapping[str, Taxonomy]
    endpoint: Endpoint
    journal: Journal
    generation: int
    earlier: int  # requests that the journal held before
    budgets: Callable[[str], Budget]
    prices: PriceTable
    redact: bool
    seed: int
    clock: Clock
    progress: Callable[[int, int], None]
    total: int
    texts: Callable[[pl.DataFrame], pl.DataFrame]
    by_batch: frozenset[str]
    quality: BatchWatch | None = None
    """Told of every reply; what it pauses is sent nothing more."""

    def __post_init__(self) -> None:
        self.done = 0
        self.pace = Pace(self.endpoint.in_flight, self.endpoint.max_memory)
        self.budget = cache(self.budgets)
        self.asking = cache(self._asking)
        self.request_ids: list[str] = []
        self.unsent: list[Unsent] = []
        self.for_batch: list[Work] = []
        self.stop: str | None = None
        self._planned: Iterator[pl.DataFrame] = iter(())
        self._is_exhausted = False  # everything planned was loaded
        self._ready: defaultdict[int, deque[Work]] = defaultdict(deque)  # by step of the ladder
        self._later: list[tuple[float, int, Work]] = []  # heap: ready at, tie-break, work
        self._order = itertools.count()
        self._in_flight: Counter[str] = Counter()  # by tenant, as the next two
        self._short: defaultdict[str, list[Work]] = defaultdict(list)
        self._spent: set[str] = set()
        self._held: Counter[str] = Counter()  # nano-dollars by tenant, for unknown outcomes
        self._waits_since: dict[str, float] = {}  # by tenant: for other processes' reservations
        self._answered, self._refusals = False, 0
        self._last_error: dict[str, str] = {}  # by model
        self._memory: MemoryReading | None = None

    def advance(self, items: int) -> None:
        """So many more items are done with."""
        self.done += items
        self.progress(self.done, self.total)

    async def ask(self, plan: pl.DataFrame, jobs: list[Json]) -> None:
        """Send until every item is answered, failed or put off.

        plan: PLAN rows to ask; jobs: those of the Batch API that an earlier run left open.
        """
        from openai import AsyncOpenAI  # start-up that a run without misses does not pay

        from review_optimizer_dagster.exchange.batch_api import BatchJobs

        endpoint = self.endpoint
        async with AsyncOpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_seconds,
            max_retries=0,
        ) as client:
            batches = BatchJobs(self, client, jobs)
            waiting = batches.items()
            # A tenant whose jobs are open goes on that way until they have ended.
            self.by_batch |= set(waiting["tenant"])
            is_batch = pl.col("tenant").is_in(list(self.by_batch))
            new = plan.join(waiting, on=_ITEM, how="anti", maintain_order="left")
            self._planned = self._loaded(new.filter(~is_batch))
            await batches.begin(plan.join(waiting, on=_ITEM, how="semi"), new.filter(is_batch))
            await self._send_all(client)
            await batches.finish()
        if self.stop:
            raise UserError(f"{self.stop}. What was answered is kept; run again to go on.")

    def _loaded(self, plan: pl.DataFrame) -> Iterator[pl.DataFrame]:
        """The plan's rows with their texts, a number of whole batches at a time."""
        if plan.is_empty():
            return
        batch = pl.struct("batch_id", "tier").rle_id()
        numbered = plan.with_columns(slice=(pl.int_range(pl.len()) // LOADED_ROWS))
        numbered = numbered.with_columns(pl.col("slice").first().over(batch))
        for rows in numbered.partition_by("slice", maintain_order=True):
            yield self.texts(rows.drop("slice"))

    def new_works(self, rows: pl.DataFrame) -> Iterator[Work]:
        """A work for each batch of these rows (PLAN with texts)."""
        for batch in rows.partition_by("batch_id", "tier", maintain_order=True):
            step = self.endpoint.step(batch["tier"][0])
            yield Work(batch, step, 1, self.endpoint.max_attempts - 1)

    # --- one by one ---------------------------------------------------------------------------

    async def _send_all(self, client: Any) -> None:
        running: set[asyncio.Task[None]] = set()
        watch = asyncio.create_task(self._watch_memory())
        try:
            while True:
                self._refill()
                self._start(client, running)
                if running or (self._has_work() and not self.stop):
                    await self._wait(running)
                elif self.stop or self._is_exhausted:
                    break
        except asyncio.CancelledError:
            # What is in flight is paid for: let it reach the journal, for a while.
            await asyncio.wait(running, timeout=DRAIN_SECONDS) if running else None
            for task in running:
                task.cancel()
            raise
        finally:
            watch.cancel()
            await asyncio.gather(*running, watch, return_exceptions=True)

    def _has_work(self) -> bool:
        return bool(self._later) or any(self._ready.values())

    def _refill(self) -> None:
        """Load the next rows of the plan before what is ready runs out."""
        while sum(map(len, self._ready.values())) <= self.endpoint.in_flight:
            rows = next(self._planned, None)
            if rows is None:
                self._is_exhausted = True
                return
            for work in self.new_works(rows):
                self._ready[work.step].append(work)

    def _start(self, client: Any, running: set[asyncio.Task[None]]) -> None:
        """Send what may be sent now."""
        self.leave_paused()
        while not self.stop:
            now = self.clock.monotonic()
            while self._later and self._later[0][0] <= now:
                work = heapq.heappop(self._later)[2]
                self._ready[work.step].appendleft(work)
            self._give_up_on_broken()
            step = next((s for s in self._ready if self._ready[s] and not self._pause(s)), None)
            if step is None:
                return
            work = self._ready[step].popleft()
            work, *rest = work.parts(self._most_at_once(work))
            self._ready[step].extendleft(reversed(rest))
            if (admitted := self.admitted(work, DEFAULT_TIER)) is not None:
                body, record = admitted
                self.journal.intend(record)
                tier = self.endpoint.ladder[step]
                self.pace.sent(tier.model, record["request_id"], self.tokens(work), now)
                running.add(asyncio.create_task(self._exchange(client, work, body, record)))

    def _most_at_once(self, work: Work) -> int:
        """Fewer than planned where the model server is short of memory.

        Fewer, too, where the last works are asked again: they are shared among idle places, so
        that none of them is waited for alone.
        """
        most = int(self.endpoint.ladder[work.step].max_reviews * self.pace.size)
        if work.attempt > 1 and self._is_exhausted and not self._has_work():
            idle = max(1, int(self.pace.window.limit) - self.pace.in_flight)
            most = min(most, max(LEAST_SHARED, math.ceil(work.rows.height / idle)))
        return max(1, most)

    def _pause(self, step: int) -> float:
        """Seconds until the next work of a step may be sent; infinite: when something ends."""
        model, work = self.endpoint.ladder[step].model, self._ready[step][0]
        return self.pace.wait(model, self.tokens(work), self.clock.monotonic())

    def tokens(self, work: Work) -> float:
        """Estimated tokens of a request and its answer."""
        asking = self.asking(work.rows["taxonomy"][0], work.step)
        answers = asking.answer_tokens * work.rows.height
        return float(asking.fixed_tokens + work.rows["tokens"].sum() + answers)

    async def _wait(self, running: set[asyncio.Task[None]]) -> None:
        """Until a request is done, or the next one may be sent."""
        timer: set[asyncio.Future[None]] = set()
        if not self.stop:
            pauses = [self._pause(step) for step, works in self._ready.items() if works]
            if self._later:
                pauses.append(max(0.0, self._later[0][0] - self.clock.monotonic()))
            seconds = min(pauses, default=math.inf)
            if seconds < math.inf:
                timer = {asyncio.ensure_future(self.clock.sleep(seconds))}
        done, _ = await asyncio.wait(running | timer, return_when=asyncio.FIRST_COMPLETED)
        for future in timer:
            future.cancel()
        for task in running & done:
            running.discard(task)
            task.result()

    async def _watch_memory(self) -> None:
        """Look at the model server's memory now and then, for as long as requests are sent."""
        probe = self.endpoint.memory
        while probe is not None:
            reading = await asyncio.to_thread(probe.read)
            if reading is not None:
                self._memory = reading
                self.pace.memory(reading.share, self.clock.monotonic())
            await asyncio.sleep(MEMORY_SECONDS)

    def _asking(self, taxonomy: str, step: int) -> Asking:
        return self.endpoint.asking(self.taxonomies[taxonomy], self.endpoint.ladder[step])

    def _give_up_on_broken(self) -> None:
        """Report what is left for a model as failed once its circuit breaker has given it up."""
        for step, tier in enumerate(self.endpoint.ladder):
            if not self.pace.lane(tier.model).breaker.is_given_up:
                continue
            works = [*self._ready.pop(step, ()), *(w for *_, w in self._later if w.step == step)]
            self._later = [each for each in self._later if each[2].step != step]
            heapq.heapify(self._later)
            reason = f"circuit open: {self._last_error.get(tier.model, 'no answer')}"
            for work in works:
                self.put_off(work.rows, "failed", reason, work.attempt - 1)

    def leave_paused(self) -> None:
        """Take what waits for a paused tier to the next one that is not, or put it off."""
        if self.quality is None or not self.quality.has_paused:
            return
        moved = [work for works in self._ready.values() for work in works if self._is_paused(work)]
        for step, works in self._ready.items() if moved else ():
            self._ready[step] = deque(work for work in works if not self._is_paused(work))
        later = [each for each in self._later if self._is_paused(each[2])]
        if later:
            self._later = [each for each in self._later if not self._is_paused(each[2])]
            heapq.heapify(self._later)
        waiting = [work for work in self.for_batch if self._is_paused(work)]
        self.for_batch = [work for work in self.for_batch if not self._is_paused(work)]
        for work in (*moved, *(work for *_, work in sorted(later)), *waiting):
            self._move_up(work)

    def _is_paused(self, work: Work, step: int | None = None) -> bool:
        tier = self.endpoint.ladder[work.step if step is None else step]
        paused = self.quality is not None and self.quality.is_paused
        return bool(paused and paused(work.tenant, work.identity, tier.name))

    def _move_up(self, work: Work) -> None:
        """Queue a work for the next tier that is not paused; put it off where there is none."""
        ladder = self.endpoint.ladder
        above = range(work.step + 1, len(ladder))
        step = next((step for step in above if not self._is_paused(work, step)), None)
        if step is None:
            self.put_off(work.rows, "deferred", "quality", work.attempt - 1)
            return
        moved = Work(work.rows, step, work.attempt, self.endpoint.max_attempts - 1)
        for part in moved.parts(ladder[step].max_reviews):
            if part.tenant in self.by_batch:
                self.for_batch.append(part)
            else:
                self._ready[step].append(part)

    def put_off(self, rows: pl.DataFrame, status: str, reason: str, attempts: int = 0) -> None:
        """Note items that this run does not ask (any more)."""
        told = (status, None, None, None, reason, attempts, None, False, None)
        keys = rows.select("tenant", "identity", "content_key").iter_rows()
        self.unsent += [(*key, *told) for key in keys]
        self.advance(rows.height)

    # --- both ways ----------------------------------------------------------------------------

    def admitted(self, work: Work, service_tier: str) -> tuple[Json, Json] | None:
        """Body and record of a request, its worst case reserved; None where money is short."""
        tenant, tier = work.tenant, self.endpoint.ladder[work.step]
        asking = self.asking(work.rows["taxonomy"][0], work.step)
        body = asking.body(work.rows, tier.model, self.redact, tier.effort)
        sent_at = self.clock.now()
        most = most_input_tokens(body), body["max_completion_tokens"]
        worst = self.prices.worst_case(tier.model, service_tier, sent_at.date(), *most)
        record = self._record(work, asking, service_tier, sent_at, worst)
        name = record["request_id"]
        if tenant not in self._spent and self.budget(tenant).reserve(name, worst, sent_at):
            self.request_ids.append(name)
            self._in_flight[tenant] += 1
            self._waits_since.pop(tenant, None)
            return body, record
        if self._in_flight[tenant] > 0 and tenant not in self.by_batch:
            self._short[tenant].append(work)  # settling those frees what they do not cost
        elif tenant not in self._spent and self._may_wait(tenant, worst, sent_at):
            self._queue_later(self.clock.monotonic() + BUDGET_POLL_SECONDS, work)
        elif work.rows.height > 1 and tenant not in self._spent:
            self.queue_first(work.parts(math.ceil(work.rows.height / 2)))
        else:
            self._spent.add(tenant)
            self.budget(tenant).refuse(sent_at)
            self.put_off(work.rows, "deferred", "budget", work.attempt - 1)
        return None

    def _may_wait(self, tenant: str, worst: int, now: datetime) -> bool:
        """Whether another process's requests hold money that may be free again in a moment."""
        spend = self.budget(tenant).state(now)
        others = spend.pending - self._held[tenant]
        if tenant in self.by_batch or others <= 0 or worst > spend.left + others:
            return False
        since = self._waits_since.setdefault(tenant, self.clock.monotonic())
        return self.clock.monotonic() - since < LONGEST_PAUSE_SECONDS

    def queue_first(self, works: list[Work]) -> None:
        """Put works where the next one is taken from, in their order."""
        for work in reversed(works):
            if work.tenant in self.by_batch:
                self.for_batch.insert(0, work)
            else:
                self._ready[work.step].appendleft(work)

    def _record(
        self, work: Work, asking: Asking, service_tier: str, sent_at: datetime, worst: int
    ) -> Json:
        endpoint, rows = self.endpoint, work.rows
        items = [list(item) for item in rows.select("item_id", "content_key", "tokens").rows()]
        first = rows.row(0, named=True)
        tier, *better = endpoint.ladder[work.step :]
        # The same contents and attempt come again only in a later run, which finds more in the
        # journal; a run that died between reserving and intending is met by the same id.
        name = [self.journal.day, self.generation, self.earlier, first["tenant"], first["identity"]]
        name += [tier.name, work.attempt, *sorted(content_key for _, content_key, _ in items)]
        digest = hashlib.blake2b("|".join(map(str, name)).encode(), digest_size=12).hexdigest()
        memory = self._memory
        return {key: first[key] for key in ("batch_id", "tenant", "taxonomy", "identity")} | {
            "request_id": f"{self.journal.day}-{digest}",
            "kind": first["purpose"],
            "way": "batch" if service_tier == BATCH_TIER else "sync",
            "generation": self.generation,
            "attempt": work.attempt,
            "attempts_left": work.attempts_left,
            "engine": endpoint.name,
            "simulated": endpoint.simulated,
            "model": tier.model,
            "tier": tier.name,
            "service_tier": service_tier,
            "next_tier": better[0].name if better else None,
            "tier_attempts": endpoint.tier_attempts,
            "useless_before": work.useless_before,
            "most_escalated": max(1, int(endpoint.max_escalated * rows.height)),
            "fields": {asked.name: list(asked.labels) for asked in asking.taxonomy.fields},
            "codes": {name: list(codes) for name, codes in asking.codes.items()},
            "items": items,
            "worst_nanos": worst,
            "large_batches": self.quality
            and self.quality.planned(first["tenant"], first["identity"]),
            "memory": memory and {"share": round(memory.share, 4), "source": memory.source},
            "sent_at": sent_at.isoformat(),
        }

    async def _exchange(self, client: Any, work: Work, body: Json, record: Json) -> None:
        """Send one request; its raw outcome is durable before anything is made of it."""
        endpoint = self.endpoint
        seconds = endpoint.timeout_seconds
        seconds += endpoint.timeout_seconds_per_review * work.rows.height
        key, name = endpoint.api_key, record["request_id"]
        record["outcome"] = await send_once(client, body, name, seconds, key, self.clock)
        self.journal.settle(name, record["outcome"])
        reply = read_reply(record)
        self._set_pace(record, reply)
        self.conclude(work, record, reply)

    def _set_pace(self, record: Json, reply: Reply) -> None:
        """Learn from an outcome how fast to go on."""
        now, model = self.clock.monotonic(), record["model"]
        wait = reply.retry_after or 0.0
        exhausted = 0.0 if reply.limits else min(reply.exhausted_for, LONGEST_PAUSE_SECONDS)
        pause = max(wait, exhausted)
        sent_at = self.pace.ended(model, record["request_id"], reply.limits, pause, now)
        breaker = self.pace.lane(model).breaker
        if reply.is_broken:
            breaker.failed(now)
            self._last_error[model] = reply.error or reply.status
        else:
            breaker.succeeded()
        if reply.was_read:
            self.pace.answered()
        elif reply.is_busy:
            self.pace.window.slower(sent_at, now)

    def conclude(self, work: Work, record: Json, reply: Reply) -> None:
        """Settle what a request cost, and queue what it left open."""
        self._in_flight[work.tenant] -= 1
        self.queue_first(self._short.pop(work.tenant, []))
        if reply.cost_known:  # else the reservation stays: the money may be gone
            cost = reply_cost(record, reply, self.prices)
            sent_at = datetime.fromisoformat(record["sent_at"])
            self.budget(work.tenant).settle(record["request_id"], cost, sent_at)
        else:
            self._held[work.tenant] += record["worst_nanos"]
        self._stop_where_hopeless(reply, record["model"])
        if self.quality is not None:
            self.quality.saw(record, reply)
        self._ask_again(work, record, reply)

    def _stop_where_hopeless(self, reply: Reply, model: str) -> None:
        """End the run where another request would meet the same."""
        self._answered |= reply.was_read
        self._refusals += reply.is_unexplained
        remedy = reply.remedy
        if (reply.retry_after or 0.0) > LONGEST_WAIT_SECONDS:
            remedy = f"it wants to be left alone for {reply.retry_after:.0f} s"
        elif self._refusals == UNEXPLAINED_REFUSALS and not self._answered:
            remedy = 'it refuses every request: try [engine] reply = "labels", or ask another '
            remedy += "model: this one may not know strict json_schema replies"
        if remedy and not self.stop:
            self.stop = f"{self.endpoint.base_url}, {model}: {reply.error}: {remedy}"

    def _ask_again(self, work: Work, record: Json, reply: Reply) -> None:
        """Queue what has no valid answer, or none that the model is sure of.

        Smaller, where the size or one text may be at fault; of the next tier, where this one was
        of no use or in doubt.
        """
        rows, left = work.rows, work.attempts_left
        up = escalated(record, reply)
        higher = rows.filter(pl.col("item_id").is_in(up))
        rest = rows.filter(pl.col("item_id").is_in(list(set(reply.faults) - set(up))))
        again = 0 if left == 0 else rest.height
        self.advance(rows.height - higher.height - again)
        ready_at = self.clock.monotonic() + self._backoff(record, reply)
        if not higher.is_empty():
            above = Work(higher, work.step + 1, work.attempt + 1, self.endpoint.max_attempts - 1)
            self._queue_later(ready_at, above)
        if not again:
            return
        # In steps that end at one by one, so that no text takes others with it for good.
        count = max(2, math.ceil(rest.height ** (1 / left))) if reply.wants_less else 1
        useless = work.useless_before + reply.is_useless
        same = Work(rest, work.step, work.attempt + 1, left - 1, useless)
        for part in same.parts(math.ceil(rest.height / count)):
            self._queue_later(ready_at, part)

    def _queue_later(self, ready_at: float, work: Work) -> None:
        if work.tenant in self.by_batch:
            self.for_batch.append(work)
        else:
            heapq.heappush(self._later, (ready_at, next(self._order), work))

    def _backoff(self, record: Json, reply: Reply) -> float:
        """Seconds before an item is asked again: none after a completion or a plain refusal."""
        if reply.was_read or reply.wants_less or reply.retry_after is not None:
            return reply.retry_after or 0.0
        doubled: float = FIRST_BACKOFF_SECONDS * 2.0 ** min(record["attempt"] - 1, 10)
        jitter = random.Random(f"{self.seed}|{record['request_id']}").uniform(0.75, 1.0)  # noqa: S311
        return min(LONGEST_BACKOFF_SECONDS, doubled) * jitter
