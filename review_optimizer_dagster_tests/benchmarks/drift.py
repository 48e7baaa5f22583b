"""Drift on real texts: false alarms of quiet weeks, and the day on which a change is caught.

Days are drawn with replacement from labelled reviews. Quiet days differ by more than independent
draws would: the mixes of categories and labels vary from day to day, and weekends have fewer
reviews. Labels of the file stand for the answers. Beside the monitor stands the naive one, which
tests each signal by itself, with a plain chi-square at 5 % or by a population stability index
over 0.2, against the same 28 days.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.monitors.drift import (
    ALARMS,
    DAYS_A_YEAR,
    days_needed,
    judge,
    strongest,
)
from review_optimizer_dagster.monitors.profile import AUDITS, PROFILES, REVIEWS, profile
from review_optimizer_dagster.settings import DriftSettings
from review_optimizer_dagster_tests.benchmarks.labelled import read_labelled, sample_rows

if TYPE_CHECKING:
    import numpy as np

FIRST_DAY: Final = date(2026, 1, 5)  # a Monday
WEEKEND: Final = 0.7  # of the reviews of a working day
CONCENTRATION: Final = 300.0  # Dirichlet: a day's share of 50 % has a standard deviation of 2.9 %
SHARES: Final = (1.0, 0.5, 0.2, 0.1)
LONGEST: Final = 28  # days that a change is waited for
PSI_LIMIT: Final = 0.2
NAIVE_LEVEL: Final = 0.05
CONFIDENCE: Final = 0.95
ZERO_SHARE: Final = 1e-4  # of an empty bucket, in the index


@dataclass
class Feed:
    """Draws days from rows: review_id, category, title, text, label."""

    rows: pl.DataFrame
    reviews: int
    """A working day's, on average."""
    generator: np.random.Generator
    groups: dict[str, dict[str, pl.DataFrame]] = field(init=False)
    """Category to label to rows."""

    def __post_init__(self) -> None:
        """Sort the rows by what is drawn."""
        self.groups = {}
        for (category, label), part in self.rows.sort("review_id").group_by(
            "category", "label", maintain_order=True
        ):
            self.groups.setdefault(str(category), {})[str(label)] = part

    def day(self, day: date, change: Callable[[pl.DataFrame], pl.DataFrame] | None = None) -> Any:
        """A day's reviews (REVIEWS), after a change of its rows."""
        size = self.reviews * (WEEKEND if day.weekday() >= 5 else 1.0)
        count = int(self.generator.poisson(size))
        parts = []
        for category, size_of in self._mix(
            {name: sum(part.height for part in own.values()) for name, own in self.groups.items()},
            count,
        ):
            own = self.groups[category]
            labels = {name: part.height for name, part in own.items()}
            for label, drawn in self._mix(labels, size_of):
                places = self.generator.integers(own[label].height, size=drawn)
                parts.append(own[label][places])
        rows = pl.concat(parts)
        rows = rows if change is None else change(rows)
        return _reviews(rows, day)

    def _mix(self, sizes: Mapping[str, int], count: int) -> Iterator[tuple[str, int]]:
        """How many of each there are on a day whose mix varies about these sizes."""
        names = sorted(sizes)
        total = sum(sizes.values())
        shares = self.generator.dirichlet([CONCENTRATION * sizes[n] / total for n in names])
        yield from zip(names, map(int, self.generator.multinomial(count, shares)), strict=True)


