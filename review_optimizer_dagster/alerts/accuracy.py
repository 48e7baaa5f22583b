"""Alerts about accuracy beside the gate's own: a part of a day, and all days together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from review_optimizer_dagster.alerts.rules import (
    MILLIONTHS,
    Alert,
    News,
    alert_id,
    condition_recovery,
)
from review_optimizer_dagster.truth.accuracy import Standing

QUALITY = "quality"


def parts_news(
    tenant: str,
    day: date,
    taxonomy: str,
    threshold: float,
    simulated: bool,
    below: Sequence[Mapping[str, Any]],
) -> list[News]:
    """That parts of a tenant's day are below the threshold beyond doubt, or that none is any more.

    below: rows of CELLS. One alert for as long as it goes on, whichever parts they are.
    """
    episode = f"parts:{'simulated' if simulated else 'real'}:{tenant}:{taxonomy}"
    now = datetime.now(UTC)
    if not below:
        message = f"no class, category or level of {tenant} is below {threshold:.0%} on {day}"
        return [condition_recovery(episode, message, now, after=day.isoformat())]
    worst = min(below, key=lambda row: row["upper"])
    named = ", ".join(
        f"{row['dimension']} {row['name'] or '(none)'} ({row['correct']:,} of {row['n']:,})"
        for row in below
    )
    return [
        Alert(
            alert_id=alert_id(QUALITY, "parts", tenant, day, threshold, taxonomy),
            kind=QUALITY,
            tenant=tenant,
            period=day.isoformat(),
            threshold=round(threshold * 100),
            severity="warning",
            message=f"parts of {tenant} are less accurate than {threshold:.2%} on {day}, beyond "
            f"doubt: {named}. What a category among them was answered is published as not "
            "verified, and not archived",
            raised_at=now,
            value=round(worst["upper"] * MILLIONTHS),
            limit=round(threshold * MILLIONTHS),
            simulated=simulated,
            episode=episode,
            recurs=True,
        )
    ]


def standing_news(
    tenant: str, day: date, taxonomy: str, threshold: float, simulated: bool, standing: Standing
) -> list[News]:
    """That all days together are below the threshold, by bounds that hold at every look."""
    episode = f"standing:{'simulated' if simulated else 'real'}:{tenant}:{taxonomy}"
    now = datetime.now(UTC)
    counted = (
        f"{standing.correct:,} of {standing.texts:,} texts right over {standing.days} days "
        f"({standing.lower:.2%} to {standing.upper:.2%})"
    )
    if standing.verdict != "failed":
        message = f"all days of {tenant} together are no longer below {threshold:.2%}: {counted}"
        return [condition_recovery(episode, message, now, after=day.isoformat())]
    return [
        Alert(
            alert_id=alert_id(QUALITY, "standing", tenant, day, threshold, taxonomy),
            kind=QUALITY,
            tenant=tenant,
            period=day.isoformat(),
            threshold=round(threshold * 100),
            severity="critical",
            message=f"all days of {tenant} together are less accurate than {threshold:.2%}, "
            f"whatever single days were let through: {counted}",
            raised_at=now,
            value=round(standing.upper * MILLIONTHS),
            limit=round(threshold * MILLIONTHS),
            simulated=simulated,
            episode=episode,
            recurs=True,
        )
    ]
