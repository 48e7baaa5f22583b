"""What the benchmarks of the engine share: texts, a simulator that keeps times, an engine's run."""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import polars as pl

from review_optimizer_dagster.core.batching import MISSES, STANDARD_TIER, Tier, plan_batches
from review_optimizer_dagster.core.classifier import (
    ANSWERS,
    Endpoint,
    Readout,
    classify,
    read_requests,
)
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.prompt import Asking, Form
from review_optimizer_dagster.exchange.transport import Clock
from review_optimizer_dagster.money.budgets import Budget, budget_version
from review_optimizer_dagster.money.prices import load_prices
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.simulator.completions import Asked as AskedBy
from review_optimizer_dagster.simulator.faults import Fault
from review_optimizer_dagster.simulator.judge import Fields, Judge
from review_optimizer_dagster.simulator.protocol import BilledRequest, Reply, Request
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster_tests.benchmarks.labelled import read_labelled, sample_rows

DAY: Final = date(2026, 11, 20)
NOON: Final = datetime(2026, 11, 21, 12, tzinfo=UTC)
MODEL: Final = "gpt-6-luna"
TENANT: Final = "bench"
KEY: Final = "sk-simulated"
BUDGET_NANOS: Final = 10**15
SECONDS_TO_START: Final = 60.0  # of a child process, at most

_TEXT: Final = ["identity", "content_key"]


# --- texts ------------------------------------------------------------------------------------


def distinct_rows(reviews: Path | None, count: int) -> pl.DataFrame:
    """So many rows (ROWS) of different texts: of the part `bench` of a file that has parts, or of
    the built-in sample.

    Raises SystemExit where the file has fewer.
    """
    if reviews is None:
        wanted, rows = count, sample_rows(0)
        while rows.height < count:  # some texts of the sample are the same
            wanted += wanted // 4 + 100
            rows = sample_rows(wanted).unique("content_key", maintain_order=True)
    else:
        rows = read_labelled(reviews)
        if "part" in rows.columns:
            rows = rows.filter(part="bench").drop("part")
        rows = rows.unique("content_key", maintain_order=True)
    if rows.height < count:
        raise SystemExit(f"{reviews} holds {rows.height:,} different texts, not {count:,}")
    return rows.head(count)


def misses_of(rows: pl.DataFrame, taxonomy: Taxonomy, tenant: str = TENANT) -> pl.DataFrame:
    """The texts of these rows (content_key, title, text) as MISSES of one tenant."""
    return rows.select(
        tenant=pl.lit(tenant),
        taxonomy=pl.lit(taxonomy.name),
        identity=pl.lit(f"{tenant}|{taxonomy.identity}"),
        content_key="content_key",
        title="title",
        text="text",
        purpose=pl.lit("classification"),
    ).cast(dict(MISSES))  # type: ignore[arg-type]  # polars' own annotation leaves schemas out


class DigestJudge:
    """Gives each text labels by its checksum: they vary, cost nothing, and anyone can tell them."""

    policy = "digest"

    def judge(self, title: str | None, text: str, fields: Fields) -> dict[str, str] | None:
        """Field to label; never None."""
        number = zlib.crc32(f"{title or ''}\n{text}".encode())
        found = {}
        for name, labels in fields.items():
            number, rest = divmod(number, len(labels))
            found[name] = labels[rest]
        return found


# --- a simulator that keeps times -------------------------------------------------------------


@dataclass(frozen=True)
class Met:
    """One request as the simulator met it."""

    seconds: float | None
    """The latency that was drawn; None where a rate limit refused it."""
    tokens: int
    """What it was admitted with, or would have been."""
    used: int
    """What it came to."""
    fault: str | None


class _Noted(threading.Event):
    """Remembers, a thread, how long it was last asked to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.last = threading.local()

    def wait(self, timeout: float | None = None) -> bool:
        self.last.seconds = timeout
        return super().wait(timeout)


class TimedSimulator(Simulator):
    """Keeps the latency that it drew for each request, and what its limits took for it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self.met: list[Met] = []
        self._closing: _Noted = _Noted()

    def _limited(
        self,
        request: Request,
        asked: AskedBy,
        model: str,
        tokens: int,
        produce: Callable[[Fault | None, Any], Reply],
    ) -> Reply:
        self._closing.last.seconds = None
        reply = super()._limited(request, asked, model, tokens, produce)
        billed = reply.billed
        used = billed.prompt_tokens + billed.completion_tokens if billed else 0
        fault = billed.fault if billed else None
        self.met.append(Met(self._closing.last.seconds, tokens, used, fault))
        return reply


@dataclass(frozen=True)
class Served:
    """What a simulator did so far."""

    met: Sequence[Met]
    billed: Sequence[BilledRequest]
    cpu_seconds: float
    """Since it listens."""


def _serve(pipe: Connection, judge: Judge, settings: Mapping[str, Any]) -> None:
    """The child process: a simulator until the other end of the pipe is closed."""
    simulator = TimedSimulator(judge, **settings)
    with simulator:
        pipe.send(simulator.base_url)
        idle = time.process_time()
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(Served(list(simulator.met), simulator.billed, time.process_time() - idle))


class Child:
    """A process of its own that sends one value once it is ready, and then answers."""

    def __init__(
        self,
        target: Callable[..., None],
        *arguments: object,
        patience: float | None = SECONDS_TO_START,
    ) -> None:
        """target: called with one end of a pipe and the arguments, all of which can be pickled.

        patience: seconds until the first word; None: for ever. Raises TimeoutError after them.
        """
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process: BaseProcess = context.Process(target=target, args=(end, *arguments))
        self._process.start()
        end.close()
        if not self._pipe.poll(patience):
            self.close()
            raise TimeoutError(f"no word of the child process in {patience} s")
        self.first: Any = self._pipe.recv()

    def ask(self, question: object = None) -> Any:
        """What it answers to a question."""
        self._pipe.send(question)
        return self._pipe.recv()

    def close(self) -> None:
        """Let it end."""
        self._pipe.close()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()


