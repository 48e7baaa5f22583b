"""Response times as the daily job and the sensor watch them: from the journal to one alert."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raised
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import automation, response_times
from review_optimizer_dagster.defs.resources import HomeFolder
from review_optimizer_dagster.monitors.latency import judge, nothing_judged
from review_optimizer_dagster.monitors.settings import LatencySettings
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews
from review_optimizer_dagster_tests.core.test_classifier import outcome, record
from review_optimizer_dagster_tests.monitors import made_up
from review_optimizer_dagster_tests.scripted_endpoint import MODEL, completion

Run = Callable[..., dict[str, Any]]
KEY = dg.AssetCheckKey(dg.AssetKey("batch_classifications"), "response_time")
TODAY = datetime.now(UTC).replace(microsecond=0)
# Thirty of every request of the day, on the day before it, a hundred times as fast.
BASELINE = """
INSERT INTO llm_requests BY NAME
SELECT * EXCLUDE (copy) REPLACE (day - 1 AS day, request_id || '-' || copy AS request_id,
    sent_at - INTERVAL 1 DAY - to_minutes(copy) AS sent_at, latency_ms / 100 AS latency_ms)
FROM llm_requests, range(30) AS copies(copy)
"""
REPLY = completion(
    "{}", usage={"prompt_tokens": 950, "completion_tokens": 65, "total_tokens": 1_015}
)


@pytest.fixture(autouse=True)
def _now(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the tests before took, requests under way are not given up."""
    monkeypatch.setattr(response_times, "utc_now", lambda: TODAY)


def _change(home: Home, sql: str) -> None:
    with Warehouse(database=str(home.warehouse)).open() as connection:
        connection.execute(sql)


def _check(instance: dg.DagsterInstance) -> Any:
    """The latest evaluation of the check."""
    (latest,) = instance.event_log_storage.get_asset_check_execution_history(KEY, limit=1)
    assert latest.event is not None
    assert latest.event.dagster_event is not None
    return latest.event.dagster_event.asset_check_evaluation_data


def _look(home: Home, cursor: str | None = None) -> tuple[str | None, str | None]:
    """One evaluation of the sensor: what it says, and the cursor it leaves."""
    result = automation.latency_alerts(
        dg.build_sensor_context(cursor=cursor),
        home_folder=HomeFolder(folder=str(home.folder)),
        warehouse=Warehouse(database=str(home.warehouse)),
    )
    if isinstance(result, dg.SkipReason):
        return result.skip_message, cursor
    assert isinstance(result, dg.SensorResult)
    assert result.skip_reason is not None
    return result.skip_reason.skip_message, result.cursor


def _alerts(home: Home) -> list[Alert]:
    state = StateStore(home.journal)
    try:
        return [alert for alert in raised(state) if alert.kind == "latency"]
    finally:
        state.close()


@pytest.mark.campaign
def test_a_slow_day_is_told_by_the_sensor_and_not_again_by_the_run(
    home: Home, run_day: Run, shared_instance: dg.DagsterInstance
) -> None:
    """Whoever looks first tells it; the day is published all the same, and the check warns."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(
        '[engine]\nname = "simulator"\n[batches]\nmax_reviews = 10\n[tenants.acme]\n'
    )
    deliver(home, reviews(0, 100))
    assert run_day()["labelled"] == 100
    first = _check(shared_instance)
    assert first.passed
    assert "no baseline yet" in first.description
    assert query(home, "SELECT count(*), count(expected_ms) FROM request_latencies").row(0) == (
        query(home, "SELECT count(*) FROM llm_requests").item(),
        0,
    )
    _change(home, BASELINE)
    said, cursor = _look(home)
    assert said is not None
    assert said.startswith("raised: acme ")
    assert _look(home, cursor) == ("no request was sent lately", cursor)
    (alert,) = _alerts(home)
    assert (alert.event, alert.period, alert.simulated) == (
        "latency.degraded",
        DAY.isoformat(),
        True,
    )
    again = run_day()
    assert (again["problem"], again["labelled"], again["gate_blocked"]) == (None, 100, False)
    second = _check(shared_instance)
    assert not second.passed
    assert second.severity is dg.AssetCheckSeverity.WARN
    assert "were sent while a model was slow" in second.description
    assert _alerts(home) == [alert]
    told = query(home, "SELECT alert_id FROM alerts WHERE kind = 'latency'")
    assert told["alert_id"].to_list() == [alert.alert_id]
    (episode,) = query(home, "FROM latency_episodes").rows(named=True)
    assert (episode["day"], episode["tenants"], episode["end"]) == (DAY, ["acme"], None)
    slow = query(home, "SELECT count(*) FROM request_latencies WHERE slow AND degraded").item()
    assert slow >= 9


def _journal(home: Home, latencies: Sequence[float | None], day: date = DAY) -> None:
    """A run's requests of ten reviews so far, one a second; None: it has no outcome yet."""
    journal = DayJournal(home.journal, day)
    for number, latency in enumerate(latencies):
        name, sent_at = f"r{number:04}", TODAY + timedelta(seconds=number - 300)
        made = record(name, ["k"], None, tier="standard", way="sync", sent_at=sent_at.isoformat())
        journal.intend({key: value for key, value in made.items() if key != "outcome"})
        if latency is not None:
            journal.settle(name, outcome(REPLY) | {"latency_ms": latency})
    journal.close()


