"""Which version of a budget a period's spend is measured by, and what to look at when.

A request that was sent before midnight may be settled after it, and by a process with another
budget. Its money belongs to the period of sending, and so does the budget that was in force then:
last month's spend under this month's smaller budget would raise alerts that were never true.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from review_optimizer_dagster.alerts.rules import (
    News,
    budget_news,
    is_current,
    kind_of_period,
    reached,
)
from review_optimizer_dagster.money.budgets import (
    Budget,
    Spend,
    State,
    Version,
    budget_versions,
    period_key,
)


def period_end(period: str) -> datetime:
    """The first moment after a period."""
    if kind_of_period(period) == "day":
        return datetime.fromisoformat(period).replace(tzinfo=UTC) + timedelta(days=1)
    year, month = map(int, period.split("-"))
    return datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC)


def in_force_at_end(versions: Sequence[Version], period: str) -> Version | None:
    """The version that a period which has ended was under last; None where none can be said.

    The first version that is known counts as having been there for ever. Where the kind of period
    has changed since, a version's own period must have ended before the next one began.
    """
    end = period_end(period)
    before = [each for each in versions if each.number == 1 or each.began < end]
    if not before:
        return None
    last = before[-1]
    own_period = period_key(last.period, end - timedelta(microseconds=1))
    later = versions[len(before)].began if len(before) < len(versions) else None
    is_whole = later is None or period_end(own_period) <= later
    return last if is_whole else None


def spends(
    state: State,
    budget_of: Callable[[Version], Budget],
    version: Version,
    tenant: str,
    now: datetime,
) -> list[Spend]:
    """Where a tenant's budget stands in this period, and in the one before, which may be late."""
    found = [budget_of(version).state(now)]
    moment = _before(found[0].period)
    ended = period_key(version.period, moment)
    if (earlier := in_force_at_end(budget_versions(state, tenant), ended)) is not None:
        found.append(budget_of(earlier).state(moment))
    return found


def _before(period: str) -> datetime:
    """The last moment before a period."""
    start = datetime.fromisoformat(period if len(period) == 10 else f"{period}-01")
    return start.replace(tzinfo=UTC) - timedelta(microseconds=1)


class Watch:
    """Looks at each change of a budget, and asks the state only where a change may be news.

    Told of every settled request inside an event loop: almost always it compares two integers.
    """

    def __init__(
        self,
        state: State,
        thresholds_of: Callable[[str], Sequence[int]],
        now: Callable[[], datetime],
        tell: Callable[[Sequence[News]], None],
    ) -> None:
        """thresholds_of: a tenant's, per cent; tell: raises what it is given, where it is new."""
        self._state = state
        self._thresholds_of = thresholds_of
        self._now = now
        self._tell = tell
        self._told: dict[tuple[str, bool, str, int], int] = {}

    def __call__(self, spend: Spend) -> None:
        """Raise what is due, where the spend has reached a threshold that was not told yet."""
        thresholds = self._thresholds_of(spend.tenant)
        highest = max(reached(spend, thresholds), default=0)
        key = (spend.tenant, spend.simulated, spend.period, spend.version)
        if self._told.get(key, -1) >= highest:
            return
        now = self._now()
        if (due := measured(self._state, spend, now)) is not None:
            self._tell(budget_news(due, thresholds, now))
        self._told[key] = highest  # last: what could not be raised is tried again


def measured(state: State, spend: Spend, now: datetime) -> Spend | None:
    """A spend under the budget of its own period; None where that cannot be said from here."""
    if is_current(spend, now):
        return spend
    own = in_force_at_end(budget_versions(state, spend.tenant), spend.period)
    if own is None or own.period != kind_of_period(spend.period):
        return None  # the sensor reads that period's counters itself
    if own.number == spend.version:
        return spend
    return replace(spend, version=own.number, amount=own.amount, refused=False)
