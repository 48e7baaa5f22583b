"""Runs of the command that are killed at random moments, then completed: are the books whole?

Every home is killed several times, half of the homes through the Batch API. The simulator lives
here, outside of what is killed, so its record is what a provider's would be.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Literal, TypeAlias

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.classifier import read_requests
from review_optimizer_dagster.money.budgets import Budget, Version
from review_optimizer_dagster.money.prices import load_prices
from review_optimizer_dagster.simulator.judge import Fields
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.benchmarks.asked import TENANT, DigestJudge, distinct_rows
from review_optimizer_dagster_tests.benchmarks.books import (
    Books,
    WatchedSimulator,
    compare,
    doubled,
    wrong,
)
from review_optimizer_dagster_tests.benchmarks.labelled import Share

Way: TypeAlias = Literal["sync", "batch"]
Phase: TypeAlias = Literal["start", "asking", "after"]

# Where the moments of the kills lie; those after the questions come last, since they end them.
PHASES: Final[Mapping[Phase, float]] = {"start": 0.2, "asking": 0.5, "after": 0.3}
KEY_VARIABLE: Final = "BENCHMARK_KEY"
LATENCY_SECONDS: Final = 0.4
BATCH_SECONDS: Final = 1.5
ASKING_SECONDS: Final = 1.2  # longest from the first request to the kill
FIRST_START_SECONDS: Final = 5.0  # from the command to its first request; then as it was seen
FIRST_AFTER_SECONDS: Final = 6.0  # from the last answer to the end
LONGEST_RUN_SECONDS: Final = 300.0
LOOK_SECONDS: Final = 0.01
TAXONOMY: Final = load_taxonomy("reviews")

_RESULTS: Final = """
    SELECT s.review_id, s.content_key, s.status, s.labels, r.title, r.text
    FROM review_results s JOIN raw_reviews r USING (day, tenant, review_id) WHERE s.day = ?
"""
_MONEY: Final = """
    SELECT (SELECT coalesce(sum(cost_nanos), 0)::BIGINT FROM ledger_entries WHERE day = $day),
        (SELECT coalesce(sum(cost_nanos), 0)::BIGINT FROM llm_requests WHERE day = $day),
        (SELECT coalesce(sum(held_nanos), 0)::BIGINT FROM llm_requests WHERE day = $day)
"""


class CountingJudge(DigestJudge):
    """Knows how many different texts it was asked about."""

    def __init__(self) -> None:
        self.seen: set[str] = set()

    def judge(self, title: str | None, text: str, fields: Fields) -> dict[str, str] | None:
        """As DigestJudge."""
        self.seen.add(f"{title}\n{text}")
        return super().judge(title, text, fields)


@dataclass
class Pace:
    """What is known of how long a run takes, in seconds."""

    start: float = FIRST_START_SECONDS
    after: float = FIRST_AFTER_SECONDS


@dataclass(frozen=True)
class Kill:
    """One kill: what it aimed at, and seconds from the command to it."""

    phase: Phase
    seconds: float
    answered: int
    """Texts that the endpoint had answered by then."""


@dataclass(frozen=True)
class Survived:
    """A home that was killed again and again, after its last run."""

    way: Way
    kills: Sequence[Kill]
    exit_code: int
    reviews: int
    labelled: int
    failed: int
    put_off: int
    lost: int
    """Reviews without a result; must be 0."""
    repeated: int
    """Reviews with more than one result; must be 0."""
    doubled: int
    wrong: int
    books: Books
    tables_agree: bool
    """Whether the warehouse's ledger and requests, and the budget, say what the journal says."""
    seconds: float


