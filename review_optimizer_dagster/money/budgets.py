"""What a tenant may spend: reserved before a request is sent, settled when its cost is known.

The counters of a tenant's month are one value in the journal's state, changed in atomic steps, so
that requests which run at the same time, in whatever process, cannot spend the same money.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal, Protocol, TypeAlias

JSON: TypeAlias = Any  # what json.dumps takes
Period: TypeAlias = Literal["day", "month"]

LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
HOLD = timedelta(hours=48)  # a job of the Batch API is answered within 24
PENDING = timedelta(minutes=2)  # as long as a large request may take
_SPEND, _VERSIONS, _DEFERRED = "spend:", "budget_versions:", "deferred:"


class State(Protocol):
    """Durable JSON values by key, safe across threads and processes."""

    def get(self, key: str) -> JSON | None:
        """The value, or None."""

    def add(self, key: str, value: JSON) -> bool:
        """Store a value under a new key; False, and no change, where the key is there already."""

    def update(self, key: str, change: Callable[[JSON | None], JSON]) -> JSON:
        """Replace a value by `change(value)` in one atomic step, and return the new value."""

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with a prefix."""


@dataclass(frozen=True)
class Spend:
    """Where a tenant's budget stands in one period; nano-dollars."""

    tenant: str
    simulated: bool
    period: str
    """The month (2026-11) or day (2026-11-22), UTC."""
    version: int
    """Of the budget, from 1: another amount or another kind of period is another version."""
    amount: int
    spent: int
    reserved: int
    """For requests whose cost is not known yet, at their worst case."""
    pending: int
    """Of these, for requests that may still be answered: the rest is held for unknown outcomes."""
    refused: bool
    """A request of this version was not sent, for it could have cost more than was left."""

    @property
    def left(self) -> int:
        """What the next request may cost at most."""
        return max(0, self.amount - self.spent - self.reserved)


def period_key(period: Period, now: datetime) -> str:
    """The UTC period that a moment falls in: `2026-11-22` or `2026-11`.

    Raises ValueError for a moment without a time zone.
    """
    if now.tzinfo is None:
        raise ValueError(f"a moment needs a time zone: {now}")
    return now.astimezone(UTC).strftime("%Y-%m-%d" if period == "day" else "%Y-%m")


@dataclass(frozen=True)
class Version:
    """A tenant's budget as it was configured at some time."""

    number: int
    amount: int
    period: Period
    began: datetime = LONG_AGO
    """When it was first seen to be in force."""


def budget_version(
    state: State, tenant: str, amount: int, period: Period, now: datetime
) -> Version:
    """The version that this amount (nano-dollars) and period are, a new one where they changed.

    Back to an amount of before is a new version too: its thresholds are new ones.
    """
    asked = {"amount": amount, "period": period}

    def is_last(value: JSON | None) -> bool:
        return value is not None and bool(value[-1] | asked == value[-1])

    def change(value: JSON | None) -> JSON:
        new = asked | {"began": now.isoformat()}
        return value if is_last(value) else [*(value or []), new]

    held = state.get(_VERSIONS + tenant)
    if not is_last(held):
        held = state.update(_VERSIONS + tenant, change)
    return _versions(held)[-1]


def budget_versions(state: State, tenant: str) -> list[Version]:
    """Every version of a tenant's budget, in their order."""
    return _versions(state.get(_VERSIONS + tenant) or [])


def budgeted_tenants(state: State) -> list[str]:
    """Every tenant whose budget was ever looked at, in order."""
    return [key.removeprefix(_VERSIONS) for key in state.keys(_VERSIONS)]


def _versions(held: JSON) -> list[Version]:
    return [
        Version(number, each["amount"], each["period"], datetime.fromisoformat(each["began"]))
        for number, each in enumerate(held, 1)
    ]


