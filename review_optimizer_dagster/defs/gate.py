"""The results of a day, and the gate that decides whether they may leave."""

from collections.abc import Iterator
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.alerts.rules import News, gate_alert, gate_recovery
from review_optimizer_dagster.core.quality import Gate, gate, overall
from review_optimizer_dagster.defs.alerting import note_alerts
from review_optimizer_dagster.defs.drift import DRIFT_CHECK, judge_drift
from review_optimizer_dagster.defs.metadata import share, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.publishing import publish_blocked
from review_optimizer_dagster.defs.resources import HomeFolder, step
from review_optimizer_dagster.storage import partition
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse


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
    context: dg.AssetExecutionContext, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Join what the cache and the model said; nothing is published yet."""
    day = date.fromisoformat(context.partition_key)
    with step("review_results"), warehouse.open() as connection:
        results = partition.assembled_results(connection, day)
        with connection.transaction():
            connection.replace("review_results", results, day)
    counts = results.group_by("level", "status").len("reviews").sort("level", "status")
    hits = results.filter(pl.col("level").is_in(["model", "none"]).not_()).height
    return dg.MaterializeResult(
        metadata={
            "reviews": results.height,
            "hit_rate": share(hits, results.height),
            "unlabelled": results.filter(pl.col("status") != "labelled").height,
            "levels": table(counts.rows(named=True)),
        }
    )


@dg.multi_asset_check(
    specs=[
        dg.AssetCheckSpec(
            "contract",
            asset="review_results",
            blocking=True,
            partitions_def=DAILY,
            description="Every accepted review is there once, with a label of the set in every "
            "field, or a reason. Broken, it stops everything: rows were lost or mixed.",
        ),
        dg.AssetCheckSpec(
            "quality_gate",
            asset="review_results",
            blocking=True,
            partitions_def=DAILY,
            description="Each tenant's accuracy with its exact 90 % interval: failed where the "
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
    """Judge the day, keep the verdicts, raise alerts for what failed."""
    day = date.fromisoformat(context.partition_key)
    with step("gate"), warehouse.open() as connection:
        judged = judge_day(connection, home_folder, day)
        with connection.transaction():
            connection.replace("gate_verdicts", judged.verdicts, day)
        drift = judge_drift(connection, home_folder.home.settings.drift, day)
        news = [*gate_news(judged.verdicts, day), *drift.news]
        note_alerts(context.log, home_folder, connection, news)
        publish_blocked(connection, home_folder.home, day)
    yield drift.result
    yield contract_result(judged)
    yield quality_result(judged)


def gate_news(verdicts: pl.DataFrame, day: date) -> list[News]:
    """The alerts of what failed; and of the rest, that it recovered if it had failed before."""
    news: list[News] = []
    for row in verdicts.rows(named=True):
        tenant, taxonomy, verdict = row["tenant"], row["taxonomy"], row["verdict"]
        detail = row["detail"]
        failed = gate_alert(tenant, day, taxonomy, verdict, row["upper"], row["threshold"], detail)
        news.append(failed or gate_recovery(tenant, day, taxonomy, verdict, detail))
    return news


def judge_day(connection: Connection, home_folder: HomeFolder, day: date) -> Gate:
    """Run the gate over the day's stored results."""
    results = partition.of_day(connection, "review_results", day)
    accepted = partition.accepted_counts(connection, day)
    tenants = sorted({tenant for tenant, _ in accepted})
    thresholds = {tenant: home_folder.home.tenant(tenant).min_accuracy for tenant in tenants}
    return gate(results, accepted, home_folder.taxonomies(tenants), thresholds)


def contract_result(judged: Gate) -> dg.AssetCheckResult:
    """The contract of all tenants as one check, with the rows that break it."""
    failures = [
        {"tenant": tenant, "taxonomy": taxonomy, "broken": str(failure)}
        for (tenant, taxonomy), contract in judged.contracts.items()
        for failure in contract.failures
    ]
    return dg.AssetCheckResult(
        check_name="contract",
        asset_key="review_results",
        passed=not failures,
        severity=dg.AssetCheckSeverity.ERROR,
        metadata={"tenants": len(judged.contracts), "failures": table(failures)},
    )


def quality_result(judged: Gate) -> dg.AssetCheckResult:
    """The verdicts as one check: it blocks where no tenant is left to publish."""
    verdicts = judged.verdicts
    failed = verdicts.filter(pl.col("verdict") == "failed")
    nothing_left = 0 < failed.height == verdicts.height
    by_class = [
        {"tenant": tenant, **row}
        for (tenant, _), measured in judged.accuracies.items()
        for row in measured.by_class.rows(named=True)
    ]
    by_level = [
        {"tenant": tenant, **row}
        for (tenant, _), measured in judged.accuracies.items()
        for row in measured.by_level.rows(named=True)
    ]
    day = overall(verdicts)
    return dg.AssetCheckResult(
        check_name="quality_gate",
        asset_key="review_results",
        passed=failed.is_empty(),
        severity=dg.AssetCheckSeverity.ERROR if nothing_left else dg.AssetCheckSeverity.WARN,
        description="; ".join(
            f"{row['tenant']}: {row['verdict']} ({row['detail']})"
            for row in verdicts.rows(named=True)
        ),
        metadata={
            "accuracy": share(day.correct, day.n),
            "truth": day.truth,
            "labels": day.n,
            "verdicts": table(verdicts.rows(named=True)),
            "by_class": table(by_class),
            "by_level": table(by_level),
        },
    )
