"""The results of a day, and the gate that decides whether they may leave."""

from collections.abc import Iterator
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.alerts.accuracy import About, parts_news, standing_news
from review_optimizer_dagster.alerts.rules import News, gate_alert, gate_recovery
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.quality import VERDICTS, Asked, Gate, gate
from review_optimizer_dagster.defs import charts
from review_optimizer_dagster.defs.alerting import note_alerts
from review_optimizer_dagster.defs.drift import DRIFT_CHECK, judge_drift
from review_optimizer_dagster.defs.metadata import (
    MOST_ROWS,
    failing,
    figures,
    hit_rates,
    share,
    table,
)
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, step, utc_now
from review_optimizer_dagster.defs.service import end_blocked
from review_optimizer_dagster.defs.verdicts import Shown, quality_result
from review_optimizer_dagster.storage import gate as gate_storage
from review_optimizer_dagster.storage import history, partition
from review_optimizer_dagster.storage.labels import read_labels
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.truth.accuracy import Standing, standing
from review_optimizer_dagster.truth.causes import blame
from review_optimizer_dagster.truth.scores import DECIDING

STANDINGS = {
    "standing_days": pl.Int64(),
    "standing_texts": pl.Int64(),
    "standing_correct": pl.Int64(),
    "standing_lower": pl.Float64(),
    "standing_upper": pl.Float64(),
    "standing_verdict": pl.String(),
}
_CONTRACT_ROWS = dict.fromkeys(
    ("tenant", "taxonomy", "broken", "column", "rows", "examples"), pl.String()
) | {"rows": pl.Int64()}


