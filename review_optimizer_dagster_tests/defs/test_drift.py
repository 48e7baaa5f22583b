"""Drift in the daily job: told, shown and in the way of nothing; by the sensor as by the run."""

from __future__ import annotations

import logging
import subprocess
import sys
from datetime import date, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raised
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import automation
from review_optimizer_dagster.defs.drift import judge_drift
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.monitors.profile import AUDITS, REVIEWS, profile
from review_optimizer_dagster.monitors.settings import DriftSettings
from review_optimizer_dagster.storage import drift as store
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY, Runner, deliver, query, reviews

SETTINGS = DriftSettings()
STORY = " It came in a box with a long story that nobody wanted to read to its end." * 5
_HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def _day(count: int, story: str = "", **columns: Any) -> pl.DataFrame:
    """A day's results with their texts, as the store gives them."""
    rows = [
        {"tenant": "acme", "taxonomy": "reviews", "simulated": True, "level": "model"}
        | {"labels": f'{{"sentiment":"{row["label"]}"}}', "title": None}
        | row
        | {"text": row["text"] + story}
        | columns
        for row in reviews(0, count)
    ]
    return pl.DataFrame([{name: row[name] for name in REVIEWS} for row in rows], REVIEWS)


def _store(connection: Connection, day: date, rows: pl.DataFrame) -> None:
    """A day as it stands when the gate comes to it."""
    with connection.transaction():
        results = rows.drop("title", "text").with_columns(content_key=pl.col("review_id"))
        connection.replace("review_results", results, day)
        connection.replace(
            "raw_reviews", rows.select("tenant", "taxonomy", "review_id", "title", "text"), day
        )


def _past(connection: Connection, days: int, until: date = DAY) -> None:
    """Profiles of quiet days before one."""
    counts = profile(_day(150), AUDITS.to_frame(), SETTINGS.min_reviews)
    for number in range(1, days + 1):
        store.replace_profiles(connection, until - timedelta(days=number), counts)


def _raised(home: Home) -> list[Alert]:
    with HomeFolder(folder=str(home.folder)).state() as state:
        return raised(state)


def _look(home: Home, **changes: Any) -> str | None:
    """One evaluation of the sensor: what it says."""
    with dg.DagsterInstance.ephemeral() as instance:
        done = automation.drift_alerts(
            dg.build_sensor_context(instance=instance),
            home_folder=HomeFolder(folder=str(home.folder)),
            warehouse=Warehouse(database=str(home.warehouse), **changes),
        )
    assert isinstance(done, dg.SkipReason)
    return done.skip_message


@pytest.mark.campaign
def test_a_day_that_drifts_is_told_and_published_all_the_same(
    home: Home, run_day: Runner, shared_instance: dg.DagsterInstance
) -> None:
    """Drift is a question, no verdict: the labels may well be right."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _past(connection, 10)
    rows = reviews(0, 150)
    deliver(home, [row | {"text": row["text"] + STORY} for row in rows])
    summary = run_day()
    assert summary["problem"] is None
    assert not summary["gate_blocked"]
    # Twenty reviews cost more for each thousand than is promised, and no machine is fast for ever.
    told = [alert["kind"] for alert in summary["alerts"] if alert["kind"] != "service"]
    assert told == ["drift"]
    assert query(home, "SELECT count(*) AS n FROM published_results").item() == 150
    alarmed = query(home, "SELECT DISTINCT signal FROM drift_tests WHERE alarm ORDER BY ALL")
    assert "length" in alarmed["signal"].to_list()
    (alert,) = [each for each in _raised(home) if each.kind == "drift"]
    assert (alert.tenant, alert.period, alert.simulated) == ("acme", DAY.isoformat(), True)
    records = shared_instance.event_log_storage.get_asset_check_execution_history(
        dg.AssetCheckKey(dg.AssetKey("review_results"), "drift"), limit=1
    )
    evaluation = records[0].event.asset_check_evaluation if records[0].event else None
    assert evaluation is not None
    assert not evaluation.passed
    assert not evaluation.blocking
    assert evaluation.severity is dg.AssetCheckSeverity.WARN
    assert set(evaluation.metadata) >= {"signals", "what_moved", "tests", "smallest_p"}
    assert _look(home) == "no news of drift"
    with Warehouse(database=str(home.folder / "published" / "analytics.duckdb")).open() as shown:
        assert shown.rows("SELECT count(*) FROM drift_signals WHERE alarm") != [(0,)]
        assert shown.rows("SELECT sum(reviews) FROM daily_mix WHERE signal = 'level' "
                          "AND category IS NULL AND day = ?", [DAY]) == [(150,)]  # fmt: skip


def test_the_first_day_passes_and_says_why(home: Home) -> None:
    """There is nothing to compare it with, which is no fault of the day's."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _store(connection, DAY, _day(150))
        found = judge_drift(connection, SETTINGS, DAY)
        assert connection.count("daily_profiles", DAY) > 0
        assert connection.count("drift_tests", DAY) == 0
    assert found.news == []
    assert found.result.passed
    assert "nothing to compare with" in str(found.result.description)


