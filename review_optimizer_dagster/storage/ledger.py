"""The ledger and its sums: appended to, read by day or month, and never changed."""

from __future__ import annotations

from datetime import date

import polars as pl

from review_optimizer_dagster.core.costs import LEDGER
from review_optimizer_dagster.storage.warehouse import Connection

EARLIER_DAYS = 30  # whose costs stand in for those of a day that paid nothing


def booked(connection: Connection, day: date) -> pl.DataFrame:
    """The ledger of a day so far: LEDGER."""
    entries = connection.frame(
        "SELECT * EXCLUDE (purpose), coalesce(purpose, kind) AS purpose FROM ledger_entries "
        "WHERE day = ?",
        [day],
    )
    return entries.select(pl.col(name).cast(dtype) for name, dtype in LEDGER.items())


def append(connection: Connection, day: date, entries: pl.DataFrame) -> int:
    """Append entries (LEDGER) that the day's ledger does not have yet; returns how many were new.

    Every entry is of one day, so that only the day's rows are looked at, however long the ledger.
    """
    if entries.is_empty():
        return 0
    with connection.view("entries", entries):
        known = connection.frame(
            "SELECT entry_id FROM ledger_entries SEMI JOIN entries USING (entry_id) WHERE day = ?",
            [day],
        )
    return connection.append(
        "ledger_entries", entries.join(known, on="entry_id", how="anti"), day=day
    )


def sources(connection: Connection, day: date) -> pl.DataFrame:
    """Who paid for the answers of a day's hits: tenant, review_id, source_tenant.

    A repeat has the answer that its first review's tenant paid for, an entry of the archive that of
    the tenant whose review it was; a learned pattern's answer was nobody's.
    """
    return connection.frame(
        """
        WITH asked AS (
            SELECT identity, content_key, any_value(tenant) AS payer FROM cache_resolution
            WHERE day = $day AND NOT repeat AND level IS NULL GROUP BY identity, content_key),
        hits AS (
            SELECT tenant, review_id, identity, coalesce(source_key, content_key) AS source_key
            FROM cache_resolution
            WHERE day = $day AND (level IS NOT NULL OR repeat)
                AND level IS DISTINCT FROM 'l3_pattern'),
        archived AS (
            SELECT a.identity, a.content_key, arg_max(a.tenant, a.day) AS payer
            FROM review_archive a
            SEMI JOIN hits h ON h.identity = a.identity AND h.source_key = a.content_key
            WHERE a.day < $day GROUP BY a.identity, a.content_key)
        SELECT h.tenant, h.review_id, coalesce(q.payer, a.payer) AS source_tenant
        FROM hits h
        LEFT JOIN asked q ON q.identity = h.identity AND q.content_key = h.source_key
        LEFT JOIN archived a ON a.identity = h.identity AND a.content_key = h.source_key
        """,
        {"day": day},
    )


def earlier_medians(connection: Connection, day: date) -> pl.DataFrame:
    """What an answer of the model cost on the days before: scope, taxonomy, simulated, median."""
    return connection.frame(
        """
        SELECT scope, taxonomy, simulated,
            quantile_disc(cost_nanos, 0.5)::BIGINT AS median
        FROM ledger_entries
        WHERE day >= $since AND day < $day AND kind = 'classification' AND cost_nanos > 0
            AND scope IS NOT NULL
        GROUP BY scope, taxonomy, simulated
        """,
        {"day": day, "since": date.fromordinal(max(1, day.toordinal() - EARLIER_DAYS))},
    )


def correction_totals(connection: Connection, day: date) -> pl.DataFrame:
    """What the day's corrections, refunds and adjustments come to, a tenant and day they count for.

    Columns: tenant, simulated, incurred_at (the first of that day), cost_nanos.
    """
    return connection.frame(
        """
        SELECT tenant, simulated, min(incurred_at) AS incurred_at,
            sum(cost_nanos)::BIGINT AS cost_nanos
        FROM ledger_entries
        WHERE day = ? AND kind IN ('correction', 'refund', 'adjustment')
        GROUP BY tenant, simulated, incurred_at::DATE ORDER BY ALL
        """,
        [day],
    )


def totals(connection: Connection, day: date) -> pl.DataFrame:
    """The day's ledger by tenant and kind: entries, cost_nanos, avoided_nanos."""
    return connection.frame(
        "SELECT tenant, kind, coalesce(purpose, kind) AS purpose, simulated, count(*) AS entries, "
        "sum(cost_nanos)::BIGINT AS cost_nanos, sum(avoided_nanos)::BIGINT AS avoided_nanos "
        "FROM ledger_entries WHERE day = ? GROUP BY ALL ORDER BY ALL",
        [day],
    )


def request_totals(connection: Connection, day: date) -> pl.DataFrame:
    """The day's attempts by tenant and taxonomy: requests, held_nanos."""
    return connection.frame(
        "SELECT tenant, taxonomy, simulated, count(*) AS requests, "
        "sum(held_nanos)::BIGINT AS held_nanos FROM llm_requests WHERE day = ? GROUP BY ALL",
        [day],
    )


