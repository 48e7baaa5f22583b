"""Slow response times: one alert an episode and tenant, told over when they are over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import polars as pl

from review_optimizer_dagster.alerts.latency import latency_news
from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raise_news, raised
from review_optimizer_dagster.monitors.latency import Judged, Watch, judge
from review_optimizer_dagster.monitors.settings import LatencySettings
from review_optimizer_dagster_tests.memory_state import MemoryState
from review_optimizer_dagster_tests.monitors.made_up import DAY, GROUP, earlier, stream

NOW = datetime(2026, 3, 5, 2, tzinfo=UTC)
SETTINGS = LatencySettings()


def _judged(rows: pl.DataFrame, watch: Watch | None = None, days: int = 0) -> Judged:
    watches = {} if watch is None else {GROUP: watch}
    return judge(rows, earlier(1), watches, SETTINGS, DAY + timedelta(days=days))


def _tell(state: MemoryState, judged: Judged, days: int = 0) -> list[Alert]:
    return raise_news(state, latency_news(judged, DAY + timedelta(days=days), NOW))


def _events(alerts: list[Alert]) -> list[tuple[str, str]]:
    return [(alert.tenant, alert.event) for alert in alerts]


def test_an_episode_is_told_once_however_often_the_day_is_judged() -> None:
    """The sensor looks every minute, the run at its end, and the day may be run again."""
    state, whole = MemoryState(), stream(2, (100, 1.0), (200, 2.0))
    for n in (50, 90):
        assert _tell(state, _judged(whole.head(n))) == []
    (alert,) = _tell(state, _judged(whole.head(150)))
    assert (alert.event, alert.severity, alert.tenant) == ("latency.degraded", "warning", "acme")
    assert (alert.period, alert.simulated) == (DAY.isoformat(), False)
    assert 70 <= alert.threshold <= 130
    assert 1.5 < alert.value / alert.limit < 2.6
    assert "answers acme slowly since 2026-03-04 00:01 UTC" in alert.message
    assert _tell(state, _judged(whole)) == _tell(state, _judged(whole)) == []


def test_a_recovery_is_told_once_and_the_next_episode_is_another() -> None:
    """The second slow while of a day must neither be swallowed nor taken for the first."""
    state = MemoryState()
    whole = stream(11, (200, 1.0), (60, 2.0), (200, 1.0), (60, 2.0), (100, 1.0))
    assert _events(_tell(state, _judged(whole.head(440)))) == [
        ("acme", "latency.degraded"),
        ("acme", "latency.recovered"),
    ]
    (again,) = _tell(state, _judged(whole.head(500)))
    assert again.event == "latency.degraded"
    assert _tell(state, _judged(whole.head(500))) == []
    (over,) = _tell(state, _judged(whole))
    assert (over.event, over.recovers) == ("latency.recovered", again.alert_id)
    assert "as fast as the size of requests predicts again" in over.message
    assert _tell(state, _judged(whole)) == []
    assert len(raised(state)) == 4


def test_every_tenant_that_was_served_slowly_is_told() -> None:
    """The endpoint is shared, the channels are not: a tenant that sent nothing then hears nothing.

    And nobody reads another tenant's name.
    """
    state = MemoryState()
    quiet = stream(2, (100, 1.0)).with_columns(tenant=pl.lit("early"))
    slow = stream(3, (80, 2.0), first=100)
    tenants = pl.Series(["acme", "bolt"] * 40)
    back = stream(4, (100, 1.0), first=180).with_columns(tenant=pl.lit("late"))
    new = _tell(state, _judged(pl.concat([quiet, slow.with_columns(tenant=tenants), back])))
    assert _events(new) == [
        (tenant, f"latency.{what}")
        for tenant in ("acme", "bolt")
        for what in ("degraded", "recovered")
    ]
    assert "bolt" not in new[0].message


def test_an_episode_over_days_is_one_alert_and_ends_on_a_later_day() -> None:
    """Every further slow day would tell it again, and no day would end it."""
    state = MemoryState()
    first = _judged(stream(2, (100, 2.0)))
    assert len(_tell(state, first)) == 1
    second = _judged(stream(3, (100, 2.0), first=1_000), first.watches[GROUP], 1)
    assert _tell(state, second, 1) == []
    third = _judged(stream(4, (100, 1.0), first=2_000), second.watches[GROUP], 2)
    assert _events(_tell(state, third, 2)) == [("acme", "latency.recovered")]
    assert _tell(state, first) == []  # the first day, run again


def test_a_new_normal_says_so() -> None:
    """What lasted is no longer an alert, but nobody should read that it is as fast as before."""
    state = MemoryState()
    first = _judged(stream(2, (100, 2.0)))
    _tell(state, first)
    days = SETTINGS.new_normal_days
    later = _judged(stream(3, (10, 2.0), first=1_000), first.watches[GROUP], days)
    (over,) = _tell(state, later, days)
    assert over.event == "latency.recovered"
    assert "the new normal" in over.message


def test_a_day_that_is_no_longer_slow_when_it_is_run_again_ends_its_alert() -> None:
    """No later day would: for them there never was an episode."""
    state = MemoryState()
    _tell(state, _judged(stream(2, (100, 2.0))))
    later = _judged(stream(5, (50, 1.0)), None, -1)
    assert _tell(state, later, -1) == []  # a day before it knows nothing of it
    assert _events(_tell(state, _judged(stream(2, (100, 1.0))))) == [("acme", "latency.recovered")]


def test_simulated_slowness_is_marked_and_apart() -> None:
    """A rehearsal must not silence, or end, the alert of real money."""
    state = MemoryState()
    _tell(state, _judged(stream(2, (100, 2.0))))
    past = earlier(1).with_columns(simulated=pl.lit(value=True))
    rehearsed = judge(stream(2, (100, 2.0), simulated=True), past, {}, SETTINGS, DAY)
    (alert,) = _tell(state, rehearsed)
    assert alert.simulated
    calm = judge(stream(3, (100, 1.0), simulated=True), past, {}, SETTINGS, DAY)
    assert [each.simulated for each in _tell(state, calm)] == [True]
