"""Drift on real texts: false alarms of quiet weeks, and the day on which a change is caught.

Days are drawn with replacement from labelled reviews. Quiet days differ by more than independent
draws would: the mixes of categories, labels and lengths vary from day to day, by chance or with a
memory of the day before, and weekends have fewer reviews. Labels of the file stand for the
answers. Beside the monitor stand two naive ones, against the same 28 days: a plain chi-square at
5 % a signal, and a population stability index over 0.2.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from review_optimizer_dagster.monitors.settings import DriftSettings
from review_optimizer_dagster_tests.benchmarks.labelled import read_labelled, sample_rows

if TYPE_CHECKING:
    import numpy as np

    Apply = Callable[[pl.DataFrame, np.random.Generator], pl.DataFrame]

FIRST_DAY: Final = date(2026, 1, 5)  # a Monday
WEEKEND: Final = 0.7  # of the reviews of a working day
SPREAD: Final = 0.1  # of a share's logarithm: one of 50 % varies by 3.5 % (standard deviation)
PARTS: Final = 5  # of a category's and label's texts, by length
MEMORY: Final = 0.7  # of a mix, from day to day, where it has one
SHARES: Final = (1.0, 0.5, 0.2, 0.1)
LONGEST: Final = 14  # days that a change is waited for
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
    persistence: float = 0.0
    """Correlation of a day's mix with that of the day before."""
    groups: dict[tuple[str, str], list[pl.DataFrame]] = field(init=False)
    """Category and label to their rows, in parts from the shortest text to the longest."""
    moods: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    """How far each mix is from its average, as a logarithm."""

    def __post_init__(self) -> None:
        """Sort the rows by what is drawn."""
        self.groups = {}
        for (category, label), part in self.rows.sort("category", "label").group_by(
            "category", "label", maintain_order=True
        ):
            ordered = part.sort(pl.col("text").str.len_chars(), "review_id")
            size = -(-ordered.height // PARTS)
            self.groups[str(category), str(label)] = list(ordered.iter_slices(size))

    def day(self, day: date, change: Apply | None = None) -> pl.DataFrame:
        """A day's reviews (REVIEWS), after a change of its rows."""
        size = self.reviews * (WEEKEND if day.weekday() >= 5 else 1.0)
        categories: dict[str, int] = {}
        for (category, _), parts in self.groups.items():
            categories[category] = categories.get(category, 0) + _height(parts)
        drawn = []
        mix = self.mix("categories", list(categories.values()), int(self.generator.poisson(size)))
        for category, count in zip(categories, mix, strict=True):
            own = {name: parts for name, parts in self.groups.items() if name[0] == category}
            labels = self.mix(category, [_height(parts) for parts in own.values()], count)
            for (name, parts), labelled in zip(own.items(), labels, strict=True):
                sizes = self.mix("|".join(name), [part.height for part in parts], labelled)
                for part, wanted in zip(parts, sizes, strict=True):
                    drawn.append(part[self.generator.integers(part.height, size=wanted)])
        rows = pl.concat(drawn)
        return _reviews(rows if change is None else change(rows, self.generator), day)

    def mix(self, name: str, sizes: Sequence[int], count: int) -> list[int]:
        """How many of each there are on a day, whose mix varies about these sizes."""
        import numpy as np

        fresh = self.generator.normal(0.0, SPREAD, len(sizes))
        before = self.moods.get(name, fresh)
        new = np.sqrt(1 - self.persistence**2) * fresh
        self.moods[name] = self.persistence * before + new
        shares = np.array(sizes) * np.exp(self.moods[name])
        return [int(each) for each in self.generator.multinomial(count, shares / shares.sum())]


def _height(parts: Sequence[pl.DataFrame]) -> int:
    return sum(part.height for part in parts)


def _reviews(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    spelled = {name: json.dumps({"label": name}) for name in rows["label"].unique()}
    return rows.select(
        tenant=pl.lit("acme"),
        taxonomy=pl.lit("benchmark"),
        simulated=pl.lit(False),
        review_id=pl.format("{}-{}", pl.lit(day.isoformat()), pl.int_range(pl.len())),
        category="category",
        level=pl.lit("model"),
        labels=pl.col("label").replace_strict(spelled),
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


def quiet(feed: Feed, weeks: int, settings: DriftSettings) -> dict[str, Any]:
    """Watch weeks without drift; returns JSON: episodes and days of alarm, of each monitor."""
    history = History(settings)
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
    apply: Apply


def replaced(category: str, documents: pl.DataFrame, labels: Sequence[str], share: float) -> Apply:
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


def shortened(category: str, share: float) -> Apply:
    """A share of a category's reviews are cut to their first hundred characters."""

    def change(rows: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        hit = (rows["category"] == category) & pl.Series(generator.random(rows.height) < share)
        cut = pl.when(hit).then(pl.col("text").str.head(100)).otherwise("text")
        return rows.with_columns(text=cut)

    return change


def relabelled(category: str, share: float) -> Apply:
    """A share of a category's reviews get the label that comes first by name."""

    def change(rows: pl.DataFrame, generator: np.random.Generator) -> pl.DataFrame:
        hit = (rows["category"] == category) & pl.Series(generator.random(rows.height) < share)
        first = pl.col("label").min()
        return rows.with_columns(label=pl.when(hit).then(first).otherwise("label"))

    return change


def translated(category: str, share: float) -> Apply:
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
        feed = Feed(rows, reviews, np.random.default_rng([seed, number]))
        history = History(settings)
        # Changes begin on any day of the week.
        start = FIRST_DAY + timedelta(days=WARM_UP + number % 7)
        for offset in range((start - FIRST_DAY).days):
            day = FIRST_DAY + timedelta(days=offset)
            tests = history.watch(day, feed.day(day))
        in_alarm = bool(tests["alarm"].any())
        for each in changes:
            one = found[each.name]
            one["before"] += in_alarm
            future = history.copy()
            for late in range(LONGEST):
                day = start + timedelta(days=late)
                alarmed = _named(future.watch(day, feed.day(day, each.apply)))
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
        for name, make in CHANGES.items()
        for share in SHARES[1:]
    ]
    return found


CHANGES: Final[Mapping[str, Callable[[str, float], Apply]]] = {
    "one label": relabelled,
    "shortened": shortened,
    "Spanish": translated,
}


def measure(
    rows: pl.DataFrame,
    documents: Mapping[str, pl.DataFrame],
    weeks: int,
    seeds: int,
    reviews: int,
    seed: int,
) -> dict[str, Any]:
    """Both halves; returns JSON."""
    import numpy as np

    settings = DriftSettings()
    sizes = rows.group_by("category").len().sort("len", "category", descending=[True, False])
    category, other = sizes["category"][0], sizes["category"][-1]
    domains = {**documents, f"{other}'s": rows.filter(category=other)}

    def feed(persistence: float) -> Feed:
        return Feed(rows, reviews, np.random.default_rng(seed), persistence)

    return {
        "rows": rows.height,
        "reviews_a_day": reviews,
        "category": category,
        "category_share": sizes["len"][0] / rows.height,
        "quiet": {
            name: quiet(feed(memory), weeks, settings)
            for name, memory in (("independent", 0.0), ("with a memory", MEMORY))
            if weeks
        },
        "caught": caught(
            rows, changes_of(rows, domains, category), seeds, reviews, seed + 1, settings
        )
        if seeds
        else {},
    }


def print_tables(figures: Mapping[str, Any]) -> None:
    """The two tables."""
    console = Console()
    if figures["quiet"]:
        console.print(_quiet_table(figures))
    if figures["caught"]:
        console.print(_caught_table(figures))


def _quiet_table(figures: Mapping[str, Any]) -> Table:
    names = {"monitor": "drift", "chi_square": "chi-square, 5 % a signal", "psi": "PSI over 0.2"}
    calm = next(iter(figures["quiet"].values()))
    table = Table(
        "days", "monitor", "false episodes", "95 % interval", "days in alarm",
        title=f"{calm['days']} days without drift, about {figures['reviews_a_day']} reviews each, "
        f"{calm['tests_a_day']:g} tests a day ({calm['allowed']:.2g} episodes are allowed)",
        title_justify="left",
    )  # fmt: skip
    for kind, one in figures["quiet"].items():
        for name, shown in names.items():
            lower, upper = one[name]["interval"]
            table.add_row(
                kind, shown, str(one[name]["episodes"]), f"{lower:.2g} to {upper:.3g}",
                str(one[name]["days"]),
            )  # fmt: skip
    return table


def _caught_table(figures: Mapping[str, Any]) -> Table:
    table = Table(
        "change", "trials", "caught", "median day", "worst day", "first by", title_justify="left",
        title=f"{figures['category']} ({figures['category_share']:.0%} of the reviews) changes",
    )  # fmt: skip
    late = f"over {LONGEST}"
    for name, one in figures["caught"].items():
        table.add_row(
            name, str(one["trials"]), str(one["caught"]),
            late if one["median_day"] is None else f"{one['median_day']:g}",
            late if one["worst_day"] is None else str(one["worst_day"]),
            ", ".join(f"{by} ({count})" for by, count in one["by"].items()),
        )  # fmt: skip
    return table


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
