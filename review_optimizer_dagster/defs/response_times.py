"""Response times: a day's requests are judged, kept, shown as a check, and told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date, datetime, timedelta

import dagster as dg
import duckdb
import polars as pl

from review_optimizer_dagster.alerts.latency import latency_news
from review_optimizer_dagster.alerts.rules import News
from review_optimizer_dagster.defs.metadata import failing, figures, share, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, utc_now
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.monitors.latency import (
    Judged,
    in_order_answered,
    judge,
    nothing_judged,
    sized,
)
from review_optimizer_dagster.monitors.settings import LatencySettings
from review_optimizer_dagster.storage.journal import changed_days
from review_optimizer_dagster.storage.latency import (
    earlier_requests,
    replace_latencies,
    watches_before,
)
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

_SHOWN = (
    "request_id", "tenant", "model", "tier", "reviews", "latency_ms", "expected_ms",
)  # fmt: skip
CHECK = "response_time"
_ASSET = "batch_classifications"
_LOOK_BACK = timedelta(hours=1)  # a journal that has not changed since is of no run that goes on
_GIVEN_UP = timedelta(minutes=15)  # a request without an outcome: the run that sent it was killed
_WAIT_SECONDS = 1.0  # a sensor looks again in a minute; a run keeps the warehouse for seconds

SPEC = dg.AssetCheckSpec(
    CHECK,
    asset=_ASSET,
    partitions_def=DAILY,
    description="Response times beside what the size of each request predicts. Warns where a model "
    "was slow for a while; single slow requests are listed, and stop nothing.",
)


def judge_requests(
    connection: Connection, settings: LatencySettings, requests: pl.DataFrame, day: date
) -> Judged:
    """Judge a day's requests (REQUESTS) by those of the days before; nothing is stored."""
    if not settings.enabled:
        return nothing_judged()
    earlier = earlier_requests(connection, day, settings.window_days)
    return judge(sized(requests), earlier, watches_before(connection, day), settings, day)


def watch_day(
    connection: Connection, settings: LatencySettings, requests: pl.DataFrame, day: date
) -> tuple[Judged, list[News]]:
    """Judge a day's requests (REQUESTS) and keep the verdicts; returns them and the alerts due."""
    judged = judge_requests(connection, settings, requests, day)
    replace_latencies(connection, day, judged)
    return judged, latency_news(judged, day, utc_now())


def response_time_result(
    judged: Judged, settings: LatencySettings, day: date
) -> dg.AssetCheckResult:
    """The day's response times as a check, which warns where a model was slow for a while."""
    rows = judged.latencies
    known = rows.filter(pl.col("expected_ms").is_not_null())
    slow = rows.filter("slow").sort("z", "request_id", descending=[True, False])
    return dg.AssetCheckResult(
        check_name=CHECK,
        asset_key=_ASSET,
        passed=judged.is_quiet,
        severity=dg.AssetCheckSeverity.WARN,
        description=_described(judged, settings),
        metadata={
            "requests": rows.height,
            "judged": known.height,
            "slow": slow.height,
            **figures(slow_share=share(slow.height, known.height)),
            "response_times": table(_by_group(rows)),
            **failing(
                "slow_requests",
                slow.select(_SHOWN),
                f"FROM request_latencies WHERE day = '{day}' AND slow",
            ),
            "episodes": table(
                [
                    {
                        "model": group.model,
                        "tier": group.tier,
                        "since": episode.onset_at,
                        "requests": episode.requests,
                        "slowdown": episode.slowdown,
                        "tenants": ", ".join(episode.tenants),
                        "state": episode.end or "goes on",
                    }
                    for group, episodes in judged.episodes.items()
                    for episode in episodes
                ]
            ),
        },
    )


def _by_group(rows: pl.DataFrame) -> list[dict[str, object]]:
    return (
        rows.group_by("model", "tier", "simulated")
        .agg(
            requests=pl.len(),
            p50_ms=pl.col("latency_ms").median(),
            expected_p50_ms=pl.col("expected_ms").median(),
            p95_ms=pl.col("latency_ms").quantile(0.95, "linear"),
            expected_p95_ms=pl.col("expected_ms").quantile(0.95, "linear"),
            slow=pl.col("slow").sum(),
            degraded=pl.col("degraded").sum(),
        )
        .sort("model", "tier", "simulated")
        .rows(named=True)
    )


def _described(judged: Judged, settings: LatencySettings) -> str:
    rows = judged.latencies
    if not settings.enabled:
        return "response times are not judged: latency.enabled is false"
    if rows.is_empty():
        return "no request of the day has a response time to judge"
    known = rows["expected_ms"].count()
    slow, degraded = int(rows["slow"].sum()), int(rows["degraded"].sum())
    if not known:
        return (
            f"no baseline yet: a model and tier needs {settings.min_requests:,} requests of the "
            f"{settings.window_days} days before"
        )
    told = f"{slow:,} of {known:,} judged requests were slow for their size"
    if degraded:
        told += f"; {degraded:,} were sent while a model was slow for a while"
    return told


def changed_journals(home_folder: HomeFolder, cursor: dict[str, int]) -> list[date]:
    """Days whose journal was written to in the last hour, and since the cursor was left."""
    since = (utc_now() - _LOOK_BACK).timestamp()
    changed = changed_days(home_folder.home.journal)
    return [
        day
        for day, at in changed.items()
        if at >= since * 1e9 and cursor.get(day.isoformat()) != at
    ]


def journal_marks(home_folder: HomeFolder, days: Sequence[date]) -> dict[str, int]:
    """The cursor once these days were looked at: looking writes to a journal too."""
    changed = changed_days(home_folder.home.journal)
    return {day.isoformat(): changed[day] for day in days if day in changed}


def news_so_far(home_folder: HomeFolder, warehouse: Warehouse, days: Sequence[date]) -> list[News]:
    """What the requests of these days say as far as they have been answered; nothing is stored.

    Raises UserError where the warehouse cannot be read now.
    """
    settings, now = home_folder.home.settings.latency, utc_now()
    news: list[News] = []
    with _opened(warehouse) as connection:
        for day in days:
            requests = _answered_in_order(home_folder, day, now)
            judged = judge_requests(connection, settings, requests, day)
            news += latency_news(judged, day, now)
    return news


@contextmanager
def _opened(warehouse: Warehouse) -> Iterator[Connection]:
    patient = Warehouse(
        database=warehouse.database,
        wait_seconds=_WAIT_SECONDS,
        memory_limit=warehouse.memory_limit,
    )
    try:
        with patient.open(read_only=True) as connection:
            yield connection
    except duckdb.CatalogException as error:
        raise UserError(
            "the warehouse is of a version that did not watch response times: the next run brings "
            "it up to date"
        ) from error


def _answered_in_order(home_folder: HomeFolder, day: date, now: datetime) -> pl.DataFrame:
    # No taxonomy: only answers need one, and they are not looked at.
    with home_folder.journal(day) as journal:
        requests = home_folder.paid_for(journal, {}).requests
    return in_order_answered(requests, now - _GIVEN_UP)
