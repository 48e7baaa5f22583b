"""The check that a day's reviews are like those of the days before; it warns, and stops nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from review_optimizer_dagster.alerts.drift import drift_news
from review_optimizer_dagster.alerts.rules import News
from review_optimizer_dagster.defs.metadata import MOST_ROWS, failing, rounded, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.monitors.drift import days_needed, judge, shares, strongest
from review_optimizer_dagster.monitors.profile import profile
from review_optimizer_dagster.monitors.settings import DriftSettings
from review_optimizer_dagster.storage import drift as store
from review_optimizer_dagster.storage.warehouse import Connection

_SHOWN = (
    "tenant", "category", "signal", "horizon", "n", "baseline_n", "p_adjusted", "distance",
)  # fmt: skip
DRIFT_CHECK = dg.AssetCheckSpec(
    "drift",
    asset="review_results",
    blocking=False,
    partitions_def=DAILY,
    description="Labels, text lengths, languages, words, categories, cache levels and rechecks of "
    "the day and of its week, compared with the weeks before. It warns, and stops nothing.",
)


@dataclass(frozen=True)
class Drift:
    """What is known of a day's drift: its news, and the check as Dagster shows it."""

    news: list[News]
    result: dg.AssetCheckResult


def judge_drift(connection: Connection, settings: DriftSettings, day: date) -> Drift:
    """Profile the day, compare it with those before, and keep both; nothing where switched off.

    Its results have to be stored. A day that is run again is compared with the same days.
    """
    if not settings.enabled:
        return Drift([], _result(True, "switched off in [drift]"))
    counts = profile(
        store.reviews(connection, day), store.audits(connection, day), settings.min_reviews
    )
    store.replace_profiles(connection, day, counts)
    back = days_needed(settings)
    profiles = store.profiles(connection, day, back)
    tests = judge(profiles, store.alarms(connection, day, back), day, settings)
    store.replace_tests(connection, day, tests)
    return Drift(news_of(connection, settings, day), _check(profiles, tests, day, settings))


def news_of(connection: Connection, settings: DriftSettings, day: date) -> list[News]:
    """The alerts and recoveries of a day's stored tests."""
    return drift_news(store.tests(connection, day, days_needed(settings)), day, settings)


def _check(
    profiles: pl.DataFrame, tests: pl.DataFrame, day: date, settings: DriftSettings
) -> dg.AssetCheckResult:
    if tests.is_empty():
        return _result(
            True,
            f"nothing to compare with: no tenant has {settings.min_days} earlier days and "
            f"{settings.min_reviews} reviews",
        )
    alarmed = strongest(tests)
    who = ", ".join(alarmed["tenant"].unique(maintain_order=True).to_list())
    moved = shares(profiles, alarmed, day)
    of_day = f"WHERE day = '{day}'"
    metadata = {
        "tests": tests.height,
        "alarms": alarmed.height,
        "smallest_p": rounded("p", float(str(tests["p_value"].min()))),
        **failing("signals", alarmed.select(_SHOWN), f"FROM drift_tests {of_day} AND alarm"),
        "what_moved": table(moved.drop("taxonomy").head(MOST_ROWS).rows(named=True)),
    }
    return _result(
        alarmed.is_empty(),
        f"{alarmed.height} of {tests.height} tests tell the day from those before"
        + (f": {who}" if who else ""),
        metadata,
    )


def _result(
    passed: bool, description: str, metadata: Mapping[str, Any] | None = None
) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name="drift",
        asset_key="review_results",
        passed=passed,
        severity=dg.AssetCheckSeverity.WARN,
        description=description,
        metadata=metadata,
    )
