"""The warehouse file: one writer at a time, closed whatever happens, all or nothing."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from types import SimpleNamespace

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage import warehouse as module
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY

_HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""
NEXT_DAY = DAY + timedelta(days=1)


@pytest.fixture(autouse=True)
def copied_warehouses() -> None:
    """Here they are made as they are in life."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the warehouse will be; a name with `lock` in it, as a home may have."""
    return tmp_path / "clock" / "warehouse.duckdb"


def _warehouse(path: Path) -> Warehouse:
    return Warehouse(database=str(path), wait_seconds=0.2)


@contextmanager
def _held(path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process has the file open until its input ends."""
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        try:
            yield holder
        finally:
            holder.communicate()


def _verdicts(*tenants: str) -> pl.DataFrame:
    return pl.DataFrame({"tenant": tenants, "verdict": ["passed"] * len(tenants)})


def _stored(connection: Connection) -> list[tuple[object, ...]]:
    return connection.rows("SELECT day, tenant, verdict FROM gate_verdicts ORDER BY ALL")


def _expected(*rows: tuple[date, str]) -> list[tuple[object, ...]]:
    return [(day, tenant, "passed") for day, tenant in rows]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_file_that_another_process_holds_is_an_error_that_says_what_to_do(
    path: Path, read_only: bool
) -> None:
    """An analyst's notebook on the wrong file must not look like a broken pipeline."""
    with _warehouse(path).open():
        pass
    with _held(path):
        with pytest.raises(UserError) as caught, _warehouse(path).open(read_only):
            pass
        message = str(caught.value)
        for part in (str(path), "another process", "0.2 s", "close it", "analytics.duckdb"):
            assert part in message
    with _warehouse(path).open(read_only) as connection:
        assert _stored(connection) == []


def test_a_file_that_is_let_go_in_time_is_waited_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that meet wait for each other: each holds the file for moments only."""
    path.parent.mkdir()
    with _held(path) as holder:
        pauses = []

        def let_go(seconds: float) -> None:
            pauses.append(seconds)
            holder.communicate()

        clock = SimpleNamespace(monotonic=time.monotonic, sleep=let_go)
        monkeypatch.setattr(module, "time", clock)
        with Warehouse(database=str(path)).open() as connection:
            assert _stored(connection) == []
        assert len(pauses) == 1


@pytest.mark.parametrize("content", [b"no database" * 1_000, None])
def test_what_is_no_database_is_said_at_once(
    path: Path, content: bytes | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Waiting for it would not help, and nobody holds it."""
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=time.monotonic))
    with pytest.raises(UserError, match="cannot be opened") as caught, _warehouse(path).open():
        pass
    assert str(path) in str(caught.value)


def test_reading_what_is_not_there_says_so_and_creates_nothing(path: Path) -> None:
    """An empty database in its place would look like a day without reviews."""
    with (
        pytest.raises(UserError, match="does not exist yet: run `review-optimizer run`"),
        _warehouse(path).open(read_only=True),
    ):
        pass
    assert not path.parent.exists()


def test_reading_cannot_write(path: Path) -> None:
    """Who only reads must not be able to spoil anything."""
    with _warehouse(path).open() as connection:
        connection.append("gate_verdicts", _verdicts("acme"), day=DAY)
    with (
        _warehouse(path).open(read_only=True) as connection,
        pytest.raises(duckdb.InvalidInputException, match="read-only"),
    ):
        connection.append("gate_verdicts", _verdicts("bolt"), day=DAY)


def test_an_exception_closes_the_connection(path: Path) -> None:
    """A connection left open by a failed step would lock out every other process."""
    with pytest.raises(ZeroDivisionError), _warehouse(path).open() as connection:
        raise ZeroDivisionError
    with pytest.raises(duckdb.ConnectionException):
        connection.rows("SELECT 1")
    with _held(path):
        pass  # another process gets it: the lock is gone too


