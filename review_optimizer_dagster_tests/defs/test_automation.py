"""What starts runs by itself and what watches budgets: what each evaluation asks for, and once."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import dagster as dg
import pytest

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raised
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.definitions import definitions_of
from review_optimizer_dagster.defs import alerting, automation
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, budget, utc_now
from review_optimizer_dagster.money.budgets import note_deferral
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster_tests.alerts.receiver import Receiver, serving
from review_optimizer_dagster_tests.conftest import DAY, deliver, reviews

HOUR_AGO = timedelta(hours=1)
DOLLAR = 1_000_000_000


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that lives as long as the test."""
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


def _arrives(
    home: Home,
    day: date,
    rows: int = 3,
    tenant: str = "acme",
    changed_at: datetime | None = None,
) -> Path:
    """A delivery whose file changed an hour ago, or at a given time."""
    path = deliver(home, reviews(0, rows), day, tenant)
    moment = (changed_at or datetime.now(UTC) - HOUR_AGO).timestamp()
    os.utime(path, (moment, moment))
    return path


def _look(
    home: Home, instance: dg.DagsterInstance, cursor: str | None = None
) -> tuple[list[dg.RunRequest], str | None]:
    """One evaluation of the inbox sensor: the runs it asks for, and the cursor it leaves."""
    context = dg.build_sensor_context(instance=instance, cursor=cursor)
    result = automation.inbox_arrivals(context, home_folder=HomeFolder(folder=str(home.folder)))
    if isinstance(result, dg.SkipReason):
        return [], cursor
    assert isinstance(result, dg.SensorResult)
    return list(result.run_requests or []), result.cursor


def _days(requests: list[dg.RunRequest]) -> list[str | None]:
    return [request.partition_key for request in requests]


def _was_run(instance: dg.DagsterInstance, day: date) -> None:
    """The inbox of a day was read by a run from the command line, just now."""
    instance.report_runless_asset_event(
        dg.AssetMaterialization("raw_reviews", partition=day.isoformat())
    )


def test_the_schedule_asks_for_the_day_before_in_utc() -> None:
    """A day is complete when it is over; another time zone would run it too early or skip one."""
    tick = datetime(2026, 3, 5, 1, 15, tzinfo=UTC)
    context = dg.build_schedule_context(scheduled_execution_time=tick)
    request = automation.yesterday(context)
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == "2026-03-04"
    assert request.partition_key in DAILY.get_partition_keys()
    assert automation.yesterday.execution_timezone == "UTC"
    assert automation.yesterday.job_name == "daily_reviews"


def test_the_schedule_reckons_in_utc_wherever_the_tick_comes_from() -> None:
    """The same moment written in another zone is the same day of delivery."""
    tick = datetime(2026, 3, 4, 20, 15, tzinfo=UTC).astimezone(
        datetime.strptime("+0900", "%z").tzinfo
    )
    request = automation.yesterday(dg.build_schedule_context(scheduled_execution_time=tick))
    assert isinstance(request, dg.RunRequest)
    assert request.partition_key == request.run_key == "2026-03-03"


def test_a_new_file_asks_for_its_day_once(home: Home, instance: dg.DagsterInstance) -> None:
    """Every evaluation sees the file again; only the first one may ask for the run."""
    _arrives(home, DAY)
    first, cursor = _look(home, instance)
    assert _days(first) == [DAY.isoformat()]
    again, after = _look(home, instance, cursor)
    assert again == []
    assert after == cursor


