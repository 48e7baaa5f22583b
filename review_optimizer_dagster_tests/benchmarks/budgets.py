"""Can a budget be overspent by processes that spend it at the same time, and what of it is unused?

python -m review_optimizer_dagster_tests.benchmarks.budgets [--reviews FILE] [--trials 1000]
    [--processes 4] [--in-flight 8] [--texts 16] [--batch 2] [--seed 0] [--add FILE ...]
    [--json OUT]

Each trial gives several processes texts of their own, one tenant, and one budget between them that
is smaller than what all texts cost; a third of the trials meet faults too. What was billed is the
endpoint's own record, priced from the price rows alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.core.batching import STANDARD_TIER, Tier
from review_optimizer_dagster.exchange.transport import Clock
from review_optimizer_dagster.money.budgets import Budget, Version
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.benchmarks.asked import (
    MODEL,
    TENANT,
    Asker,
    DigestJudge,
    distinct_rows,
    endpoint_of,
    misses_of,
)
from review_optimizer_dagster_tests.benchmarks.books import WatchedSimulator, priced

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

LATENCY_SECONDS: Final = 0.01
SMALLEST, LARGEST = 0.02, 0.9  # of what all texts cost without a limit
FAULTS: Final = dict.fromkeys(
    ("overloaded", "missing_ids", "truncated", "cut_in_body", "cut_before_body"), 0.05
)
TIMES_FASTER: Final = 50  # back-offs are waited for, but not as long


@dataclass(frozen=True)
class Trial:
    """One budget, and the processes that spend it."""

    budget: int
    billed: int
    """By the endpoint's record, answers that nobody could read included."""
    spent: int
    """By the budget's counters."""
    held: int
    deferred: int
    labelled: int
    has_faults: bool

    @property
    def overspent(self) -> int:
        """Nano-dollars over the budget; must be 0."""
        return max(0, self.billed - self.budget)

    @property
    def unused(self) -> float:
        """Share of the budget that was neither spent nor held, though reviews were deferred."""
        return (self.budget - self.spent - self.held) / self.budget