def _reviews(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    labels = ("label" if "label" in rows.columns else "category",)
    spelled = {name: json.dumps({"label": name}) for name in rows[labels[0]].unique()}
    return rows.select(
        tenant=pl.lit("acme"),
        taxonomy=pl.lit("benchmark"),
        simulated=pl.lit(False),
        review_id=pl.format("{}-{}", pl.lit(day.isoformat()), pl.int_range(pl.len())),
        category="category",
        level=pl.lit("model"),
        labels=pl.col(labels[0]).replace_strict(spelled),
        title="title",
        text="text",
    ).cast(REVIEWS)


@dataclass
class History:
    """A monitor that runs day by day, as the pipeline's check does."""

    settings: DriftSettings
    profiles: pl.DataFrame = field(default_factory=lambda: _empty(PROFILES))
    alarms: pl.DataFrame = field(default_factory=ALARMS.to_frame)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {"profile": [], "test": []})

    def watch(self, day: date, reviews: pl.DataFrame) -> pl.DataFrame:
        """Profile and judge a day; returns its TESTS."""
        began = time.perf_counter()
        counts = profile(reviews, AUDITS.to_frame(), self.settings.min_reviews)
        profiled = time.perf_counter()
        since = day - timedelta(days=days_needed(self.settings))
        dated = counts.select(pl.lit(day).alias("day"), pl.all())
        self.profiles = pl.concat([self.profiles.filter(pl.col("day") >= since), dated])
        known = self.alarms.filter(pl.col("day") >= since)
        tests = judge(self.profiles, known, day, self.settings)
        self.alarms = pl.concat(
            [known, tests.select(pl.lit(day).alias("day"), *ALARMS.names()[1:])]
        )
        self.seconds["profile"].append(profiled - began)
        self.seconds["test"].append(time.perf_counter() - profiled)
        return tests

    def copy(self) -> History:
        """The same past, and a future of its own."""
        return History(self.settings, self.profiles, self.alarms)


def _empty(schema: pl.Schema) -> pl.DataFrame:
    return pl.Schema({"day": pl.Date(), **schema}).to_frame()


def naive_alarms(profiles: pl.DataFrame, day: date, settings: DriftSettings) -> dict[str, bool]:
    """What two naive monitors say of a day: any signal under 5 %, any index over 0.2."""
    import numpy as np
    from scipy.special import chdtrc

    chi_square, index = False, False
    before = profiles.filter(pl.col("day") < day)
    if before["day"].n_unique() < settings.min_days:
        return {"chi_square": False, "psi": False}
    since = day - timedelta(days=settings.window_days)
    keys = ["category", "signal", "bucket"]
    count = pl.col("reviews")
    counts = (
        profiles.filter(pl.col("day") >= since)
        .group_by(keys)
        .agg(
            today=count.filter(pl.col("day") == day).sum(),
            before=count.filter(pl.col("day") < day).sum(),
        )
    )
    for _, part in counts.group_by("category", "signal"):
        table = part.select("today", "before").to_numpy().T.astype(float)
        sizes = table.sum(axis=1)
        if sizes.min() < settings.min_reviews or table.shape[1] < 2:
            continue
        expected = np.outer(sizes, table.sum(axis=0)) / sizes.sum()
        statistic = ((table - expected) ** 2 / expected).sum()
        chi_square |= bool(chdtrc(table.shape[1] - 1, statistic) < NAIVE_LEVEL)
        shares = np.maximum(table / sizes[:, None], ZERO_SHARE)
        psi = ((shares[0] - shares[1]) * np.log(shares[0] / shares[1])).sum()
        index |= bool(psi > PSI_LIMIT)
    return {"chi_square": chi_square, "psi": index}


def poisson_interval(count: int) -> tuple[float, float]:
    """The exact 95 % interval of a Poisson mean (Garwood, Biometrika 28, 1936)."""
    from scipy.special import gammaincinv

    tail = (1 - CONFIDENCE) / 2
    lower = float(gammaincinv(count, tail)) if count else 0.0
    return lower, float(gammaincinv(count + 1, 1 - tail))


def quiet(
    rows: pl.DataFrame, weeks: int, reviews: int, seed: int, settings: DriftSettings
) -> dict[str, Any]:
    """Watch weeks without drift; returns JSON: episodes and days of alarm, of each monitor."""
    import numpy as np

    feed, history = Feed(rows, reviews, np.random.default_rng(seed)), History(settings)
    alarmed: dict[str, list[bool]] = {"monitor": [], "chi_square": [], "psi": []}
    signals, tests_a_day = Counter[str](), []
    for number in range(WARM_UP + weeks * 7):
        day = FIRST_DAY + timedelta(days=number)
        tests = history.watch(day, feed.day(day))
        if number < WARM_UP:
            continue
        tests_a_day.append(tests.height)
        signals.update(_named(tests))
        alarmed["monitor"].append(bool(tests["alarm"].any()))
        for name, alarm in naive_alarms(history.profiles, day, settings).items():
            alarmed[name].append(alarm)
    found: dict[str, Any] = {
        "days": weeks * 7,
        "tests_a_day": median(tests_a_day),
        "allowed": settings.false_alarms_per_year * weeks * 7 / DAYS_A_YEAR,
        "alarmed_signals": dict(signals),
        "seconds": {name: median(each) for name, each in history.seconds.items()},
    }
    for name, days in alarmed.items():
        begun = sum(now and not before for before, now in zip([False, *days], days, strict=False))
        found[name] = {
            "episodes": begun,
            "interval": poisson_interval(begun),
            "days": sum(days),
        }
    return found