class Budget:
    """What a tenant may spend in each period: reserved before a request, settled after it.

    A request belongs to the period that it was sent in, whenever its cost becomes known. Spend is
    counted by UTC day, and reservations stand beside it: a day and a month are both sums of the
    same counters, so that a changed period loses nothing.
    """

    def __init__(
        self,
        state: State,
        tenant: str,
        version: Version,
        *,
        simulated: bool = False,
        hold: timedelta = HOLD,
        watch: Callable[[Spend], None] = lambda _: None,
    ) -> None:
        """simulated: its money is counted apart, since it must never use up real money.

        hold: how long a reservation stands where the cost never becomes known; watch: told where
        the budget stands after every change of it.
        """
        self.tenant = tenant
        self.version = version
        self.simulated = simulated
        self._state = state
        self._hold = hold
        self._watch = watch

    def reserve(self, request_id: str, nanos: int, now: datetime) -> bool:
        """Set money aside for a request; False, and nothing set aside, where it does not fit.

        A request that is reserved already keeps its reservation.
        """
        if nanos < 0:
            raise ValueError(f"a reservation must not be negative: {nanos}")
        period = period_key(self.version.period, now)

        def change(value: JSON | None) -> JSON:
            counters = _Counters(value)
            fits = counters.total(period, now) + nanos <= self.version.amount
            if request_id not in counters.reserved and fits:
                until = (now + self._hold).isoformat()
                counters.reserved[request_id] = [nanos, now.date().isoformat(), until]
            return counters.value

        return request_id in self._state.update(self._key(now), change)["reserved"]

    def refuse(self, now: datetime) -> None:
        """Note that something is not sent in this period, since it could cost more than is left.

        Reservations stop a tenant short of its amount, so what is spent may never reach it.
        """

        def change(value: JSON | None) -> JSON:
            counters = _Counters(value)
            counters.refused[period_key(self.version.period, now)] = self.version.number
            return counters.value

        self._change(change, now)

    def settle(self, request_id: str, nanos: int, sent_at: datetime) -> None:
        """Turn a request's reservation into what it cost; 0 releases it.

        sent_at: of the request, whose reservation may have expired meanwhile. A request without one
        (settled already, or unknown) changes nothing.
        """
        if nanos < 0:
            raise ValueError(f"a cost must not be negative: {nanos}")

        def change(value: JSON | None) -> JSON:
            counters = _Counters(value)
            if (held := counters.reserved.pop(request_id, None)) is not None:
                counters.spent[held[1]] = counters.spent.get(held[1], 0) + nanos
            return counters.value

        self._change(change, sent_at)

    def correct(self, source: str, nanos: int, incurred_at: datetime) -> None:
        """Count what corrections of the ledger come to, beyond what was counted of them before.

        source: whose corrections they are all of; nanos: their sum for the day of `incurred_at`,
        negative where money came back. The same sum again changes nothing.
        """
        day = incurred_at.date().isoformat()
        key = f"{source}|{day}"

        def change(value: JSON | None) -> JSON:
            counters = _Counters(value)
            more = nanos - counters.corrected.get(key, 0)
            if more:
                counters.corrected[key] = nanos
                counters.spent[day] = counters.spent.get(day, 0) + more
            return counters.value

        self._change(change, incurred_at)

    def state(self, now: datetime) -> Spend:
        """Where the budget stands in the period of a moment."""
        value = self._state.get(self._key(now))
        return self._spend(value, period_key(self.version.period, now), now)

    def held(self, now: datetime) -> frozenset[str]:
        """The requests of a moment's month that are reserved, expired or not."""
        return frozenset(_Counters(self._state.get(self._key(now))).reserved)

    def _key(self, now: datetime) -> str:
        scope = "simulated:" if self.simulated else ""
        return f"{_SPEND}{scope}{self.tenant}:{period_key('month', now)}"

    def _change(self, change: Callable[[JSON | None], JSON], moment: datetime) -> None:
        value = self._state.update(self._key(moment), change)
        self._watch(self._spend(value, period_key(self.version.period, moment), moment))

    def _spend(self, value: JSON | None, period: str, now: datetime) -> Spend:
        counters = _Counters(value)
        return Spend(
            tenant=self.tenant,
            simulated=self.simulated,
            period=period,
            version=self.version.number,
            amount=self.version.amount,
            spent=counters.spent_in(period),
            reserved=counters.reserved_in(period, now),
            pending=counters.reserved_in(period, now, self._hold - PENDING),
            refused=counters.refused.get(period) == self.version.number,
        )


class _Counters:
    """The counters of a tenant's month, as a copy: the stored value is not ours to change."""

    def __init__(self, value: JSON | None) -> None:
        stored = value or {}
        self.spent: dict[str, int] = dict(stored.get("spent", {}))
        """Nano-dollars by UTC day of sending."""
        self.reserved: dict[str, list[Any]] = dict(stored.get("reserved", {}))
        """By request: nano-dollars, UTC day of sending, until when they are held."""
        self.refused: dict[str, int] = dict(stored.get("refused", {}))
        """By period: the last version of the budget that refused a request."""
        self.corrected: dict[str, int] = dict(stored.get("corrected", {}))
        """By source and day: what was counted of its corrections."""

    @property
    def value(self) -> JSON:
        return {
            "spent": self.spent,
            "reserved": self.reserved,
            "refused": self.refused,
            "corrected": self.corrected,
        }

    def spent_in(self, period: str) -> int:
        return sum(nanos for day, nanos in self.spent.items() if day.startswith(period))

    def reserved_in(self, period: str, now: datetime, least: timedelta = timedelta()) -> int:
        """What is held for `least` and longer from now on."""
        return sum(
            nanos
            for nanos, day, until in self.reserved.values()
            if day.startswith(period) and now + least < datetime.fromisoformat(until)
        )

    def total(self, period: str, now: datetime) -> int:
        return self.spent_in(period) + self.reserved_in(period, now)


@dataclass(frozen=True)
class Deferral:
    """Reviews of a delivery day that a tenant's budget kept back."""

    tenant: str
    day: date
    reviews: int
    simulated: bool
    period: str
    version: int


def note_deferral(state: State, spend: Spend, day: date, reviews: int) -> None:
    """Keep how many reviews of a day the budget holds back; 0 where it no longer does."""
    mark = {"reviews": reviews, "period": spend.period, "version": spend.version}
    key = f"{_DEFERRED}{'simulated' if spend.simulated else 'real'}:{day}:{spend.tenant}"
    if reviews or state.get(key) is not None:
        state.update(key, lambda _: mark)


def deferrals(state: State) -> list[Deferral]:
    """Every day and tenant with reviews that a budget still holds back, in order of the days."""
    found = []
    for key in state.keys(_DEFERRED):
        scope, day, tenant = key.removeprefix(_DEFERRED).split(":")
        mark = state.get(key)
        if mark and mark["reviews"]:
            found.append(
                Deferral(
                    tenant,
                    date.fromisoformat(day),
                    mark["reviews"],
                    scope == "simulated",
                    mark["period"],
                    mark["version"],
                )
            )
    return sorted(found, key=lambda each: (each.day, each.tenant))