def _known(home: Home) -> None:
    """A warehouse with a baseline of about 800 ms for such requests."""
    past = made_up.earlier(1).with_columns(model=pl.lit(MODEL))
    columns = past.rename({"model": "model_requested", "fresh_tokens": "prompt_tokens"})
    kept = columns.drop("day", "degraded").with_columns(
        way=pl.lit("sync"), status=pl.lit("ok"), cached_tokens=pl.lit(0)
    )
    with Warehouse(database=str(home.warehouse)).open() as connection:
        connection.append("llm_requests", kept, day=DAY - timedelta(days=1))


def test_the_sensor_tells_of_a_run_that_goes_on_and_of_its_recovery(home: Home) -> None:
    """The end of a run may be an hour away, and somebody waits for its answers."""
    _known(home)
    assert _look(home)[0] == "no request was sent lately"
    slow = [800.0] * 20 + [2_400.0] * 20
    _journal(home, [*slow, None, 800.0])
    said, cursor = _look(home)
    assert said is not None
    assert said.startswith("raised: acme ")
    assert _look(home)[0] == "response times are as their sizes predict, or known"
    journal = DayJournal(home.journal, DAY)
    journal.settle("r0040", outcome(REPLY) | {"latency_ms": 800.0})
    for number in range(42, 80):
        at = (TODAY + timedelta(seconds=number - 300)).isoformat()
        made = record(f"r{number:04}", ["k"], None, tier="standard", way="sync", sent_at=at)
        journal.intend({key: value for key, value in made.items() if key != "outcome"})
        journal.settle(f"r{number:04}", outcome(REPLY) | {"latency_ms": 800.0})
    journal.close()
    assert _look(home, cursor)[0] == "raised: acme recovered"
    told = sorted(alert.event for alert in _alerts(home))
    assert told == ["latency.degraded", "latency.recovered"]


def test_what_is_still_under_way_is_waited_for(home: Home) -> None:
    """Later requests would be judged without the slow one among them, unlike in the end."""
    _known(home)
    slow = [2_400.0] * 30
    _journal(home, [800.0, None, *slow])
    assert _look(home)[0] == "response times are as their sizes predict, or known"
    assert _alerts(home) == []


def test_an_old_journal_is_left_alone(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every day of a year would be read each minute."""
    _known(home)
    _journal(home, [2_400.0] * 30)
    later = datetime.now(UTC) + timedelta(hours=2)
    monkeypatch.setattr(response_times, "utc_now", lambda: later)
    assert _look(home)[0] == "no request was sent lately"


def test_a_warehouse_that_cannot_be_read_now_is_no_error(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has it open, or there is none yet, or it is older: the sensor looks again."""
    _journal(home, [800.0])
    said, cursor = _look(home)
    assert said is not None
    assert "does not exist yet" in said
    assert cursor is None
    _known(home)
    monkeypatch.setattr(response_times, "_WAIT_SECONDS", 0.01)
    hold = "import sys, duckdb; c = duckdb.connect(sys.argv[1]); print(flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(home.warehouse)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        other.stdout.readline()
        said, _ = _look(home)
        other.stdin.write("\n")
    assert said is not None
    assert "open in another process" in said
    _change(home, "DROP TABLE latency_watches")
    said, _ = _look(home)
    assert said is not None
    assert "the next run brings it up to date" in said


def test_response_times_can_be_left_alone(home: Home) -> None:
    """Whoever has a monitor of their own wants no second one."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text("[latency]\nenabled = false\n")
    _known(home)
    _journal(home, [2_400.0] * 30)
    assert _look(home)[0] == "response times are not judged: latency.enabled is false"
    off = response_times.response_time_result(nothing_judged(), LatencySettings(enabled=False), DAY)
    assert off.passed
    assert off.description is not None
    assert "not judged" in off.description


def test_the_check_lists_slow_requests_and_passes_for_them_alone() -> None:
    """One slow request is worth a look, not a warning; a day without requests is worth neither."""
    settings = LatencySettings()
    rows = made_up.stream(2, (100, 1.0))
    hung = pl.when(pl.col("request_id") == "r0000050").then(1e6).otherwise("latency_ms")
    judged = judge(
        rows.with_columns(latency_ms=hung), made_up.earlier(1), {}, settings, made_up.DAY
    )
    result = response_times.response_time_result(judged, settings, DAY)
    assert result.passed
    assert result.description == "1 of 100 judged requests were slow for their size"
    assert "r0000050" in json.dumps(str(result.metadata["slow_requests"]))
    empty = response_times.response_time_result(nothing_judged(), settings, DAY)
    assert empty.passed
    assert empty.description == "no request of the day has a response time to judge"