def test_a_broken_schema_closes_the_connection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables are put in place before the connection is lent; that may fail as well."""
    lent: list[Connection] = []

    def broken(self: Connection, name: str, **_names: str) -> None:
        lent.append(self)
        raise duckdb.Error(name)

    monkeypatch.setattr(Connection, "script", broken)
    with pytest.raises(duckdb.Error, match="schema"), _warehouse(path).open():
        pass
    with pytest.raises(duckdb.ConnectionException):
        lent[0].rows("SELECT 1")


def test_the_schema_runs_once_and_again_when_it_is_another(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run opens the file twenty times; a file of an older version gets what it lacks."""
    ran, real = [], Connection.script

    def noting(self: Connection, name: str, **names: str) -> None:
        ran.append(name)
        real(self, name, **names)

    monkeypatch.setattr(Connection, "script", noting)
    for _ in range(2):
        with _warehouse(path).open() as connection:
            connection.append("gate_verdicts", _verdicts("acme"), day=DAY)
    assert ran == ["schema.sql"]
    with duckdb.connect(str(path)) as older:
        older.execute("INSERT INTO llm_requests (day, request_id) VALUES ('2026-01-01', 'one')")
        older.execute("ALTER TABLE llm_requests DROP COLUMN tier")
        older.execute("ALTER TABLE llm_requests DROP COLUMN memory_share")
        older.execute("UPDATE warehouse_schema SET digest = 'another'")
    with _warehouse(path).open() as connection:
        assert connection.rows("SELECT request_id, tier, memory_share FROM llm_requests") == [
            ("one", None, None)
        ]
        assert len(_stored(connection)) == 2
    with duckdb.connect(str(path)) as oldest:
        oldest.execute("DROP TABLE warehouse_schema")
        oldest.execute("DROP TABLE audits")
    with _warehouse(path).open() as connection:
        assert connection.count("audits", DAY) == 0
    assert ran == ["schema.sql"] * 3


def test_replace_keeps_other_days(path: Path) -> None:
    """A partition that is run again must touch its own day alone."""
    with _warehouse(path).open() as connection:
        connection.append("gate_verdicts", _verdicts("acme", "bolt"), day=DAY)
        connection.append("gate_verdicts", _verdicts("acme"), day=NEXT_DAY)
        assert connection.replace("gate_verdicts", _verdicts("cobra"), DAY) == 1
        assert _stored(connection) == _expected((DAY, "cobra"), (NEXT_DAY, "acme"))
        assert connection.replace("gate_verdicts", _verdicts(), DAY) == 0
        assert _stored(connection) == _expected((NEXT_DAY, "acme"))


def test_replace_of_some_tenants_keeps_the_others(path: Path) -> None:
    """One tenant's new rows must not cost another its own."""
    with _warehouse(path).open() as connection:
        connection.append("gate_verdicts", _verdicts("acme", "bolt", "cobra"), day=DAY)
        connection.replace("gate_verdicts", _verdicts("bolt", "bolt"), DAY, ["bolt", "cobra"])
        assert _stored(connection) == _expected((DAY, "acme"), (DAY, "bolt"), (DAY, "bolt"))
        connection.replace("gate_verdicts", _verdicts(), DAY, [])
        assert len(_stored(connection)) == 3


def test_append_goes_by_name_and_adds(path: Path) -> None:
    """Columns in another order must not end up in each other's place."""
    with _warehouse(path).open() as connection:
        connection.append("gate_verdicts", _verdicts("acme"), day=DAY)
        connection.append("gate_verdicts", _verdicts("bolt").select("verdict", "tenant"), day=DAY)
        assert connection.append("gate_verdicts", pl.DataFrame(), day=DAY) == 0
        assert _stored(connection) == _expected((DAY, "acme"), (DAY, "bolt"))
        assert connection.count("gate_verdicts", DAY) == 2
        assert connection.count("gate_verdicts", NEXT_DAY) == 0


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_a_rollback_leaves_everything_as_it_was(path: Path, failure: type[BaseException]) -> None:
    """Deleting the old rows and adding the new ones is one step, also when it is interrupted."""

    def interrupted(connection: Connection) -> None:
        with connection.transaction():
            connection.replace("gate_verdicts", _verdicts("bolt"), DAY)
            raise failure

    with _warehouse(path).open() as connection:
        connection.append("gate_verdicts", _verdicts("acme"), day=DAY)
        with pytest.raises(failure):
            interrupted(connection)
        assert _stored(connection) == _expected((DAY, "acme"))
    with _warehouse(path).open() as connection:
        assert _stored(connection) == _expected((DAY, "acme"))


def test_frames_come_back_as_they_went_in(path: Path) -> None:
    """Time is UTC and money is whole: a shifted hour or a float would be believed."""
    sent = pl.DataFrame(
        {"tenant": ["acme"], "sent_at": ["2026-03-04T23:59:59.123456Z"], "cost_nanos": [2**53 + 1]}
    ).with_columns(pl.col("sent_at").str.to_datetime(time_unit="us", time_zone="UTC"))
    with _warehouse(path).open() as connection:
        connection.append("llm_requests", sent, day=DAY)
    with _warehouse(path).open(read_only=True) as connection:
        back = connection.frame("SELECT tenant, sent_at, cost_nanos FROM llm_requests")
    assert back.equals(sent)
    assert back.schema == sent.schema


def test_a_view_is_there_for_its_block_alone(path: Path) -> None:
    """A frame that stayed behind would be read by the next step under the same name."""
    with _warehouse(path).open() as connection:
        with connection.view("lent", _verdicts("acme")):
            assert connection.rows("SELECT tenant FROM lent") == [("acme",)]
        with pytest.raises(duckdb.CatalogException):
            connection.rows("SELECT tenant FROM lent")
