"""Alerts: each thing is told once, whoever looks and how often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from review_optimizer_dagster.alerts.budgets import Watch, measured
from review_optimizer_dagster.alerts.rules import (
    Alert,
    News,
    budget_alerts,
    budget_news,
    contradicted_alert,
    distrusted_alert,
    gate_alert,
    gate_recovery,
)
from review_optimizer_dagster.alerts.store import KEY_PREFIX, raise_news, raise_once, raised
from review_optimizer_dagster.money.budgets import JSON, Spend, budget_version
from review_optimizer_dagster_tests.memory_state import MemoryState

DEFAULT = (50, 75, 90)
DOLLAR = 1_000_000_000
NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _spend(spent: int, amount: int = 100, *, version: int = 1, refused: bool = False) -> Spend:
    return Spend("acme", False, "2026-11", version, amount, spent, 0, 0, refused)


def _thresholds(alerts: list[Alert]) -> list[int]:
    return [alert.threshold for alert in alerts]


@pytest.mark.parametrize(
    ("spent", "expected"),
    [
        (0, []),
        (49, []),
        (50, [50]),
        (74, [50]),
        (75, [50, 75]),
        (89, [50, 75]),
        (90, [50, 75, 90]),
        (99, [50, 75, 90]),
        (100, [50, 75, 90, 100]),
        (140, [50, 75, 90, 100]),
    ],
)
def test_every_threshold_that_is_reached_has_an_alert(spent: int, expected: list[int]) -> None:
    """One big batch may cross several at once, and 100 % is always one of them."""
    assert _thresholds(budget_alerts(_spend(spent), DEFAULT)) == expected


def test_a_refused_request_is_a_spent_budget() -> None:
    """Reservations stop a tenant short of 100 %; without this nobody would be told of it."""
    alerts = budget_alerts(_spend(80, refused=True), DEFAULT)
    assert _thresholds(alerts) == [50, 75, 100]
    assert [alert.severity for alert in alerts] == ["warning", "warning", "critical"]


def test_a_fraction_of_a_nano_dollar_below_is_below() -> None:
    """Percentages of money are compared in integers, where floats would round up to it."""
    amount = 3 * 10**17
    assert _thresholds(budget_alerts(_spend(amount // 2 - 1, amount), (50,))) == []
    assert _thresholds(budget_alerts(_spend(amount // 2, amount), (50,))) == [50]


def test_an_alert_says_what_it_is_about_in_words_and_numbers() -> None:
    """Whoever reads it at night needs tenant, period, amounts and what to do."""
    *_, alert = budget_alerts(_spend(10 * DOLLAR, 10 * DOLLAR), DEFAULT)
    assert (alert.kind, alert.tenant, alert.period) == ("budget", "acme", "2026-11")
    assert (alert.value, alert.limit) == (10 * DOLLAR, 10 * DOLLAR)
    assert alert.raised_at.tzinfo is UTC
    for part in ("acme", "2026-11", "$10.0000", "deferred", "tenants.acme.budget_usd"):
        assert part in alert.message


def test_alerts_are_raised_once_across_restarts() -> None:
    """The state is all that a second process shares with the first."""
    state = MemoryState()
    first = raise_once(state, budget_alerts(_spend(60), DEFAULT))
    again = raise_once(state, budget_alerts(_spend(61), DEFAULT))
    later = raise_once(state, budget_alerts(_spend(80), DEFAULT))
    assert (_thresholds(first), _thresholds(again), _thresholds(later)) == ([50], [], [75])
    assert raised(state) == [*first, *later]


def test_another_tenant_period_or_version_is_raised_anew() -> None:
    """A raised budget has thresholds of its own, and so has next month's."""
    state = MemoryState()
    one = _spend(60)
    for spend in (
        one,
        replace(one, period="2026-12"),
        replace(one, tenant="other"),
        replace(one, version=2),
        replace(one, simulated=True),
    ):
        assert len(raise_once(state, budget_alerts(spend, (50,)))) == 1
    assert len(raised(state)) == 5


def test_what_was_raised_is_read_back_whole_and_in_order() -> None:
    """Each run copies the alerts into the warehouse from what the state gives back."""
    state = MemoryState()
    news = raise_once(state, budget_alerts(_spend(100), DEFAULT))
    back = raised(state)
    assert sorted(back, key=lambda alert: alert.threshold) == news
    assert all(one.raised_at <= other.raised_at for one, other in pairwise(back))


def test_only_a_failed_gate_is_an_alert() -> None:
    """An inconclusive day is published and marked; nobody is woken for it."""
    day = date(2026, 11, 22)

    def alert(verdict: str, taxonomy: str = "reviews") -> Alert | None:
        return gate_alert("acme", day, taxonomy, verdict, 0.9321, 0.95, "60 of 100 right")

    assert alert("passed") is None
    assert alert("inconclusive") is None
    failed = alert("failed")
    assert failed is not None
    assert (failed.period, failed.threshold, failed.severity) == ("2026-11-22", 95, "critical")
    assert (failed.value, failed.limit) == (932_100, 950_000)
    assert "60 of 100 right" in failed.message
    other = alert("failed", "complaints")
    assert other is not None
    assert failed.alert_id != other.alert_id


