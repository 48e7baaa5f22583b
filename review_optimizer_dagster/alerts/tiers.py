"""The alert of a batch that came back wrong, and that its tier is asked again; pure."""

from __future__ import annotations

from datetime import date, datetime

from review_optimizer_dagster.alerts.rules import (
    MILLIONTHS,
    Alert,
    Recovery,
    alert_id,
    condition_recovery,
)
from review_optimizer_dagster.exchange.batch_quality import BatchSample
from review_optimizer_dagster.exchange.tier_pauses import TierPause


def below_reason(sample: BatchSample) -> str:
    """Why a tier is paused, in words: counts, interval, threshold and goal."""
    found, goals = sample.decision, sample.goals
    return (
        f"of a batch of {sample.reviews:,} reviews {sample.n:,} were compared with their truth, "
        f"and {sample.correct:,} are right, {_percent(sample.correct / sample.n)} "
        f"(interval {_percent(found.lower or 0.0)} to {_percent(found.upper or 0.0)}, each end at "
        f"confidence {found.confidence:.5g}): below the {_percent(goals.threshold)} asked for, "
        f"beyond doubt (goal {_percent(goals.goal)})"
    )


def quality_alert(sample: BatchSample, day: date, now: datetime) -> Alert:
    """The alert of a sample that is below: its tier is paused for the tenant and taxonomy.

    day: of delivery. One an episode, which goes on until the tier is asked again.
    """
    tenant, tier = sample.tenant, sample.tier
    return Alert(
        alert_id=alert_id("quality", tenant, sample.identity, tier, sample.request_id),
        kind="quality",
        tenant=tenant,
        period=day.isoformat(),
        threshold=round(sample.goals.threshold * 100),
        severity="critical",
        message=(
            f"tier {tier} ({sample.model}) is paused for {tenant}, {sample.taxonomy}: "
            f"{below_reason(sample)}; request {sample.request_id}. What is left goes to the next "
            "tier, or is deferred where there is none. The batch's own answers stay, and the "
            f"day's gate judges them. Look into it, then: review-optimizer tiers resume "
            f"--tenant {tenant} --tier {tier}"
        ),
        raised_at=now,
        value=round((sample.decision.upper or 0.0) * MILLIONTHS),
        limit=round(sample.goals.threshold * MILLIONTHS),
        simulated=sample.simulated,
        episode=_episode(tenant, sample.taxonomy, tier, sample.simulated),
    )


def quality_recovery(pause: TierPause, by: str, now: datetime) -> Recovery:
    """That a paused tier is asked again; by: who resumed it, or what changed."""
    message = (
        f"tier {pause.tier} is asked again for {pause.tenant}, {pause.taxonomy}: "
        f"resumed by {by}, paused since {pause.since:%Y-%m-%d %H:%M} UTC"
    )
    episode = _episode(pause.tenant, pause.taxonomy, pause.tier, pause.simulated)
    return condition_recovery(episode, message, now)


def _episode(tenant: str, taxonomy: str, tier: str, simulated: bool) -> str:
    return f"quality:{'simulated' if simulated else 'real'}:{tenant}:{taxonomy}:{tier}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
