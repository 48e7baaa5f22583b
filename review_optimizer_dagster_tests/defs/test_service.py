"""Service levels in a run and beside it: judged once, kept, shown, and told by the sensor too."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raised
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.definitions import definitions_of
from review_optimizer_dagster.defs import automation, service
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.monitors.service import ALL, INDICATORS
from review_optimizer_dagster.storage.inbox import arrivals, day_arrivals
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster.storage.service import (
    Run,
    day_figures,
    latest_arrivals,
    note_duration,
    note_publications,
    published_pairs,
)
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

HOUR = timedelta(hours=1)
NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
_HOLDS_THE_WAREHOUSE = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def _settings(home: Home, text: str) -> None:
    home.folder.mkdir(parents=True, exist_ok=True)
    home.tenants_file.write_text('[engine]\nname = "simulator"\n' + text)


def _aged(path: Path, moment: datetime) -> None:
    os.utime(path, (moment.timestamp(), moment.timestamp()))


def _look(home: Home, instance: dg.DagsterInstance) -> str | None:
    context = dg.build_sensor_context(instance=instance)
    result = automation.service_alerts(context, home_folder=HomeFolder(folder=str(home.folder)))
    assert isinstance(result, dg.SkipReason)
    return result.skip_message


def _raised(home: Home) -> list[Alert]:
    state = StateStore(home.journal)
    try:
        return raised(state)
    finally:
        state.close()


def _kept(home: Home) -> dict[str, list[tuple[Any, ...]]]:
    names = ("publications", "service_levels", "alerts")
    return {name: query(home, f"FROM {name} ORDER BY ALL").rows() for name in names}


@pytest.mark.campaign
def test_a_day_is_judged_kept_shown_and_told_once(
    home: Home,
    run_day: Callable[..., dict[str, Any]],
    shared_instance: dg.DagsterInstance,
) -> None:
    """Table, summary, published file and alerts say the same, and running again changes nothing."""
    _settings(
        home,
        "[tenants.acme.service]\nrun_seconds = 3600\nusd_per_1000 = 1000.0\n"
        "[tenants.bolt.service]\nrun_seconds = 0.001\nusd_per_1000 = 1000.0\nhit_rate = 0.5\n"
        "accuracy = false\n",
    )
    deliver(home, reviews(0, 80))
    deliver(home, reviews(100, 120), tenant="bolt")
    summary = run_day()
    assert summary["problem"] is None
    acme, bolt = summary["service"]
    assert (acme["tenant"], acme["verdict"], acme["simulated"]) == ("acme", "met", True)
    assert [each["indicator"] for each in acme["levels"]] == list(INDICATORS)
    broken = [each["indicator"] for each in bolt["levels"] if each["verdict"] == "broken"]
    assert (bolt["verdict"], broken) == ("broken", ["run_seconds", "hit_rate"])
    assert (bolt["days_judged"], bolt["days_broken"], bolt["budget_left"]) == (1, 1, 0.5)
    alerts = [each for each in _raised(home) if each.kind == "service"]
    assert sorted(each.message.split(" of ")[0] for each in alerts) == ["hit_rate", "run_seconds"]
    assert {(each.tenant, each.severity, each.simulated) for each in alerts} == {
        ("bolt", "warning", True)
    }

    # The last step found it out, and analysts have it all the same.
    with duckdb.connect(str(home.published / "analytics.duckdb"), read_only=True) as analytics:
        days = analytics.execute(
            "SELECT tenant, verdict FROM service_levels_daily WHERE indicator = 'all' ORDER BY ALL"
        ).fetchall()
        assert days == [("acme", "met"), ("bolt", "broken")]
        left = analytics.execute(
            "SELECT left_days FROM error_budgets WHERE tenant = 'bolt' AND indicator = 'hit_rate'"
        ).fetchall()
        assert left == [(0.5,)]
        told = analytics.execute("SELECT count(*) FROM alert_log WHERE kind = 'service'")
        assert told.fetchall() == [(2,)]
        bare = analytics.execute("SELECT table_name FROM duckdb_tables() WHERE comment IS NULL")
        assert bare.fetchall() == []

    before = _kept(home)
    again = run_day()
    assert _kept(home) == before
    assert again["service"] == summary["service"]
    assert again["alerts"] == []
    assert _look(home, shared_instance) == "no promise is newly broken or kept again"
    (check,) = shared_instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("service_levels"), "service_levels"), limit=1
    )
    evaluation = check.evaluation
    assert evaluation is not None
    assert not evaluation.passed
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert not evaluation.blocking
    assert "bolt hit_rate: 0 of 20" in (evaluation.description or "")


@pytest.fixture
def warehouse(home: Home) -> Iterator[Connection]:
    """The home's warehouse with a published day of acme; its file came at six."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _served(connection)
        yield connection


