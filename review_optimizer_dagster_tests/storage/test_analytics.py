"""The analysts' database explains itself, keeps its names, and opens in any client."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.storage.publish import (
    published_tables,
    refresh_analytics,
    write_analytics,
)
from review_optimizer_dagster.storage.star import replace_taxonomies
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY

NAMES = Path(__file__).with_name("analytics_names.txt")
PLAIN = {"BOOLEAN", "BIGINT", "DOUBLE", "VARCHAR", "DATE", "TIMESTAMP"}
STAR = "(starts_with(name, 'dim_') OR starts_with(name, 'fact_'))"
NO_EXTENSIONS: dict[str, Any] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}
COLUMNS = (
    "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
    "WHERE NOT internal ORDER BY table_name, column_index"
)


@pytest.fixture(scope="module")
def analytics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An analytics database of a small home, whose figures are known."""
    folder = tmp_path_factory.mktemp("home")
    path = folder / "published" / "analytics.duckdb"
    with Warehouse(database=str(folder / "warehouse.duckdb")).open() as connection:
        _fill(connection, Home(folder))
        write_analytics(connection, path, 90)
    return path


def _fill(connection: Connection, home: Home) -> None:
    """Two tenants and two days: hits, a miss, a failed review, a wrong one, money by hand."""
    before = DAY - timedelta(days=2)
    reviews = pl.DataFrame(
        [
            ("acme", before, "a1", "model", None, "labelled", 2_000, "Lamps"),
            ("acme", DAY, "a2", "l3_exact", "model", "labelled", 0, "Lamps"),
            ("acme", DAY, "a3", "model", None, "labelled", 4_000, None),
            ("acme", DAY, "a4", "none", None, "failed", 0, "Lamps"),
            ("bolt", DAY, "b1", "l3_pattern", None, "labelled", 0, "Books"),
        ],
        schema=["tenant", "day", "review_id", "level", "model", "status", "cost_nanos", "category"],
        orient="row",
    ).with_columns(
        taxonomy=pl.lit("reviews"),
        repeat=pl.lit(False),
        verified=pl.lit(True),
        simulated=pl.lit(True),
        synthetic=pl.lit(True),
        labels=pl.when(status="labelled").then(pl.lit('{"sentiment": "positive"}')),
    )
    connection.append("published_results", reviews)
    facts = ["day", "tenant", "taxonomy", "review_id", "category", "level", "cost_nanos"]
    entries = reviews.filter(status="labelled").select(*facts, kind=pl.lit("classification"))
    connection.append("ledger_entries", entries, simulated=True)
    connection.execute(
        "INSERT INTO ledger_entries (day, tenant, kind, cost_nanos, simulated) "
        "VALUES (?, 'acme', 'refund', -1000, true)",
        [DAY],
    )
    connection.execute(
        "INSERT INTO scored_reviews (day, tenant, taxonomy, review_id, truth, correct, known) "
        "VALUES ($day, 'acme', 'reviews', 'a2', 'labels', false, '{\"sentiment\": \"mixed\"}'), "
        "($day, 'acme', 'reviews', 'a3', 'labels', true, '{\"sentiment\": \"positive\"}')",
        {"day": DAY},
    )
    for day, tenant, reviewed, hits, misses, labelled, cost in (
        (before, "acme", 1, 0, 1, 1, 2_000),
        (DAY, "acme", 3, 1, 2, 2, 3_000),
        (DAY, "bolt", 1, 1, 0, 1, 0),
    ):
        connection.execute(
            "INSERT INTO cost_rollups (day, tenant, taxonomy, simulated, reviews, hits, misses, "
            "deferred, cost_nanos, baseline_nanos) "
            "VALUES (?, ?, 'reviews', true, ?, ?, ?, 0, ?, ?)",
            [day, tenant, reviewed, hits, misses, cost, labelled * 1_500_000],
        )
    replace_taxonomies(connection, [home.taxonomy("acme")])


def _rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(path), read_only=True, config=NO_EXTENSIONS) as connection:
        return connection.execute(sql).fetchall()


def _one(path: Path, sql: str) -> tuple[Any, ...]:
    (row,) = _rows(path, sql)
    return row


