"""Who owes what: every attempt and every hit, and the sums of a day. The gate does not stop it."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.core.classifier import Readout
from review_optimizer_dagster.core.costs import (
    ManualEntry,
    Posting,
    hit_entries,
    manual_entries,
    paid_entries,
    rollup,
)
from review_optimizer_dagster.defs import charts
from review_optimizer_dagster.defs.alerting import budget_alerts_due, note_alerts
from review_optimizer_dagster.defs.audits import as_booked
from review_optimizer_dagster.defs.metadata import dollars, figures, rows_of_day, share, table, usd
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, budget, step, utc_now
from review_optimizer_dagster.defs.service import end_blocked
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.money.budgets import note_deferral
from review_optimizer_dagster.money.forecast import WINDOW_DAYS, Forecast, forecast_month
from review_optimizer_dagster.storage import history, ledger, partition
from review_optimizer_dagster.storage.audits import audited_identities
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.storage.publish import publish_day, write_files
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

_SHOWN_SUMS = (
    "tenant", "simulated", "reviews", "hits", "cost_nanos", "avoided_nanos", "baseline_nanos",
)  # fmt: skip
_SHOWN_FORECASTS = ("tenant", "month", "days_left", "spent", "expected", "lower", "upper")


def book_entries(
    home_folder: HomeFolder, connection: Connection, day: date, paid: Readout, run_id: str
) -> pl.DataFrame:
    """Append what the ledger of a day does not have yet; returns the new entries (LEDGER)."""
    results = partition.assembled_results(connection, day)
    booked, posting = ledger.booked(connection, day), Posting(utc_now(), run_id)
    shares = as_booked(paid.shares, audited_identities(connection, day))
    entries = pl.concat(
        [
            paid_entries(shares, paid.requests, results, booked, posting),
            hit_entries(
                results,
                shares,
                ledger.sources(connection, day),
                ledger.earlier_medians(connection, day),
                booked,
                day,
                posting,
            ),
        ]
    )
    ledger.append(connection, day, entries)
    count_corrections(home_folder, connection, day)
    return entries


def count_corrections(home_folder: HomeFolder, connection: Connection, day: date) -> None:
    """Let the budgets know of the day's entries whose money never was reserved: each once."""
    totals = ledger.correction_totals(connection, day)
    if totals.is_empty():
        return
    with home_folder.state() as state:
        for tenant, simulated, incurred_at, nanos in totals.iter_rows():
            try:
                counter = budget(home_folder.home, state, tenant, simulated)
            except UserError:
                continue  # a tenant that is gone has no budget; the ledger has its costs
            counter.correct(day.isoformat(), nanos, incurred_at)


