"""Forecasts: what a month will have cost, and how sure that is."""

from __future__ import annotations

import random
from datetime import date, timedelta

from review_optimizer_dagster.money.forecast import forecast_month

FIRST = date(2026, 11, 1)


def _days(costs: list[int], first: date = FIRST) -> dict[date, int]:
    return {first + timedelta(days=number): cost for number, cost in enumerate(costs)}


def test_equal_days_leave_nothing_open() -> None:
    """Ten dollars a day are three hundred in November, and no other."""
    forecast = forecast_month(_days([10] * 20), date(2026, 11, 20))
    assert forecast is not None
    assert (forecast.month, forecast.days_left, forecast.spent) == ("2026-11", 10, 200)
    assert (forecast.lower, forecast.expected, forecast.upper) == (300, 300, 300)


def test_the_days_before_the_month_count_for_what_is_to_come_alone() -> None:
    """On the first of a month almost all of it is expected from the month before."""
    costs = _days([30] * 30) | {date(2026, 12, 1): 2}
    forecast = forecast_month(costs, date(2026, 12, 1))
    assert forecast is not None
    assert (forecast.spent, forecast.days_used, forecast.days_left) == (2, 28, 30)
    assert forecast.expected == 2 + round((27 * 30 + 2) / 28 * 30)


def test_days_without_a_delivery_cost_nothing_and_count() -> None:
    """A feed that comes on weekdays alone does not come on Sundays either."""
    costs = {FIRST: 70, FIRST + timedelta(days=6): 70}
    forecast = forecast_month(costs, date(2026, 11, 7))
    assert forecast is not None
    assert (forecast.days_used, forecast.expected) == (7, 140 + 20 * 23)


def test_too_few_days_give_no_interval_and_none_no_forecast() -> None:
    """Two days do not say how much days differ."""
    forecast = forecast_month(_days([10, 20]), date(2026, 11, 2))
    assert forecast is not None
    assert (forecast.lower, forecast.upper) == (None, None)
    assert forecast_month(_days([10], date(2026, 12, 1)), date(2026, 11, 2)) is None


def test_the_last_day_of_a_month_is_certain() -> None:
    """Nothing is left to come."""
    forecast = forecast_month(_days([5, 90, 7] * 10), date(2026, 11, 30))
    assert forecast is not None
    assert forecast.lower == forecast.expected == forecast.upper == forecast.spent


def test_the_interval_holds_as_often_as_it_says() -> None:
    """Skewed days, 400 months: the true cost lies in the 90 % interval about that often."""
    draw, held = random.Random(7), 0  # noqa: S311 (no secret)
    for _ in range(400):
        costs = [int(draw.gammavariate(4, 25)) for _ in range(30)]
        forecast = forecast_month(_days(costs[:12]), date(2026, 11, 12))
        assert forecast is not None
        assert forecast.lower is not None
        assert forecast.upper is not None
        held += forecast.lower <= sum(costs) <= forecast.upper
    assert 0.86 <= held / 400 <= 0.95