def test_every_column_of_every_table_and_view_is_commented(analytics: Path) -> None:
    """The database explains itself to an analyst who has nothing else."""
    columns = _rows(analytics, COLUMNS)
    assert len(columns) > 800
    assert [(table, name) for table, name, _, comment in columns if not comment] == []
    objects = _rows(
        analytics,
        "SELECT table_name, comment FROM duckdb_tables() UNION ALL "
        "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal",
    )
    assert [name for name, comment in objects if not comment] == []
    assert {name for name, _ in objects} == {table for table, *_ in columns}


def test_every_column_of_the_warehouse_is_commented(tmp_path: Path) -> None:
    """Those who mend the pipeline read it there."""
    with Warehouse(database=str(tmp_path / "warehouse.duckdb")).open() as connection:
        bare = connection.rows(
            "SELECT table_name, column_name FROM duckdb_columns() "
            "WHERE NOT internal AND comment IS NULL AND table_name <> 'warehouse_schema'"
        )
    assert bare == []


def test_comments_stand_when_the_small_tables_are_renewed(home: Home) -> None:
    """The last steps of a run renew tables in the file: with rows, and not without comments."""
    path = home.published / "analytics.duckdb"
    with Warehouse(database=str(home.warehouse)).open() as connection:
        write_analytics(connection, path, 90)
        connection.execute("INSERT INTO alerts (alert_id) VALUES ('new')")
        refresh_analytics(connection, path)
    assert _rows(path, "SELECT alert_id FROM alerts") == [("new",)]
    assert [row for row in _rows(path, COLUMNS) if not row[-1]] == []


def test_a_file_of_an_older_version_is_renewed_all_the_same(home: Home) -> None:
    """A run after an upgrade may renew the small tables before it writes the rest."""
    path = home.published / "analytics.duckdb"
    with Warehouse(database=str(home.warehouse)).open() as connection:
        write_analytics(connection, path, 90)
        with duckdb.connect(str(path)) as old:
            old.execute("ALTER TABLE alerts DROP COLUMN recovers; DROP TABLE human_labels")
        connection.execute("INSERT INTO alerts (alert_id) VALUES ('new')")
        refresh_analytics(connection, path)
    assert _rows(path, "SELECT alert_id, recovers FROM alerts") == [("new", None)]
    assert _rows(path, "FROM human_labels") == []


def test_views_of_another_version_make_way(home: Home) -> None:
    """A view that is no longer made must not be copied from the warehouse for ever."""
    path = home.published / "analytics.duckdb"
    with Warehouse(database=str(home.warehouse)).open() as connection:
        write_analytics(connection, path, 90)
        connection.execute("CREATE VIEW old AS SELECT 1 AS one")
        connection.execute("CREATE OR REPLACE VIEW dim_level AS SELECT 'l9' AS level")
        connection.execute("UPDATE warehouse_views SET digest = 'of another version'")
        write_analytics(connection, path, 90)
    names = {name for (name,) in _rows(path, "SELECT name FROM catalog")}
    assert "old" not in names
    assert _rows(path, "SELECT view_name FROM duckdb_views() WHERE view_name = 'old'") == []
    assert ("l1",) in _rows(path, "SELECT level FROM dim_level")


def test_published_names_are_stable(analytics: Path) -> None:
    """What an analyst has written must run tomorrow: names and types only ever come to it."""
    found = {f"{table}.{column} {kind}" for table, column, kind, _ in _rows(analytics, COLUMNS)}
    kept = set(NAMES.read_text(encoding="utf-8").splitlines())
    gone, new = sorted(kept - found), sorted(found - kept)
    assert not gone, (
        "these went away from published/analytics.duckdb or have another type, and every query, "
        "notebook and dashboard that uses them breaks; give them back, or raise SCHEMA_VERSION in "
        f"storage/star.py and tell analysts: {gone}"
    )
    assert not new, f"new names are promises too: add these lines to {NAMES.name}: {new}"
    assert _one(analytics, "SELECT schema_version FROM about") == (1,)


