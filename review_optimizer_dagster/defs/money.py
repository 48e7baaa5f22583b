"""Who owes what: every attempt and every hit, and the sums of a day. The gate does not stop it."""

import logging
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.core.classifier import Readout
from review_optimizer_dagster.core.costs import hit_entries, paid_entries, rollup
from review_optimizer_dagster.defs.alerting import budget_alerts_due, note_alerts
from review_optimizer_dagster.defs.metadata import share, table, usd
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.publishing import publish_blocked
from review_optimizer_dagster.defs.resources import HomeFolder, step, utc_now
from review_optimizer_dagster.storage import partition
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.storage.publish import publish_day, write_files
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse


def book_entries(connection: Connection, day: date, paid: Readout) -> int:
    """Append what the ledger of a day does not have yet; returns how many entries were new."""
    results = partition.assembled_results(connection, day)
    entries = pl.concat(
        [
            paid_entries(paid.shares, paid.requests, results),
            hit_entries(results, paid.shares, day, utc_now()),
        ]
    )
    return partition.append_ledger(connection, day, entries)


def book_sums(
    log: logging.Logger, home_folder: HomeFolder, connection: Connection, day: date
) -> pl.DataFrame:
    """Sum a day's ledger into `cost_rollups`, and raise the budget alerts that it has reached."""
    results = partition.assembled_results(connection, day)
    ledger = partition.of_day(connection, "ledger_entries", day)
    requests = partition.request_totals(connection, day)
    rollups = (
        rollup(ledger, results)
        .join(requests, on=["tenant", "taxonomy", "simulated"], how="left")
        .with_columns(pl.col("requests", "held_nanos").fill_null(0))
    )
    with connection.transaction():
        connection.replace("cost_rollups", rollups, day)
    due = budget_alerts_due(home_folder, rollups["tenant"].unique().sort().to_list())
    note_alerts(log, home_folder, connection, due)
    return rollups


def book_late(
    log: logging.Logger, home_folder: HomeFolder, connection: Connection, journal: DayJournal
) -> None:
    """Book what was paid after the day's ledger was written, and publish the day with it."""
    home, day = home_folder.home, journal.day
    paid = home_folder.paid_for(journal, home_folder.taxonomies(partition.tenants(connection, day)))
    with connection.transaction():
        connection.replace("llm_requests", paid.requests, day)
    book_entries(connection, day, paid)
    book_sums(log, home_folder, connection, day)
    publish_day(connection, day)
    write_files(connection, home.published, day, home.settings.service.analytics_days)


@dg.asset(
    deps=["cache_resolution", "batch_classifications"],
    partitions_def=DAILY,
    group_name="money",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="`ledger_entries`: a row is a review and attempt with its share of what the "
    "request cost, or a hit with the cost it avoided. Append-only, in nano-dollars.",
)
def tenant_ledger(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Append what is not booked yet; running again books nothing twice."""
    day = date.fromisoformat(context.partition_key)
    with step("tenant_ledger"), home_folder.journal(day) as journal, warehouse.open() as connection:
        tenants = partition.tenants(connection, day)
        paid = home_folder.paid_for(journal, home_folder.taxonomies(tenants))
        new = book_entries(connection, day, paid)
        totals = partition.ledger_totals(connection, day)
    return dg.MaterializeResult(
        metadata={
            "new_entries": new,
            "entries": int(totals["entries"].sum()),
            "cost_usd": usd(int(totals["cost_nanos"].sum())),
            "by_kind": table(totals.rows(named=True)),
        }
    )


@dg.asset(
    deps=["tenant_ledger"],
    partitions_def=DAILY,
    group_name="money",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is a tenant, taxonomy and day: reviews, spend, what hits avoided, and the "
    "one-model baseline beside it.",
)
def cost_rollups(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Sum the day's ledger, and raise the budget alerts that its spend has reached."""
    day = date.fromisoformat(context.partition_key)
    with step("cost_rollups"), warehouse.open() as connection:
        rollups = book_sums(context.log, home_folder, connection, day)
        publish_blocked(connection, home_folder.home, day)
    cost, baseline = int(rollups["cost_nanos"].sum()), int(rollups["baseline_nanos"].sum())
    reviews = int(rollups["reviews"].sum())
    return dg.MaterializeResult(
        metadata={
            "cost_usd": usd(cost),
            "audit_usd": usd(int(rollups["audit_nanos"].sum())),
            "usd_per_1000_reviews": share(cost, reviews) * 1000 / 1e9,
            "baseline_usd": usd(baseline),
            "saving": 1 - share(cost, baseline) if baseline else 0.0,
            "by_tenant": table(rollups.rows(named=True)),
        }
    )
