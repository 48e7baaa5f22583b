"""A duplicate-heavy stream through the real pipeline, day after day, from an empty archive."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl

from review_optimizer_dagster.simulator.sample import sample_day
from review_optimizer_dagster_tests.benchmarks import naive
from review_optimizer_dagster_tests.benchmarks.daily_feed import (
    FIRST_DAY,
    BenchmarkHome,
    Settings,
    day_results,
)
from review_optimizer_dagster_tests.benchmarks.labelled import (
    ROWS,
    shuffled,
    with_content,
    with_majority_label,
)

SHORT: Final = 2_500  # requests of the published stream
SHORT_DAY: Final = 125
SHUFFLES: Final = 3
LONG_DAY: Final = 1_000
PUBLISHED: Final = {"n": SHORT, "hit_rate": 0.388, "error": 0.02}  # a verified semantic cache

_SAMPLE_DAYS: Final = 4

COLD_START: Final[Settings] = {
    # A stream that ends after 2,500 requests has no time to wait for what the defaults ask for.
    "patterns": {"min_rows": 100, "holdout": 0.5, "evidence": 300, "growth": 1.3},
    "tenant": {"max_error": 0.05},
}
LEVELS_OFF: Final[Mapping[str, Settings]] = {
    "without L1": {"cache": {"l1_entries": 0}},
    "without L2": {"cache": {"l2_entries": 0}},
    "without L3 near": {"cache": {"l3_near_entries": 0}},
    "without L3 patterns": {"patterns": {"enabled": False}},
    "without L2, L3 near, patterns": {
        "cache": {"l2_entries": 0, "l3_near_entries": 0},
        "patterns": {"enabled": False},
    },
}


def sample_stream() -> pl.DataFrame:
    """Days of the built-in sample, which deliver earlier reviews again: ROWS. Synthetic texts."""
    days = [sample_day(FIRST_DAY + timedelta(days=n), FIRST_DAY) for n in range(_SAMPLE_DAYS)]
    rows = pl.concat(days).with_row_index("number")
    ids = pl.concat_str("number", "review_id", separator="-")
    return with_content(rows.with_columns(review_id=ids)).select(ROWS.names())


def run_stream(
    rows: pl.DataFrame, day_rows: int, settings: Settings, answers: pl.DataFrame
) -> dict[str, Any]:
    """Run the rows as consecutive days of `day_rows` in a new home; figures over all requests."""
    with tempfile.TemporaryDirectory() as folder:
        home = BenchmarkHome.create(Path(folder) / "home", answers, settings)
        results, cost = [], 0
        for number, delivered in enumerate(rows.iter_slices(day_rows)):
            day = FIRST_DAY + timedelta(days=number)
            summary = home.run(day, delivered)
            cost += round(float(summary["cost_usd"]) * 1e9)
            with home.open() as connection:
                results.append(day_results(connection, day))
    outcomes = pl.concat(results).with_columns(pl.col("right").fill_null(value=False))
    by_level = outcomes.sort("level").group_by("level", maintain_order=True)
    return {
        **naive.figures(outcomes),
        "by_class": naive.by_class(outcomes),
        "by_level": {
            str(level): {"n": part.height, "wrong": part.filter(~pl.col("right")).height}
            for (level,), part in by_level
        },
        "cost_usd": cost / 1e9,
        "day_rows": day_rows,
    }


def baselines(rows: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The naive ways over the same requests, one by one from an empty store."""
    empty = rows.clear()
    texts = rows.unique("content_key", maintain_order=True)
    near = naive.NearTexts(texts)
    outcomes = {
        "constant class": naive.constant_class(rows, rows),
        "exact only": naive.exact_only(empty, rows),
        "ratio >= 85": naive.near_only(empty, rows, near, with_veto=False),
        "ratio >= 85 with veto": naive.near_only(empty, rows, near, with_veto=True),
    }
    return {
        name: {**naive.figures(found), "by_class": naive.by_class(found)}
        for name, found in outcomes.items()
    }


def stream(
    rows: pl.DataFrame, max_error: float, seed: int, note: Callable[[str], None]
) -> dict[str, Any]:
    """The first 2,500 requests, also with each level off, and all; returns the JSON of `stream`.

    rows: ROWS. Gold is the label that most rows of a text have, since short texts carry
    conflicting ones. The first requests are run with settings for a cold start, and under two more
    shuffles, since so short a stream hangs on which texts come first; all with the defaults.
    """
    rows = with_majority_label(rows)
    first, *others = (shuffled(rows, seed + more).head(SHORT) for more in range(SHUFFLES))

    def run(name: str, part: pl.DataFrame, day_rows: int, settings: Settings) -> dict[str, Any]:
        note(f"stream: {name}, {part.height:,} requests in days of {day_rows:,}")
        return run_stream(part, day_rows, settings, rows)

    defaults: Settings = {"tenant": {"max_error": max_error}}
    shuffles = [run("another shuffle", part, SHORT_DAY, COLD_START) for part in others]
    found = {
        **run("cold start", first, SHORT_DAY, COLD_START),
        "settings": COLD_START,
        "published": PUBLISHED,
        "baselines": baselines(first),
        "default_settings": run("default settings", first, SHORT_DAY, defaults),
        "other_shuffles": shuffles,
        "levels_off": {
            name: run(name, first, SHORT_DAY, merged(COLD_START, settings))
            for name, settings in LEVELS_OFF.items()
        },
    }
    if rows.height > SHORT:
        whole = shuffled(rows, seed)
        ours = run("all", whole, LONG_DAY, defaults)
        found["all"] = {**ours, "settings": defaults, "baselines": baselines(whole)}
    return found


def merged(settings: Settings, others: Settings) -> Settings:
    """The tables of both; a key that both have is that of the others."""
    names = {**settings, **others}
    return {name: {**settings.get(name, {}), **others.get(name, {})} for name in names}
