"""From the tests of a day to the alert that a tenant's reviews have drifted, and its recovery."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime

import polars as pl

from review_optimizer_dagster.alerts.rules import (
    MILLIONTHS,
    Alert,
    News,
    Recovery,
    alert_id,
    condition_recovery,
)
from review_optimizer_dagster.monitors.drift import strongest
from review_optimizer_dagster.monitors.settings import DriftSettings

_NAMED = 6  # signals in a message; the tables have them all


def drift_news(tests: pl.DataFrame, day: date, settings: DriftSettings) -> list[News]:
    """What the tests of a day say: an alert where an episode begins, a recovery where none is on.

    tests: `day` and the columns of TESTS, of this day and of those before, at least one of which
    has tests where any has. An episode is a tenant's and taxonomy's: however many signals one
    cause moves, it is told once, and while it goes on, nothing is. A day without tests says
    nothing.
    """
    return [
        news
        for (tenant, taxonomy, simulated), own in _series(tests)
        if (news := _news(tenant, taxonomy, simulated, own, day, settings)) is not None
    ]


def _series(tests: pl.DataFrame) -> Iterator[tuple[tuple[str, str, bool], pl.DataFrame]]:
    names = ("tenant", "taxonomy", "simulated")
    for key, own in tests.sort(*names).group_by(*names, maintain_order=True):
        yield (str(key[0]), str(key[1]), bool(key[2])), own


def _news(
    tenant: str,
    taxonomy: str,
    simulated: bool,
    tests: pl.DataFrame,
    day: date,
    settings: DriftSettings,
) -> News | None:
    today = tests.filter(pl.col("day") == day)
    if today.is_empty():
        return None
    before = tests.filter(pl.col("day") < day)
    last = before.filter(pl.col("day") == pl.col("day").max())
    episode = f"drift:{'simulated' if simulated else 'real'}:{tenant}:{taxonomy}"
    whose = f"the {taxonomy} of {tenant}" + (" (simulated)" if simulated else "")
    if not today["alarm"].any():
        new = today.join(last.filter("alarm"), on=["category", "signal"], how="semi")
        is_normal = bool(new["new_normal"].any())
        how = (
            "what had changed has gone on for so long that it is what days are compared with now"
            if is_normal
            else f"none of {today.height} tests tells the day from those before"
        )
        message = f"the drift in {whose} is over on {day}: {how}"
        return _recovery(episode, message, day)
    if last["alarm"].any():
        return None
    alarmed, before_days = strongest(today), max(today["baseline_days"].to_list())
    top = alarmed.row(0, named=True)
    return Alert(
        alert_id=alert_id("drift", tenant, taxonomy, simulated, day),
        kind="drift",
        tenant=tenant,
        period=day.isoformat(),
        threshold=round(settings.min_distance * 100),
        severity="warning",
        message=f"{whose} have drifted on {day}: {_described(alarmed)}; {alarmed.height} of "
        f"{today.height} tests, compared with up to {before_days} days before",
        raised_at=datetime.now(UTC),
        value=round(top["distance"] * MILLIONTHS),
        limit=round(settings.min_distance * MILLIONTHS),
        simulated=simulated,
        episode=episode,
    )


def _recovery(episode: str, message: str, day: date) -> Recovery:
    """That the drift of this day or an earlier one is over; a day may be run again, corrected."""
    period = day.isoformat()
    recovery = condition_recovery(episode, message, datetime.now(UTC), after=period)
    return replace(recovery, over=lambda alerts: [each for each in alerts if each.period <= period])


def _described(alarmed: pl.DataFrame) -> str:
    """The strongest signals in words, each category and signal once."""
    once = alarmed.unique(["category", "signal"], keep="first", maintain_order=True)
    named = [
        f"{row['signal']} {'of ' + row['category'] if row['category'] else 'of all'} "
        f"({row['distance']:.1%} moved, p {row['p_value']:.1g})"
        for row in once.head(_NAMED).iter_rows(named=True)
    ]
    more = once.height - len(named)
    return ", ".join(named) + (f" and {more} more" if more else "")
