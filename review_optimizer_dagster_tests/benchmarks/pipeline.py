"""The first command a user types, timed as whole processes: cold, warm, imports, memory, install.

python -m review_optimizer_dagster_tests.benchmarks.pipeline [--reviews FILE] [--runs N]
    [--install] [--json OUT]

Cold is a new home, warm the same partition again. The naive way beside it is one request a
review, one after the other, measured on `--naive` texts against the same endpoint and scaled up.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parents[2]
IMPORTS = "import review_optimizer_dagster.definitions"
GATE_IMPORTS = "import great_expectations"


def timed(command: list[str], **environment: str) -> tuple[float, float]:
    """Wall seconds and peak resident megabytes of a command as a whole process.

    Raises CalledProcessError where it fails.
    """
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - began, usage.ru_maxrss / 1024


def run_command(home: Path, reviews: Path | None) -> list[str]:
    """The daily run of a home, its summary beside it."""
    command = [sys.executable, "-m", "review_optimizer_dagster", "run"]
    command += ["--json", str(home / "summary.json")]
    if reviews is not None:
        command += ["--reviews", str(reviews), "--engine", "simulator", "--answers", str(reviews)]
    return command


def daily_runs(reviews: Path | None, runs: int) -> dict[str, Any]:
    """Cold and warm runs of the command, each pair in a home of its own."""
    cold, warm, peaks, summary = [], [], [], {}
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            command = run_command(home, reviews)
            seconds, peak = timed(command, REVIEW_OPTIMIZER_HOME=str(home / "state"))
            cold.append(seconds)
            peaks.append(peak)
            summary = json.loads((home / "summary.json").read_text(encoding="utf-8"))
            seconds, _ = timed(command, REVIEW_OPTIMIZER_HOME=str(home / "state"))
            warm.append(seconds)
    return {"cold": cold, "warm": warm, "peak": peaks, "summary": summary}


def one_by_one(texts: int) -> float:
    """Seconds a review when each is a request of its own, one after the other."""
    from openai import OpenAI

    from review_optimizer_dagster.exchange.prompt import Asking
    from review_optimizer_dagster.simulator.judge import LexiconJudge
    from review_optimizer_dagster.simulator.sample import sample_day
    from review_optimizer_dagster.simulator.server import Simulator
    from review_optimizer_dagster.taxonomies import load_taxonomy

    taxonomy = load_taxonomy("reviews")
    how = Asking(taxonomy, "labels")
    first_day = date(2026, 1, 1)
    sample = sample_day(first_day, first_day, texts).with_columns(item_id=pl.lit("1"))
    with (
        Simulator(LexiconJudge()) as endpoint,
        OpenAI(base_url=endpoint.base_url, api_key="simulated", max_retries=0) as client,
    ):
        began = time.perf_counter()
        for batch in sample.iter_slices(1):
            body = how.body(batch, "gpt-6-luna", redact=True)
            client.post("/chat/completions", body=body, cast_to=object)
        return (time.perf_counter() - began) / texts


def installations() -> dict[str, float]:
    """Seconds of a fresh installation of the run-time set, by uv and by pip, caches off."""
    seconds = {}
    for name in ("uv", "pip"):
        with tempfile.TemporaryDirectory() as folder:
            environment = Path(folder) / "venv"
            subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
            python = str(environment / "bin" / "python")
            command = {
                "uv": ["uv", "pip", "install", "--no-cache", "-p", python, str(ROOT)],
                "pip": [python, "-m", "pip", "install", "--no-cache-dir", "-q", str(ROOT)],
            }[name]
            seconds[name], _ = timed(command)
    return seconds


def main() -> None:
    """Measure, print a table, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=Path, help="a file with text and label (else the sample)")
    parser.add_argument("--runs", type=int, default=3, help="homes to run in; medians are shown")
    parser.add_argument("--naive", type=int, default=100, help="texts asked one by one")
    parser.add_argument("--install", action="store_true", help="time fresh installations too")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    daily = daily_runs(options.reviews, options.runs)
    imports = [timed([sys.executable, "-c", IMPORTS])[0] for _ in range(options.runs)]
    gate = [timed([sys.executable, "-c", GATE_IMPORTS])[0] for _ in range(options.runs)]
    reviews = daily["summary"]["reviews"]
    figures: dict[str, Any] = {
        "cold_s": statistics.median(daily["cold"]),
        "warm_s": statistics.median(daily["warm"]),
        "imports_s": statistics.median(imports),
        "gate_imports_s": statistics.median(gate),
        "peak_mb": max(daily["peak"]),
        "reviews": reviews,
        "runs": options.runs,
        "one_by_one_s": one_by_one(options.naive) * reviews,
        "run_seconds": daily["summary"]["seconds"],
        "benchmark_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    if options.install:
        figures["install_s"] = installations()
    show(figures, daily)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def show(figures: dict[str, Any], daily: dict[str, Any]) -> None:
    """The figures as a table, with how many runs each comes from."""
    runs = figures["runs"]
    table = Table(title=f"pipeline: {figures['reviews']:,} reviews, {runs} homes, whole processes")
    for column in ("figure", "median", "range", "n"):
        table.add_column(column, justify="left" if column == "figure" else "right")

    def row(name: str, values: list[float], unit: str) -> None:
        low, high = min(values), max(values)
        middle = statistics.median(values)
        table.add_row(name, f"{middle:.1f} {unit}", f"{low:.1f} to {high:.1f}", str(len(values)))

    row("cold run (new home)", daily["cold"], "s")
    row("warm run (same partition again)", daily["warm"], "s")
    row("peak memory of the cold run", daily["peak"], "MB")
    table.add_row(
        "of it: imports of the definitions", f"{figures['imports_s']:.1f} s", "", str(runs)
    )
    table.add_row("of it: imports of the gate", f"{figures['gate_imports_s']:.1f} s", "", str(runs))
    table.add_row(
        "one request a review, in turn (scaled)", f"{figures['one_by_one_s']:.0f} s", "", ""
    )
    for name, seconds in figures.get("install_s", {}).items():
        table.add_row(f"fresh installation with {name}, no cache", f"{seconds:.0f} s", "", "1")
    Console().print(table)


if __name__ == "__main__":
    main()
