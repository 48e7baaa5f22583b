"""What every tenant was promised of the day, held against what it got; the last step of a run."""

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg
import polars as pl

from review_optimizer_dagster.alerts.rules import News
from review_optimizer_dagster.alerts.service import overdue_news, service_news
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import charts
from review_optimizer_dagster.defs.alerting import note_alerts
from review_optimizer_dagster.defs.links import report_url
from review_optimizer_dagster.defs.metadata import failing, rows_of_day, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.publishing import publish_blocked
from review_optimizer_dagster.defs.reporting import try_reports
from review_optimizer_dagster.defs.resources import HomeFolder, step, utc_now
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.monitors.service import (
    ALL,
    judge,
    level_rows,
    overdue,
    promises,
    verdict,
)
from review_optimizer_dagster.settings import MIXED_INBOX
from review_optimizer_dagster.storage import history, inbox, partition, service
from review_optimizer_dagster.storage.publish import refresh_analytics
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

_SHOWN = (
    "tenant", "indicator", "verdict", "target", "value", "days_broken", "budget_left", "simulated",
)  # fmt: skip
_SENSOR_WAITS_SECONDS = 1.0  # a run has the warehouse: the next evaluation reads it


def judge_service(
    log: logging.Logger, home_folder: HomeFolder, connection: Connection, day: date
) -> pl.DataFrame:
    """Judge a day's service levels, keep them, and raise the alerts due; returns the day's rows."""
    home, now = home_folder.home, utc_now()
    settings = home.settings.service
    figures = service.day_figures(connection, day, inbox.day_arrivals(home.inbox, day), now)
    promised = {each.tenant: promises(settings, home.tenant(each.tenant)) for each in figures}
    judged = {
        (each.tenant, each.simulated): judge(each, promised[each.tenant], settings)
        for each in figures
    }
    rows = service.replace_levels(connection, day, level_rows(judged, promised))
    note_alerts(log, home_folder, connection, service_news_due(home, connection))
    return rows


def end_blocked(
    log: logging.Logger, home_folder: HomeFolder, connection: Connection, day: date
) -> None:
    """Where the gate stops the rest of a run: judge the day's service all the same, and show it.

    Called by the steps that write the verdict and the spend, whichever comes last.
    """
    if partition.is_blocked(connection, day):
        judge_service(log, home_folder, connection, day)
        publish_blocked(connection, home_folder.home, day)
        try_reports(log, home_folder.home, day)


def service_news_due(home: Home, connection: Connection | None) -> list[News]:
    """What the stored days and the inbox say of every promise; the same for run and sensor.

    connection: None where there is no warehouse yet.
    """
    now, simulated = utc_now(), home.settings.engine.name == "simulator"
    latest = [] if connection is None else service.latest_levels(connection)
    published = {} if connection is None else service.latest_arrivals(connection, simulated)
    first, last = home.settings.first_day, now.date()  # the days that can be run
    arrived = {key: at for key, at in inbox.arrivals(home.inbox).items() if first <= key[0] <= last}
    targets = _freshness_targets(home, {folder for _, folder in arrived})
    late = overdue(arrived, published, targets, now)
    return [*service_news(latest, now), *overdue_news(late, targets, simulated, now)]


def _freshness_targets(home: Home, folders: set[str]) -> dict[str, float]:
    """Hours that deliveries to each folder may wait; to the mixed one, the least of any tenant."""
    targets = {}
    for name in sorted({*folders, *home.settings.tenants} - {MIXED_INBOX}):
        try:
            target = promises(home.settings.service, home.tenant(name)).targets["freshness_hours"]
        except UserError:
            continue  # a misspelt folder: nothing in it is ever read
        if target is not None:
            targets[name] = target
    if MIXED_INBOX in folders and targets:
        targets[MIXED_INBOX] = min(targets.values())
    return targets


def stored_news(home: Home) -> list[News]:
    """The news due, read beside whatever runs. Raises UserError where the warehouse is in use."""
    if not home.warehouse.exists():
        return service_news_due(home, None)
    warehouse = Warehouse(database=str(home.warehouse), wait_seconds=_SENSOR_WAITS_SECONDS)
    with warehouse.open(read_only=True) as connection:
        if not service.is_kept(connection):
            raise UserError("no run of this version has judged a day's service levels yet")
        return service_news_due(home, connection)


def _run_of(context: dg.AssetExecutionContext) -> service.Run:
    """The run that is going on, with its start as Dagster has it."""
    record = context.instance.get_run_record_by_id(context.run_id)
    started = None if record is None else record.start_time
    moment = utc_now() if started is None else datetime.fromtimestamp(started, UTC)
    return service.Run(context.run_id, moment)


def service_result(rows: pl.DataFrame, day: date) -> dg.AssetCheckResult:
    """The day's levels as a check: it warns where a promise is broken, and stops nothing."""
    broken = rows.filter(pl.col("met").not_(), pl.col("indicator") != ALL)
    return dg.AssetCheckResult(
        check_name="service_levels",
        asset_key="service_levels",
        passed=broken.is_empty(),
        severity=dg.AssetCheckSeverity.WARN,
        description="; ".join(
            f"{row['tenant']} {row['indicator']}: {row['detail']}"
            for row in broken.rows(named=True)
        )
        or "no promise is broken",
        metadata={
            **failing(
                "broken",
                broken.select("tenant", "indicator", "target", "value", "detail"),
                f"FROM service_levels WHERE day = '{day}' AND NOT met AND indicator <> '{ALL}'",
            ),
            "levels": _shown(rows),
        },
    )


def _shown(rows: pl.DataFrame) -> dg.MetadataValue[Any]:
    verdicts = [
        "not promised" if target is None else verdict(met)
        for target, met in rows.select("target", "met").iter_rows()
    ]
    shown = rows.with_columns(
        verdict=pl.Series(verdicts, dtype=pl.String),
        days_broken=pl.format("{} of {}", "days_broken", "days_judged"),
    )
    return table(shown.select(_SHOWN).rows(named=True))


@dg.asset(
    deps=["published_results", "review_archive", "category_patterns"],
    partitions_def=DAILY,
    group_name="service",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    check_specs=[
        dg.AssetCheckSpec(
            "service_levels",
            asset="service_levels",
            partitions_def=DAILY,
            description="Whether every promise to every tenant was kept that day: run duration, "
            "freshness, response time, hit rate, accuracy, cost, failed share. It only warns.",
        )
    ],
    description="A row is a promise to a tenant: its target, what it was that day, whether it was "
    "met, and the error budget left. The last step, so that the run's duration is known.",
)
def service_levels(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult[None]]:
    """Judge the day, keep its verdicts, raise alerts for promises that it breaks."""
    day = date.fromisoformat(context.partition_key)
    with step("service_levels"), warehouse.open() as connection:
        service.note_duration(connection, day, _run_of(context), utc_now())
        rows = judge_service(context.log, home_folder, connection, day)
        refresh_analytics(connection, home_folder.home.published / "analytics.duckdb")
        past = history.promises(connection, day, charts.DAYS)
    whole = rows.filter(indicator=ALL)
    yield dg.MaterializeResult(
        metadata={
            **rows_of_day(rows.height),
            "met": whole.filter("met").height,
            "broken": whole.filter(pl.col("met").not_()).height,
            "unknown": whole.filter(pl.col("met").is_null()).height,
            "last_days": charts.history(
                day, {name: (past[name], "{:,.0f}".format) for name in past}
            ),
            "dashboard": report_url(home_folder.home, day),
            "levels": _shown(rows),
        },
        check_results=[service_result(rows, day)],
    )