def book_sums(
    log: logging.Logger, home_folder: HomeFolder, connection: Connection, day: date
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sum a day's ledger into `cost_rollups`, forecast the month, raise the budget alerts due.

    Returns the rows of cost_rollups and of spend_forecasts.
    """
    results = partition.assembled_results(connection, day)
    requests = ledger.request_totals(connection, day)
    rollups = (
        rollup(ledger.booked(connection, day), results)
        .join(requests, on=["tenant", "taxonomy", "simulated"], how="left")
        .with_columns(pl.col("requests", "held_nanos").fill_null(0))
    )
    with connection.transaction():
        connection.replace("cost_rollups", rollups, day)
        forecasts = month_forecasts(home_folder, connection, day)
        connection.replace("spend_forecasts", forecasts, day)
        ledger.replace_budget_states(connection, day, budget_states(home_folder, rollups))
    note_kept_back(home_folder, results, day)
    due = budget_alerts_due(home_folder, rollups["tenant"].unique().sort().to_list())
    note_alerts(log, home_folder, connection, due)
    return rollups, forecasts


def month_forecasts(home_folder: HomeFolder, connection: Connection, day: date) -> pl.DataFrame:
    """What the months of the tenants that a day served will have cost: rows of spend_forecasts."""
    since = min(day.replace(day=1), date.fromordinal(max(1, day.toordinal() - WINDOW_DAYS)))
    costs = ledger.daily_costs(connection, since, day)
    rows = []
    today = costs.filter(day=day).select("tenant", "simulated")
    for tenant, simulated in today.unique().sort("tenant", "simulated").iter_rows():
        own = costs.filter(tenant=tenant, simulated=simulated)
        known: Mapping[date, int] = dict(own.select("day", "cost_nanos").iter_rows())
        forecast = forecast_month(known, day)
        if forecast is not None:
            row = asdict(forecast) | {"tenant": tenant, "simulated": simulated}
            rows.append(row | {"budget_nanos": _month_budget(home_folder, tenant)})
    kinds = dict.fromkeys(Forecast.__dataclass_fields__, pl.Int64) | {"month": pl.String}
    schema = {"tenant": pl.String, "simulated": pl.Boolean, **kinds, "budget_nanos": pl.Int64}
    return pl.DataFrame(rows, schema)


def budget_states(home_folder: HomeFolder, rollups: pl.DataFrame) -> pl.DataFrame:
    """Where the budgets of the tenants of a day stand now: rows of budget_states."""
    costs = rollups.group_by("tenant", "simulated").agg(pl.col("cost_nanos").sum())
    rows, now = [], utc_now()
    with home_folder.state() as state:
        for tenant, simulated, nanos in costs.drop_nulls().sort("tenant", "simulated").iter_rows():
            try:
                spend = budget(home_folder.home, state, tenant, simulated).state(now)
            except UserError:
                continue  # a tenant that is gone has no budget
            told = spend.period, spend.version, spend.amount, spend.spent, spend.reserved
            thresholds = list(home_folder.home.tenant(tenant).alert_at)
            rows.append((tenant, simulated, *told, thresholds, nanos, now))
    return pl.DataFrame(rows, ledger.BUDGET_STATES, orient="row")


def _month_budget(home_folder: HomeFolder, tenant: str) -> int | None:
    """A tenant's budget for a month; None where it has one for a day, or none at all."""
    try:
        settings = home_folder.home.tenant(tenant)
    except UserError:
        return None
    return settings.budget_nanos if settings.budget_period == "month" else None


def note_kept_back(home_folder: HomeFolder, results: pl.DataFrame, day: date) -> None:
    """Keep how many reviews of a day each tenant's budget holds back, for the sensor to ask for."""
    kept = (pl.col("status") == "deferred") & (pl.col("reason") == "budget")
    counts = results.group_by("tenant", "simulated").agg(reviews=kept.sum()).sort("tenant")
    with home_folder.state() as state:
        for tenant, simulated, reviews in counts.iter_rows():
            spend = budget(home_folder.home, state, tenant, simulated).state(utc_now())
            note_deferral(state, spend, day, reviews)


def book_late(
    log: logging.Logger,
    home_folder: HomeFolder,
    connection: Connection,
    journal: DayJournal,
    run_id: str,
) -> None:
    """Book what was paid after the day's ledger was written, and publish the day with it."""
    home, day = home_folder.home, journal.day
    paid = home_folder.paid_for(journal, home_folder.taxonomies(partition.tenants(connection, day)))
    with connection.transaction():
        connection.replace("llm_requests", paid.requests, day)
    book_entries(home_folder, connection, day, paid, run_id)
    book_sums(log, home_folder, connection, day)
    publish_day(connection, day)
    write_files(connection, home.published, day, home.settings.service.analytics_days)


def book_by_hand(
    log: logging.Logger,
    home_folder: HomeFolder,
    connection: Connection,
    day: date,
    entry: ManualEntry,
    request_id: str | None,
    by: str,
) -> int:
    """Book a refund or an adjustment of a day of delivery, and publish its sums.

    Returns how many entries were new: 0 where the reference is booked already. Raises UserError
    where the tenant has no such request, or the reference stands for another amount.
    """
    about = ledger.booked(connection, day).clear()
    if request_id is not None:
        about = ledger.booked(connection, day).filter(
            pl.col("corrects").is_null(), tenant=entry.tenant, request_id=request_id
        )
        if about.is_empty():
            raise UserError(
                f"{entry.tenant} has no request {request_id} on {day}: `ledger_entries` and "
                "`llm_requests` have the ids"
            )
    entries = manual_entries(entry, about, Posting(utc_now(), by))
    known = ledger.amount_of_reference(connection, entry.tenant, entry.kind, entry.reference)
    if known is not None and known != entry.nanos:
        raise UserError(
            f"reference {entry.reference} of {entry.tenant} is booked already, with "
            f"{known / 1e9:+.9f} dollars: give the correction a reference of its own"
        )
    new = 0 if known is not None else ledger.append(connection, day, entries)
    count_corrections(home_folder, connection, day)
    book_sums(log, home_folder, connection, day)
    home = home_folder.home
    write_files(connection, home.published, day, home.settings.service.analytics_days)
    return new


@dg.asset(
    deps=["cache_resolution", "batch_classifications"],
    partitions_def=DAILY,
    group_name="money",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is a review and attempt with its share of what the request cost, a hit "
    "with the cost it avoided, or a correction. In `ledger_entries`: append-only, in nano-dollars.",
)
def tenant_ledger(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Append what is not booked yet; running again books nothing twice."""
    day = date.fromisoformat(context.partition_key)
    with step("tenant_ledger"), home_folder.journal(day) as journal, warehouse.open() as connection:
        tenants = partition.tenants(connection, day)
        paid = home_folder.paid_for(journal, home_folder.taxonomies(tenants))
        new = book_entries(home_folder, connection, day, paid, context.run_id)
        totals = ledger.totals(connection, day)
        wrong = ledger.disagreements(connection, day, day)
    return dg.MaterializeResult(
        metadata={
            "new_entries": new.height,
            "corrections": new.filter(kind="correction").height,
            "entries": int(totals["entries"].sum()),
            **figures(
                cost_usd=usd(int(totals["cost_nanos"].sum())),
                avoided_usd=usd(int(totals["avoided_nanos"].sum())),
            ),
            "sums_to_the_requests": wrong.is_empty(),
            "by_kind": table(dollars(totals)),
        }
    )


def _saved(cost: int, without: int) -> float | None:
    """What part of the cost without something was saved; None where that would cost nothing."""
    return 1 - cost / without if without else None


@dg.asset(
    deps=["tenant_ledger"],
    partitions_def=DAILY,
    group_name="money",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is a tenant, taxonomy and day: reviews, spend, what hits avoided, and the "
    "one-model baseline beside it. `spend_forecasts`: what each tenant's month will come to.",
)
def cost_rollups(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Sum the day's ledger, forecast the month, and raise the budget alerts that are due."""
    day = date.fromisoformat(context.partition_key)
    with step("cost_rollups"), warehouse.open() as connection:
        rollups, forecasts = book_sums(context.log, home_folder, connection, day)
        end_blocked(context.log, home_folder, connection, day)
        parts = ledger.spend_parts(connection, day)
        hours = ledger.spend_by_hour(connection, day)
        past = history.costs(connection, day, charts.DAYS)
    sums = {name: int(rollups[name].sum()) for name in rollups.columns if name.endswith("_nanos")}
    cost, baseline = sums["cost_nanos"], sums["baseline_nanos"]
    reviews = int(rollups["reviews"].sum())
    return dg.MaterializeResult(
        metadata={
            **rows_of_day(rollups.height),
            **figures(
                cost_usd=usd(cost),
                audit_usd=usd(sums["audit_nanos"]),
                embedding_usd=usd(sums["embedding_nanos"]),
                avoided_usd=usd(sums["avoided_nanos"]),
                usd_per_1000=share(cost, reviews) * 1000 / 1e9 if reviews else None,
                baseline_usd=usd(baseline),
                saving=_saved(cost, baseline),
                saving_against_no_cache=_saved(cost, sums["no_cache_nanos"]),
                month_expected_usd=usd(int(forecasts["expected"].sum())),
            ),
            "last_days": charts.history(
                day,
                {
                    "cost": (past["cost_usd"], charts.dollars),
                    "per 1,000": (past["usd_per_1000"], charts.dollars),
                    "saving": (past["saving"], charts.percent),
                },
            ),
            "by_tenant": table(dollars(rollups.select(_SHOWN_SUMS))),
            "forecasts": table(
                dollars(forecasts.select(_SHOWN_FORECASTS), "spent", "expected", "lower", "upper")
            ),
            "where_it_went": table(parts.rows(named=True)),
            "by_hour": table(hours.rows(named=True)),
        }
    )