def test_dimensions_and_facts_have_plain_types_alone(analytics: Path) -> None:
    """BI tools know no lists, maps or 128-bit integers, and each its own time zone."""
    odd = [
        f"{table}.{column} {kind}"
        for table, column, kind, _ in _rows(analytics, COLUMNS)
        if table.startswith(("dim_", "fact_")) and kind not in PLAIN
    ]
    assert odd == []


def test_every_view_opens_without_an_extension(analytics: Path) -> None:
    """Analysts' machines may fetch none; every view must be there without."""
    with duckdb.connect(str(analytics), read_only=True, config=NO_EXTENSIONS) as connection:
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal")
        names = [name for (name,) in views.fetchall()]
        for name in names:
            assert connection.execute(f"SELECT count(*) FROM {name}").fetchone()  # noqa: S608
    assert len(names) > 40


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "America/St_Johns"])
def test_moments_of_the_star_are_utc_whatever_the_clients_zone(
    home: Home, tmp_path: Path, zone: str
) -> None:
    """Two analysts on two continents must count the same requests in the same hour."""
    path = tmp_path / "analytics.duckdb"
    with Warehouse(database=str(home.warehouse)).open() as connection:
        connection.execute(
            "INSERT INTO llm_requests (day, tenant, request_id, sent_at, cost_nanos) VALUES "
            "('2026-03-04', 'acme', 'r', '2026-03-04 23:45:00+00', 1)"
        )
        write_analytics(connection, path, 90)
    with duckdb.connect(str(path), read_only=True) as analyst:
        analyst.execute(f"SET TimeZone = '{zone}'")
        told = analyst.execute(
            "SELECT sent_at::VARCHAR, sent_hour::VARCHAR, epoch(hour) "
            "FROM fact_requests, spend_by_hour"
        ).fetchone()
    assert told == ("2026-03-04 23:45:00", "2026-03-04 23:00:00", 1_772_665_200.0)


def test_older_clients_can_read_the_file(analytics: Path) -> None:
    """A BI tool carries the DuckDB of the year before: the file is of a format that it knows."""
    told = _rows(analytics, "SELECT tags['storage_version'] FROM duckdb_databases() LIMIT 1")
    assert told == [("v1.2.0+",)]


@pytest.mark.parametrize("opened", ["renamed", "attached"])
def test_views_work_whatever_the_file_is_called(
    analytics: Path, tmp_path: Path, opened: str
) -> None:
    """A copy named after the month, or a file attached beside another one, is read as well."""
    copy = tmp_path / "march.duckdb"
    copy.write_bytes(analytics.read_bytes())
    name = str(copy) if opened == "renamed" else ":memory:"
    with duckdb.connect(name, read_only=opened == "renamed") as connection:
        if opened == "attached":
            connection.execute("CREATE TABLE cost_rollups (other INTEGER)")
            connection.execute(f"ATTACH '{copy}' AS march (READ_ONLY)")
        found = connection.execute("SELECT sum(reviews) FROM march.fact_daily").fetchone()
        assert found == (5,)
        listed = connection.execute("SELECT count(*) > 60 FROM march.catalog").fetchone()
        assert listed == (True,)


def test_the_catalogue_lists_all_there_is(analytics: Path) -> None:
    """An analyst finds the right view without asking."""
    listed = {name: (topic, one_row) for name, topic, one_row in _rows(
        analytics, "SELECT name, topic, one_row FROM catalog"
    )}  # fmt: skip
    views = _rows(analytics, "SELECT view_name FROM duckdb_views() WHERE NOT internal")
    assert set(listed) == {*published_tables(), *(name for (name,) in views)}
    undescribed = [name for name, told in listed.items() if None in told]
    assert undescribed == [], "give each a line in storage/catalog.sql"
    first = _one(analytics, "SELECT kind, joins FROM catalog WHERE name = 'fact_requests'")
    assert first == ("fact", "dim_day (day), dim_tenant (tenant), dim_model (model)")
    told = _rows(analytics, "SELECT name, column_name, comment FROM catalog_columns ORDER BY ALL")
    assert told == sorted((table, name, comment) for table, name, _, comment in _rows(
        analytics, COLUMNS
    ))  # fmt: skip