@dataclass
class Victim:
    """A home with one tenant, whose model is a simulator of this process."""

    folder: Path
    way: Way
    rows: pl.DataFrame
    day: date
    pace: Pace
    judge: CountingJudge = field(default_factory=CountingJudge)
    kills: list[Kill] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.simulator = WatchedSimulator(
            self.judge, latency_seconds=LATENCY_SECONDS, batch_seconds=BATCH_SECONDS
        )

    def prepare(self) -> None:
        """Settings and the day's file; the simulator is open."""
        inbox = self.folder / "inbox" / TENANT / self.day.isoformat()
        inbox.mkdir(parents=True)
        self.rows.select("review_id", "category", "title", "text").write_parquet(
            inbox / "reviews.parquet"
        )
        text = f"""[engine]
base_url = "{self.simulator.base_url}"
api_key_env = "{KEY_VARIABLE}"
in_flight = 4
[batches]
min_reviews = 5
max_reviews = 10
[input]
redact = false
[tenants.{TENANT}]
budget_usd = 1000.0
send = "{self.way}"
"""
        (self.folder / "tenants.toml").write_text(text, encoding="utf-8")

    def start(self) -> subprocess.Popen[bytes]:
        """The command, as a process of its own."""
        command = [sys.executable, "-m", "review_optimizer_dagster", "run"]
        environment = os.environ | {
            "REVIEW_OPTIMIZER_HOME": str(self.folder),
            KEY_VARIABLE: "simulated",
            "DAGSTER_DISABLE_TELEMETRY": "yes",
            "GX_ANALYTICS_ENABLED": "false",
        }
        return subprocess.Popen(
            [*command, "--date", self.day.isoformat()],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    @property
    def is_answered(self) -> bool:
        """Whether the simulator was asked about every text."""
        return len(self.judge.seen) == self.rows.height

    def kill_once(self, phase: Phase, moments: random.Random) -> bool:
        """Run, and kill at a moment of the phase; False where the run ended before it."""
        began, asked_before = time.monotonic(), len(self.simulator.asked_at)
        was_answered, process = self.is_answered, self.start()

        def wait_for(reached: Callable[[], bool]) -> None:
            while not reached() and process.poll() is None:
                if time.monotonic() - began > LONGEST_RUN_SECONDS:
                    raise TimeoutError(f"a run takes more than {LONGEST_RUN_SECONDS:g} s")
                time.sleep(LOOK_SECONDS)

        if phase == "start":
            delay = moments.uniform(0.0, self.pace.start)
        elif was_answered:  # anywhere in a run that asks nothing
            delay = moments.uniform(0.0, self.pace.start + self.pace.after)
        elif phase == "asking":
            wait_for(lambda: len(self.simulator.asked_at) > asked_before)
            self.pace.start = time.monotonic() - began
            delay = moments.uniform(0.0, ASKING_SECONDS)
        else:
            wait_for(lambda: self.is_answered)
            delay = moments.uniform(0.0, LATENCY_SECONDS + self.pace.after)
        until = time.monotonic() + delay
        wait_for(lambda: time.monotonic() >= until)
        if process.poll() is not None:
            return False
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        self.kills.append(Kill(phase, time.monotonic() - began, len(self.judge.seen)))
        return True

    def complete(self) -> int:
        """Run to the end; its exit code."""
        was_answered, process = self.is_answered, self.start()
        code = process.wait(LONGEST_RUN_SECONDS)
        if not was_answered and self.simulator.asked_at:
            self.pace.after = time.monotonic() - self.simulator.asked_at[-1]
        return code


def phases_of(kills: int, moments: random.Random) -> list[Phase]:
    """What each kill of a home aims at."""
    first: list[Phase] = ["start"] * round(kills * PHASES["start"])
    last: list[Phase] = ["after"] * round(kills * PHASES["after"])
    first += ["asking"] * (kills - len(first) - len(last))
    moments.shuffle(first)
    return first + last


def survive(victim: Victim, kills: int, moments: random.Random) -> Survived:
    """Kill a home's run so often, complete it, and compare its books with the simulator's."""
    began, ended = time.monotonic(), False
    with victim.simulator:
        victim.prepare()
        for phase in phases_of(kills, moments):
            if ended := not victim.kill_once(phase, moments):
                break
        code = 0 if ended else victim.complete()
        return _survived(victim, code, time.monotonic() - began)


def _survived(victim: Victim, code: int, seconds: float) -> Survived:
    home, day, record = Home(victim.folder), victim.day, victim.simulator.record
    with Warehouse(database=str(home.warehouse)).open(read_only=True) as connection:
        results = connection.frame(_RESULTS, [day])
        ((ledger, paid, held),) = connection.rows(_MONEY, {"day": day})
    journal, state = DayJournal(home.journal, day), StateStore(home.journal)
    try:
        requests = list(journal.requests())
        taxonomies = {TAXONOMY.name: TAXONOMY}
        readout = read_requests(requests, taxonomies, load_prices(), journal.generation)
        spend = Budget(state, TENANT, Version(1, 1, "month")).state(datetime.now(UTC))
        counters = (spend.spent, spend.reserved)
    finally:
        journal.close()
        state.close()
    books = compare(readout, record, int(str(ledger)))
    labelled = results.filter(pl.col("status") == "labelled")
    given = [
        (title, text, json.loads(labels))
        for title, text, labels in labelled.select("title", "text", "labels").iter_rows()
    ]
    ids = results["review_id"]
    return Survived(
        way=victim.way,
        kills=victim.kills,
        exit_code=code,
        reviews=victim.rows.height,
        labelled=labelled.height,
        failed=results.filter(pl.col("status") == "failed").height,
        put_off=results.filter(pl.col("status") == "deferred").height,
        lost=len(set(victim.rows["review_id"]) - set(ids)),
        repeated=results.height - ids.n_unique(),
        doubled=doubled(requests, record),
        wrong=wrong(given, victim.judge, TAXONOMY),
        books=books,
        tables_agree=(ledger, held) == (paid, books.held) == counters,
        seconds=seconds,
    )


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """Homes one after the other, sync and batch in turn, until there were so many kills."""
    moments, pace = random.Random(options.seed), Pace()  # noqa: S311 - moments, no secrets
    rows = distinct_rows(options.reviews, options.texts)
    day = (datetime.now(UTC) - timedelta(days=1)).date()
    homes: list[Survived] = []
    killed = 0
    ways: tuple[Way, ...] = ("sync", "batch")
    chosen = ways if options.way == "both" else (options.way,)
    while killed < options.kills:
        kills = min(options.kills_a_home, options.kills - killed)
        with tempfile.TemporaryDirectory() as folder:
            way = chosen[len(homes) % len(chosen)]
            victim = Victim(Path(folder), way, rows, day, pace)
            homes.append(survive(victim, kills, moments))
        killed += len(homes[-1].kills)
        if not homes[-1].kills:
            raise RuntimeError("a run ended before it could be killed: give more --texts")
        note(f"{killed} of {options.kills} kills, {homes[-1].way}, {homes[-1].seconds:.0f} s")
    return {
        "texts": rows.height,
        "kills": killed,
        "totals": totals(homes),
        "homes": [asdict(home) for home in homes],
        "rows": [summed(way, homes) for way in chosen],
    }


_SUMMED: Final = (
    "reviews", "labelled", "failed", "put_off", "lost", "repeated", "doubled", "wrong",
)  # fmt: skip
_BOOKS: Final = (
    "requests", "unknown", "booked", "billed", "differing", "held", "billed_unread", "uncovered",
)  # fmt: skip


def summed(way: Way, homes: Sequence[Survived]) -> dict[str, Any]:
    """The figures of all homes of a way together."""
    own = [home for home in homes if home.way == way]
    return {
        "way": way,
        "homes": len(own),
        "kills": sum(len(home.kills) for home in own),
        **{
            phase: sum(1 for home in own for kill in home.kills if kill.phase == phase)
            for phase in PHASES
        },
        "bad_exits": sum(1 for home in own if home.exit_code),
        **{name: sum(int(getattr(home, name)) for home in own) for name in _SUMMED},
        **{name: sum(int(getattr(home.books, name)) for home in own) for name in _BOOKS},
        "tables_differ": sum(1 for home in own if not home.tables_agree),
    }


def totals(homes: Sequence[Survived]) -> dict[str, dict[str, Any]]:
    """What must be 0, over all homes, with its exact interval."""
    reviews = sum(home.reviews for home in homes)
    requests = sum(home.books.requests for home in homes)
    counts = {
        "lost": (sum(home.lost for home in homes), reviews),
        "doubled": (sum(home.doubled + home.repeated for home in homes), reviews),
        "wrong labels accepted": (sum(home.wrong for home in homes), reviews),
        "requests booked otherwise than the record": (
            sum(home.books.differing for home in homes),
            requests,
        ),
        "requests with too little held": (sum(home.books.uncovered for home in homes), requests),
    }
    return {
        name: {"count": count, "total": total, "share": str(Share(count, total))}
        for name, (count, total) in counts.items()
    }


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Every figure of both ways, and what must be 0."""
    table = Table(
        title=f"SIGKILL at random moments: {figures['kills']} kills, {figures['texts']:,} reviews "
        "a home; each home was completed afterwards",
        title_justify="left",
        caption="start, asking, after: kills before the first request, while the endpoint is "
        "asked, and from the last answer on. Money in dollars. billed: by the endpoint's record, "
        "of answers that the client was given whole; unread: of the others, which must be held.",
    )
    table.add_column("figure")
    for row in figures["rows"]:
        table.add_column(str(row["way"]), justify="right")
    for name in figures["rows"][0]:
        if name == "way":
            continue
        is_money = name in ("booked", "billed", "held", "billed_unread")
        cells = [row[name] for row in figures["rows"]]
        shown = [f"{cell / 1e9:.9f}" if is_money else f"{cell:,}" for cell in cells]
        table.add_row(name.replace("_", " "), *shown)
    console.print(table)
    for name, found in figures["totals"].items():
        console.print(f"{name}: {found['count']:,} of {found['total']:,}, {found['share']}")
