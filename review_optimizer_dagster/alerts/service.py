"""From service levels to alerts and recoveries; pure, read by run and sensor alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from review_optimizer_dagster.alerts.rules import (
    MILLIONTHS,
    Alert,
    News,
    Recovery,
    alert_id,
    condition_recovery,
)
from review_optimizer_dagster.monitors.service import Overdue


def service_news(latest: Iterable[Mapping[str, Any]], now: datetime) -> list[News]:
    """What the newest day that can be judged says of each promise of a tenant.

    latest: rows of LEVELS with BUDGETS and `day`, one a tenant, indicator and `simulated`. An
    episode begins with a day that breaks the promise, is critical from the day on that its error
    budget is spent, and recovers with a later day that keeps it or where it is promised no more.
    It depends on the days alone, not on the order in which they were run.
    """
    return [_broken(row, now) if row["met"] is False else _kept_again(row, now) for row in latest]


def _broken(row: Mapping[str, Any], now: datetime) -> Alert:
    tenant, name, day = row["tenant"], row["indicator"], row["day"]
    spent = row["budget_left"] <= 0
    severity = "critical" if spent else "warning"
    rest = "is spent" if spent else f"has {row['budget_left']:g} left"
    return Alert(
        alert_id=alert_id("service", tenant, name, severity, row["simulated"]),
        kind="service",
        tenant=tenant,
        period=day.isoformat(),
        threshold=round(row["objective"] * 100),
        severity="critical" if spent else "warning",
        message=(
            f"{name} of {tenant} breaks its service level on {day}: {row['detail']}. It is broken "
            f"on {row['days_broken']} of {row['days_judged']} days; the error budget of "
            f"{row['budget_days']:g} days in {row['window_days']} {rest}"
        ),
        raised_at=now,
        value=round((row["value"] or 0.0) * MILLIONTHS),
        limit=round((row["target"] or 0.0) * MILLIONTHS),
        simulated=row["simulated"],
        episode=_episode(tenant, name, row["simulated"]),
        recurs=True,
    )


def _kept_again(row: Mapping[str, Any], now: datetime) -> Recovery:
    tenant, name, day = row["tenant"], row["indicator"], row["day"].isoformat()
    happened = "keeps its service level again" if row["met"] else "is no longer promised"
    message = f"{name} of {tenant} {happened} on {day}: {row['detail']}"
    return _recovery(_episode(tenant, name, row["simulated"]), message, day, now)


def overdue_news(
    overdue: Iterable[Overdue], watched: Iterable[str], simulated: bool, now: datetime
) -> list[News]:
    """Deliveries that wait too long, whether or not anything runs; and who has none any more.

    watched: every tenant that was looked at.
    """
    late = {each.tenant: each for each in overdue}
    today = now.date().isoformat()
    return [
        _overdue(late[tenant], simulated, now)
        if tenant in late
        else _recovery(
            _episode(tenant, "overdue", simulated),
            f"nothing that {tenant} delivered waits too long for its publication any more",
            today,
            now,
        )
        for tenant in sorted({*watched, *late})
    ]


def _overdue(overdue: Overdue, simulated: bool, now: datetime) -> Alert:
    tenant = overdue.tenant
    return Alert(
        alert_id=alert_id("service", tenant, "overdue", simulated),
        kind="service",
        tenant=tenant,
        period=overdue.days[0].isoformat(),
        threshold=0,
        severity="warning",
        message=(
            f"freshness_hours of {tenant}: {_days(overdue)} not published, although files arrived "
            f"{overdue.hours:.1f} h ago and {overdue.target:g} h are promised; run the day, or "
            "see why its gate failed"
        ),
        raised_at=now,
        value=round(overdue.hours * MILLIONTHS),
        limit=round(overdue.target * MILLIONTHS),
        simulated=simulated,
        episode=_episode(tenant, "overdue", simulated),
        recurs=True,
    )


def _days(overdue: Overdue) -> str:
    first, more = overdue.days[0], len(overdue.days) - 1
    return f"{first} and {more:,} more days are" if more else f"{first} is"


def _episode(tenant: str, name: str, simulated: bool) -> str:
    return f"service:{'simulated' if simulated else 'real'}:{tenant}:{name}"


def _recovery(episode: str, message: str, day: str, now: datetime) -> Recovery:
    """Of what was raised up to a day, that day itself included: it may have been run again."""
    told = condition_recovery(episode, message, now)

    def over(alerts: Sequence[Alert]) -> Sequence[Alert]:
        return [each for each in alerts if each.period <= day]

    def alert(alerts: Sequence[Alert], recoveries: int) -> Alert:
        return replace(told.alert(alerts, recoveries), period=day)

    return Recovery(episode, over, alert)
