"""What analysts open: replaced whole, read while it is replaced, and what of it is kept."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.storage.publish import publish_day, write_analytics, write_parquet
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY

_ANALYST = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=True)
for _ in sys.stdin:
    print(connection.execute("SELECT sum(reviews) FROM cache_levels").fetchone()[0], flush=True)
"""
PARQUET = ("published_results", "ledger_entries", "llm_requests")


@pytest.fixture
def warehouse(home: Home) -> Iterator[Connection]:
    """The home's warehouse, open."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        yield connection


@pytest.fixture
def analytics(home: Home) -> Path:
    """Where the analysts' database goes."""
    return home.published / "analytics.duckdb"


def _judged(
    warehouse: Connection,
    reviews: int,
    day: date = DAY,
    tenant: str = "acme",
    verdict: str = "passed",
    taxonomy: str = "reviews",
) -> None:
    """A tenant's day as it stands after the gate: results, ledger, requests and verdict."""
    facts = pl.DataFrame(
        {
            "tenant": [tenant] * reviews,
            "taxonomy": taxonomy,
            "review_id": [f"{taxonomy}-{number:03}" for number in range(reviews)],
            "content_key": [f"{number:032x}" for number in range(reviews)],
        },
        schema_overrides={"review_id": pl.String, "content_key": pl.String},
    )
    results = facts.with_columns(
        status=pl.lit("labelled"),
        level=pl.lit("model"),
        repeat=pl.lit(False),
        labels=pl.lit('{"sentiment":"positive"}'),
        simulated=pl.lit(True),
    )
    with warehouse.transaction():
        for table in ("review_results", "ledger_entries", "llm_requests", "gate_verdicts"):
            warehouse.execute(
                f"DELETE FROM {table} "  # noqa: S608 (our own names)
                "WHERE day = ? AND tenant = ? AND taxonomy = ?",
                [day, tenant, taxonomy],
            )
        warehouse.append("review_results", results, day=day)
        warehouse.append("ledger_entries", facts, day=day, kind="classification", cost_nanos=7)
        requests = facts.select("tenant", "taxonomy").unique()
        warehouse.append("llm_requests", requests, day=day, request_id="r", cost_nanos=7 * reviews)
        warehouse.append("gate_verdicts", requests, day=day, verdict=verdict, contract=True)


def _published(warehouse: Connection) -> list[tuple[Any, ...]]:
    return warehouse.rows(
        "SELECT day, tenant, taxonomy, count(*), count(DISTINCT review_id) FROM published_results "
        "GROUP BY ALL ORDER BY ALL"
    )


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def _publish(home: Home, warehouse: Connection, day: date = DAY, window_days: int = 90) -> None:
    publish_day(warehouse, day)
    write_parquet(warehouse, home.published, day)
    write_analytics(warehouse, home.published / "analytics.duckdb", window_days)


def _files(home: Home) -> list[str]:
    """Every published file, hidden ones too."""
    found = (path for path in home.published.rglob("*") if path.is_file())
    return sorted(path.relative_to(home.published).as_posix() for path in found)