def test_a_day_without_reviews_passes(home: Home) -> None:
    """A delivery that was taken back leaves nothing behind."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _past(connection, 10)
        _store(connection, DAY, _day(150))
        judge_drift(connection, SETTINGS, DAY)
        _store(connection, DAY, _day(0))
        found = judge_drift(connection, SETTINGS, DAY)
        assert connection.count("daily_profiles", DAY) == 0
        assert connection.count("drift_tests", DAY) == 0
    assert found.result.passed


def test_running_a_day_again_changes_nothing(home: Home) -> None:
    """Neither the counts, nor the tests, nor what later days are compared with."""
    tables: list[tuple[pl.DataFrame, pl.DataFrame]] = []
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _past(connection, 10)
        for number in range(3):
            day = DAY + timedelta(days=number)
            _store(connection, day, _day(150, STORY if number else ""))
            judge_drift(connection, SETTINGS, day)
        for again in (None, 1, 0, 2):
            if again is not None:
                judge_drift(connection, SETTINGS, DAY + timedelta(days=again))
            tables.append(
                (
                    connection.frame("FROM daily_profiles ORDER BY ALL"),
                    connection.frame("FROM drift_tests ORDER BY ALL"),
                )
            )
        alarmed = connection.rows("SELECT DISTINCT day FROM drift_tests WHERE alarm ORDER BY day")
    assert alarmed == [(DAY + timedelta(days=1),), (DAY + timedelta(days=2),)]
    for profiles, tests in tables[1:]:
        assert profiles.equals(tables[0][0])
        assert tests.equals(tables[0][1])


def test_switched_off_it_reads_and_keeps_nothing(home: Home) -> None:
    """Whoever wants no profiles has none."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _store(connection, DAY, _day(150))
        found = judge_drift(connection, DriftSettings(enabled=False), DAY)
        assert connection.count("daily_profiles", DAY) == 0
    assert found.result.passed
    assert found.news == []
    home.folder.mkdir(parents=True, exist_ok=True)
    home.tenants_file.write_text("[drift]\nenabled = false\n[tenants.acme]\n")
    assert _look(home) == "switched off in [drift]"


def test_rechecks_are_a_signal(home: Home) -> None:
    """They speak of hits, which the labels of a drifting cache would not."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _store(connection, DAY, _day(150))
        audits = pl.DataFrame({"agrees": [True, False, True]}).with_columns(
            tenant=pl.lit("acme"), taxonomy=pl.lit("reviews"), identity=pl.lit("i|simulated")
        )
        connection.replace("audits", audits, DAY)
        judge_drift(connection, SETTINGS, DAY)
        rows = connection.rows(
            "SELECT bucket, reviews FROM daily_profiles WHERE signal = 'audit' ORDER BY ALL"
        )
    assert rows == [("agrees", 2), ("disagrees", 1)]


def test_the_sensor_tells_what_a_run_that_broke_off_did_not(home: Home) -> None:
    """Tests are stored before alerts are raised; a kill between the two must lose none."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        _past(connection, 10)
        _store(connection, DAY, _day(150, STORY))
        news = judge_drift(connection, SETTINGS, DAY).news
        quiet = DAY + timedelta(days=1)
        _store(connection, quiet, _day(150))
        judge_drift(connection, SETTINGS, quiet)
    assert _look(home) == f"raised: acme {DAY}, acme recovered"
    begun, over = _raised(home)
    assert isinstance(news[0], Alert)
    assert begun.alert_id == news[0].alert_id
    assert over.recovers == begun.alert_id
    assert _look(home) == "no news of drift"


def test_the_sensor_waits_for_nobody(home: Home) -> None:
    """A run that has the warehouse open, or none that made one, is a reason to skip."""
    assert "does not exist yet" in str(_look(home))
    with Warehouse(database=str(home.warehouse)).open():
        pass
    with subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(home.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        assert "open in another process" in str(_look(home))
        holder.kill()
    assert _raised(home) == []


def test_a_warehouse_of_before_there_was_drift_has_no_news(home: Home) -> None:
    """The sensor reads only, and so cannot put the tables in place."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        connection.execute("DROP TABLE drift_tests")
    assert _look(home) == "no news of drift"


@pytest.fixture(autouse=True)
def _quiet_log() -> None:
    """Alerts without a channel are told to the log."""
    logging.getLogger("dagster").setLevel(logging.ERROR)