def test_the_sensor_remembers_nothing_but_its_cursor(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """The daemon may start anew between two evaluations: the run key makes the second one void."""
    _arrives(home, DAY)
    (one,), _ = _look(home, instance)
    (two,), _ = _look(home, instance)
    assert one.run_key == two.run_key


def test_a_changed_or_further_file_asks_again_under_a_new_key(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """Dagster drops a run key that it has seen, so late rows would never be read under the same."""
    _arrives(home, DAY, rows=3)
    first, cursor = _look(home, instance)
    _arrives(home, DAY, rows=4)
    changed, cursor = _look(home, instance, cursor)
    _arrives(home, DAY, tenant="bolt")
    further, cursor = _look(home, instance, cursor)
    assert _days([*first, *changed, *further]) == [DAY.isoformat()] * 3
    assert len({request.run_key for request in (*first, *changed, *further)}) == 3
    assert _look(home, instance, cursor)[0] == []


def test_a_file_that_changed_just_now_waits(home: Home, instance: dg.DagsterInstance) -> None:
    """Half a file must not be read; the whole day waits for its youngest file."""
    _arrives(home, DAY)
    path = _arrives(home, DAY, tenant="bolt", changed_at=datetime.now(UTC))
    waiting, cursor = _look(home, instance)
    assert waiting == []
    moment = (datetime.now(UTC) - HOUR_AGO).timestamp()
    os.utime(path, (moment, moment))
    assert _days(_look(home, instance, cursor)[0]) == [DAY.isoformat()]


def test_what_is_no_partition_is_left_alone(home: Home, instance: dg.DagsterInstance) -> None:
    """A run for it would fail at once, and at every change again."""
    today = datetime.now(UTC).date()
    _arrives(home, today + timedelta(days=3))
    _arrives(home, date(2025, 12, 31))
    for name in ("notes", "20260304", "2026-W10-3", "2026-02-30", "2026-03-04-late"):
        folder = home.inbox / "acme" / name
        folder.mkdir(parents=True)
        (folder / "reviews.jsonl").write_text("{}\n")
        os.utime(folder / "reviews.jsonl", (1_770_000_000, 1_770_000_000))
    assert _look(home, instance)[0] == []


def test_today_is_asked_for(home: Home, instance: dg.DagsterInstance) -> None:
    """A delivery is wanted when it arrives, not when its day is over."""
    today = datetime.now(UTC).date()
    _arrives(home, today, changed_at=datetime.now(UTC) - timedelta(minutes=1))
    assert _days(_look(home, instance)[0]) == [today.isoformat()]


def test_hidden_and_unfinished_files_are_no_arrival(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """Tools write under such a name first; the run would find nothing to read."""
    path = _arrives(home, DAY)
    path.rename(path.with_name("reviews.jsonl.part"))
    assert _look(home, instance)[0] == []


def test_days_are_asked_for_oldest_first_a_month_at_a_time(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """A later day is answered from an earlier one; and a year of files must not flood the queue."""
    days = [DAY + timedelta(days=offset) for offset in range(32)]
    for day in reversed(days):
        _arrives(home, day)
    first, cursor = _look(home, instance)
    rest, _ = _look(home, instance, cursor)
    assert _days(first) + _days(rest) == [day.isoformat() for day in days]
    assert len(first) == 30


def test_days_that_ran_before_the_sensor_was_switched_on_are_not_asked_for_again(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """Switching it on after a month of runs from the command line must not run the month again."""
    _arrives(home, DAY)
    _arrives(home, DAY + timedelta(days=1))
    _was_run(instance, DAY)
    requests, cursor = _look(home, instance)
    assert _days(requests) == [(DAY + timedelta(days=1)).isoformat()]
    _arrives(home, DAY, rows=5)
    assert _days(_look(home, instance, cursor)[0]) == [DAY.isoformat()]


def test_a_file_that_came_after_the_last_run_is_asked_for(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That the day ran once does not mean that this file was read; it would be lost."""
    _was_run(instance, DAY)
    later = datetime.now(UTC) + HOUR_AGO
    _arrives(home, DAY, changed_at=later)
    monkeypatch.setattr(automation, "utc_now", lambda: later + HOUR_AGO)
    assert _days(_look(home, instance)[0]) == [DAY.isoformat()]


def _spend(home: Home, request_id: str, nanos: int, *, simulated: bool = False) -> None:
    state = StateStore(home.journal)
    try:
        counter, now = budget(home, state, "acme", simulated), utc_now()
        assert counter.reserve(request_id, nanos, now)
        counter.settle(request_id, nanos, now)
    finally:
        state.close()


def _watch(home: Home, instance: dg.DagsterInstance) -> str | None:
    context = dg.build_sensor_context(instance=instance)
    result = automation.budget_alerts(context, home_folder=HomeFolder(folder=str(home.folder)))
    assert isinstance(result, dg.SkipReason)
    return result.skip_message


def _raised(home: Home) -> list[Alert]:
    state = StateStore(home.journal)
    try:
        return raised(state)
    finally:
        state.close()


def _one_dollar_a_month(home: Home) -> None:
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text("[tenants.acme]\nbudget_usd = 1.0\n")


def test_each_threshold_is_raised_once_over_evaluations(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """The sensor looks every half minute: a threshold told each time would soon be ignored."""
    _one_dollar_a_month(home)
    _spend(home, "a", DOLLAR * 4 // 10)
    assert _watch(home, instance) == "no new threshold was reached"
    _spend(home, "b", DOLLAR * 4 // 10)
    assert _watch(home, instance) == "raised: acme 50 %, acme 75 %"
    assert _watch(home, instance) == "no new threshold was reached"
    _spend(home, "c", DOLLAR * 2 // 10)
    assert _watch(home, instance) == "raised: acme 90 %, acme 100 %"
    assert _watch(home, instance) == "no new threshold was reached"
    assert sorted(alert.threshold for alert in _raised(home)) == [50, 75, 90, 100]


def test_simulated_and_real_spend_are_watched_apart(
    home: Home, instance: dg.DagsterInstance
) -> None:
    """40 % real and 40 % simulated is no alert; and a rehearsal must not silence the real one."""
    _one_dollar_a_month(home)
    _spend(home, "a", DOLLAR * 4 // 10)
    _spend(home, "b", DOLLAR * 4 // 10, simulated=True)
    assert _watch(home, instance) == "no new threshold was reached"
    _spend(home, "c", DOLLAR * 2 // 10, simulated=True)
    assert _watch(home, instance) == "raised: acme 50 %"
    _spend(home, "d", DOLLAR * 2 // 10)
    assert _watch(home, instance) == "raised: acme 50 %"
    periods = [alert.period for alert in _raised(home)]
    assert [period.startswith("simulated:") for period in periods] == [True, False]


def test_reserved_money_is_not_spent_yet(home: Home, instance: dg.DagsterInstance) -> None:
    """A request is reserved at its worst case; an alert for what it may cost would be false."""
    _one_dollar_a_month(home)
    state = StateStore(home.journal)
    try:
        assert budget(home, state, "acme", False).reserve("a", DOLLAR, utc_now())
    finally:
        state.close()
    assert _watch(home, instance) == "no new threshold was reached"


def test_a_demo_home_is_watched_without_settings(home: Home, instance: dg.DagsterInstance) -> None:
    """Whoever delivered may have spent, of ten dollars; a misspelt folder must not hide it."""
    deliver(home, reviews(0, 1))
    deliver(home, reviews(0, 1), tenant="No Tenant")
    _spend(home, "a", 5 * DOLLAR, simulated=True)
    assert _watch(home, instance) == "raised: acme 50 %"


def _kept_back(home: Home, *, day: date = DAY) -> None:
    """The tenant's budget keeps ten reviews of a day back."""
    state = StateStore(home.journal)
    try:
        # What stands in tenants.toml now: a Home keeps what it has read.
        counter, now = budget(Home(home.folder), state, "acme", False), utc_now()
        counter.refuse(now)
        note_deferral(state, counter.state(now), day, 10)
    finally:
        state.close()


def test_reviews_kept_back_are_asked_for_once_there_is_money(home: Home) -> None:
    """Nobody should have to remember which days a spent budget left open."""
    _one_dollar_a_month(home)
    _kept_back(home)
    folder = HomeFolder(folder=str(home.folder))
    nothing = automation.deferred_reviews(home_folder=folder)
    assert isinstance(nothing, dg.SkipReason)
    assert nothing.skip_message == "10 reviews wait for a new period or a larger budget"
    home.tenants_file.write_text("[tenants.acme]\nbudget_usd = 2.0\n")
    found = automation.deferred_reviews(home_folder=folder)
    assert isinstance(found, dg.SensorResult)
    (request,) = found.run_requests or []
    assert request.partition_key == DAY.isoformat()
    again = automation.deferred_reviews(home_folder=folder)
    assert isinstance(again, dg.SensorResult)
    assert again.run_requests is not None
    assert again.run_requests[0].run_key == request.run_key  # Dagster runs a key once
    _kept_back(home)
    assert isinstance(automation.deferred_reviews(home_folder=folder), dg.SkipReason)


def test_everything_that_runs_by_itself_ships_stopped(home: Home) -> None:
    """Nothing may spend money before somebody has switched it on."""
    definitions = definitions_of(home)
    schedules, sensors = list(definitions.schedules or []), list(definitions.sensors or [])
    assert [one.name for one in schedules] == ["yesterday"]
    assert [one.name for one in sensors] == [
        "inbox_arrivals",
        "batch_results",
        "deferred_reviews",
        "budget_alerts",
        "service_alerts",
        "alert_delivery",
        "latency_alerts",
        "drift_alerts",
        "quality_alerts",
    ]
    for schedule in schedules:
        assert isinstance(schedule, dg.ScheduleDefinition)
        assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    for sensor in sensors:
        assert sensor.default_status is dg.DefaultSensorStatus.STOPPED


def test_every_asset_says_what_it_is_and_whose(home: Home) -> None:
    """The UI is where people meet the pipeline; an asset without these is a riddle there."""
    graph = definitions_of(home).resolve_asset_graph()
    keys = graph.get_all_asset_keys()
    assert len(keys) == 13
    for key in keys:
        node = graph.get(key)
        assert node.description, key
        assert node.group_name not in (None, "default"), key
        assert node.owners == ["team:reviews"], key
        assert node.kinds, key
        assert node.partitions_def == DAILY, key


def test_the_checks_of_the_gate_block(home: Home) -> None:
    """A check that only warns would let a broken day out; broken promises stop nothing."""
    graph = definitions_of(home).resolve_asset_graph()
    checks = {key.name: graph.get(key) for key in graph.asset_check_keys}
    assert set(checks) == {"contract", "quality_gate", "drift", "response_time", "service_levels"}
    for name, check in checks.items():
        assert check.blocking == (name in ("contract", "quality_gate"))
        assert check.description
        assert check.partitions_def == DAILY


def test_late_spend_of_the_month_before_is_watched(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job of the Batch API that was sent on the last evening is settled in the new month."""
    _one_dollar_a_month(home)
    sent_at, now = datetime(2026, 10, 31, 20, tzinfo=UTC), datetime(2026, 11, 1, 4, tzinfo=UTC)
    state = StateStore(home.journal)
    counter = budget(home, state, "acme", False)
    assert counter.reserve("a", DOLLAR * 6 // 10, sent_at)
    counter.settle("a", DOLLAR * 6 // 10, sent_at)
    state.close()
    monkeypatch.setattr(alerting, "utc_now", lambda: now)
    assert _watch(home, instance) == "raised: acme 50 %"
    assert [alert.period for alert in _raised(home)] == ["2026-10"]
    assert _watch(home, instance) == "no new threshold was reached"


def test_what_a_channel_did_not_take_is_delivered_by_the_sensor(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run waits for no channel for long, and a missing variable stops none."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(
        '[[alerts.channels]]\nname = "chat"\nkind = "slack"\nurl_env = "CHAT_URL"\n'
        "[tenants.acme]\nbudget_usd = 1.0\n"
    )
    folder = HomeFolder(folder=str(home.folder))

    def deliveries() -> str | None:
        context = dg.build_sensor_context(instance=instance)
        done = automation.alert_delivery(context, home_folder=folder)
        assert isinstance(done, dg.SkipReason)
        return done.skip_message

    _spend(home, "a", DOLLAR * 6 // 10)
    assert _watch(home, instance) == "raised: acme 50 %"
    assert deliveries() == "delivered 0, failed 0, still owed 1"  # its back-off is not over
    monkeypatch.setattr(alerting, "utc_now", lambda: utc_now() + HOUR_AGO)
    with serving(Receiver(failing=0)) as receiver:
        monkeypatch.setenv("CHAT_URL", receiver.url)
        assert deliveries() == "delivered 1, failed 0, still owed 0"
    assert len(receiver.requests) == 1


def test_a_run_raises_while_it_sends(home: Home) -> None:
    """The watch is told of each settled request, long before the day's sums are booked."""
    _one_dollar_a_month(home)
    folder, log = HomeFolder(folder=str(home.folder)), logging.getLogger("test")
    with folder.state() as state, alerting.budget_watch(folder, state, log) as watch:
        counter, now = budget(home, state, "acme", True, watch), utc_now()
        assert counter.reserve("a", DOLLAR // 2, now)
        counter.settle("a", DOLLAR // 2, now)
        (alert,) = raised(state)
    assert (alert.threshold, alert.simulated) == (50, True)
