"""The catalogue of columns says what DuckDB says of the same schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from review_optimizer_dagster.storage import columns
from review_optimizer_dagster.storage.warehouse import Warehouse

AWKWARD = """
-- A remark with a ' quote; and a semicolon.
CREATE TABLE IF NOT EXISTS things (
    day DATE, "end" VARCHAR, price DECIMAL(18, 3),  -- dollars; not cents
    names VARCHAR[], seen_at TIMESTAMPTZ
);
ALTER TABLE things ADD COLUMN IF NOT EXISTS vector FLOAT[];
ALTER TABLE things ADD COLUMN IF NOT EXISTS day DATE;
ALTER TABLE things ADD COLUMN IF NOT EXISTS gone BIGINT;
ALTER TABLE things DROP COLUMN IF EXISTS gone;
COMMENT ON TABLE things IS
    'A thing; -- it''s  "one" of many.';
COMMENT ON COLUMN things.day IS 'UTC day; never null.';
COMMENT ON COLUMN things."end" IS 'The provider''s  word -- or none.';
"""


def by_duckdb(warehouse: Warehouse, script: str | None) -> dict[str, object]:
    """Table to (comment, columns), as DuckDB describes what the schema made."""
    with warehouse.open() as connection:
        if script is not None:
            connection.execute(script)
        tables = connection.rows("SELECT table_name, comment FROM duckdb_tables()")
        described = connection.rows(
            "SELECT table_name, column_name, data_type, comment FROM duckdb_columns() "
            "WHERE NOT internal ORDER BY table_name, column_index"
        )
    return {
        str(table): (comment, tuple(row[1:] for row in described if row[0] == table))
        for table, comment in tables
        if table != "warehouse_schema"  # made by the opening itself
    }


def by_reader(tables: dict[str, columns.Table]) -> dict[str, object]:
    """The same of the reader."""
    return {
        name: (table.comment, tuple(map(tuple, table.columns))) for name, table in tables.items()
    }


def test_the_reader_says_what_duckdb_says_of_every_table(tmp_path: Path) -> None:
    """The UI shows columns that it has never asked a database for: they must be those."""
    told = by_duckdb(Warehouse(database=str(tmp_path / "w.duckdb")), None)
    assert by_reader(dict(columns.tables())) == told
    assert len(told) >= 40


def test_it_reads_quotes_remarks_and_dropped_columns_as_duckdb_does(tmp_path: Path) -> None:
    """A semicolon in a text ends no statement, and a quote in a remark begins no text."""
    read = by_reader(columns.read_schema(AWKWARD))
    told = by_duckdb(Warehouse(database=str(tmp_path / "w.duckdb")), AWKWARD)
    assert read == {"things": told["things"]}


@pytest.mark.parametrize("statement", ["DROP TABLE things", "CREATE TABLE IF NOT EXISTS t (day)"])
def test_what_it_does_not_understand_is_an_error(statement: str) -> None:
    """Left out without a word, a column would be missing in the UI."""
    with pytest.raises(ValueError, match=r"that this reads|no column of"):
        columns.read_schema(statement)