def _joins(path: Path) -> Iterator[tuple[str, str, list[str]]]:
    found = _rows(path, "SELECT name, joins FROM catalog WHERE kind = 'fact'")
    for fact, joins in found:
        for dimension, keys in re.findall(r"(dim_\w+) \(([^)]*)\)", joins):
            yield fact, dimension, keys.split(", ")


def test_every_fact_finds_its_row_in_every_dimension(analytics: Path) -> None:
    """A join as the catalogue says it loses no row and doubles none."""
    joins = list(_joins(analytics))
    assert len(joins) >= 20
    for fact, dimension, keys in joins:
        names = ", ".join(keys)
        told = _one(
            analytics,
            f"SELECT (SELECT count(*) FROM {fact}), count(*) "  # noqa: S608 (our own names)
            f"FROM {fact} JOIN {dimension} USING ({names})",
        )
        assert told[0] == told[1], (fact, dimension)
        if fact != "fact_requests":  # there is none
            assert told[0] > 0, fact


def test_measures_of_the_facts_add_up(analytics: Path) -> None:
    """The same question has the same answer, whichever fact it is asked of."""
    assert _one(
        analytics,
        "SELECT sum(reviews), sum(labelled), sum(failed), sum(hits), sum(judged), sum(wrong), "
        "round(sum(cost_usd) * 1e9) FROM fact_reviews",
    ) == (5, 4, 1, 2, 2, 1, 6_000)
    assert _one(
        analytics,
        "SELECT sum(reviews), sum(labelled), sum(failed), sum(hits), round(sum(cost_usd) * 1e9) "
        "FROM fact_daily",
    ) == (5, 4, 1, 2, 5_000)
    assert _one(analytics, "SELECT round(sum(cost_usd) * 1e9) FROM fact_ledger") == (5_000,)
    assert _rows(
        analytics, "SELECT level, round(sum(cost_usd) * 1e9) FROM fact_ledger GROUP BY 1 ORDER BY 1"
    ) == [("booked", -1_000), ("l3_exact", 0), ("l3_pattern", 0), ("model", 6_000)]
    assert _rows(
        analytics,
        "SELECT review_id, label, known_label FROM fact_labels WHERE tenant = 'acme' ORDER BY 1",
    ) == [("a1", "positive", None), ("a2", "positive", "mixed"), ("a3", "positive", "positive")]


def test_a_day_without_a_delivery_is_a_day(analytics: Path) -> None:
    """A chart by day shows the gap."""
    assert _rows(analytics, "SELECT day, has_deliveries, tenants FROM dim_day ORDER BY 1") == [
        (DAY - timedelta(days=2), True, 1),
        (DAY - timedelta(days=1), False, 0),
        (DAY, True, 2),
    ]
    calendar = "week_start, iso_week, month, quarter, weekday, is_weekend, in_window"
    assert _one(analytics, f"SELECT {calendar} FROM dim_day WHERE day = '{DAY}'") == (  # noqa: S608
        date(2026, 3, 2),
        "2026-W10",
        date(2026, 3, 1),
        "2026-Q1",
        "Wednesday",
        False,
        True,
    )


def test_labels_are_listed_with_those_nobody_was_given(analytics: Path) -> None:
    """A bar of height 0 is an answer too."""
    told = _rows(
        analytics,
        "SELECT label, reviews, in_use FROM dim_label WHERE is_main_field ORDER BY label_order",
    )
    assert told == [
        ("positive", 4, True),
        ("neutral", 0, True),
        ("negative", 0, True),
        ("mixed", 0, True),
    ]


def test_the_window_is_told(home: Home) -> None:
    """Which days the facts hold stands in the file, and in every day of the calendar."""
    path = home.published / "analytics.duckdb"
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _fill(connection, home)
        write_analytics(connection, path, 1)
    about = _one(path, "SELECT window_days, first_day, last_day FROM about")
    assert about == (1, DAY, DAY)
    assert _rows(path, "SELECT in_window FROM dim_day ORDER BY day") == [
        (False,),
        (False,),
        (True,),
    ]
    assert _one(path, "SELECT count(DISTINCT day) FROM fact_daily") == (2,)
    assert _one(path, "SELECT count(DISTINCT day) FROM fact_reviews") == (1,)
