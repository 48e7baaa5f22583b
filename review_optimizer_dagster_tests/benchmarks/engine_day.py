"""The mission's day, timed as a whole process: 95 of 100 reviews were delivered the day before.

Day one fills the archive through the same command; day two delivers nearly all of it again under
other ids, and some texts that were never seen. The simulator takes its time for each answer.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster_tests.benchmarks.asked import TENANT, distinct_rows
from review_optimizer_dagster_tests.benchmarks.labelled import shuffled

REDELIVERED: Final = 0.95
FIRST_DAY: Final = date(2026, 11, 19)
GATE_FAILED: Final = 1  # exit code of a run that went through all the same
_DELIVERED: Final = ["review_id", "category", "title", "text", "label"]
_SHOWN: Final = (
    "reviews", "misses", "labelled", "failed", "deferred", "repeats", "audits",
    "audits_disagreed", "cost_usd", "audit_cost_usd", "held_usd", "baseline_usd", "reduction",
)  # fmt: skip


def two_days(rows: pl.DataFrame, day_rows: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The first day, and a second one that delivers most of it again, under other ids.

    rows: ROWS of different texts, `day_rows` and what the second day has anew.
    """
    again = round(day_rows * REDELIVERED)
    first, never_seen = rows.head(day_rows), rows.slice(day_rows, day_rows - again)
    other_ids = pl.format("again-{}", "review_id").alias("review_id")
    old = shuffled(first, seed=1).head(again).with_columns(other_ids)
    second = shuffled(pl.concat([old, never_seen]), seed=2)
    return first.select(_DELIVERED), second.select(_DELIVERED)


def make_home(folder: Path) -> None:
    """A real home with one tenant, whose model is the simulator."""
    folder.mkdir()
    text = f'[engine]\nname = "simulator"\n[tenants.{TENANT}]\nbudget_usd = 1000.0\n'
    (folder / "tenants.toml").write_text(text, encoding="utf-8")


def run_day(
    home: Path, day: date, reviews: Path, answers: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Run the command for a day; its summary, with `process_s`, the seconds of all of it.

    Raises RuntimeError with what it printed where it did not go through.
    """
    out = home.parent / "summary.json"
    command = [sys.executable, "-m", "review_optimizer_dagster", "run", "--date", day.isoformat()]
    command += ["--reviews", str(reviews), "--tenant", TENANT, "--answers", str(answers)]
    command += ["--latency", str(options.latency), "--sigma", str(options.sigma)]
    command += ["--seconds-per-token", str(options.seconds_per_token), "--json", str(out)]
    environment = os.environ | {
        "REVIEW_OPTIMIZER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "yes",
        "GX_ANALYTICS_ENABLED": "false",
    }
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    if done.returncode not in (0, GATE_FAILED):
        raise RuntimeError(f"exit code {done.returncode}:\n{done.stdout}\n{done.stderr}")
    summary: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return summary | {"process_s": seconds, "exit_code": done.returncode}


def measure(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """Day one once, day two `--runs` times, each from a copy of the home after day one."""
    total = options.reviews_count
    rows = distinct_rows(options.reviews, 2 * total - round(total * REDELIVERED))
    first, second = two_days(rows, total)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        files = {name: base / f"{name}.parquet" for name in ("first", "second", "answers")}
        first.write_parquet(files["first"])
        second.write_parquet(files["second"])
        rows.select(_DELIVERED).write_parquet(files["answers"])
        home = base / "home"
        make_home(home)
        note(f"day one: {first.height:,} reviews, nothing is known yet")
        day_one = run_day(home, FIRST_DAY, files["first"], files["answers"], options)
        runs = []
        for number in range(options.runs):
            note(f"day two, run {number + 1} of {options.runs}: {second.height:,} reviews")
            copy = base / f"home-{number}"
            shutil.copytree(home, copy)
            following = FIRST_DAY + timedelta(days=1)
            runs.append(run_day(copy, following, files["second"], files["answers"], options))
            shutil.rmtree(copy)
    return {
        "redelivered": REDELIVERED,
        "never_seen": second.height - round(total * REDELIVERED),
        "reviews": second.height,
        "seconds": statistics.median(run["process_s"] for run in runs),
        "runs": options.runs,
        "load": os.getloadavg()[0],
        "day_one": _figures(day_one),
        "day_two": [_figures(run) for run in runs],
    }


def _figures(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What is shown of a run's summary."""
    kept = ("process_s", "exit_code", "hits", "hit_rate", "llm", "latency_ms", "accuracy")
    steps = {"steps_s": summary["seconds"]}
    return {name: summary[name] for name in (*kept, *_SHOWN)} | steps


def show(figures: Mapping[str, Any], console: Console) -> None:
    """Both days side by side; of day two the seconds of every run, the rest of the last."""
    table = Table(
        title=f"the day: {figures['reviews']:,} reviews, {figures['redelivered']:.0%} of them "
        f"delivered the day before under other ids, {figures['never_seen']:,} never seen",
        title_justify="left",
        caption="whole processes, from the command to its exit; hits are free, rechecks are not",
    )
    table.add_column("figure")
    table.add_column("day one", justify="right")
    table.add_column(f"day two (n = {figures['runs']})", justify="right")
    one, two = figures["day_one"], figures["day_two"][-1]
    seconds = [run["process_s"] for run in figures["day_two"]]
    spread = f"{figures['seconds']:.1f} ({min(seconds):.1f} to {max(seconds):.1f})"
    table.add_row("seconds of the process", f"{one['process_s']:.1f}", spread)
    for name, value in two["steps_s"].items():
        table.add_row(f"  of it: {name}", f"{one['steps_s'][name]:.1f}", f"{value:.1f}")
    table.add_row("hit rate", f"{one['hit_rate']:.2%}", f"{two['hit_rate']:.2%}")
    for level, count in two["hits"].items():
        table.add_row(f"  {level}", f"{one['hits'][level]:,}", f"{count:,}")
    for name in _SHOWN:
        table.add_row(name.replace("_", " "), str(one[name]), str(two[name]))
    for name in ("requests", "retries", "prompt_tokens", "completion_tokens"):
        table.add_row(name.replace("_", " "), f"{one['llm'][name]:,}", f"{two['llm'][name]:,}")
    table.add_row("accuracy (truth, lower, upper, gate)", _gate(one), _gate(two))
    console.print(table)


def _gate(figures: Mapping[str, Any]) -> str:
    found = figures["accuracy"]
    if found is None:
        return "-"
    return f"{found['correct']}/{found['n']}: {found['lower']:.4f} to {found['upper']:.4f}, " + str(
        found["gate"]
    )
