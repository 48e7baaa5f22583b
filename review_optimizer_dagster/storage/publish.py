"""The last step's files: Parquet by day and analytics.duckdb, each replaced atomically."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from review_optimizer_dagster.storage.warehouse import Connection

# What analysts get. Texts stay in the warehouse.
_TABLES = (
    "batch_samples",
    "published_results",
    "spend_forecasts",
    "gate_verdicts",
    "accuracy_cells",
    "gate_causes",
    "scored_reviews",
    "level_errors",
    "label_samples",
    "ledger_entries",
    "llm_requests",
    "request_latencies",
    "latency_episodes",
    "daily_profiles",
    "drift_tests",
    "pattern_certificates",
    "quarantined_reviews",
    "resolved_labels",
)
# A few rows a day: months that are over stay comparable. A human label may be of no day.
_WHOLE = (
    "cost_rollups",
    "budget_states",
    "alerts",
    "service_levels",
    "human_labels",
    "quarantined_labels",
)
_PARQUET = ("published_results", "ledger_entries", "llm_requests")

_PUBLISH = """
INSERT INTO published_results
SELECT r.day, r.tenant, r.taxonomy, r.review_id, r.category, r.product_id, r.rating, r.ts,
    r.status, r.level, r.repeat, r.labels, r.score, r.model, r.reason,
    v.verdict = 'passed' AND (r.tenant, r.taxonomy, coalesce(r.category, '')) NOT IN (
        SELECT (tenant, taxonomy, name) FROM accuracy_cells
        WHERE day = $day AND dimension = 'category' AND below)
    AND (r.tenant, r.review_id) NOT IN (
        SELECT (tenant, review_id) FROM scored_reviews WHERE day = $day AND NOT correct),
    r.simulated, r.synthetic, coalesce(l.cost_nanos, 0), r.content_key
FROM review_results r
JOIN gate_verdicts v USING (day, tenant, taxonomy)
LEFT JOIN (
    SELECT tenant, review_id, sum(cost_nanos)::BIGINT AS cost_nanos FROM ledger_entries
    WHERE day = $day GROUP BY tenant, review_id) l USING (tenant, review_id)
WHERE r.day = $day AND v.verdict <> 'failed'
ORDER BY r.tenant, r.review_id
"""


def publish_day(connection: Connection, day: date) -> int:
    """Replace what is published of the tenants that the gate let through; returns the rows.

    A tenant whose day failed keeps what was published of it before, if anything was.
    """
    with connection.transaction():
        connection.execute(
            "DELETE FROM published_results WHERE day = $day AND (tenant, taxonomy) NOT IN ("
            "SELECT (tenant, taxonomy) FROM gate_verdicts "
            "WHERE day = $day AND verdict = 'failed')",
            {"day": day},
        )
        connection.execute(_PUBLISH, {"day": day})
    return connection.count("published_results", day)


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """A temporary name that takes the target's place only when all went well."""
    target.parent.mkdir(parents=True, exist_ok=True)
    # One name for ever: only the holder of the warehouse publishes, and what a killed run left
    # is overwritten by the next.
    temporary = target.with_name(f".{target.name}.new")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_files(connection: Connection, folder: Path, day: date, window_days: int) -> list[Path]:
    """Write everything that analysts open; returns the Parquet files that were written."""
    written = write_parquet(connection, folder, day)
    write_analytics(connection, folder / "analytics.duckdb", window_days)
    return written


def write_parquet(connection: Connection, folder: Path, day: date) -> list[Path]:
    """Write the day's Parquet files, and those of any other day that are missing."""
    written = []
    for table in _PARQUET:
        days = connection.rows(f"SELECT DISTINCT day FROM {table} ORDER BY day")  # noqa: S608
        for (found,) in days:
            path = folder / table / f"{found}.parquet"
            if found != day and path.exists():
                continue
            with _replacing(path) as temporary:
                connection.execute(
                    f"COPY (SELECT * FROM {table} WHERE day = $day ORDER BY ALL) "  # noqa: S608
                    f"TO '{_quoted(temporary)}' (FORMAT parquet, COMPRESSION zstd)",
                    {"day": found},
                )
            written.append(path)
        if (day,) not in days:
            # A corrected delivery may leave nothing of the day.
            (folder / table / f"{day}.parquet").unlink(missing_ok=True)
    return written


def write_analytics(connection: Connection, path: Path, window_days: int) -> None:
    """Write analytics.duckdb: the last `window_days` days of the large tables, the small ones
    whole, and the views.

    Readers keep the file they opened; the next one to open it gets the new one.
    """
    with _replacing(path) as temporary:
        connection.execute(f"ATTACH '{_quoted(temporary)}' AS analytics")
        try:
            for table in _TABLES:
                # A constant, so that DuckDB skips what lies outside without reading it.
                ((last,),) = connection.rows(f"SELECT max(day) FROM {table}")  # noqa: S608
                since = "" if last is None else f"WHERE day > DATE '{last}' - {window_days:d}"
                connection.execute(
                    f"CREATE TABLE analytics.{table} AS SELECT * FROM {table} "  # noqa: S608
                    f"{since} ORDER BY day"
                )
            for table in _WHOLE:
                connection.execute(
                    f"CREATE TABLE analytics.{table} AS SELECT * FROM {table}"  # noqa: S608
                )
            connection.script("views.sql", out="analytics")
            _copy_comments(connection)
        finally:
            connection.execute("DETACH analytics")


def refresh_analytics(connection: Connection, path: Path) -> None:
    """Renew the small tables in analytics.duckdb after the rest of it was written, if it was.

    What the last steps of a run find out would else be seen a run later.
    """
    if not path.exists():
        return
    with _replacing(path) as temporary:
        shutil.copyfile(path, temporary)
        connection.execute(f"ATTACH '{_quoted(temporary)}' AS analytics")
        try:
            for table in _WHOLE:
                connection.execute(
                    f"CREATE OR REPLACE TABLE analytics.{table} AS "  # noqa: S608
                    f"SELECT * FROM {table}"
                )
            _copy_comments(connection, _WHOLE)
        finally:
            connection.execute("DETACH analytics")


def _copy_comments(connection: Connection, tables: Sequence[str] = (*_TABLES, *_WHOLE)) -> None:
    """Tables keep the comments that they have in the warehouse."""
    comments = connection.rows(
        "SELECT table_name, comment FROM duckdb_tables() "
        "WHERE database_name = current_database() AND comment IS NOT NULL"
    )
    for table, comment in comments:
        if table in tables:
            text = str(comment).replace("'", "''")
            connection.execute(f"COMMENT ON TABLE analytics.{table} IS '{text}'")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