def _served(
    connection: Connection, tenant: str = "acme", verdict: str = "passed", day: date = DAY
) -> None:
    """Ten labelled reviews of a tenant, with the gate's verdict."""
    facts = pl.DataFrame({"tenant": [tenant], "taxonomy": ["reviews"]})
    texts = pl.DataFrame({"review_id": [f"r{number}" for number in range(10)]})
    rows = texts.with_columns(tenant=pl.lit(tenant), taxonomy=pl.lit("reviews"))
    connection.append("raw_reviews", rows, day=day, file=f"{tenant}/{day}/reviews.jsonl")
    results = rows.with_columns(simulated=pl.lit(False))
    connection.append("review_results", results, day=day, status="labelled", level="model")
    connection.append("gate_verdicts", facts, day=day, verdict=verdict, truth="none", n=0)


def _publish(connection: Connection, arrived: datetime, now: datetime, run: str) -> None:
    before = published_pairs(connection, DAY)
    note_publications(connection, DAY, {"acme": arrived}, before, now, run)
    note_duration(connection, DAY, Run(run, now - timedelta(seconds=20)), now)


def _times(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.frame(
        "SELECT arrived_at, published_at, run_id, run_seconds FROM publications ORDER BY ALL"
    ).rows()


def test_the_first_publication_of_a_delivery_stands(warehouse: Connection) -> None:
    """A re-run makes no day fresher, staler or quicker; a late file is a delivery of its own."""
    came, published = NOW - 6 * HOUR, NOW - 5 * HOUR
    _publish(warehouse, came, published, "first")
    _publish(warehouse, came, NOW, "second")
    note_duration(warehouse, DAY, Run("first", came), NOW)  # a step that was tried again
    assert _times(warehouse) == [(came, published, "first", 20.0)]
    _publish(warehouse, came - HOUR, NOW, "third")  # the newest file was taken away
    assert len(_times(warehouse)) == 1
    late = NOW + HOUR
    (figures,) = day_figures(warehouse, DAY, {"acme": late}, late + 2 * HOUR)
    assert (figures.published_after_hours, figures.waiting_hours) == ([1.0], 2.0)
    _publish(warehouse, late, late + 3 * HOUR, "fourth")
    (figures,) = day_figures(warehouse, DAY, {"acme": late}, late + 9 * HOUR)
    assert (figures.published_after_hours, figures.waiting_hours) == ([1.0, 3.0], None)
    assert (figures.run_seconds, figures.run_reviews) == (20.0, 10)
    assert latest_arrivals(warehouse, simulated=False) == {(DAY, "acme"): late}
    assert latest_arrivals(warehouse, simulated=True) == {}


def test_a_run_that_kept_reviews_back_is_no_measure(warehouse: Connection) -> None:
    """It was quick since it did not do the work; the run that does it is measured."""
    warehouse.execute("UPDATE review_results SET status = 'deferred' WHERE review_id = 'r1'")
    _publish(warehouse, NOW - HOUR, NOW, "first")
    (figures,) = day_figures(warehouse, DAY, {}, NOW)
    assert figures.run_seconds is None
    warehouse.execute("UPDATE review_results SET status = 'labelled'")
    # A run of this step alone has published nothing, and is none either.
    note_duration(warehouse, DAY, Run("step", NOW), NOW)
    assert day_figures(warehouse, DAY, {}, NOW)[0].run_seconds is None
    _publish(warehouse, NOW - HOUR, NOW + HOUR, "second")
    assert _times(warehouse) == [(NOW - HOUR, NOW, "second", 20.0)]


def test_what_an_older_version_published_is_neither_late_nor_overdue(home: Home) -> None:
    """After an upgrade months of days would else break their freshness at once."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _served(connection)
        row = pl.DataFrame({"tenant": ["acme"], "simulated": [False]})
        connection.append("published_results", row, day=DAY)
        assert latest_arrivals(connection, simulated=False) == {(DAY, "acme"): None}
        _publish(connection, NOW - 900 * HOUR, NOW, "first")
        (figures,) = day_figures(connection, DAY, {"acme": NOW - 900 * HOUR}, NOW)
        assert (figures.published_after_hours, figures.waiting_hours) == ([], None)


def test_a_tenant_that_fails_its_gate_is_not_published(warehouse: Connection) -> None:
    """Its files wait, and those that nothing came of do not."""
    _served(warehouse, "bad", "failed")
    arrived = {"acme": NOW, "bad": NOW, "empty": NOW, "_mixed": NOW}
    note_publications(warehouse, DAY, arrived, set(), NOW, "run")
    noted = warehouse.rows("SELECT tenant FROM publications ORDER BY tenant")
    assert noted == [("_mixed",), ("acme",), ("empty",)]
    waiting = {each.tenant: each.waiting_hours for each in day_figures(
        warehouse, DAY, arrived, NOW + HOUR
    )}  # fmt: skip
    assert waiting == {"acme": None, "bad": 1.0}


def test_a_later_days_budget_follows_an_earlier_day_that_is_run_again(home: Home) -> None:
    """Days are run in any order; the budget of each must count all that came before it."""
    folder = HomeFolder(folder=str(home.folder))
    with Warehouse(database=str(home.warehouse)).open() as connection:
        for day in (DAY + timedelta(days=2), DAY):
            _served(connection, day=day)
            connection.execute("UPDATE review_results SET status = 'failed'")
            service.judge_service(dg.get_dagster_logger(), folder, connection, day)
        rows = connection.rows(
            "SELECT days_judged, days_broken, budget_left FROM service_levels "
            "WHERE indicator = ? ORDER BY day",
            [ALL],
        )
    assert rows == [(1, 1, 0.5), (2, 2, -0.5)]


def test_files_that_nobody_runs_are_told_and_recover(
    home: Home, shared_instance: dg.DagsterInstance
) -> None:
    """A run that never starts cannot say so: only what looks by itself can."""
    _settings(home, "[tenants.acme.service]\nfreshness_hours = 5\n[tenants.quiet]\n")
    nothing = "no promise is newly broken or kept again"
    assert _look(home, shared_instance) == nothing  # no warehouse, no inbox
    came = datetime.now(UTC).replace(microsecond=0) - 6 * HOUR
    _aged(deliver(home, reviews(0, 3)), came)
    _aged(deliver(home, reviews(0, 3), tenant="quiet"), came)
    _aged(deliver(home, reviews(0, 3), tenant="No Tenant"), came - 900 * HOUR)
    said = _look(home, shared_instance) or ""
    assert said.startswith(f"freshness_hours of acme: {DAY} is not published")
    assert _look(home, shared_instance) == nothing
    assert [(each.tenant, each.simulated) for each in _raised(home)] == [("acme", True)]

    with Warehouse(database=str(home.warehouse)).open() as connection:
        _served(connection)
        connection.execute("UPDATE review_results SET simulated = true")
        found = day_arrivals(home.inbox, DAY)
        assert arrivals(home.inbox)[DAY, "acme"] == found["acme"] == came
        note_publications(connection, DAY, found, set(), datetime.now(UTC), "run")
    assert "waits too long for its publication any more" in (_look(home, shared_instance) or "")
    assert [each.event for each in _raised(home)] == ["service.broken", "service.recovered"]


def test_the_sensor_does_not_wait_for_a_run(
    home: Home, shared_instance: dg.DagsterInstance
) -> None:
    """The daemon has other sensors to look after; the next evaluation reads what this could not."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _served(connection)
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDS_THE_WAREHOUSE, str(home.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"open\n"
        assert "has been open in another process" in (_look(home, shared_instance) or "")
        other.stdin.close()
    with duckdb.connect(str(home.warehouse)) as older:
        older.execute("DROP TABLE service_levels")
    assert "no run of this version" in (_look(home, shared_instance) or "")


def test_the_ui_knows_how_fresh_the_publication_has_to_be(home: Home) -> None:
    """A day between two publications, and the least of the hours that tenants are promised."""
    _settings(
        home,
        "[tenants.a]\n[tenants.b.service]\nfreshness_hours = 6\n"
        "[tenants.c.service]\nfreshness_hours = false\n",
    )
    graph = definitions_of(home).resolve_asset_graph()
    policies = {
        key.to_user_string(): policy
        for key in graph.get_all_asset_keys()
        if (policy := graph.get(key).freshness_policy) is not None
    }
    assert policies == {
        "published_results": dg.FreshnessPolicy.time_window(
            fail_window=timedelta(hours=30), warn_window=timedelta(hours=27)
        )
    }
