"""A home with made-up days of made-up tenants: what the dashboard reads, without a run."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Final

import polars as pl

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.storage.publish import write_analytics
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

LAST: Final = date(2026, 3, 4)
WINDOW_DAYS: Final = 90  # of the large tables
# Every number is a digest of what it is of, so that the same home is the same to the byte.
_EACH: Final = "FROM days, tenants"
_ROWS: Final = {
    "cost_rollups": f"""
        SELECT day, tenant, 'reviews' AS taxonomy, simulated,
            900 + hash(day, tenant) % 200 AS reviews,
            reviews * 8 // 10 AS hits, reviews - hits AS misses, 0 AS deferred,
            misses * (11000 + hash(tenant) % 3000) AS cost_nanos, hits * 13000 AS avoided_nanos,
            reviews * 1500000 AS baseline_nanos, 1 - cost_nanos / baseline_nanos AS saving,
            cost_nanos * 1000 // reviews AS cost_per_1000_nanos, 4 AS requests, 0 AS held_nanos,
            0 AS audit_nanos, cost_nanos + avoided_nanos AS no_cache_nanos,
            1 - cost_nanos / no_cache_nanos AS saving_no_cache
        {_EACH}
    """,
    "budget_states": f"""
        SELECT day, tenant, simulated, strftime(day, '%Y-%m') AS period, 1 AS version,
            100000000 AS budget_nanos,
            (day(day) * (2100000 + hash(tenant) % 700000))::BIGINT AS spent_nanos, 0 AS held_nanos,
            [50, 75, 90] AS thresholds, 2300000 AS day_nanos,
            (day + INTERVAL 25 HOUR)::TIMESTAMP AT TIME ZONE 'UTC' AS seen_at
        {_EACH}
    """,
    "spend_forecasts": f"""
        SELECT day, tenant, simulated, strftime(day, '%Y-%m') AS month, day(day) AS days_known,
            30 - day(day) AS days_left, day(day) AS days_used, day(day) * 2300000 AS spent,
            70000000 AS expected, 60000000 AS lower, 80000000 AS upper, 100000000 AS budget_nanos
        {_EACH}
    """,
    "service_levels": f"""
        SELECT day, tenant, indicator,
            CASE indicator WHEN 'all' THEN 6 WHEN 'accuracy' THEN 0.95 WHEN 'hit_rate' THEN NULL
                ELSE 30 END AS target,
            CASE indicator WHEN 'all' THEN 6 WHEN 'accuracy' THEN 0.98 WHEN 'hit_rate' THEN 0.8
                ELSE 12 + hash(day, tenant, indicator) % 20 END AS value,
            1000 AS n,
            CASE WHEN indicator = 'hit_rate' THEN NULL WHEN indicator = 'all' THEN true
                WHEN indicator = 'accuracy' THEN value >= target ELSE value <= target END AS met,
            indicator || ' in words' AS detail, 0.95 AS objective, 30 AS window_days,
            30 AS days_judged, hash(day, tenant, indicator) % 2 AS days_broken, 1.5 AS budget_days,
            1.5 - days_broken AS budget_left, days_broken / 1.5 AS burn, simulated
        {_EACH}, (SELECT unnest(['run_seconds', 'freshness_hours', 'latency_p95_ms', 'hit_rate',
            'accuracy', 'usd_per_1000', 'failed_share', 'all']) AS indicator)
    """,
    "gate_verdicts": f"""
        SELECT day, tenant, 'reviews' AS taxonomy, 'passed' AS verdict, 'labels' AS truth, 900 AS n,
            880 + hash(day, tenant) % 20 AS correct, correct / n AS accuracy,
            accuracy - 0.01 AS lower, least(1, accuracy + 0.01) AS upper, 0.95 AS threshold,
            0.99 AS goal, 890 AS texts, true AS contract, 'right enough' AS detail, simulated
        {_EACH}
    """,
    "accuracy_cells": f"""
        SELECT day, tenant, 'reviews' AS taxonomy, simulated, 'labels' AS truth, dimension, name,
            100 AS n, 99 AS texts, 90 + hash(tenant, name) % 11 AS correct, correct / n AS accuracy,
            accuracy - 0.04 AS lower, least(1, accuracy + 0.04) AS upper, upper AS shared_upper,
            false AS below
        {_EACH}, (VALUES ('level', 'model'), ('level', 'l1'), ('category', 'Books'),
            ('class', 'sentiment=positive'), ('field', 'sentiment')) AS parts(dimension, name)
        WHERE day = $last
    """,
    "published_results": f"""
        SELECT day, tenant, 'reviews' AS taxonomy,
            tenant || '-' || day || '-' || number AS review_id,
            ['Books', 'Lamps', 'Toys & "games"'][1 + number % 3] AS category,
            'labelled' AS status, simulated,
            ['l1', 'l2', 'l3_exact', 'l3_near', 'l3_pattern', 'model'][
                (1 + hash(day, tenant, number) % 6)::BIGINT] AS level,
            false AS repeat, true AS verified
        {_EACH}, range($reviews) AS numbers(number) WHERE day > $last - {WINDOW_DAYS}
    """,
    "level_errors": f"""
        SELECT day, tenant || '|reviews' AS identity, tenant, 'reviews' AS taxonomy, simulated,
            level,
            '' AS class, 400 AS n, hash(tenant, level) % 5 AS disagreements, 0.001 AS lower,
            0.02 AS upper, 30 AS window_days
        {_EACH}, (SELECT unnest(['l2', 'l3_exact', 'l3_pattern']) AS level) WHERE day = $last
    """,
    "pattern_certificates": f"""
        SELECT day, tenant || '|reviews' || CASE WHEN simulated THEN '|simulated' ELSE '' END
                AS identity, 'v1' AS version, 'sentiment' AS field, label, '' AS category,
            0.9 AS threshold, 500 AS n, 1 AS errors, 0.004 + (hash(tenant, label) % 90) / 1e4
                AS bound, 0.01 AS max_error, 'one-look' AS rule,
            CASE WHEN bound <= max_error THEN 'serving' ELSE 'abstains' END AS status
        {_EACH}, (SELECT unnest(['positive', 'negative', 'neutral']) AS label) WHERE day = $last
    """,
    "llm_requests": f"""
        SELECT day, tenant || '-' || day || '-' || number AS request_id, 1 AS generation, tenant,
            'reviews' AS taxonomy, 'classification' AS kind, simulated, 'gpt-6-luna'
                AS model_requested, model_requested AS model, 'standard' AS tier, 'sync' AS way,
            'ok' AS status, 20 + hash(day, tenant, number) % 60 AS reviews, reviews AS answered,
            0 AS escalated, 200000 AS cost_nanos, 0 AS held_nanos,
            (day::TIMESTAMP + INTERVAL 25 HOUR + to_milliseconds(number * 120)) AT TIME ZONE 'UTC'
                AS sent_at, 200.0 + hash(number, tenant) % 300 AS latency_ms,
            0.3 + (hash(number) % 40) / 100 AS memory_share
        {_EACH}, range($requests) AS numbers(number) WHERE day > $last - {WINDOW_DAYS}
    """,
    "request_latencies": """
        SELECT day, request_id, tenant, model, tier, simulated, sent_at, reviews,
            reviews * 50 AS fresh_tokens, reviews * 5 AS completion_tokens, latency_ms,
            200 AS baseline_requests, 250.0 AS expected_ms, 0.5 AS z,
            latency_ms > 495 AS slow, false AS degraded
        FROM llm_requests SEMI JOIN tenants USING (tenant, simulated)
    """,
}


def fill(
    connection: Connection,
    tenants: Sequence[str] = ("acme", "bolt"),
    days: int = 3,
    *,
    last: date = LAST,
    simulated: bool = True,
    reviews: int = 30,
    requests: int = 3,
) -> None:
    """Fill a warehouse's tables with so many days of these tenants, up to `last`.

    reviews, requests: of a tenant and day, where they are kept one by one.
    """
    first = last - timedelta(days=days - 1)
    each_day = pl.DataFrame({"day": pl.date_range(first, last, eager=True)})
    each_tenant = pl.DataFrame({"tenant": list(tenants)}, {"tenant": pl.String})
    each_tenant = each_tenant.with_columns(simulated=pl.lit(simulated))
    names = {"last": last, "reviews": reviews, "requests": requests}
    with connection.view("days", each_day), connection.view("tenants", each_tenant):
        for table, sql in _ROWS.items():
            used = {name: value for name, value in names.items() if f"${name}" in sql}
            connection.execute(f"INSERT INTO {table} BY NAME {sql}", used)


def raise_alert(connection: Connection, **columns: object) -> None:
    """An alert that is open, about the last day, unless said otherwise."""
    row = {
        "alert_id": "a-1", "kind": "recheck", "tenant": "acme", "period": LAST.isoformat(),
        "severity": "warning", "message": "a recheck contradicts", "state": "delivered",
        "simulated": True, "threshold": 0, "deliveries": "{}",
    }  # fmt: skip
    connection.append("alerts", pl.DataFrame([row | columns]))
    connection.execute("UPDATE alerts SET raised_at = TIMESTAMPTZ '2026-03-05 01:20:00Z'")


def publish(home: Home, connection: Connection) -> None:
    """Write analytics.duckdb, as a run does."""
    write_analytics(connection, home.published / "analytics.duckdb", WINDOW_DAYS)


def warehouse(home: Home) -> Warehouse:
    """The home's warehouse."""
    return Warehouse(database=str(home.warehouse))
