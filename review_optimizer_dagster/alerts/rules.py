"""From budgets and verdicts to alerts and recoveries; pure, read by run and sensor alike."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from review_optimizer_dagster.money.budgets import Period, Spend, period_key

Severity: TypeAlias = Literal["info", "warning", "critical"]

SPENT = 100  # per cent; always an alert
MILLIONTHS = 1_000_000
_EVENTS = {
    "budget": "threshold_reached",
    "gate": "failed",
    "recheck": "contradicted",
    "pattern": "switched_off",
    "drift": "detected",
    "test": "sent",
}


@dataclass(frozen=True)
class Alert:
    """One thing that somebody has to know."""

    alert_id: str
    """The same for the same kind, tenant, period, threshold and version of the limit."""
    kind: str
    """budget, gate, recheck, pattern, drift, or test."""
    tenant: str
    period: str
    """The month (2026-11) or day (2026-11-22), UTC."""
    threshold: int
    """Per cent of the limit; of a recovery, the highest that is over."""
    severity: Severity
    message: str
    raised_at: datetime
    value: int
    """Nano-dollars of a budget, millionths of an accuracy or error, reviews an entry answered."""
    limit: int
    """What it was measured against, in the same unit."""
    version: int = 0
    """Of the limit; 0 where limits of this kind have none."""
    simulated: bool = False
    """Whether it is about simulated money."""
    recovers: str | None = None
    """The id of the alert that is over; None where this is no recovery."""
    episode: str = ""
    """What goes on until it recovers, and is then told; empty where nothing does."""
    recurs: bool = False
    """Whether it is raised anew when its episode begins again after a recovery."""

    @property
    def event(self) -> str:
        """What happened, as receivers tell events apart: `budget.threshold_reached`."""
        happened = "recovered" if self.recovers else _EVENTS.get(self.kind, "raised")
        return f"{self.kind}.{happened}"


@dataclass(frozen=True)
class Recovery:
    """That an episode may be over: which of its alerts are, and what is then told, once."""

    episode: str
    over: Callable[[Sequence[Alert]], Sequence[Alert]]
    """Of the alerts that are open in the episode, those that are over."""
    alert: Callable[[Sequence[Alert], int], Alert]
    """What is told: from those that are over, and how often the episode recovered before."""


News: TypeAlias = Alert | Recovery


def alert_id(*parts: object) -> str:
    """The id of an alert: the same for the same parts, in every process."""
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _dollars(nanos: int) -> str:
    return f"${Decimal(nanos) / 1_000_000_000:,.4f}"


def kind_of_period(period: str) -> Period:
    """Whether a period's key names a month or a day."""
    return "month" if len(period) == len("2026-11") else "day"


def is_current(spend: Spend, now: datetime) -> bool:
    """Whether a spend's period is the one of this moment; what comes after its end is late."""
    return period_key(kind_of_period(spend.period), now) == spend.period


def reached(spend: Spend, thresholds: Sequence[int]) -> list[int]:
    """Every threshold (per cent) that the spend has reached, ascending; 100 is always one.

    A budget that refused a request counts as spent.
    """
    return [
        threshold
        for threshold in sorted({*thresholds, SPENT})
        if spend.spent * 100 >= threshold * spend.amount or (spend.refused and threshold == SPENT)
    ]


def budget_news(spend: Spend, thresholds: Sequence[int], now: datetime) -> list[News]:
    """What a budget's spend says: its alerts, and whether those before it are over.

    Late data of a period that has ended raises its alerts, but neither begins an episode nor
    ends one, so that the order in which periods are looked at makes no difference.
    """
    recovered = [budget_recovery(spend, thresholds, now)] if is_current(spend, now) else []
    return [*budget_alerts(spend, thresholds, now), *recovered]


def budget_alerts(
    spend: Spend, thresholds: Sequence[int], now: datetime | None = None
) -> list[Alert]:
    """An alert for every threshold that the spend has reached; a budget's version has its own."""
    now, period = now or datetime.now(UTC), _period_of(spend)
    episode = _budget_episode(spend) if is_current(spend, now) else ""
    return [
        Alert(
            alert_id=alert_id("budget", spend.tenant, period, threshold, spend.version),
            kind="budget",
            tenant=spend.tenant,
            period=period,
            threshold=threshold,
            severity="critical" if threshold == SPENT else "warning",
            message=_budget_message(spend, period, threshold),
            raised_at=now,
            value=spend.spent,
            limit=spend.amount,
            version=spend.version,
            simulated=spend.simulated,
            episode=episode,
        )
        for threshold in reached(spend, thresholds)
    ]


