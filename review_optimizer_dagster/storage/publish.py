"""The last step's files: Parquet by day and analytics.duckdb, each replaced atomically."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from review_optimizer_dagster.storage.star import SCHEMA_VERSION, put_views_in_place
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
# Small, and the same whatever day was run.
_GUIDES = ("taxonomy_labels", "catalog", "catalog_columns")
# So that the DuckDB in a BI tool, which is seldom the newest, can read the file; it is no larger.
_STORAGE_VERSION = "v1.2.0"
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
    r.simulated, r.synthetic, coalesce(l.cost_nanos, 0), r.content_key, r.source_key, r.request_id
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
    # DuckDB's own log lies beside a database, and must not be taken for that of the next one.
    rests = (temporary, temporary.with_name(f"{temporary.name}.wal"))
    _unlink(rests)
    try:
        yield temporary
        temporary.replace(target)
    finally:
        _unlink(rests)


def _unlink(paths: Iterable[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)


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


def published_tables() -> tuple[str, ...]:
    """The tables that analysts get, beside every view."""
    return (*_TABLES, *_WHOLE, *_GUIDES, "about")


def write_analytics(connection: Connection, path: Path, window_days: int) -> None:
    """Write analytics.duckdb: the last `window_days` days of large tables, small ones, and views.

    Readers keep the file they opened; the next one to open it gets the new one.
    """
    put_views_in_place(connection, published_tables())
    with _replacing(path) as temporary:
        connection.execute(
            f"ATTACH '{_quoted(temporary)}' AS analytics (STORAGE_VERSION '{_STORAGE_VERSION}')"
        )
        try:
            with connection.transaction():
                _copy_schema(connection)
                for table in _TABLES:
                    # A constant, so that DuckDB skips what lies outside without reading it.
                    ((last,),) = connection.rows(f"SELECT max(day) FROM {table}")  # noqa: S608
                    since = "" if last is None else f"WHERE day > DATE '{last}' - {window_days:d}"
                    connection.execute(
                        f"INSERT INTO analytics.{table} SELECT * FROM {table} "  # noqa: S608
                        f"{since} ORDER BY day"
                    )
                for table in (*_WHOLE, *_GUIDES):
                    connection.execute(f"INSERT INTO analytics.{table} SELECT * FROM {table}")  # noqa: S608
                connection.execute(
                    "INSERT INTO analytics.about "
                    "SELECT $version, make_timestamp(epoch_us(now())), $window, min(day), max(day) "
                    "FROM analytics.published_results",
                    {"version": SCHEMA_VERSION, "window": window_days},
                )
        finally:
            connection.execute("DETACH analytics")


def _copy_schema(connection: Connection) -> None:
    """Make what analysts get in an empty database: tables, views and every comment.

    A copy of all of the warehouse's takes 10 ms, commenting on each column half a second.
    """
    ((warehouse,),) = connection.rows("SELECT current_database()")
    connection.execute(f'COPY FROM DATABASE "{warehouse}" TO analytics (SCHEMA)')
    copied = connection.rows(
        "SELECT table_name FROM duckdb_tables() WHERE database_name = 'analytics' ORDER BY ALL"
    )
    for (table,) in copied:
        if table not in published_tables():
            connection.execute(f'DROP TABLE analytics."{table}"')


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
            with connection.transaction():
                for table in _WHOLE:
                    _refill(connection, table)
        finally:
            connection.execute("DETACH analytics")


def _refill(connection: Connection, table: str) -> None:
    """Make a table of analytics what it is in the warehouse."""
    layouts = connection.rows(
        "SELECT list((column_name, data_type) ORDER BY column_index) FROM duckdb_columns() "
        "WHERE table_name = $table AND schema_name = 'main' "
        "AND database_name IN ('analytics', current_database()) GROUP BY database_name",
        {"table": table},
    )
    if len(layouts) == 2 and layouts[0] == layouts[1]:
        # Emptied and filled: made anew, it would lose its comments.
        connection.execute(f"DELETE FROM analytics.{table}")  # noqa: S608
        connection.execute(f"INSERT INTO analytics.{table} SELECT * FROM {table}")  # noqa: S608
    else:  # the file is of an older version
        connection.execute(
            f"CREATE OR REPLACE TABLE analytics.{table} AS SELECT * FROM {table}"  # noqa: S608
        )


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
