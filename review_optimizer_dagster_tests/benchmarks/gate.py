"""The gate's verdicts on simulated days: how often it passes what it should not, and decides.

Days of known accuracy are drawn and put to the bounds that the gate itself uses: one day at a time,
samples with unlike chances, texts that come more than once, and a whole year of looks. Beside each
the naive rule: the share that was seen, against the threshold.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.bounds import (
    anytime_upper_bounds,
    clopper_pearson,
    weighted_interval,
)
from review_optimizer_dagster.truth.accuracy import Verdict, verdict_of

if TYPE_CHECKING:
    import numpy as np

THRESHOLD: Final = 0.95
ACCURACIES: Final = (0.93, 0.94, 0.949, 0.95, 0.96, 0.97, 0.98, 0.99)
SAMPLES: Final = (60, 100, 200, 500, 1_000)
LOOKS: Final = 365
# Shares of reviews, and of the labels, of three strata; and where the wrong ones lie among them.
STRATA: Final = ((0.90, 0.55), (0.08, 0.25), (0.02, 0.20))
LEANS: Final = {"evenly": (1.0, 1.0, 1.0), "in the rare strata": (0.6, 4.0, 7.0)}


@dataclass(frozen=True)
class Day:
    """Verdicts of days of one accuracy and sample."""

    design: str
    accuracy: float
    labels: int
    days: int
    passed: int
    failed: int
    naive_passed: int
    """By the share alone."""


@dataclass(frozen=True)
class Year:
    """Services of one accuracy, looked at every day of a year."""

    accuracy: float
    labels: int
    services: int
    ever_passed_by_a_day: int
    ever_passed_standing: int
    ever_failed_standing: int
    median_days_to_decide: float | None
    """By all days together; None where fewer than half were decided."""


@cache
def _plain_verdict(correct: int, n: int) -> Verdict:
    return verdict_of("labels", *clopper_pearson(correct, n), THRESHOLD)


def random_samples(rng: np.random.Generator, accuracy: float, labels: int, days: int) -> Day:
    """Days with a simple random sample of labels."""
    correct = rng.binomial(labels, accuracy, days)
    verdicts = Counter(_plain_verdict(int(each), labels) for each in correct)
    naive = int((correct >= THRESHOLD * labels).sum())
    counts = (verdicts["passed"], verdicts["failed"], naive)
    return Day("random sample", accuracy, labels, days, *counts)


def stratified_samples(
    rng: np.random.Generator, accuracy: float, labels: int, days: int, lean: str
) -> Day:
    """Days with a sample of unlike chances, weighted; the wrong ones lean to some strata."""
    import numpy as np

    sizes = [round(share * labels) for _, share in STRATA]
    leans, shares = LEANS[lean], [share for share, _ in STRATA]
    scale = (1 - accuracy) / sum(w * s for w, s in zip(leans, shares, strict=True))
    errors = [min(1.0, scale * each) for each in leans]
    weights = np.repeat(
        [share * 100_000 / size for share, size in zip(shares, sizes, strict=True)], sizes
    )
    chances = np.repeat(errors, sizes)
    verdicts: Counter[Verdict] = Counter()
    naive = 0
    for _ in range(days):
        right = (rng.random(len(weights)) >= chances).astype(float)
        interval = weighted_interval(weights, right)
        verdicts[verdict_of("labels", *interval, THRESHOLD)] += 1
        naive += float(weights @ right) >= THRESHOLD * float(weights.sum())
    design = f"stratified, errors {lean}"
    return Day(design, accuracy, labels, days, verdicts["passed"], verdicts["failed"], naive)


def repeated_texts(rng: np.random.Generator, accuracy: float, labels: int, days: int) -> Day:
    """Days whose texts come 1 to 20 times; naive: reviews are counted as if they were texts."""
    import numpy as np

    verdicts: Counter[Verdict] = Counter()
    naive = 0
    for _ in range(days):
        times = np.minimum(rng.zipf(2.0, labels), 20).astype(float)
        right = (rng.random(labels) < accuracy).astype(float)
        verdicts[verdict_of("labels", *weighted_interval(times, right), THRESHOLD)] += 1
        naive += _plain_verdict(int(times @ right), int(times.sum())) == "passed"
    design = "texts that come 1 to 20 times"
    return Day(design, accuracy, labels, days, verdicts["passed"], verdicts["failed"], naive)


def years(rng: np.random.Generator, accuracy: float, labels: int, services: int) -> Year:
    """A year of looks at services of one accuracy, each day with new labels."""
    import numpy as np

    correct = rng.binomial(labels, accuracy, (services, LOOKS))
    by_day = np.array([_plain_verdict(each, labels) == "passed" for each in range(labels + 1)])
    right = correct.cumsum(axis=1).ravel()
    n = np.tile(np.arange(1, LOOKS + 1) * labels, services)
    lower = 1.0 - anytime_upper_bounds(n - right, n, 0.95).reshape(services, LOOKS)
    upper = anytime_upper_bounds(right, n, 0.95).reshape(services, LOOKS)
    passed, failed = lower >= THRESHOLD, upper < THRESHOLD
    decided = passed | failed
    first = np.where(decided.any(axis=1), decided.argmax(axis=1) + 1, LOOKS + 1)
    median = float(np.median(first))
    return Year(
        accuracy,
        labels,
        services,
        int(by_day[correct].any(axis=1).sum()),
        int(passed.any(axis=1).sum()),
        int(failed.any(axis=1).sum()),
        median if median <= LOOKS else None,
    )


def simulate(
    days: int, weighted_days: int, services: int, seed: int, note: Callable[[str], None]
) -> dict[str, Any]:
    """All of it; returns JSON: `days` and `years`."""
    import numpy as np

    rng = np.random.default_rng(seed)
    found = [
        random_samples(rng, accuracy, labels, days) for labels in SAMPLES for accuracy in ACCURACIES
    ]
    for design in ("repeats", *LEANS):
        note(f"{weighted_days:,} weighted days each: {design}")
        for labels in (200, 1_000):
            for accuracy in (0.949, 0.97, 0.99):
                about = (rng, accuracy, labels, weighted_days)
                found.append(
                    repeated_texts(*about)
                    if design == "repeats"
                    else stratified_samples(*about, design)
                )
    note(f"{services:,} services of each accuracy, {LOOKS} looks each")
    looked = [
        years(rng, accuracy, labels, services)
        for labels in (60, 200)
        for accuracy in (0.93, 0.949, 0.96, 0.97, 0.99)
    ]
    return {
        "threshold": THRESHOLD,
        "days": [asdict(each) for each in found],
        "years": [asdict(each) for each in looked],
    }


def _share(count: int, n: int) -> str:
    lower, upper = clopper_pearson(count, n, 0.95)
    return f"{100 * count / n:.1f} % [{100 * lower:.1f}, {100 * upper:.1f}]"


def print_tables(figures: dict[str, Any], console: Console) -> None:
    """The figures, with exact 95 % intervals."""
    columns = ("labels of the day", "true accuracy", "labels", "days")
    table = Table(*columns, "passed", "failed", "undecided", "naive rule passes")
    for row in figures["days"]:
        n = row["days"]
        table.add_row(
            row["design"],
            f"{row['accuracy']:.3f}",
            f"{row['labels']:,}",
            f"{n:,}",
            _share(row["passed"], n),
            _share(row["failed"], n),
            _share(n - row["passed"] - row["failed"], n),
            _share(row["naive_passed"], n),
        )
    console.print(table)
    columns = ("true accuracy", "labels a day", "services", "some day passed")
    together = ("all days together: ever passed", "ever failed", "median days to decide")
    table = Table(*columns, *together)
    for row in figures["years"]:
        n, median = row["services"], row["median_days_to_decide"]
        table.add_row(
            f"{row['accuracy']:.3f}",
            f"{row['labels']:,}",
            f"{n:,}",
            _share(row["ever_passed_by_a_day"], n),
            _share(row["ever_passed_standing"], n),
            _share(row["ever_failed_standing"], n),
            "over 365" if median is None else f"{median:.0f}",
        )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the simulations and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=20_000, help="of each plain design")
    parser.add_argument("--weighted-days", type=int, default=2_000, help="of each weighted one")
    parser.add_argument("--services", type=int, default=1_000, help="of each accuracy, a year each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    options = parser.parse_args(arguments)
    console = Console(width=160)
    figures = simulate(
        options.days, options.weighted_days, options.services, options.seed, console.print
    )
    print_tables(figures, console)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
