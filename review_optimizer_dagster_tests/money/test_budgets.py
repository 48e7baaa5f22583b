"""Budgets: reserved before a request, settled after it, never overspent."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from review_optimizer_dagster.money.budgets import (
    Budget,
    Deferral,
    Period,
    Spend,
    State,
    budget_version,
    budget_versions,
    deferrals,
    note_deferral,
    period_key,
)
from review_optimizer_dagster_tests.memory_state import MemoryState

TODAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _budget(state: State | None = None, tenant: str = "acme", **options: Any) -> Budget:
    """A hundred nano-dollars a month."""
    state = state or MemoryState()
    return Budget(state, tenant, budget_version(state, tenant, 100, "month", NOON), **options)


def test_a_budget_reserves_up_to_its_amount_and_frees_what_was_not_needed() -> None:
    """The worst case is set aside, the real cost stays, and the rest may be spent again."""
    budget = _budget()
    assert budget.reserve("a", 60, NOON)
    assert not budget.reserve("b", 41, NOON)
    assert budget.reserve("b", 40, NOON)
    budget.settle("a", 10, NOON)
    spend = budget.state(NOON)
    assert (spend.spent, spend.reserved, spend.left) == (10, 40, 50)
    assert budget.reserve("c", 50, NOON)
    assert not budget.reserve("d", 1, NOON)


def test_settling_twice_or_without_a_reservation_books_nothing() -> None:
    """A run that was killed settles again what it may have settled before."""
    budget = _budget()
    budget.reserve("a", 60, NOON)
    for _ in range(2):
        budget.settle("a", 30, NOON)
    budget.settle("never reserved", 30, NOON)
    assert (budget.state(NOON).spent, budget.state(NOON).reserved) == (30, 0)


def test_reserving_twice_sets_money_aside_once() -> None:
    """A request that is taken up after a crash has its reservation already."""
    budget = _budget()
    assert budget.reserve("a", 30, NOON)
    assert budget.reserve("a", 40, NOON)
    assert budget.state(NOON).reserved == 30


def test_tenants_and_periods_have_counters_of_their_own() -> None:
    """One tenant's spend must not use up another's money, nor last month's this month's."""
    state = MemoryState()
    _budget(state).reserve("a", 100, NOON)
    assert _budget(state).reserve("b", 100, NOON + timedelta(days=31))
    assert _budget(state, "other").reserve("c", 100, NOON)
    assert _budget(state, simulated=True).reserve("d", 100, NOON)
    assert _budget(state).state(NOON).reserved == 100  # another object, same money


def test_a_request_belongs_to_the_period_it_was_sent_in() -> None:
    """An answer that comes after midnight was paid for out of the day before."""
    state = MemoryState()
    budget = Budget(state, "acme", budget_version(state, "acme", 100, "day", NOON))
    late, after = datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    assert budget.reserve("a", 90, late)
    assert budget.reserve("b", 90, after)
    budget.settle("a", 70, late)
    assert (budget.state(late).spent, budget.state(after).spent) == (70, 0)
    assert (budget.state(late).reserved, budget.state(after).reserved) == (0, 90)


def test_a_month_is_the_sum_of_its_days_whatever_the_budget_was_for() -> None:
    """A budget that becomes one a day must not forget what the day has cost."""
    state = MemoryState()
    budget = _budget(state)
    for number, day in enumerate((NOON, NOON - timedelta(days=1))):
        budget.reserve(str(number), 40, day)
        budget.settle(str(number), 40, day)
    daily = Budget(state, "acme", budget_version(state, "acme", 50, "day", NOON))
    assert daily.state(NOON).spent == 40
    assert not daily.reserve("c", 11, NOON)
    assert budget.state(NOON).spent == 80


def test_what_is_held_for_an_unknown_outcome_is_free_again_in_the_end() -> None:
    """Else a day of time-outs would block a month; a late answer is booked all the same."""
    budget = _budget(hold=timedelta(hours=30))
    budget.reserve("a", 100, NOON)
    before, after = NOON + timedelta(hours=29), NOON + timedelta(hours=30)
    assert not budget.reserve("b", 1, before)
    assert budget.state(after).reserved == 0
    assert budget.reserve("b", 60, after)
    budget.settle("a", 30, NOON)
    assert budget.state(after).spent == 30


def test_what_may_still_be_answered_is_told_from_what_is_held() -> None:
    """Another process's money may be free in a moment; that of a time-out is not."""
    budget = _budget()
    budget.reserve("a", 30, NOON)
    budget.reserve("b", 20, NOON + timedelta(minutes=3))
    spend = budget.state(NOON + timedelta(minutes=4))
    assert (spend.reserved, spend.pending) == (50, 20)


