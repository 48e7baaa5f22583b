"""Alerts in the journal's state: raised, delivered, acknowledged; and episodes that recover.

One value an alert, and two kinds of index, each of which may hold too much for a moment but never
too little: the outbox (what may be undelivered) and an episode (what may not have recovered). An
alert is in both before it is raised, whole, so that whoever comes next completes what a killed
process began.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime
from typing import Literal, TypeAlias

from review_optimizer_dagster.alerts.rules import Alert, News, Recovery, alert_id
from review_optimizer_dagster.money.budgets import JSON, State

AlertState: TypeAlias = Literal["raised", "delivered", "acknowledged"]
Owed: TypeAlias = Callable[[Alert], Sequence[str]]

KEY_PREFIX = "alert:"
OUTBOX = "alerts_outbox"  # a prefix of its own: keys(KEY_PREFIX) are the alerts alone
_EPISODE = "alert_episode:"
_KEPT_CLOSED = 64  # alerts of an episode that are known to be over, against a late writer
_FIELDS = frozenset(field.name for field in fields(Alert))


@dataclass(frozen=True)
class Delivery:
    """How far a channel is with an alert."""

    attempts: int = 0
    error: str | None = None
    """Of the last attempt."""
    next_attempt_at: datetime | None = None
    """Not before this; None: at once."""
    delivered_at: datetime | None = None
    claim: str | None = None
    """Of the process that is sending it, until `claimed_until`."""
    claimed_until: datetime | None = None


@dataclass(frozen=True)
class Kept:
    """An alert as the state keeps it."""

    alert: Alert
    deliveries: Mapping[str, Delivery]
    """By channel: those that the alert was owed to when it was raised."""
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None

    @property
    def delivered_at(self) -> datetime | None:
        """When the last channel had it; None while one has not, or none is owed it."""
        times = [each.delivered_at for each in self.deliveries.values()]
        known = [time for time in times if time is not None]
        return max(known) if known and len(known) == len(times) else None

    @property
    def state(self) -> AlertState:
        """How far it has come."""
        if self.acknowledged_at is not None:
            return "acknowledged"
        return "raised" if self.delivered_at is None else "delivered"

    @property
    def outstanding(self) -> list[str]:
        """The channels that have not had it."""
        return [name for name, each in self.deliveries.items() if each.delivered_at is None]


def nobody(_: Alert) -> Sequence[str]:
    """No channel is owed anything."""
    return ()


def raise_once(state: State, alerts: Iterable[Alert], owed: Owed = nobody) -> list[Alert]:
    """Record alerts, and return those that no process has raised before.

    owed: the channels, by name, that are to deliver an alert.
    """
    wanted = [_of_this_time(state, alert) for alert in alerts]
    fresh = [each for each in wanted if state.get(KEY_PREFIX + each.alert_id) is None]
    if not fresh:
        return []
    values = [_as_json(Kept(each, {name: Delivery() for name in owed(each)})) for each in fresh]
    _enqueue(state, values)
    return [each for each, value in zip(fresh, values, strict=True) if _complete(state, value)]


def recover(state: State, recovery: Recovery, owed: Owed = nobody) -> list[Alert]:
    """End what is over of an episode; returns the alert that says so, where it is new.

    Whoever takes an alert out of its episode tells of it: two processes never both do.
    """
    held = state.get(_EPISODE + recovery.episode)
    if held is None:
        return []
    over = recovery.over([_alert(value) for value in held["open"].values()])
    if not over:
        return []
    alert = recovery.alert(over, held["recoveries"])
    kept = Kept(alert, {name: Delivery() for name in owed(alert)})
    value = _as_json(kept) | {"closes": [each.alert_id for each in over]}
    _enqueue(state, [value])
    return [alert] if _complete(state, value) else []


def raise_news(state: State, news: Iterable[News], owed: Owed = nobody) -> list[Alert]:
    """Raise alerts and recoveries, and return what is new, in their order."""
    new = []
    for each in news:
        if isinstance(each, Recovery):
            new += recover(state, each, owed)
        else:
            new += raise_once(state, [each], owed)
    return new


def complete_all(state: State) -> dict[str, Kept]:
    """Every alert that may be undelivered, by id; what a killed process left half done is done."""
    found = {}
    for name, value in (state.get(OUTBOX) or {}).items():
        if (held := state.get(KEY_PREFIX + name)) is None:
            _complete(state, value)
            held = state.get(KEY_PREFIX + name)
        if held is not None:
            found[name] = _kept(held)
    return found


def forget_settled(state: State, names: Iterable[str]) -> None:
    """Take alerts out of the outbox; only those may be named that no channel still owes."""
    gone = set(names)
    if gone:
        state.update(OUTBOX, lambda held: {k: v for k, v in (held or {}).items() if k not in gone})


def change_delivery(
    state: State, name: str, channel: str, change: Callable[[Delivery], Delivery]
) -> Delivery:
    """Change how far a channel is with an alert, in one atomic step; returns what it is now."""

    def changed(value: JSON | None) -> JSON:
        if value is None:
            raise KeyError(f"no alert {name}")
        kept = _kept(value)
        now = change(kept.deliveries.get(channel, Delivery()))
        deliveries = {**kept.deliveries, channel: now}
        return value | {"deliveries": {k: _delivery_json(v) for k, v in deliveries.items()}}

    return _kept(state.update(KEY_PREFIX + name, changed)).deliveries[channel]


def acknowledge(state: State, name: str, who: str, now: datetime) -> Kept:
    """Note that somebody has seen to an alert; the first one counts."""

    def changed(value: JSON | None) -> JSON:
        if value is None:
            raise KeyError(f"no alert {name}")
        if value.get("acknowledged_at") is not None:
            return value
        return value | {"acknowledged_at": now.isoformat(), "acknowledged_by": who}

    return _kept(state.update(KEY_PREFIX + name, changed))


def kept_alerts(state: State) -> list[Kept]:
    """Every alert raised so far with its state, oldest first."""
    values = (state.get(key) for key in state.keys(KEY_PREFIX))
    kept = [_kept(value) for value in values if value is not None]
    return sorted(kept, key=_order)


def _order(kept: Kept) -> tuple[datetime, str, int, str]:
    """By time; what was raised at once, by threshold."""
    alert = kept.alert
    return alert.raised_at, alert.tenant, alert.threshold, alert.alert_id


def raised(state: State) -> list[Alert]:
    """Every alert raised so far, oldest first."""
    return [each.alert for each in kept_alerts(state)]


def _of_this_time(state: State, alert: Alert) -> Alert:
    """The alert under an id of its own, where its episode has begun again after a recovery."""
    if not alert.recurs:
        return alert
    times = (state.get(_EPISODE + alert.episode) or {}).get("recoveries", 0)
    return replace(alert, alert_id=alert_id(alert.alert_id, times)) if times else alert


def _enqueue(state: State, values: Sequence[JSON]) -> None:
    """Put alerts into the outbox, before anything else is done with them."""
    entries = {value["alert_id"]: value for value in values}
    state.update(OUTBOX, lambda held: entries | (held or {}))


def _complete(state: State, value: JSON) -> bool:
    """Raise what is in the outbox; whether it was this call that did. May be done again."""
    name = value["alert_id"]
    if value.get("closes"):
        if not _close(state, value["episode"], value["closes"], name):
            forget_settled(state, [name])  # another process has told of all of them
            return False
    elif value["episode"] and value["recovers"] is None:
        _open(state, value)
    return state.add(KEY_PREFIX + name, {k: v for k, v in value.items() if k != "closes"})


def _open(state: State, value: JSON) -> None:
    alert = {key: value[key] for key in _FIELDS}

    def change(held: JSON | None) -> JSON:
        episode = held or {"open": {}, "closed": {}, "recoveries": 0}
        if alert["alert_id"] in episode["closed"]:
            return episode  # a process that slept through its recovery
        return episode | {"open": {alert["alert_id"]: alert} | episode["open"]}

    state.update(_EPISODE + value["episode"], change)


def _close(state: State, episode: str, names: Sequence[str], recovery: str) -> bool:
    """Take alerts out of their episode; whether it was this recovery that took any of them."""

    def change(held: JSON | None) -> JSON:
        value = held or {"open": {}, "closed": {}, "recoveries": 0}
        taken = [name for name in names if name in value["open"]]
        closed = [*value["closed"].items(), *((name, recovery) for name in taken)]
        return {
            "open": {k: v for k, v in value["open"].items() if k not in taken},
            "closed": dict(closed[-_KEPT_CLOSED:]),
            "recoveries": value["recoveries"] + bool(taken),
        }

    closed = state.update(_EPISODE + episode, change)["closed"]
    return any(closed.get(name) == recovery for name in names)


def _as_json(kept: Kept) -> JSON:
    return asdict(kept.alert) | {
        "raised_at": kept.alert.raised_at.isoformat(),
        "deliveries": {name: _delivery_json(each) for name, each in kept.deliveries.items()},
        "acknowledged_at": None,
        "acknowledged_by": None,
    }


def _alert(value: JSON) -> Alert:
    known = {key: each for key, each in value.items() if key in _FIELDS}
    return Alert(**known | {"raised_at": datetime.fromisoformat(value["raised_at"])})


def _kept(value: JSON) -> Kept:
    """From JSON; alerts of before there were channels have no deliveries."""
    deliveries = (value.get("deliveries") or {}).items()
    return Kept(
        _alert(value),
        {name: _delivery(each) for name, each in deliveries},
        _time(value.get("acknowledged_at")),
        value.get("acknowledged_by"),
    )


def _delivery_json(delivery: Delivery) -> JSON:
    return {
        key: each.isoformat() if isinstance(each, datetime) else each
        for key, each in asdict(delivery).items()
    }


def _delivery(value: JSON) -> Delivery:
    times = ("next_attempt_at", "delivered_at", "claimed_until")
    return Delivery(**value | {key: _time(value[key]) for key in times})


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