def daily_costs(connection: Connection, since: date, until: date) -> pl.DataFrame:
    """What each tenant's days of delivery cost: tenant, simulated, day, cost_nanos."""
    return connection.frame(
        "SELECT tenant, simulated, day, sum(cost_nanos)::BIGINT AS cost_nanos FROM cost_rollups "
        "WHERE day BETWEEN ? AND ? AND simulated IS NOT NULL GROUP BY ALL ORDER BY ALL",
        [since, until],
    )


BUDGET_STATES = pl.Schema(
    {
        "tenant": pl.String(),
        "simulated": pl.Boolean(),
        "period": pl.String(),
        "version": pl.Int64(),
        "budget_nanos": pl.Int64(),
        "spent_nanos": pl.Int64(),
        "held_nanos": pl.Int64(),
        "thresholds": pl.List(pl.Int64()),
        "day_nanos": pl.Int64(),
        "seen_at": pl.Datetime("us", "UTC"),
    }
)


def replace_budget_states(connection: Connection, day: date, states: pl.DataFrame) -> None:
    """Store where budgets (BUDGET_STATES) stood when a day was summed.

    A row stays as it is while the day's own cost and the budget are the same: a day that is run
    again has spent nothing, and what other days spent since does not belong into its row.
    """
    same = ["tenant", "simulated", "version", "budget_nanos", "day_nanos"]
    stored = connection.frame("SELECT * EXCLUDE (day) FROM budget_states WHERE day = ?", [day])
    kept = stored.select(BUDGET_STATES.names()).cast(BUDGET_STATES)
    kept = kept.join(states.select(*same, "thresholds"), on=same, how="inner").with_columns(
        thresholds="thresholds_right"
    )
    new = states.join(kept, on=["tenant", "simulated"], how="anti")
    rows = pl.concat([kept.select(BUDGET_STATES.names()), new]).sort("tenant", "simulated")
    connection.replace("budget_states", rows, day)


def request_entries(connection: Connection, tenant: str, request_id: str) -> pl.DataFrame:
    """The entries of one request of a tenant, with their `day`."""
    return connection.frame(
        "SELECT * FROM ledger_entries WHERE tenant = ? AND request_id = ? ORDER BY entry_id",
        [tenant, request_id],
    )


def disagreements(connection: Connection, first: date, last: date) -> pl.DataFrame:
    """Tenants and days whose ledger does not sum to their requests; empty where all is well.

    Columns: day, tenant, simulated, ledger_nanos (without what was booked by hand), requests_nanos.
    """
    return connection.frame(
        """
        SELECT day, tenant, simulated, coalesce(l.nanos, 0) AS ledger_nanos,
            coalesce(r.nanos, 0) AS requests_nanos
        FROM (
            SELECT day, tenant, simulated, sum(cost_nanos)::BIGINT AS nanos FROM ledger_entries
            WHERE day BETWEEN $first AND $last AND kind NOT IN ('refund', 'adjustment')
            GROUP BY ALL) l
        FULL JOIN (
            SELECT day, tenant, simulated, sum(cost_nanos)::BIGINT AS nanos FROM llm_requests
            WHERE day BETWEEN $first AND $last GROUP BY ALL) r USING (day, tenant, simulated)
        WHERE coalesce(l.nanos, 0) <> coalesce(r.nanos, 0)
        ORDER BY day, tenant
        """,
        {"first": first, "last": last},
    )


def amount_of_reference(
    connection: Connection, tenant: str, kind: str, reference: str
) -> int | None:
    """Nano-dollars that a tenant was booked by hand under a reference; None where nothing was."""
    rows = connection.rows(
        "SELECT sum(cost_nanos)::BIGINT FROM ledger_entries "
        "WHERE tenant = $tenant AND kind = $kind AND (note = $name OR starts_with(note, $start))",
        {"tenant": tenant, "kind": kind, "name": reference, "start": f"{reference}: "},
    )
    return None if rows[0][0] is None else int(str(rows[0][0]))


def spend_parts(connection: Connection, day: date) -> pl.DataFrame:
    """What a day's money was spent on: a row a purpose, model, step of the ladder and way."""
    return connection.frame(
        """
        SELECT coalesce(purpose, kind) AS purpose, model, tier, service_tier,
            count(*) AS entries, count(DISTINCT (tenant, review_id)) AS reviews,
            sum(cost_nanos) / 1e9 AS cost_usd
        FROM ledger_entries WHERE day = ? AND cost_nanos <> 0 GROUP BY ALL ORDER BY cost_usd DESC
        """,
        [day],
    )


def spend_by_hour(connection: Connection, day: date) -> pl.DataFrame:
    """When a day's money was spent: a row an hour (UTC) and tenant, with the sum so far."""
    return connection.frame(
        """
        SELECT date_trunc('hour', sent_at) AS hour, tenant, count(*) AS requests,
            sum(cost_nanos) / 1e9 AS cost_usd,
            sum(sum(cost_nanos)) OVER (PARTITION BY tenant ORDER BY date_trunc('hour', sent_at))
                / 1e9 AS so_far_usd
        FROM llm_requests WHERE day = ?
        GROUP BY date_trunc('hour', sent_at), tenant ORDER BY hour, tenant
        """,
        [day],
    )