def test_each_change_of_a_budget_is_a_version() -> None:
    """Back to the old amount is news as well: its thresholds are to be told anew."""
    state = MemoryState()
    changes: list[tuple[int, Period]] = [(100, "month"), (100, "month"), (200, "month")]
    changes += [(200, "day"), (100, "month")]
    numbers = [budget_version(state, "acme", *change, NOON).number for change in changes]
    assert numbers == [1, 1, 2, 3, 4]
    assert budget_version(state, "other", 100, "month", NOON).number == 1


def test_a_version_begins_when_it_is_first_seen() -> None:
    """What was in force in a month is told by it; a later look must not move it."""
    state, later = MemoryState(), NOON + timedelta(days=40)
    first = budget_version(state, "acme", 100, "month", NOON)
    assert budget_version(state, "acme", 100, "month", later) == first
    second = budget_version(state, "acme", 200, "month", later)
    assert (first.began, second.began) == (NOON, later)
    assert budget_versions(state, "acme") == [first, second]


def test_a_refusal_is_of_a_period_and_version() -> None:
    """More money, or another month, makes a spent budget an open one."""
    state = MemoryState()
    _budget(state).refuse(NOON)
    assert _budget(state).state(NOON).refused
    assert not _budget(state).state(NOON + timedelta(days=31)).refused
    more = Budget(state, "acme", budget_version(state, "acme", 200, "month", NOON))
    assert not more.state(NOON).refused


def test_corrections_count_once_and_in_full() -> None:
    """Money that comes back may be spent again; a second run of the day must not give it twice."""
    budget = _budget()
    budget.reserve("a", 100, NOON)
    budget.settle("a", 100, NOON)
    for so_far in (-40, -40, -55):
        budget.correct("2026-11-20", so_far, NOON)
    budget.correct("2026-11-21", -5, NOON)
    assert budget.state(NOON).spent == 40


def test_every_change_is_told() -> None:
    """The alerts of a run that is going on hang on it."""
    told: list[Spend] = []
    budget = _budget(watch=told.append)
    budget.reserve("a", 100, NOON)
    budget.settle("a", 70, NOON)
    budget.refuse(NOON)
    assert [(spend.spent, spend.refused) for spend in told] == [(70, False), (70, True)]


def test_what_a_budget_keeps_back_is_known_until_it_is_taken_up() -> None:
    """A sensor asks for the day again once there is money."""
    state = MemoryState()
    spend = _budget(state).state(NOON)
    note_deferral(state, spend, TODAY, 7)
    assert deferrals(state) == [Deferral("acme", TODAY, 7, False, "2026-11", 1)]
    note_deferral(state, spend, TODAY, 0)
    assert deferrals(state) == []


def test_negative_money_is_refused() -> None:
    """A negative reservation would let the next request overspend."""
    budget = _budget()
    with pytest.raises(ValueError, match="negative"):
        budget.reserve("a", -1, NOON)
    with pytest.raises(ValueError, match="negative"):
        budget.settle("a", -1, NOON)


def test_a_period_is_one_of_utc() -> None:
    """Half past midnight in Berlin on the first is still last month in UTC."""
    berlin = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert period_key("month", berlin) == "2026-11"
    assert period_key("day", berlin) == "2026-11-30"
    with pytest.raises(ValueError, match="time zone"):
        period_key("day", datetime(2026, 12, 1))
