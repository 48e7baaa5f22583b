"""Which tiers are paused for whom, in the journal's state: it outlives the run that found them bad.

A pause is kept by tenant, identity and tier: another prompt, model or taxonomy is another identity,
and is not paused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from review_optimizer_dagster.exchange.batch_quality import BatchSample, Scope
from review_optimizer_dagster.money.budgets import JSON, State

OUTLIVED = "a change of prompt, model or taxonomy"
_PREFIX = "paused:"


@dataclass(frozen=True)
class TierPause:
    """A tier that was paused for a tenant and identity."""

    tenant: str
    taxonomy: str
    identity: str
    tier: str
    model: str
    simulated: bool
    since: datetime
    request_id: str
    """The batch that was below."""
    reason: str
    requests: tuple[str, ...]
    """Every batch of this tier that was ever below: each of them pauses it once."""
    lifted_at: datetime | None = None
    lifted_by: str | None = None
    """Who resumed it, or OUTLIVED; None while it is paused."""

    @property
    def is_paused(self) -> bool:
        """Whether nothing is sent to the tier."""
        return self.lifted_at is None

    @property
    def scope(self) -> Scope:
        """Whom it concerns."""
        return self.tenant, self.identity, self.tier

    def as_row(self) -> dict[str, Any]:
        """As JSON; times in ISO 8601."""
        lifted = None if self.lifted_at is None else self.lifted_at.isoformat()
        row = asdict(self) | {"since": self.since.isoformat(), "lifted_at": lifted}
        return row | {"requests": list(self.requests)}


def all_pauses(state: State) -> list[TierPause]:
    """Every pause that was ever made, lifted ones too, by tenant, identity and tier."""
    values = (state.get(key) for key in state.keys(_PREFIX))
    found = [_pause(value) for value in values if value is not None]
    return sorted(found, key=lambda pause: pause.scope)


def note_pause(state: State, sample: BatchSample, reason: str, now: datetime) -> TierPause:
    """Pause a tier for a batch that was below; one that is paused stays as it was."""

    def change(held: JSON | None) -> JSON:
        before: list[str] = held["requests"] if held else []
        requests = [*before, *([sample.request_id] if sample.request_id not in before else [])]
        if held and held["lifted_at"] is None:
            return held | {"requests": requests}
        return TierPause(
            sample.tenant,
            sample.taxonomy,
            sample.identity,
            sample.tier,
            sample.model,
            sample.simulated,
            now,
            sample.request_id,
            reason,
            tuple(requests),
        ).as_row()

    return _pause(state.update(_key(sample.scope), change))


def lift(state: State, scope: Scope, by: str, now: datetime) -> None:
    """End a pause; where it has ended, nothing changes."""

    def change(held: JSON) -> JSON:
        if held["lifted_at"] is not None:
            return held
        return held | {"lifted_at": now.isoformat(), "lifted_by": by}

    state.update(_key(scope), change)


def outlived(
    pauses: Iterable[TierPause], identities: Mapping[tuple[str, str], str], simulated: bool
) -> list[TierPause]:
    """The pauses whose tenant and taxonomy now have another identity.

    identities: by tenant and taxonomy. What a simulator answers says nothing of a real engine's
    pauses, nor the other way round.
    """
    return [
        pause
        for pause in pauses
        if pause.is_paused
        and pause.simulated == simulated
        and identities.get((pause.tenant, pause.taxonomy), pause.identity) != pause.identity
    ]


def _key(scope: Scope) -> str:
    return _PREFIX + "|".join(scope)


def _pause(value: JSON) -> TierPause:
    lifted = value["lifted_at"]
    times = {
        "since": datetime.fromisoformat(value["since"]),
        "lifted_at": None if lifted is None else datetime.fromisoformat(lifted),
    }
    return TierPause(**value | times | {"requests": tuple(value["requests"])})