def test_a_reader_keeps_reading_while_the_file_is_replaced(
    home: Home, warehouse: Connection, analytics: Path
) -> None:
    """A notebook that is open over night must neither break nor hold up the run."""
    _judged(warehouse, 3)
    _publish(home, warehouse)
    with subprocess.Popen(
        [sys.executable, "-c", _ANALYST, str(analytics)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as analyst:
        assert analyst.stdin is not None
        assert analyst.stdout is not None

        def seen() -> int:
            assert analyst.stdin is not None
            assert analyst.stdout is not None
            analyst.stdin.write(b"again\n")
            return int(analyst.stdout.readline())

        assert seen() == 3
        _judged(warehouse, 5)
        _publish(home, warehouse)
        assert seen() == 3
        assert _rows(analytics, "SELECT sum(reviews) FROM cache_levels") == [(5,)]
        assert seen() == 3
        analyst.stdin.close()


@pytest.mark.parametrize("broken_at", ["COPY FROM DATABASE", "INSERT INTO analytics.llm_requests"])
def test_a_crash_while_writing_leaves_the_old_file_and_no_other(
    home: Home,
    warehouse: Connection,
    analytics: Path,
    monkeypatch: pytest.MonkeyPatch,
    broken_at: str,
) -> None:
    """Analysts must find a whole file at any time, and the folder must not fill with rests."""
    _judged(warehouse, 3)
    _publish(home, warehouse)
    before, files = analytics.read_bytes(), _files(home)
    _judged(warehouse, 5)
    execute = Connection.execute

    def breaking(self: Connection, sql: str, parameters: Any = ()) -> None:
        if sql.startswith(broken_at):
            raise duckdb.IOException("no space left on device")
        execute(self, sql, parameters)

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "execute", breaking)
        with pytest.raises(duckdb.IOException, match="no space"):
            write_analytics(warehouse, analytics, 90)
    assert analytics.read_bytes() == before
    assert _files(home) == files
    _publish(home, warehouse)
    assert _rows(analytics, "SELECT sum(reviews) FROM cache_levels") == [(5,)]


def test_a_crash_while_writing_parquet_leaves_the_old_file(
    home: Home, warehouse: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a Parquet file cannot be opened at all."""
    _judged(warehouse, 3)
    _publish(home, warehouse)
    path = home.published / "published_results" / f"{DAY}.parquet"
    before, files = path.read_bytes(), _files(home)
    _judged(warehouse, 5)
    publish_day(warehouse, DAY)
    execute = Connection.execute

    def breaking(self: Connection, sql: str, parameters: Any = ()) -> None:
        execute(self, sql, parameters)
        if sql.startswith("COPY"):
            raise duckdb.IOException("no space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Connection, "execute", breaking)
        with pytest.raises(duckdb.IOException, match="no space"):
            write_parquet(warehouse, home.published, DAY)
    assert path.read_bytes() == before
    assert _files(home) == files


def test_what_a_killed_run_left_is_in_nobodys_way(
    home: Home, warehouse: Connection, analytics: Path
) -> None:
    """After SIGKILL the temporary file stays: the next run must replace it, not add to it."""
    _judged(warehouse, 3)
    home.published.mkdir()
    (home.published / ".analytics.duckdb.new").write_bytes(b"half a file")
    (home.published / ".analytics.duckdb.new.wal").write_bytes(b"a log of another file")
    _publish(home, warehouse)
    assert _rows(analytics, "SELECT sum(reviews) FROM cache_levels") == [(3,)]
    assert not [name for name in _files(home) if name.startswith(".")]


def test_missing_parquet_of_another_day_comes_back(home: Home, warehouse: Connection) -> None:
    """Whoever deleted or never had it gets it with the next run, whatever day that is for."""
    other = DAY - timedelta(days=3)
    _judged(warehouse, 2, other)
    _publish(home, warehouse, other)
    lost = [home.published / table / f"{other}.parquet" for table in PARQUET]
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    _judged(warehouse, 3)
    _publish(home, warehouse)
    assert [path.read_bytes() for path in lost] == before
    assert pl.read_parquet(lost[0])["day"].unique().to_list() == [other]


def test_parquet_of_other_days_is_not_written_again(home: Home, warehouse: Connection) -> None:
    """A year of days must not be rewritten every night."""
    other = DAY - timedelta(days=3)
    _judged(warehouse, 2, other)
    _publish(home, warehouse, other)
    _judged(warehouse, 3)
    publish_day(warehouse, DAY)
    written = write_parquet(warehouse, home.published, DAY)
    assert {path.name for path in written} == {f"{DAY}.parquet"}


def test_a_day_of_which_nothing_is_left_has_no_parquet(home: Home, warehouse: Connection) -> None:
    """A delivery that was withdrawn must not live on in the file that analysts scan."""
    _judged(warehouse, 3)
    _publish(home, warehouse)
    warehouse.execute("DELETE FROM review_results")
    warehouse.execute("DELETE FROM gate_verdicts")
    _publish(home, warehouse)
    assert _published(warehouse) == []
    assert f"published_results/{DAY}.parquet" not in _files(home)
    assert f"ledger_entries/{DAY}.parquet" in _files(home)  # what was spent was spent


@pytest.mark.parametrize(("window_days", "kept"), [(1, 1), (3, 2), (4, 3), (90, 3)])
def test_analytics_hold_the_days_of_the_window(
    home: Home, warehouse: Connection, analytics: Path, window_days: int, kept: int
) -> None:
    """The file must stay small enough to be replaced every night; Parquet holds every day."""
    days = [DAY, DAY - timedelta(days=2), DAY - timedelta(days=3)]
    for day in days:
        _judged(warehouse, 2, day)
        _publish(home, warehouse, day, window_days)
    _publish(home, warehouse, DAY, window_days)
    for table in PARQUET:
        found = {day for (day,) in _rows(analytics, f"SELECT day FROM {table}")}  # noqa: S608
        assert sorted(found, reverse=True) == days[:kept]
        assert len(list((home.published / table).glob("*.parquet"))) == 3


def test_every_table_view_and_column_of_a_view_is_commented(
    home: Home, warehouse: Connection, analytics: Path
) -> None:
    """The database explains itself to an analyst who has nothing else."""
    _judged(warehouse, 1)
    _publish(home, warehouse)
    tables = _rows(analytics, "SELECT table_name, comment FROM duckdb_tables()")
    views = _rows(analytics, "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal")
    columns = _rows(
        analytics,
        "SELECT c.table_name, c.column_name, c.comment FROM duckdb_columns() c "
        "JOIN duckdb_views() v ON v.view_name = c.table_name AND NOT v.internal "
        "WHERE NOT c.internal",
    )
    assert {name for name, _ in tables} >= {
        *PARQUET,
        "cost_rollups",
        "gate_verdicts",
        "alerts",
        "service_levels",
    }
    assert {name for name, _ in views} >= {"daily_costs", "cache_levels", "label_mix"}
    assert {name for name, _, _ in columns} == {name for name, _ in views}
    assert [row for row in (*tables, *views, *columns) if not row[-1]] == []


def test_views_can_be_read_over_nothing(home: Home, warehouse: Connection, analytics: Path) -> None:
    """The first day of a home may publish nothing; a query on it is empty, not an error."""
    _publish(home, warehouse)
    listed = {"dim_level", "dim_category", "dim_model"}  # with what stands for nothing, at least
    for (view,) in _rows(analytics, "SELECT view_name FROM duckdb_views() WHERE NOT internal"):
        assert view in listed or _rows(analytics, f"FROM {view}") == []


def test_texts_do_not_leave_the_warehouse(
    home: Home, warehouse: Connection, analytics: Path
) -> None:
    """Reviews hold personal data; who may see labels may not see texts."""
    _judged(warehouse, 1)
    _publish(home, warehouse)
    columns = _rows(analytics, "SELECT column_name FROM duckdb_columns() WHERE NOT internal")
    names = {name for (name,) in columns}
    names |= set(pl.read_parquet_schema(home.published / "published_results" / f"{DAY}.parquet"))
    assert not names & {"text", "title"}


def test_a_failed_tenant_keeps_what_was_published_of_it(warehouse: Connection) -> None:
    """A worse second run must not take back a good first one, nor put its own rows beside it."""
    _judged(warehouse, 3)
    _judged(warehouse, 2, tenant="bolt")
    publish_day(warehouse, DAY)
    _judged(warehouse, 5, verdict="failed")
    _judged(warehouse, 4, tenant="bolt", verdict="inconclusive")
    assert publish_day(warehouse, DAY) == 7
    assert _published(warehouse) == [
        (DAY, "acme", "reviews", 3, 3),
        (DAY, "bolt", "reviews", 4, 4),
    ]
    verified = warehouse.rows("SELECT DISTINCT tenant, verified FROM published_results ORDER BY 1")
    assert verified == [("acme", True), ("bolt", False)]


def test_a_tenant_that_changed_its_taxonomy_is_not_published_twice(warehouse: Connection) -> None:
    """One kind of document failed, the other did not: each is replaced or kept by itself."""
    _judged(warehouse, 3)
    _judged(warehouse, 2, taxonomy="complaints", verdict="failed")
    assert publish_day(warehouse, DAY) == publish_day(warehouse, DAY) == 3


def test_publishing_touches_its_own_day_alone(warehouse: Connection) -> None:
    """A backfill of last month must not change this month's tables."""
    other = DAY - timedelta(days=30)
    _judged(warehouse, 2, other)
    _judged(warehouse, 3)
    publish_day(warehouse, DAY)
    assert publish_day(warehouse, other) == 2
    _judged(warehouse, 1, other)
    assert publish_day(warehouse, other) == 1
    assert _published(warehouse) == [
        (other, "acme", "reviews", 1, 1),
        (DAY, "acme", "reviews", 3, 3),
    ]