WARM_UP: Final = 35  # days before anything is counted: a baseline of four weeks, and a week


def _named(tests: pl.DataFrame) -> list[str]:
    """The alarmed signals of a day, the strongest first."""
    rows = strongest(tests).select("category", "signal", "horizon").iter_rows()
    return [f"{signal} of {category or 'all'}, {horizon}" for category, signal, horizon in rows]


@dataclass(frozen=True)
class Change:
    """What happens to a category from some day on."""

    name: str
    apply: Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]


def replaced(
    category: str, documents: pl.DataFrame, labels: Sequence[str], share: float
) -> Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]:
    """A share of a category's reviews become another domain's documents.

    Their label is the document's where the taxonomy has it, else drawn from those that there are.
    """

    def change(rows: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        hit = (rows["category"] == category) & pl.Series(generator.random(rows.height) < share)
        drawn = documents[generator.integers(documents.height, size=int(hit.sum()))]
        label = [
            known if known in labels else labels[place]
            for known, place in zip(
                drawn["label"], generator.integers(len(labels), size=drawn.height), strict=True
            )
        ]
        new = drawn.select("review_id", "title", "text").with_columns(
            category=pl.lit(category), label=pl.Series(label, dtype=pl.String)
        )
        return pl.concat([rows.filter(~hit), new.select(rows.columns)])

    return change


def shortened(
    category: str, share: float
) -> Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]:
    """A share of a category's reviews are cut to their first hundred characters."""

    def change(rows: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        hit = (rows["category"] == category) & pl.Series(generator.random(rows.height) < share)
        cut = pl.when(hit).then(pl.col("text").str.head(100)).otherwise("text")
        return rows.with_columns(text=cut)

    return change


def translated(
    category: str, share: float
) -> Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]:
    """A share of a category's reviews are in Spanish: one of a few sentences."""

    def change(rows: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        hit = (rows["category"] == category) & pl.Series(generator.random(rows.height) < share)
        texts = [SPANISH[place] for place in generator.integers(len(SPANISH), size=rows.height)]
        text = pl.when(hit).then(pl.Series(texts)).otherwise("text")
        title = pl.when(hit).then(None).otherwise("title")
        return rows.with_columns(text=text, title=title)

    return change


SPANISH: Final = (
    "Muy buen producto, llegó antes de lo que esperaba y funciona muy bien.",
    "No lo recomiendo, se rompió a los dos días y nadie me ha contestado.",
    "Es justo lo que buscaba, la calidad es muy buena para el precio que tiene.",
)


def caught(
    rows: pl.DataFrame,
    changes: Sequence[Change],
    seeds: int,
    reviews: int,
    seed: int,
    settings: DriftSettings,
) -> dict[str, Any]:
    """On which day each change is caught, over so many seeds; day 1 is its first. Returns JSON."""
    import numpy as np

    found: dict[str, dict[str, Any]] = {
        each.name: {"days": [], "signals": Counter(), "before": 0} for each in changes
    }
    for number in range(seeds):
        generator = np.random.default_rng([seed, number])
        feed, history = Feed(rows, reviews, generator), History(settings)
        # Changes begin on any day of the week.
        start = FIRST_DAY + timedelta(days=WARM_UP + number % 7)
        for offset in range((start - FIRST_DAY).days):
            day = FIRST_DAY + timedelta(days=offset)
            tests = history.watch(day, feed.day(day))
        in_alarm = bool(tests["alarm"].any())
        for each in changes:
            one = found[each.name]
            one["before"] += in_alarm
            future, change = history.copy(), each.apply
            for late in range(LONGEST):
                day = start + timedelta(days=late)
                drawn = feed.day(day, lambda held, do=change: do(held, generator))
                alarmed = _named(future.watch(day, drawn))
                if alarmed:
                    one["days"].append(late + 1)
                    one["signals"][alarmed[0]] += 1
                    break
            else:
                one["days"].append(None)
    return {name: _summary(one) for name, one in found.items()}


def _summary(one: Mapping[str, Any]) -> dict[str, Any]:
    known = [day for day in one["days"] if day is not None]
    waited = sorted(LONGEST + 1 if day is None else day for day in one["days"])
    return {
        "trials": len(waited),
        "caught": len(known),
        "median_day": median(waited) if median(waited) <= LONGEST else None,
        "worst_day": waited[-1] if waited[-1] <= LONGEST else None,
        "by": dict(one["signals"].most_common(3)),
        "in_alarm_before": one["before"],
    }


def changes_of(
    rows: pl.DataFrame, documents: Mapping[str, pl.DataFrame], category: str
) -> list[Change]:
    """Every change that is tried of a category."""
    labels = sorted(rows["label"].unique())
    found = [
        Change(f"{name} {share:.0%}", replaced(category, texts, labels, share))
        for name, texts in documents.items()
        for share in SHARES
    ]
    found += [
        Change(f"{name} {share:.0%}", make(category, share))
        for name, make in (("shortened", shortened), ("Spanish", translated))
        for share in SHARES[1:]
    ]
    return found


def measure(
    rows: pl.DataFrame,
    documents: Mapping[str, pl.DataFrame],
    weeks: int,
    seeds: int,
    reviews: int,
    seed: int,
) -> dict[str, Any]:
    """Both halves; returns JSON."""
    settings = DriftSettings()
    sizes = rows.group_by("category").len().sort("len", "category", descending=[True, False])
    category = str(sizes["category"][0])
    return {
        "rows": rows.height,
        "reviews_a_day": reviews,
        "category": category,
        "category_share": sizes["len"][0] / rows.height,
        "quiet": quiet(rows, weeks, reviews, seed, settings),
        "caught": caught(
            rows, changes_of(rows, documents, category), seeds, reviews, seed + 1, settings
        ),
    }


def print_tables(figures: Mapping[str, Any]) -> None:
    """The two tables."""
    console, calm = Console(), figures["quiet"]
    table = Table(
        "monitor", "false episodes", "95 % interval", "days in alarm", title_justify="left",
        title=f"{calm['days']} days without drift, about {figures['reviews_a_day']} reviews each, "
        f"{calm['tests_a_day']:g} tests a day ({calm['allowed']:.2g} episodes are allowed)",
    )  # fmt: skip
    names = {"monitor": "drift", "chi_square": "chi-square, 5 % a signal", "psi": "PSI over 0.2"}
    for name, shown in names.items():
        lower, upper = calm[name]["interval"]
        table.add_row(
            shown, str(calm[name]["episodes"]), f"{lower:.2g} to {upper:.3g}",
            f"{calm[name]['days']}",
        )  # fmt: skip
    console.print(table)
    console.print(f"seconds a day: {calm['seconds']}; alarmed: {calm['alarmed_signals']}")
    table = Table(
        "change", "trials", "caught", "median day", "worst day", "first by", title_justify="left",
        title=f"{figures['category']} ({figures['category_share']:.0%} of the reviews) changes",
    )  # fmt: skip
    for name, one in figures["caught"].items():
        late = f"over {LONGEST}"
        table.add_row(
            name, str(one["trials"]), str(one["caught"]),
            late if one["median_day"] is None else f"{one['median_day']:g}",
            late if one["worst_day"] is None else str(one["worst_day"]),
            ", ".join(f"{by} ({count})" for by, count in one["by"].items()),
        )  # fmt: skip
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=Path, metavar="FILE", help="labelled; a sample if not")
    parser.add_argument("--part", help="value of the column `part` to use; all of them if not")
    parser.add_argument(
        "--documents", type=Path, action="append", default=[], metavar="FILE",
        help="another domain's labelled texts; may be given again",
    )  # fmt: skip
    parser.add_argument("--weeks", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--reviews-a-day", type=int, default=1_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args(arguments)
    if options.reviews is None:
        rows = sample_rows(10_000)
    else:
        rows = read_labelled(options.reviews)
        if options.part is not None:
            rows = rows.filter(part=options.part)
    columns = ["review_id", "category", "title", "text", "label"]
    documents = {path.stem: read_labelled(path).select(columns) for path in options.documents}
    figures = measure(
        rows.select(columns), documents, options.weeks, options.seeds, options.reviews_a_day,
        options.seed,
    )  # fmt: skip
    print_tables(figures)
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
