"""What the watch on response times reads and leaves in the warehouse."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import polars as pl
import pytest

from review_optimizer_dagster.monitors.latency import SIZED, Judged, judge
from review_optimizer_dagster.monitors.settings import LatencySettings
from review_optimizer_dagster.storage.latency import (
    earlier_requests,
    replace_latencies,
    watches_before,
)
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.monitors.made_up import DAY, GROUP, stream

SETTINGS = LatencySettings()
ONE = timedelta(days=1)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Connection]:
    """An empty warehouse with its views, open."""
    with Warehouse(database=str(tmp_path / "warehouse.duckdb")).open() as connection:
        connection.script("views.sql", out="main")
        yield connection


def _sent(connection: Connection, rows: pl.DataFrame, days: int) -> None:
    """Requests of a day, so many days from DAY, as the ledger of attempts holds them."""
    columns = rows.rename({"model": "model_requested", "fresh_tokens": "prompt_tokens"})
    kept = columns.with_columns(way=pl.lit("sync"), status=pl.lit("ok"), cached_tokens=pl.lit(0))
    connection.append("llm_requests", kept, day=DAY + timedelta(days=days))


def _judge(connection: Connection, rows: pl.DataFrame, days: int = 0) -> Judged:
    day = DAY + timedelta(days=days)
    past = earlier_requests(connection, day, SETTINGS.window_days)
    judged = judge(rows, past, watches_before(connection, day), SETTINGS, day)
    replace_latencies(connection, day, judged)
    return judged


def test_earlier_requests_are_those_of_the_window_before_the_day(warehouse: Connection) -> None:
    """A day judged by itself would find itself normal; and last year's pace says nothing."""
    for days in (-40, -28, -1, 0, 1):
        _sent(warehouse, stream(3, (5, 1.0), first=days * 1_000), days)
    batch = stream(4, (5, 1.0), first=90_000)
    _sent(warehouse, batch, -1)
    warehouse.execute("UPDATE llm_requests SET way = 'batch' WHERE request_id >= 'r0090000'")
    found = earlier_requests(warehouse, DAY, 28)
    assert found.columns == [*SIZED, "day", "degraded"]
    assert found["day"].unique().sort().to_list() == [DAY - 28 * ONE, DAY - ONE]
    assert found.height == 10
    assert not found["degraded"].any()


def test_a_day_remembers_and_running_it_again_changes_nothing(warehouse: Connection) -> None:
    """The next day begins where the last one ended, and a re-run begins where it began."""
    _sent(warehouse, stream(1, (500, 1.0), first=-100_000), -1)
    slow = stream(2, (100, 2.0))
    _sent(warehouse, slow, 0)
    tables = ("request_latencies", "latency_episodes", "latency_watches")
    judged = _judge(warehouse, slow)
    first = [warehouse.frame(f"FROM {table} ORDER BY ALL") for table in tables]
    assert _judge(warehouse, slow).episodes == judged.episodes
    again = [warehouse.frame(f"FROM {table} ORDER BY ALL") for table in tables]
    assert all(a.equals(b) for a, b in zip(first, again, strict=True))
    assert watches_before(warehouse, DAY) == {}
    assert watches_before(warehouse, DAY + ONE) == dict(judged.watches)
    assert watches_before(warehouse, DAY + 5 * ONE) == dict(judged.watches)
    later = earlier_requests(warehouse, DAY + ONE, 28)
    assert later["degraded"].sum() == judged.latencies["degraded"].sum() > 50


def test_analysts_see_the_day_its_slow_requests_and_the_episode_once(
    warehouse: Connection,
) -> None:
    """An episode has a row a day that it went on; the view tells how it stands."""
    _sent(warehouse, stream(1, (500, 1.0), first=-100_000), -1)
    slow = stream(2, (100, 2.0))
    hung = pl.when(pl.col("request_id") == "r0000050").then(1e6).otherwise("latency_ms")
    slow = slow.with_columns(latency_ms=hung)
    _sent(warehouse, slow, 0)
    _judge(warehouse, slow)
    back = stream(3, (100, 1.0), first=1_000)
    _sent(warehouse, back, 1)
    _judge(warehouse, back, 1)
    days = warehouse.frame("FROM request_latency ORDER BY day")
    assert days["judged"].to_list() == [100, 100]
    assert days["slowdown"].to_list() == [pytest.approx(2.0, rel=0.15), pytest.approx(1, rel=0.15)]
    assert days["degraded"].to_list()[0] > 90
    worst = warehouse.frame("FROM slow_requests").row(0, named=True)
    assert (worst["request_id"], worst["degraded"]) == ("r0000050", True)
    assert warehouse.count("latency_episodes", DAY) == 1
    assert warehouse.count("latency_episodes", DAY + ONE) == 1
    (episode,) = warehouse.frame("FROM degradations").rows(named=True)
    assert (episode["started"], episode["last_day"]) == (DAY, DAY + ONE)
    assert (episode["state"], episode["tenants"]) == ("recovered", ["acme"])
    assert (episode["model"], episode["tier"]) == GROUP[:2]
