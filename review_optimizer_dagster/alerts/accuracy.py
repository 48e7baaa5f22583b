"""Alerts about accuracy beside the gate's own: a part of a day, and all days together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

from review_optimizer_dagster.alerts.rules import (
    MILLIONTHS,
    Alert,
    News,
    Severity,
    alert_id,
    condition_recovery,
)
from review_optimizer_dagster.truth.accuracy import Standing

QUALITY = "quality"


@dataclass(frozen=True)
class About:
    """Whose accuracy it is, of which day, and what was asked for."""

    tenant: str
    day: date
    taxonomy: str
    threshold: float
    simulated: bool

    def episode(self, what: str) -> str:
        """The episode of a condition; simulated answers have their own."""
        kind = "simulated" if self.simulated else "real"
        return f"{what}:{kind}:{self.tenant}:{self.taxonomy}"

    def over(self, what: str, message: str) -> News:
        """That a condition does not hold on the day."""
        now = datetime.now(UTC)
        return condition_recovery(self.episode(what), message, now, after=self.day.isoformat())

    def raised(
        self, what: str, since: date, severity: Severity, upper: float, message: str
    ) -> News:
        """That a condition has held since a day; told once for as long as it does.

        Its id has that day, so that whoever looks at any of its days later raises nothing new.
        """
        parts = (QUALITY, what, self.tenant, since, self.threshold, self.taxonomy, self.simulated)
        return Alert(
            alert_id=alert_id(*parts),
            kind=QUALITY,
            tenant=self.tenant,
            period=self.day.isoformat(),
            threshold=round(self.threshold * 100),
            severity=severity,
            message=message,
            raised_at=datetime.now(UTC),
            value=round(upper * MILLIONTHS),
            limit=round(self.threshold * MILLIONTHS),
            simulated=self.simulated,
            episode=self.episode(what),
        )


def parts_news(about: About, below: Sequence[Mapping[str, Any]], since: date) -> News:
    """That parts of a tenant's day are below the threshold beyond doubt, or that none is any more.

    below: rows of CELLS; since: the first of the days in a row that had any.
    """
    tenant, day, threshold = about.tenant, about.day, about.threshold
    if not below:
        message = f"no class, category or level of {tenant} is below {threshold:.2%} on {day}"
        return about.over("parts", message)
    named = ", ".join(
        f"{row['dimension']} {row['name'] or '(none)'} ({row['correct']:,} of {row['n']:,})"
        for row in below
    )
    message = (
        f"parts of {tenant} are less accurate than {threshold:.2%} on {day}, beyond doubt: "
        f"{named}. What a category among them was answered is published as not verified, and not "
        "archived"
    )
    worst = min(row["upper"] for row in below)
    return about.raised("parts", since, "warning", worst, message)


def standing_news(about: About, standing: Standing, since: date) -> News:
    """That all days together are below the threshold, by bounds that hold at every look.

    since: the first of the days in a row that said so.
    """
    counted = (
        f"{standing.correct:,} of {standing.texts:,} texts right over {standing.days} days "
        f"({standing.lower:.2%} to {standing.upper:.2%})"
    )
    whose = f"all days of {about.tenant} together are"
    if standing.verdict != "failed":
        message = f"{whose} no longer below {about.threshold:.2%}: {counted}"
        return about.over("standing", message)
    message = (
        f"{whose} less accurate than {about.threshold:.2%}, whatever single days were let through: "
        f"{counted}"
    )
    return about.raised("standing", since, "critical", standing.upper, message)
