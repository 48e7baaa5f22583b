"""What a tenant owes for a month of delivery: read from the ledger, which nothing ever changes."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import polars as pl

from review_optimizer_dagster.core.costs import BASELINE_NANOS_PER_REVIEW
from review_optimizer_dagster.storage.warehouse import Connection

# Corrections are entries too, and count as what they correct.
_LINES = """
SELECT day, taxonomy, category, coalesce(purpose, kind) AS purpose, level, model, tier,
    service_tier, simulated, count(*) AS entries,
    count(DISTINCT review_id) AS reviews,
    sum(cost_nanos)::BIGINT AS cost_nanos, sum(avoided_nanos)::BIGINT AS avoided_nanos
FROM ledger_entries
WHERE day BETWEEN $first AND $last AND tenant = $tenant AND booked_at <= $at
GROUP BY day, taxonomy, category, coalesce(purpose, kind), level, model, tier, service_tier,
    simulated
ORDER BY ALL
"""
_CHANGES = """
SELECT day, booked_at, booked_by, kind, review_id, request_id, corrects, note, simulated,
    cost_nanos, avoided_nanos
FROM ledger_entries
WHERE day BETWEEN $first AND $last AND tenant = $tenant AND booked_at <= $at
    AND kind IN ('correction', 'refund', 'adjustment')
ORDER BY booked_at, entry_id
"""
_ENTRIES = """
SELECT * FROM ledger_entries
WHERE day BETWEEN $first AND $last AND tenant = $tenant AND booked_at <= $at
ORDER BY day, booked_at, entry_id
"""
_TOTALS = """
SELECT simulated, count(*) AS entries, count(DISTINCT (day, review_id)) AS reviews,
    sum(cost_nanos)::BIGINT AS cost_nanos, sum(avoided_nanos)::BIGINT AS avoided_nanos,
    max(booked_at) AS last_booked_at
FROM ledger_entries
WHERE day BETWEEN $first AND $last AND tenant = $tenant AND booked_at <= $at
GROUP BY simulated ORDER BY simulated
"""
# The other two places that say what a month cost.
_CHECKS = """
SELECT simulated, coalesce(l.nanos, 0) AS ledger_nanos,
    coalesce(l.by_hand, 0) AS by_hand_nanos, coalesce(r.nanos, 0) AS requests_nanos,
    coalesce(c.nanos, 0) AS rollups_nanos, coalesce(r.held, 0) AS held_nanos,
    coalesce(c.answered, 0) AS answered
FROM (
    SELECT simulated, sum(cost_nanos)::BIGINT AS nanos,
        (sum(cost_nanos) FILTER (WHERE kind IN ('refund', 'adjustment')))::BIGINT AS by_hand
    FROM ledger_entries WHERE day BETWEEN $first AND $last AND tenant = $tenant
    GROUP BY simulated) l
FULL JOIN (
    SELECT simulated, sum(cost_nanos)::BIGINT AS nanos, sum(held_nanos)::BIGINT AS held
    FROM llm_requests WHERE day BETWEEN $first AND $last AND tenant = $tenant
    GROUP BY simulated) r USING (simulated)
FULL JOIN (
    SELECT simulated, sum(cost_nanos)::BIGINT AS nanos,
        (sum(baseline_nanos) / $each)::BIGINT AS answered
    FROM cost_rollups WHERE day BETWEEN $first AND $last AND tenant = $tenant
    GROUP BY simulated) c USING (simulated)
ORDER BY simulated
"""


def read_statement(
    connection: Connection, tenant: str, first: date, last: date, at: datetime
) -> dict[str, Any]:
    """The tenant's entries of these days of delivery that were booked by a moment.

    Frames by name: `lines` (a row a day and everything that a review can be told apart by),
    `changes` (corrections, refunds, adjustments), `totals` and `checks` (a row for simulated and
    one for real money; checks: the sums of ledger, requests and rollups as they are now).
    """
    about = {"first": first, "last": last, "tenant": tenant}
    dated = about | {"at": at}
    return {
        "lines": connection.frame(_LINES, dated),
        "changes": connection.frame(_CHANGES, dated),
        "totals": connection.frame(_TOTALS, dated),
        "checks": connection.frame(_CHECKS, about | {"each": BASELINE_NANOS_PER_REVIEW}),
    }


def read_entries(
    connection: Connection, tenant: str, first: date, last: date, at: datetime
) -> pl.DataFrame:
    """Every entry of the statement, in the order of the days."""
    return connection.frame(_ENTRIES, {"first": first, "last": last, "tenant": tenant, "at": at})


def last_day(connection: Connection, tenant: str) -> date | None:
    """The last day of delivery that the tenant has entries of; None where it has none."""
    rows = connection.rows("SELECT max(day) FROM ledger_entries WHERE tenant = ?", [tenant])
    day = rows[0][0]
    return day if isinstance(day, date) else None


def billed_tenants(connection: Connection) -> list[str]:
    """Every tenant with an entry, in order."""
    rows = connection.rows("SELECT DISTINCT tenant FROM ledger_entries ORDER BY tenant")
    return [str(tenant) for (tenant,) in rows]
