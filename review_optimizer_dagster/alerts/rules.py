"""From budgets and verdicts to alerts, each raised once; beside the flow, read by run and sensor.

The raised alerts live in the journal's state, where every process sees them at once; each run
copies them into the warehouse.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, Literal, TypeAlias

from review_optimizer_dagster.money.budgets import JSON, Spend, State

Severity: TypeAlias = Literal["warning", "critical"]

KEY_PREFIX = "alert:"
SPENT = 100  # per cent; always an alert
MILLIONTHS = 1_000_000


@dataclass(frozen=True)
class Alert:
    """One thing that somebody has to know."""

    alert_id: str
    """The same for the same kind, tenant, period, threshold and version of the limit."""
    kind: str
    """budget, gate, or recheck."""
    tenant: str
    period: str
    """The month (2026-11) or day (2026-11-22), UTC."""
    threshold: int
    """Per cent of the limit."""
    severity: Severity
    message: str
    raised_at: datetime
    value: int
    """Nano-dollars of a budget, millionths of an accuracy or error, reviews an entry answered."""
    limit: int
    """What it was measured against, in the same unit."""


def _alert_id(*parts: object) -> str:
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=16).hexdigest()


def _dollars(nanos: int) -> str:
    return f"${Decimal(nanos) / 1_000_000_000:,.4f}"


def budget_alerts(spend: Spend, thresholds: Sequence[int]) -> list[Alert]:
    """An alert for every threshold (per cent) that the spend has reached; 100 is always one.

    A budget that refused a request counts as spent. Each version of a budget raises its own.
    """
    now, period = datetime.now(UTC), _period_of(spend)
    return [
        Alert(
            alert_id=_alert_id("budget", spend.tenant, period, threshold, spend.version),
            kind="budget",
            tenant=spend.tenant,
            period=period,
            threshold=threshold,
            severity="critical" if threshold == SPENT else "warning",
            message=_budget_message(spend, period, threshold),
            raised_at=now,
            value=spend.spent,
            limit=spend.amount,
        )
        for threshold in sorted({*thresholds, SPENT})
        if spend.spent * 100 >= threshold * spend.amount or (spend.refused and threshold == SPENT)
    ]


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
        alert_id=_alert_id("gate", tenant, day, threshold, taxonomy),
        kind="gate",
        tenant=tenant,
        period=day.isoformat(),
        threshold=round(threshold * 100),
        severity="critical",
        message=f"the gate failed for {tenant} on {day}, so nothing of it is published: {detail}",
        raised_at=datetime.now(UTC),
        value=round((upper or 0.0) * MILLIONTHS),
        limit=round(threshold * MILLIONTHS),
    )


def contradicted_alert(
    tenant: str, day: date, identity: str, source_key: str, level: str, rechecks: int, answered: int
) -> Alert:
    """The alert of a cached answer that rechecks of a day contradicted, for one tenant.

    rechecks: how many disagreed; answered: reviews of the tenant that it answered on earlier days.
    """
    return Alert(
        alert_id=_alert_id("recheck", tenant, day, identity, source_key),
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
        alert_id=_alert_id("recheck", tenant, last, identity, "level", level),
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
    )


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
        alert_id=_alert_id(
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


def raise_once(state: State, alerts: Iterable[Alert]) -> list[Alert]:
    """Record alerts, and return those that no process has raised before."""
    return [alert for alert in alerts if state.add(KEY_PREFIX + alert.alert_id, _as_json(alert))]


def raised(state: State) -> list[Alert]:
    """Every alert raised so far, oldest first."""
    values = (state.get(key) for key in state.keys(KEY_PREFIX))
    alerts = [_from_json(value) for value in values if value is not None]
    return sorted(alerts, key=lambda alert: (alert.raised_at, alert.alert_id))


def _as_json(alert: Alert) -> JSON:
    return asdict(alert) | {"raised_at": alert.raised_at.isoformat()}


def _from_json(value: JSON) -> Alert:
    return Alert(**value | {"raised_at": datetime.fromisoformat(value["raised_at"])})