@dataclass(frozen=True)
class Asked:
    """What a process is told to do."""

    folder: str
    base_url: str
    budget: int


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--reviews", type=Path, help="texts to ask about; else the sample's")
    parser.add_argument("--trials", type=int, default=1_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--in-flight", type=int, default=8, help="batches, a process")
    parser.add_argument("--texts", type=int, default=16, help="a process")
    parser.add_argument("--batch", type=int, default=2, help="texts a batch")
    parser.add_argument(
        "--add",
        type=Path,
        nargs="*",
        default=[],
        metavar="FILE",
        help="count the trials of these earlier runs (--json) too; --trials 0 makes no new ones",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def worker(pipe: Connection, number: int, texts: pl.DataFrame, batch: int, in_flight: int) -> None:
    """Ask about these texts (MISSES) in each trial that it is told of, until told None."""
    taxonomy = load_taxonomy("reviews")
    settings = BatchSettings(min_reviews=1, max_reviews=batch)
    clock = Clock(
        monotonic=lambda: time.monotonic() * TIMES_FASTER,
        sleep=lambda seconds: asyncio.sleep(seconds / TIMES_FASTER),
    )
    ladder = (Tier(STANDARD_TIER, MODEL, max_reviews=batch, effort="none"),)
    while (asked := pipe.recv()) is not None:
        folder = Path(asked.folder)
        endpoint = endpoint_of(
            asked.base_url, "codes", in_flight=in_flight, ladder=ladder, timeout_seconds=20.0
        )
        own = folder / f"process-{number}"
        with Asker(own, taxonomy, asked.budget, folder) as asker:
            pipe.send("ready")
            pipe.recv()  # all begin at once
            asker.ask(texts, endpoint, settings, clock=clock)
            answers = asker.readout().answers
            labelled = answers.filter(pl.col("status") == "labelled").height
        pipe.send((labelled, texts.height - labelled))


class Crew:
    """Processes that take part in every trial; a context manager."""

    def __init__(self, options: argparse.Namespace) -> None:
        rows = distinct_rows(options.reviews, options.texts * options.processes)
        misses = misses_of(rows, load_taxonomy("reviews"))
        spawn = get_context("spawn")
        self._pipes = []
        self._processes = []
        for number, part in enumerate(misses.iter_slices(options.texts)):
            ours, theirs = spawn.Pipe()
            arguments = (theirs, number, part, options.batch, options.in_flight)
            self._pipes.append(ours)
            self._processes.append(spawn.Process(target=worker, args=arguments, daemon=True))
            self._processes[-1].start()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self._pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(timeout=20)

    def trial(self, budget: int, faults: dict[str, float], seed: int) -> Trial:
        """Let all of them spend one budget."""
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "trial"
            simulator = WatchedSimulator(
                DigestJudge(), latency_seconds=LATENCY_SECONDS, faults=faults, seed=seed
            )
            with simulator:
                asked = Asked(str(folder), simulator.base_url, budget)
                for step in (asked, "go"):
                    for pipe in self._pipes:
                        pipe.send(step)
                    told = [pipe.recv() for pipe in self._pipes]
                billed = sum(priced(row) for row, _ in simulator.record)
            state = StateStore(folder)
            spend = Budget(state, TENANT, Version(1, budget, "month")).state(datetime.now(UTC))
            state.close()
            shutil.rmtree(folder)
        return Trial(
            budget=budget,
            billed=billed,
            spent=spend.spent,
            held=spend.reserved,
            labelled=sum(labelled for labelled, _ in told),
            deferred=sum(rest for _, rest in told),
            has_faults=bool(faults),
        )


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All trials, those of earlier runs included, and what they come to."""
    began = time.perf_counter()
    earlier = [json.loads(path.read_text(encoding="utf-8")) for path in options.add]
    trials = [Trial(**trial) for run in earlier for trial in run["each"]]
    if options.trials:
        trials += run_trials(options)
    return {
        "trials": len(trials),
        "processes": options.processes,
        "in_flight": options.in_flight,
        "texts": options.texts * options.processes,
        "model": MODEL,
        "seconds": time.perf_counter() - began + sum(run["seconds"] for run in earlier),
        "groups": {
            "no faults": _figures([trial for trial in trials if not trial.has_faults]),
            "faults": _figures([trial for trial in trials if trial.has_faults]),
        },
        "each": [asdict(trial) for trial in trials],
    }


def run_trials(options: argparse.Namespace) -> list[Trial]:
    """So many trials, each with a budget of its own."""
    draw = random.Random(options.seed)  # noqa: S311 (no secret)
    trials = []
    with Crew(options) as crew:
        whole = crew.trial(10**15, {}, options.seed).billed
        for number in range(options.trials):
            budget = int(whole * draw.uniform(SMALLEST, LARGEST))
            faults = FAULTS if number % 3 == 2 else {}
            trials.append(crew.trial(budget, faults, options.seed + number))
    return trials


def _figures(trials: list[Trial]) -> dict[str, Any]:
    short = [trial for trial in trials if trial.deferred]
    unused = pl.Series([trial.unused for trial in short], dtype=pl.Float64)
    left = pl.Series([trial.budget - trial.spent - trial.held for trial in short], dtype=pl.Int64)
    answered = sum(trial.labelled for trial in trials)
    review = sum(trial.billed for trial in trials) / max(1, answered)
    return {
        "trials": len(trials),
        "overspent": sum(1 for trial in trials if trial.overspent),
        "overspent_nanos": sum(trial.overspent for trial in trials),
        "counted_over_budget": sum(
            1 for trial in trials if trial.spent + trial.held > trial.budget
        ),
        "billed_unlike_spent": sum(
            1 for trial in trials if not trial.spent <= trial.billed <= trial.spent + trial.held
        ),
        "with_deferred": len(short),
        "unused_median": unused.median(),
        "unused_p95": unused.quantile(0.95),
        "unused_usd_median": _dollars(left.median()),
        "unused_usd_p95": _dollars(left.quantile(0.95)),
        "unused_reviews_median": (_dollars(left.median()) or 0.0) * 1e9 / max(1.0, review),
        "held_share": sum(t.held for t in trials) / max(1, sum(t.budget for t in trials)),
    }


def _dollars(nanos: object) -> float | None:
    return float(str(nanos)) / 1e9 if nanos is not None else None


def show(console: Console, figures: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table(
        title=f"{figures['trials']:,} budgets, each spent by {figures['processes']} processes with "
        f"{figures['in_flight']} batches in flight, {figures['texts']} texts, "
        f"{figures['seconds']:.0f} s",
        title_justify="left",
    )
    for name in ("", *figures["groups"]):
        table.add_column(name, justify="right" if name else "left")
    rows = {
        "trials": "{trials:,}",
        "budgets overspent, by the endpoint's record": "{overspent:,}",
        "by how much in all, nano-dollars": "{overspent_nanos:,}",
        "spent and held over the budget": "{counted_over_budget:,}",
        "endpoint's record outside [spent, spent + held]": "{billed_unlike_spent:,}",
        "trials that deferred reviews": "{with_deferred:,}",
        "of these, unused share of the budget, median": "{unused_median:.1%}",
        "  95th percentile": "{unused_p95:.1%}",
        "  in dollars, median and 95th percentile": "{unused_usd_median:.6f}, {unused_usd_p95:.6f}",
        "  median, in reviews at what one cost": "{unused_reviews_median:.0f}",
        "held for unknown outcomes, share of all budgets": "{held_share:.2%}",
    }
    for name, form in rows.items():
        cells = []
        for group in figures["groups"].values():
            known = {key: float("nan") if value is None else value for key, value in group.items()}
            cells.append(form.format(**known))
        table.add_row(name, *cells)
    console.print(table)


def main() -> None:
    """Run the trials, print their table, and write JSON where asked."""
    options = read_options()
    figures = measure(options)
    show(Console(width=120), figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
