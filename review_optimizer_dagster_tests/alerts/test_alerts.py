"""Alerts: each thing is told once, whoever looks and how often."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, timedelta
from itertools import pairwise

import pytest

from review_optimizer_dagster.alerts.rules import (
    Alert,
    budget_alerts,
    contradicted_alert,
    distrusted_alert,
    gate_alert,
)
from review_optimizer_dagster.alerts.store import raise_once, raised
from review_optimizer_dagster.money.budgets import Spend
from review_optimizer_dagster_tests.memory_state import MemoryState

DEFAULT = (50, 75, 90)
DOLLAR = 1_000_000_000


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
