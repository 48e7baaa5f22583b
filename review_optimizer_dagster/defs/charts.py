"""Small charts of text for the UI: no library has to be loaded to draw them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, timedelta
from typing import Final, TypeAlias

import dagster as dg

DAYS: Final = 14
MOST_CHARACTERS: Final = 1000  # of markdown that the UI shows without a click, which is less
_LEVELS: Final = "▁▂▃▄▅▆▇█"
_NOTHING: Final = "·"
_BLANK: Final = "\xa0"  # where the UI must not break a line
_TO: Final = f"{_BLANK}to{_BLANK}"

Values: TypeAlias = Sequence[float | None]


def sparkline(values: Values, least: float | None = None, most: float | None = None) -> str:
    """A character a value, between the least and the most of them; a dot where there is none.

    >>> sparkline([0, 1, None, 3], least=0)
    '▁▃·█'
    """
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return _NOTHING * len(values)
    low = min(known) if least is None else least
    high = max(known) if most is None else most
    return "".join(_character(value, low, high) for value in values)


def _character(value: float | None, low: float, high: float) -> str:
    if value is None or not math.isfinite(value):
        return _NOTHING
    if high <= low:
        return _LEVELS[len(_LEVELS) // 2]
    place = round((value - low) / (high - low) * (len(_LEVELS) - 1))
    return _LEVELS[min(max(place, 0), len(_LEVELS) - 1)]


def percent(value: float) -> str:
    r"""A share as people read it.

    >>> percent(0.98765)
    '98.8\xa0%'
    """
    return f"{100 * value:.1f}{_BLANK}%"


def dollars(value: float) -> str:
    """Dollars, small ones with more decimals.

    >>> dollars(12.3456), dollars(0.0367)
    ('$12.35', '$0.0367')
    """
    return f"${value:,.2f}" if abs(value) >= 1 else f"${value:.4f}"


def milliseconds(value: float) -> str:
    r"""Milliseconds.

    >>> milliseconds(1234.5)
    '1,234\xa0ms'
    """
    return f"{value:,.0f}{_BLANK}ms"


def last_days(day: date, days: int = DAYS) -> list[date]:
    """The days that a chart of a day has, the oldest first, itself the last."""
    return [day - timedelta(days=back) for back in reversed(range(days))]


def history(
    day: date,
    series: Mapping[str, tuple[Mapping[date, float | None], Callable[[float], str]]],
    days: int = DAYS,
) -> dg.MarkdownMetadataValue:
    """A table with a line a series: its last days as a sparkline, the day's value and the range.

    series: name to values by day and how to write one. A series without a value is left out.
    The range stands below: the pane of an asset's page would cut off a third column.
    """
    axis = last_days(day, days)
    lines = [f"| {days} days | to {day} |", "|---|---|"]
    for name, (by_day, written) in series.items():
        values = [by_day.get(each) for each in axis]
        known = [value for value in values if value is not None]
        if not known:
            continue
        now = "-" if values[-1] is None else written(values[-1])
        lines.append(f"| {name.replace(' ', _BLANK)} | {sparkline(values)}{_BLANK}{now} |")
        lines.append(f"| | {written(min(known))}{_TO}{written(max(known))} |")
    if len(lines) == 2:
        return dg.MetadataValue.md("no figures yet")
    return dg.MetadataValue.md("\n".join(lines))
