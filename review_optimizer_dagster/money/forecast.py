"""What a month will have cost when it ends, from the days that are known."""

from __future__ import annotations

import calendar
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, timedelta

WINDOW_DAYS = 28  # four weeks: every weekday as often
CONFIDENCE = 0.9
LEAST_DAYS = 3  # fewer say nothing of how much days differ


@dataclass(frozen=True)
class Forecast:
    """The cost of a month: what is known, and what is expected when it ends; nano-dollars."""

    month: str
    days_known: int
    """Days of the month up to the one that the forecast is made on."""
    days_left: int
    days_used: int
    """Days that the expectation rests on."""
    spent: int
    expected: int
    lower: int | None
    """Of the two-sided 90 % prediction interval; None where too few days are known."""
    upper: int | None


def forecast_month(costs: Mapping[date, int], today: date) -> Forecast | None:
    """The cost of the month of `today`, forecast when today's cost is known.

    costs: nano-dollars by day of delivery, up to today; a day without one, after the first, cost
    nothing. The days left are taken to cost what the last 28 days did on average, independently of
    each other: with m days of mean x and standard deviation s, k further days cost k x, give or
    take t(m - 1) s sqrt(k + k k / m) (the prediction interval of a sum: the days' own spread, and
    that of the mean). None where nothing is known.
    """
    known = {day: cost for day, cost in costs.items() if day <= today}
    if not known:
        return None
    first = max(min(known), today - timedelta(days=WINDOW_DAYS - 1))
    used = [known.get(first + timedelta(days=n), 0) for n in range((today - first).days + 1)]
    length = calendar.monthrange(today.year, today.month)[1]
    spent = sum(cost for day, cost in known.items() if (day.year, day.month) == _month(today))
    left, count = length - today.day, len(used)
    mean = sum(used) / count
    spread = _spread(used, mean, left)
    expected = spent + round(mean * left)
    return Forecast(
        month=today.strftime("%Y-%m"),
        days_known=today.day,
        days_left=left,
        days_used=count,
        spent=spent,
        expected=expected,
        lower=None if spread is None else max(spent, expected - math.floor(spread)),
        upper=None if spread is None else expected + math.ceil(spread),
    )


def _month(day: date) -> tuple[int, int]:
    return day.year, day.month


def _spread(used: list[int], mean: float, left: int) -> float | None:
    """Half the width of the interval of the days left."""
    count = len(used)
    if count < LEAST_DAYS:
        return None
    from scipy.stats import t  # start-up that only a forecast pays

    variance = sum((cost - mean) ** 2 for cost in used) / (count - 1)
    quantile = float(t.ppf((1 + CONFIDENCE) / 2, count - 1))
    return quantile * math.sqrt(variance * (left + left * left / count))