def budget_recovery(spend: Spend, thresholds: Sequence[int], now: datetime) -> Recovery:
    """That a new version or period of a budget stands below what the one before it had reached.

    Every version and period of a budget recovers at most once.
    """
    period, episode = _period_of(spend), _budget_episode(spend)
    highest = max(reached(spend, thresholds), default=0)

    def over(alerts: Sequence[Alert]) -> Sequence[Alert]:
        before = [each for each in alerts if (each.version, each.period) < (spend.version, period)]
        return before if max((each.threshold for each in before), default=0) > highest else []

    def alert(alerts: Sequence[Alert], _: int) -> Alert:
        worst = max(alerts, key=lambda each: (each.threshold, each.version, each.period))
        return Alert(
            alert_id=alert_id("budget", "recovered", spend.tenant, period, spend.version),
            kind="budget",
            tenant=spend.tenant,
            period=period,
            threshold=worst.threshold,
            severity="info",
            message=(
                f"the budget of {spend.tenant} has recovered: {worst.threshold} % of "
                f"{_dollars(worst.limit)} was reached in {worst.period}, and now "
                f"{_dollars(spend.spent)} of {_dollars(spend.amount)} is spent in {period}"
            ),
            raised_at=now,
            value=spend.spent,
            limit=spend.amount,
            version=spend.version,
            simulated=spend.simulated,
            recovers=worst.alert_id,
            episode=episode,
        )

    return Recovery(episode, over, alert)


def _budget_episode(spend: Spend) -> str:
    return f"budget:{'simulated' if spend.simulated else 'real'}:{spend.tenant}"


def _period_of(spend: Spend) -> str:
    return f"simulated:{spend.period}" if spend.simulated else spend.period


def _budget_message(spend: Spend, period: str, threshold: int) -> str:
    tenant, spent, amount = spend.tenant, spend.spent, spend.amount
    of = f"{_dollars(spent)} of the {_dollars(amount)} that {tenant} may spend in {period}"
    if threshold == SPENT:
        rest = "" if spent >= amount else ", and the worst case of another request exceeds the rest"
        return (
            f"{of} is spent{rest}: nothing more is sent, and reviews the cache cannot answer are "
            f"deferred; raise tenants.{tenant}.budget_usd and run the day again"
        )
    return f"{of} is spent: {threshold} % is reached"


def condition_recovery(
    episode: str, message: str, now: datetime, after: str = "", value: int = 0, limit: int = 0
) -> Recovery:
    """That a condition (a failed gate, a level that is off) holds no longer.

    after: the period that finds it so; alerts of this period or a later one are not over by it.
    """

    def over(alerts: Sequence[Alert]) -> Sequence[Alert]:
        return [each for each in alerts if not after or each.period < after]

    def alert(alerts: Sequence[Alert], recoveries: int) -> Alert:
        last = max(alerts, key=lambda each: (each.raised_at, each.alert_id))
        return Alert(
            alert_id=alert_id("recovered", episode, recoveries),
            kind=last.kind,
            tenant=last.tenant,
            period=after or last.period,
            threshold=last.threshold,
            severity="info",
            message=message,
            raised_at=now,
            value=value,
            limit=limit,
            simulated=last.simulated,
            recovers=last.alert_id,
            episode=episode,
        )

    return Recovery(episode, over, alert)


def gate_alert(
    tenant: str,
    day: date,
    taxonomy: str,
    verdict: str,
    upper: float | None,
    threshold: float,
    detail: str,
) -> Alert | None:
    """The alert of a tenant's day that the gate failed; None for any other verdict.

    upper: upper end of the accuracy's interval, None where the contract was all there is to tell.
    """
    if verdict != "failed":
        return None
    return Alert(
        alert_id=alert_id("gate", tenant, day, threshold, taxonomy),
        kind="gate",
        tenant=tenant,
        period=day.isoformat(),
        threshold=round(threshold * 100),
        severity="critical",
        message=f"the gate failed for {tenant} on {day}, so nothing of it is published: {detail}",
        raised_at=datetime.now(UTC),
        value=round((upper or 0.0) * MILLIONTHS),
        limit=round(threshold * MILLIONTHS),
        episode=_gate_episode(tenant, day, taxonomy),
        recurs=True,
    )