class SimulatorProcess:
    """A simulator in a process of its own, so that its work takes nothing from the engine's."""

    def __init__(self, judge: Judge, **settings: Any) -> None:
        """settings: those of Simulator."""
        self._start = partial(Child, _serve, judge, settings)

    def __enter__(self) -> SimulatorProcess:
        self._child = self._start()
        self.base_url = str(self._child.first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._child.close()

    def served(self) -> Served:
        """What it did so far."""
        found: Served = self._child.ask()
        return found


# --- the engine -------------------------------------------------------------------------------


class HurriedTime:
    """Real time, in which sleeping takes none: what is slept is put on top of it."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self.slept = 0.0

    def _seconds(self) -> float:
        return time.monotonic() - self._began + self.slept

    async def _sleep(self, seconds: float) -> None:
        self.slept += seconds
        await asyncio.sleep(0)

    def since_1970(self) -> float:
        """Seconds, for a simulator: its dates and limits go by the same time."""
        return NOON.timestamp() + self._seconds()

    def clock(self) -> Clock:
        """For `classify`."""
        return Clock(
            monotonic=self._seconds,
            now=lambda: NOON + timedelta(seconds=self._seconds()),
            sleep=self._sleep,
        )


def endpoint_of(base_url: str, form: Form, max_reviews: int = 100, **changes: Any) -> Endpoint:
    """An endpoint of one model as the defaults of tenants.toml describe it."""
    given: dict[str, Any] = {
        "name": "openai",
        "api_key": KEY,
        "ladder": (Tier(STANDARD_TIER, MODEL, max_reviews=max_reviews),),
        "simulated": True,
    }
    return Endpoint(base_url=base_url, form=lambda _: form, **(given | changes))


@dataclass(frozen=True)
class Ran:
    """One run of the engine."""

    plan: pl.DataFrame
    plan_seconds: float
    seconds: float
    """Of classification, to the last answer that is in the journal."""
    cpu_seconds: float
    """Of this process, planning and classifying."""
    unsent: pl.DataFrame
    stopped: str | None
    """Why it ended early: what a user would read."""


class Asker:
    """One folder's journal and budgets, and an engine that asks an endpoint; a context manager."""

    def __init__(
        self,
        folder: Path,
        taxonomy: Taxonomy,
        budget_nanos: int = BUDGET_NANOS,
        state_folder: Path | None = None,
    ) -> None:
        """state_folder: where the budgets are, if not in the folder: processes may share them."""
        self.taxonomy = taxonomy
        self.journal = DayJournal(folder, DAY)
        self.prices = load_prices()
        self._state = StateStore(state_folder or folder)
        self._budget_nanos = budget_nanos

    def __enter__(self) -> Asker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.journal.close()
        self._state.close()

    def budget(self, tenant: str = TENANT) -> Budget:
        """A tenant's budget."""
        version = budget_version(self._state, tenant, self._budget_nanos, "month", NOON)
        return Budget(self._state, tenant, version)

    def planned(
        self, misses: pl.DataFrame, endpoint: Endpoint, settings: BatchSettings
    ) -> pl.DataFrame:
        """The batches of these texts: PLAN."""

        def asking(_: str, tier: Tier) -> Asking:
            return endpoint.asking(self.taxonomy, tier)

        return plan_batches(misses, asking, endpoint.ladder, settings, DAY, endpoint.in_flight)

    def ask(
        self,
        misses: pl.DataFrame,
        endpoint: Endpoint,
        settings: BatchSettings | None = None,
        **how: Any,
    ) -> Ran:
        """Plan and classify; what is in the journal already is not asked again.

        how: as `classified` takes it.
        """
        cpu, began = time.process_time(), time.perf_counter()
        plan = self.planned(misses, endpoint, settings or BatchSettings())
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        held = misses.select(*_TEXT, "title", "text")

        def texts(rows: pl.DataFrame) -> pl.DataFrame:
            return rows.join(held, on=_TEXT, maintain_order="left")

        ran = self.classified(plan, endpoint, texts, **how)
        return replace(ran, plan_seconds=seconds, cpu_seconds=ran.cpu_seconds + used)

    def classified(
        self,
        plan: pl.DataFrame,
        endpoint: Endpoint,
        texts: Callable[[pl.DataFrame], pl.DataFrame],
        *,
        by_batch: Iterable[str] = (),
        redact: bool = True,
        clock: Clock | None = None,
    ) -> Ran:
        """Classify what is planned; texts: adds title and text to rows of the plan."""
        cpu, began = time.process_time(), time.perf_counter()
        stopped, unsent = None, ANSWERS.to_frame()
        try:
            unsent = classify(
                plan,
                texts,
                {self.taxonomy.name: self.taxonomy},
                endpoint,
                self.journal,
                1,
                self.budget,
                self.prices,
                by_batch=by_batch,
                redact=redact,
                clock=clock,
            ).unsent
        except UserError as error:
            stopped = str(error)
        seconds, used = time.perf_counter() - began, time.process_time() - cpu
        return Ran(plan, 0.0, seconds, used, unsent, stopped)

    def readout(self) -> Readout:
        """What the journal says."""
        taxonomies = {self.taxonomy.name: self.taxonomy}
        return read_requests(self.journal.requests(), taxonomies, self.prices, 1)
