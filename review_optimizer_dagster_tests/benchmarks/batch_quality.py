"""How often sampled batches pause a tier that is right, and how soon one that is wrong.

python -m review_optimizer_dagster_tests.benchmarks.batch_quality [--days 20000] [--sample 60]
    [--threshold 0.95] [--seed 0] [--json OUT]

Days of batches of a tier whose accuracy is known are drawn, and `decide` judges each batch. The
naive rule pauses a tier where the plain share of a sample is below the threshold. Nothing is fitted
to these draws.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.exchange.batch_quality import decide

ACCURACIES: Final = (0.80, 0.85, 0.90, 0.93, 0.95, 0.96, 0.97, 0.99)
BATCHES: Final = (1, 20, 100)  # a day


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--days", type=int, default=20_000, help="drawn of each row")
    parser.add_argument("--sample", type=int, default=60, help="reviews of a batch")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Every accuracy with every number of batches a day."""
    rows = []
    for batches in BATCHES:
        counts = range(options.sample + 1)
        verdicts = [
            decide(count, options.sample, options.threshold, batches).verdict for count in counts
        ]
        below = np.array([verdict == "below" for verdict in verdicts])
        naive = np.array([count / options.sample < options.threshold for count in counts])
        for accuracy in ACCURACIES:
            draws = np.random.default_rng([options.seed, batches, round(accuracy * 1_000)])
            right = draws.binomial(options.sample, accuracy, (options.days, batches))
            row: dict[str, Any] = {"accuracy": accuracy, "batches": batches, "days": options.days}
            rows.append(row | {"ours": _rates(below[right]), "naive": _rates(naive[right])})
    return {"sample": options.sample, "threshold": options.threshold, "rows": rows}


def _rates(paused: np.ndarray[Any, np.dtype[np.bool_]]) -> dict[str, Any]:
    """Of a table of days and batches: the batches and days that pause, and how soon, if ever."""
    days = paused.any(axis=1)
    first = paused.argmax(axis=1)[days] + 1
    return {
        "batches": _share(int(paused.sum()), paused.size),
        "days": _share(int(days.sum()), paused.shape[0]),
        "median_first": float(np.median(first)) if len(first) else None,
    }


def _share(count: int, n: int) -> dict[str, float]:
    lower, upper = clopper_pearson(count, n, 0.95)
    return {"count": count, "n": n, "share": count / n, "lower": lower, "upper": upper}


def show(console: Console, figures: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table(
        title=f"samples of {figures['sample']}, threshold {figures['threshold']:g}: share of "
        "batches and of days that pause (exact 95 % interval)",
        title_justify="left",
    )
    for name in ("batches a day", "accuracy", "days drawn"):
        table.add_column(name, justify="right")
    for name in ("batches", "days", "at batch, median", "naive: batches", "naive: days"):
        table.add_column(name, justify="right")
    for row in figures["rows"]:
        ours, naive = row["ours"], row["naive"]
        first = ours["median_first"]
        table.add_row(
            str(row["batches"]),
            f"{row['accuracy']:.2f}",
            f"{row['days']:,}",
            _told(ours["batches"]),
            _told(ours["days"]),
            "" if first is None else f"{first:g}",
            f"{100 * naive['batches']['share']:.1f} %",
            f"{100 * naive['days']['share']:.1f} %",
        )
    console.print(table)


def _told(share: dict[str, float]) -> str:
    return (
        f"{100 * share['share']:.3f} % ({100 * share['lower']:.3f} to {100 * share['upper']:.3f})"
    )


def main() -> None:
    """Draw, print the table, and write JSON where asked."""
    options = read_options()
    figures = measure(options)
    show(Console(width=160), figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