def gate_recovery(tenant: str, day: date, taxonomy: str, verdict: str, detail: str) -> Recovery:
    """That the gate lets a tenant's day through; it is told where the gate had failed it."""
    message = f"the gate lets {tenant} through on {day}, which it had failed: {verdict}, {detail}"
    return condition_recovery(_gate_episode(tenant, day, taxonomy), message, datetime.now(UTC))


def _gate_episode(tenant: str, day: date, taxonomy: str) -> str:
    return f"gate:{tenant}:{day}:{taxonomy}"


def contradicted_alert(
    tenant: str, day: date, identity: str, source_key: str, level: str, rechecks: int, answered: int
) -> Alert:
    """The alert of a cached answer that rechecks of a day contradicted, for one tenant.

    rechecks: how many disagreed; answered: reviews of the tenant that it answered on earlier days.
    """
    return Alert(
        alert_id=alert_id("recheck", tenant, day, identity, source_key),
        kind="recheck",
        tenant=tenant,
        period=day.isoformat(),
        threshold=0,
        severity="warning",
        message=(
            f"the model contradicts a cached answer of {tenant}: {rechecks} rechecked on {day}, "
            f"entry {source_key}, level {level}. It answers nothing more, and what it answered "
            f"that day is asked anew; {answered:,} reviews of earlier days have its labels until "
            "those days are run with --reclassify"
        ),
        raised_at=datetime.now(UTC),
        value=answered,
        limit=0,
    )


def distrusted_alert(
    tenant: str,
    identity: str,
    level: str,
    last: date,
    disagreements: int,
    n: int,
    lower: float,
    allowed: float,
) -> Alert:
    """The alert of a cache level that is switched off for a tenant, for its errors.

    last: the last day with a recheck of the level; while it is off there is none, so that it is
    told once. lower: lower bound of its error; allowed: the largest share that may be wrong.
    """
    return Alert(
        alert_id=alert_id("recheck", tenant, last, identity, "level", level),
        kind="recheck",
        tenant=tenant,
        period=last.isoformat(),
        threshold=round(allowed * 100),
        severity="critical",
        message=(
            f"similar texts no longer answer reviews of {tenant} at level {level}: the model "
            f"contradicted {disagreements:,} of {n:,} rechecks up to {last}, so more than "
            f"{100 * lower:.2f} % are wrong, and {100 * allowed:.2f} % are allowed"
        ),
        raised_at=datetime.now(UTC),
        value=round(lower * MILLIONTHS),
        limit=round(allowed * MILLIONTHS),
        episode=_level_episode(tenant, identity, level),
    )


def level_recovery(tenant: str, identity: str, level: str, day: date) -> Recovery:
    """That rechecks up to a day no longer speak against a level that was switched off."""
    message = (
        f"similar texts answer reviews of {tenant} at level {level} again: the rechecks up to "
        f"{day} do not show that too many are wrong"
    )
    episode = _level_episode(tenant, identity, level)
    return condition_recovery(episode, message, datetime.now(UTC), after=day.isoformat())


def _level_episode(tenant: str, identity: str, level: str) -> str:
    return f"level:{tenant}:{identity}:{level}"


def pattern_alert(
    tenant: str,
    day: date,
    certificate: Mapping[str, Any],
) -> Alert:
    """The alert of a learned pattern that recent rechecks contradict, and that was switched off.

    certificate: a row of CERTIFICATES with the status `switched off`.
    """
    name = f"{certificate['field']}={certificate['label']}"
    where = f" in {certificate['category']}" if certificate["category"] else ""
    return Alert(
        alert_id=alert_id(
            "pattern", tenant, day, certificate["version"], name, certificate["category"]
        ),
        kind="pattern",
        tenant=tenant,
        period=day.isoformat(),
        threshold=round(certificate["max_error"] * 100),
        severity="warning",
        message=(
            f"the learned pattern {certificate['version']} no longer answers {name}{where}: of its "
            f"last {certificate['n']:,} checked answers the model contradicts "
            f"{certificate['errors']:,}, more than {100 * certificate['max_error']:.2f} % beyond "
            "doubt; such reviews go to the model until a newer pattern is certified"
        ),
        raised_at=datetime.now(UTC),
        value=round(certificate["bound"] * MILLIONTHS),
        limit=round(certificate["max_error"] * MILLIONTHS),
    )