@dg.asset(
    deps=["cache_resolution", "batch_classifications"],
    partitions_def=DAILY,
    group_name="quality",
    kinds={"duckdb"},
    pool="warehouse",
    description="A row is an accepted review with its labels, the level they came from, their "
    "source and score; or the reason why it has none.",
)
def review_results(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Join what the cache, the model and people said; nothing is published yet."""
    day = date.fromisoformat(context.partition_key)
    with step("review_results"), warehouse.open() as connection:
        known = read_labels(connection, home_folder.home, [day])
        results = partition.assembled_results(connection, day)
        with connection.transaction():
            connection.replace("review_results", results, day)
        past = history.hit_rates(connection, day, charts.DAYS)
        seen = history.levels_seen(connection, day)
    counts = results.group_by("level", "status").len("reviews").sort("level", "status")
    of_level = dict(results.group_by("level").len().iter_rows())
    unlabelled = results.filter(pl.col("status") != "labelled").height
    return dg.MaterializeResult(
        metadata={
            "reviews": results.height,
            **hit_rates(of_level, seen),
            **figures(served_share=share(results.height - unlabelled, results.height)),
            "unlabelled": unlabelled,
            "human_labels": results.filter(pl.col("truth_origin") == "human").height,
            "quarantined_labels": known.quarantined,
            "levels": table(counts.rows(named=True)),
            "last_days": charts.history(
                day,
                {name: (past[name], charts.percent) for name in ("served", "all hits", *seen)},
            ),
        }
    )


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            "contract",
            asset="review_results",
            blocking=True,
            additional_deps=["tenant_ledger"],
            partitions_def=DAILY,
            description="Every accepted review is there once, with a label of the set in every "
            "field, or a reason; it is in the raw reviews and in the ledger, and no other tenant's "
            "cache answered it. Broken, it stops everything: rows were lost or mixed.",
        ),
        dg.AssetCheckSpec(
            "quality_gate",
            asset="review_results",
            blocking=True,
            additional_deps=["tenant_ledger"],
            partitions_def=DAILY,
            description="Each tenant's accuracy with its 90 % interval: failed where the "
            "upper end is below what the tenant asks for. A failed tenant is not published; where "
            "every tenant failed, nothing is.",
        ),
        DRIFT_CHECK,
    ],
    name="gate",
    pool="warehouse",
)
def gate_checks(
    context: dg.AssetCheckExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> Iterator[dg.AssetCheckResult]:
    """Judge the day, keep the verdicts and what they rest on, raise alerts for what failed."""
    day = date.fromisoformat(context.partition_key)
    with step("gate"), warehouse.open() as connection:
        judged = judge_day(connection, home_folder, day)
        with connection.transaction():
            verdicts = keep(connection, home_folder.home, day, judged)
        drift = judge_drift(connection, home_folder.home.settings.drift, day)
        news = [*gate_news(connection, judged.cells, verdicts, day), *drift.news]
        note_alerts(context.log, home_folder, connection, news)
        end_blocked(context.log, home_folder, connection, day)
        shown = Shown(
            day,
            gate_storage.wrong_reviews(connection, day, MOST_ROWS),
            partition.of_day(connection, "gate_causes", day),
            history.accuracies(connection, day, charts.DAYS),
        )
    yield drift.result
    yield contract_result(judged, day)
    yield quality_result(judged, verdicts, shown)


def judge_day(connection: Connection, home_folder: HomeFolder, day: date) -> Gate:
    """Run the gate over the day's stored results."""
    results = partition.of_day(connection, "review_results", day)
    accepted = partition.accepted_counts(connection, day)
    tenants = sorted({tenant for tenant, _ in accepted})
    settings = {tenant: home_folder.home.tenant(tenant) for tenant in tenants}
    asked = {
        tenant: Asked(own.min_accuracy, own.pool or tenant, own.goal)
        for tenant, own in settings.items()
    }
    references = gate_storage.references(connection, day)
    return gate(results, references, accepted, home_folder.taxonomies(tenants), asked)


def keep(connection: Connection, home: Home, day: date, judged: Gate) -> pl.DataFrame:
    """Store what the gate found, and what a failed tenant-day comes from.

    Returns the verdicts as stored: with all days together, and their details with the causes.
    """
    connection.replace("accuracy_cells", judged.cells, day)
    connection.replace("scored_reviews", judged.scores, day)
    results = partition.of_day(connection, "review_results", day)
    connection.replace("gate_causes", pl.DataFrame(), day)
    rows = []
    for row in judged.verdicts.iter_rows(named=True):
        tenant, taxonomy, truth = row["tenant"], row["taxonomy"], row["truth"]
        counts = gate_storage.standing_counts(
            connection, day, tenant, taxonomy, truth, row["simulated"]
        )
        stands = standing(*counts, row["threshold"])
        row |= {f"standing_{name}": value for name, value in stands._asdict().items()}
        measured = judged.accuracies[tenant, taxonomy]
        if measured.verdict == "failed" and truth in DECIDING:
            own = results.filter(tenant=tenant, taxonomy=taxonomy)
            found = blame(
                own,
                home.taxonomy(tenant),
                measured.truth,
                row["threshold"],
                home.tenant(tenant).max_error,
            )
            due = gate_storage.replace_blame(connection, day, tenant, taxonomy, found, utc_now())
            row["detail"] += (
                f". To blame: {found}. Run the day again to ask {due:,} texts anew"
                if due
                else f". To blame: {found}. These were asked anew before: run with --reclassify"
            )
        rows.append(row)
    verdicts = pl.DataFrame(rows, schema=pl.Schema({**VERDICTS, **STANDINGS}))
    connection.replace("gate_verdicts", verdicts, day)
    return verdicts


def stored_news(connection: Connection, day: date) -> list[News]:
    """What the stored verdicts of a day say, as the gate's step told it."""
    cells = partition.of_day(connection, "accuracy_cells", day)
    verdicts = partition.of_day(connection, "gate_verdicts", day)
    return gate_news(connection, cells, verdicts, day)


def gate_news(
    connection: Connection, cells: pl.DataFrame, verdicts: pl.DataFrame, day: date
) -> list[News]:
    """The alerts of what failed; and of the rest, that it recovered if it had failed before.

    cells: CELLS; verdicts: as `keep` stores them.
    """
    news: list[News] = []
    for row in verdicts.rows(named=True):
        tenant, taxonomy, verdict = row["tenant"], row["taxonomy"], row["verdict"]
        detail, threshold, simulated = row["detail"], row["threshold"], bool(row["simulated"])
        failed = gate_alert(
            tenant, day, taxonomy, verdict, row["upper"], threshold, detail, simulated
        )
        if failed:
            news.append(failed)
        elif row["truth"] in DECIDING or not row["uncovered"]:
            news.append(gate_recovery(tenant, day, taxonomy, verdict, detail))
        if row["truth"] not in DECIDING:
            continue  # nothing is known of the day, neither that it is bad nor that it is not
        about = About(tenant, day, taxonomy, threshold, simulated)
        since = gate_storage.bad_since(connection, day, tenant, taxonomy, simulated)
        if not failed:  # whose parts are told by the alert of the whole
            of_tenant = cells.filter(tenant=tenant, taxonomy=taxonomy, truth=row["truth"])
            news.append(parts_news(about, of_tenant.filter("below").rows(named=True), since.parts))
        stands = Standing(**{name: row[f"standing_{name}"] for name in Standing._fields})
        news.append(standing_news(about, stands, since.standing))
    return news


def contract_result(judged: Gate, day: date) -> dg.AssetCheckResult:
    """The contract of all tenants as one check, with the rows that break it."""
    failures = [
        {
            "tenant": tenant,
            "taxonomy": taxonomy,
            "broken": failure.expectation,
            "column": failure.column,
            "rows": failure.unexpected,
            "examples": "; ".join(failure.examples),
        }
        for (tenant, taxonomy), contract in judged.contracts.items()
        for failure in contract.failures
    ]
    rows = pl.DataFrame(failures, schema=_CONTRACT_ROWS)
    return dg.AssetCheckResult(
        check_name="contract",
        asset_key="review_results",
        passed=not failures,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(
            f"{tenant}: {failure}"
            for (tenant, _), contract in judged.contracts.items()
            for failure in contract.failures
        )
        or "every row keeps it",
        metadata={
            "tenants": len(judged.contracts),
            **failing("failures", rows, f"FROM review_results WHERE day = '{day}'"),
        },
    )