def test_a_contradicted_entry_is_told_once_a_tenant_and_day() -> None:
    """It says how many published labels are in doubt, and what to do about them."""
    day = date(2026, 11, 22)

    def alert(day: date = day, tenant: str = "acme", entry: str = "e1", answered: int = 7) -> Alert:
        return contradicted_alert(tenant, day, "i", entry, "l2", 1, answered)

    found = alert()
    assert (found.kind, found.period, found.value) == ("recheck", "2026-11-22", 7)
    for part in ("acme", "e1", "l2", "7 reviews of earlier days", "--reclassify"):
        assert part in found.message
    assert alert(answered=9).alert_id == found.alert_id
    others = [alert(day + timedelta(days=1)), alert(tenant="bolt"), alert(entry="e2")]
    assert len({each.alert_id for each in (found, *others)}) == 4


def test_a_level_that_is_off_is_told_once_for_as_long_as_it_stays_off() -> None:
    """While it is off there are no new rechecks; with new ones it is news again."""
    day = date(2026, 11, 22)

    def alert(last: date = day, level: str = "l3_near", n: int = 40) -> Alert:
        return distrusted_alert("acme", "i", level, last, 9, n, 0.0712, 0.03)

    found = alert()
    assert (found.kind, found.severity, found.period) == ("recheck", "critical", "2026-11-22")
    assert (found.value, found.limit, found.threshold) == (71_200, 30_000, 3)
    for part in ("acme", "l3_near", "9 of 40", "7.12 %", "3.00 %"):
        assert part in found.message
    assert alert(n=50).alert_id == found.alert_id
    others = [alert(day + timedelta(days=1)), alert(level="l2")]
    assert len({each.alert_id for each in (found, *others)}) == 3


def _news(state: MemoryState, spend: Spend, now: datetime = NOW) -> list[str]:
    """What a look at a spend raises: thresholds, and R for a recovery."""
    new = raise_news(state, budget_news(spend, DEFAULT, now))
    return ["R" if alert.recovers else str(alert.threshold) for alert in new]


def test_more_money_is_a_recovery_once() -> None:
    """It says what it was and what it is now; the rest of the version is silent."""
    state = MemoryState()
    assert _news(state, _spend(95)) == ["50", "75", "90"]
    assert _news(state, _spend(95)) == []
    more = _spend(95, 400, version=2)
    assert [_news(state, more), _news(state, more), _news(state, _spend(95))] == [["R"], [], []]
    (told,) = [alert for alert in raised(state) if alert.recovers]
    assert (told.severity, told.event, told.threshold) == ("info", "budget.recovered", 90)
    assert told.recovers in {alert.alert_id for alert in raised(state) if alert.threshold == 90}


def test_a_new_month_is_a_recovery_and_late_data_of_the_old_one_is_none() -> None:
    """In whatever order the two are looked at."""
    december = NOW + timedelta(days=14)
    for order in ((0, 1), (1, 0)):
        state = MemoryState()
        looks = [_spend(80), replace(_spend(0), period="2026-12")]
        for place in order:
            _news(state, looks[place], december)
        assert [alert.threshold for alert in raised(state)] == [50, 75]
        assert _news(state, looks[1], december) == []
    state = MemoryState()
    assert _news(state, _spend(60)) == ["50"]
    assert _news(state, replace(_spend(0), period="2026-12"), december) == ["R"]
    assert _news(state, _spend(80), december) == ["75"]
    assert _news(state, replace(_spend(0), period="2026-12"), december) == []


def test_a_gate_that_fails_again_after_a_recovery_is_told_again() -> None:
    """Whoever was told that all is well must hear that it is not."""
    state, day = MemoryState(), date(2026, 11, 22)

    def look(verdict: str) -> list[str]:
        failed = gate_alert("acme", day, "reviews", verdict, 0.9, 0.95, "detail")
        recovered = gate_recovery("acme", day, "reviews", verdict, "detail")
        return [alert.event for alert in raise_news(state, [failed or recovered])]

    said = [look(each) for each in ("passed", "failed", "failed", "passed", "passed", "failed")]
    assert said == [[], ["gate.failed"], [], ["gate.recovered"], [], ["gate.failed"]]
    assert look("inconclusive") == ["gate.recovered"]


def test_last_months_late_spend_is_measured_by_last_months_budget() -> None:
    """Under this month's smaller budget it would raise what was never true."""
    state, december = MemoryState(), datetime(2026, 12, 2, tzinfo=UTC)
    budget_version(state, "acme", 100, "month", NOW)
    late = measured(state, _spend(60, 10, version=2), december)
    assert late is not None
    assert (late.version, late.amount) == (1, 100)
    now = replace(_spend(5, 10, version=2), period="2026-12")
    assert measured(state, now, december) == now


def test_the_watch_asks_the_state_only_where_something_may_be_new() -> None:
    """It is called on every settled request, inside the event loop of a run."""
    told: list[Sequence[News]] = []
    watch = Watch(MemoryState(), lambda _: DEFAULT, lambda: NOW, told.append)
    for spent in (1, 2, 51, 52, 60, 80, 81):
        watch(_spend(spent))
    assert len(told) == 3  # the first look, 50 and 75


def test_a_process_that_slept_through_a_recovery_begins_no_episode_again() -> None:
    """It read that nothing was raised, and goes on after another has raised and recovered it."""

    class Stale(MemoryState):
        sleeping = False

        def get(self, key: str) -> JSON | None:
            return None if self.sleeping and key.startswith(KEY_PREFIX) else super().get(key)

    state = Stale()
    assert _news(state, _spend(60)) == ["50"]
    assert _news(state, _spend(60, 400, version=2)) == ["R"]
    state.sleeping = True
    assert _news(state, _spend(60)) == []
    state.sleeping = False
    december = NOW + timedelta(days=14)
    assert _news(state, replace(_spend(0, 400, version=2), period="2026-12"), december) == []
