"""Random spend histories, and what must come of them by a model that shares no code with alerts."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from review_optimizer_dagster.alerts.budgets import Watch, spends
from review_optimizer_dagster.alerts.channels import Channel, owed_to
from review_optimizer_dagster.alerts.rules import Alert, News, budget_news
from review_optimizer_dagster.alerts.store import raise_news
from review_optimizer_dagster.money.budgets import (
    Budget,
    Period,
    Spend,
    State,
    Version,
    budget_version,
)

THRESHOLDS = (50, 75, 90)
KILLED_SHARE = 0.5  # of the settlements, where processes are killed
START = datetime(2026, 10, 28, 9, tzinfo=UTC)
Key = tuple[str, str, int, int]  # tenant, period, version, threshold
Recovered = tuple[str, str, int]  # tenant, period, version


@dataclass
class Process:
    """One process over the state: it knows the budgets as they were when it started."""

    state: State
    budgets: dict[str, Version]
    clock: Callable[[], datetime]
    channels: Sequence[Channel] = ()
    new: list[Alert] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.watch = Watch(self.state, lambda _: THRESHOLDS, self.clock, self._tell)

    def budget(self, tenant: str) -> Budget:
        """The tenant's, watched."""
        return Budget(self.state, tenant, self.budgets[tenant], watch=self.watch)

    def look(self, tenant: str) -> None:
        """What the sensor does."""
        now, version = self.clock(), self.budgets[tenant]

        def under(version: Version) -> Budget:
            return Budget(self.state, tenant, version)

        for spend in spends(self.state, under, version, tenant, now):
            self._tell(budget_news(spend, THRESHOLDS, now))

    def _tell(self, news: Sequence[News]) -> None:
        self.new += raise_news(self.state, news, lambda each: owed_to(self.channels, each))


@dataclass
class Model:
    """What should have been raised, from the amounts alone.

    Looked at as often as the processes look, with months for periods. It keeps every budget's
    highest threshold by month and version in plain dicts.
    """

    due: set[Key] = field(default_factory=set)
    recovered: set[Recovered] = field(default_factory=set)
    _open: dict[str, dict[tuple[int, str], int]] = field(default_factory=dict)

    def see(
        self, tenant: str, period: str, version: int, spent: int, amount: int, current: bool
    ) -> None:
        """A look at a period's spend under the budget that was in force in it."""
        marks = [mark for mark in (*THRESHOLDS, 100) if 100 * spent >= mark * amount]
        own = self._open.setdefault(tenant, {})
        if current:
            before = {key: top for key, top in own.items() if key < (version, period)}
            if before and max(before.values()) > max(marks, default=0):
                self.recovered.add((tenant, period, version))
                for key in before:
                    del own[key]
        fresh = [mark for mark in marks if (tenant, period, version, mark) not in self.due]
        self.due |= {(tenant, period, version, mark) for mark in marks}
        if fresh and current:
            own[version, period] = max(own.get((version, period), 0), *fresh)


class History:
    """A random history of some tenants, month by month, in two processes that are restarted."""

    def __init__(
        self,
        seed: int,
        state: State,
        channels: Sequence[Channel] = (),
        killed: Callable[[Process, Spend], None] | None = None,
    ) -> None:
        """killed: a process that is told of a spend, and ends before it has done with it."""
        self._random = random.Random(seed)  # noqa: S311 (no secret)
        self._state = state
        self._channels = channels
        self._killed = killed
        self.now = START
        self.tenants = [f"t{seed}-{number}" for number in range(self._random.randint(1, 3))]
        self.model = Model()
        self.news: list[Alert] = []
        self._spent: dict[tuple[str, str], int] = {}
        self._versions = {tenant: [(1, 1_000)] for tenant in self.tenants}
        self._last: dict[str, dict[str, int]] = {tenant: {} for tenant in self.tenants}
        self._late: list[tuple[str, str, int, datetime]] = []
        self._requests = 0
        budgets = {tenant: self._version(tenant) for tenant in self.tenants}
        self._processes = [self._started(budgets), self._started(budgets)]
        for tenant in self.tenants:
            self._note(tenant)

    def play(self, steps: int) -> None:
        """Go so many steps, then look at everything once more."""
        for _ in range(steps):
            self._step()
        for tenant in self.tenants:
            self._look(tenant)
        for process in self._processes:
            self.news += process.new

    def _step(self) -> None:
        tenant = self._random.choice(self.tenants)
        match self._random.choices(
            ("spend", "late", "look", "version", "time", "restart"), (10, 4, 4, 1, 3, 2)
        )[0]:
            case "spend":
                self._spend(tenant)
            case "late" if self._late:
                self._settle_late()
            case "look":
                self._look(tenant)
            case "version":
                self._change_budget(tenant)
            case "time":
                self.now += timedelta(days=self._random.choice((0.2, 1, 6, 20)))
            case "restart":
                self._replace(self._random.randrange(2))

    def _spend(self, tenant: str) -> None:
        self._requests += 1
        name, worst = f"r{self._requests}", self._random.randint(1, 400)
        budget = self._random.choice(self._processes).budget(tenant)
        if not budget.reserve(name, worst, self.now):
            return
        self._late.append((tenant, name, self._random.randint(0, worst), self.now))
        if self._random.random() < 0.6:
            self._settle_late(-1)

    def _settle_late(self, position: int | None = None) -> None:
        at = self._random.randrange(len(self._late)) if position is None else position
        tenant, name, nanos, sent_at = self._late.pop(at)
        period = f"{sent_at:%Y-%m}"
        key = (tenant, period)
        self._spent[key] = self._spent.get(key, 0) + nanos
        self._note(tenant)
        process = self._random.choice(self._processes)
        budget = process.budget(tenant)
        if self._killed is not None and self._random.random() < KILLED_SHARE:
            budget = Budget(self._state, tenant, process.budgets[tenant])
            budget.settle(name, nanos, sent_at)
            self._killed(process, budget.state(sent_at))
            process.watch(budget.state(sent_at))  # and whoever comes next looks again
        else:
            budget.settle(name, nanos, sent_at)
        self._see(tenant, period)

    def _look(self, tenant: str) -> None:
        self._note(tenant)
        self._random.choice(self._processes).look(tenant)
        self._see(tenant, f"{self.now:%Y-%m}")
        self._see(tenant, f"{self.now.replace(day=1) - timedelta(days=1):%Y-%m}")

    def _change_budget(self, tenant: str) -> None:
        """More or less money, known to new processes alone: both are started anew."""
        number, amount = self._versions[tenant][-1]
        other = max(100, int(amount * self._random.choice((0.4, 0.8, 1.5, 3))))
        if other == amount:
            return
        self._versions[tenant].append((number + 1, other))
        for place in range(2):
            self._replace(place)
        self._note(tenant)
        self._look(tenant)

    def _replace(self, place: int) -> None:
        old = self._processes[place]
        self.news += old.new
        budgets = {tenant: self._version(tenant) for tenant in self.tenants}
        self._processes[place] = self._started(budgets)

    def _started(self, budgets: dict[str, Version]) -> Process:
        return Process(self._state, budgets, lambda: self.now, self._channels)

    def _version(self, tenant: str) -> Version:
        amount = self._versions[tenant][-1][1]
        period: Period = "month"
        return budget_version(self._state, tenant, amount, period, self.now)

    def _note(self, tenant: str) -> None:
        """The version that the month's last look or settlement found in force."""
        self._last[tenant][f"{self.now:%Y-%m}"] = self._versions[tenant][-1][0]

    def _see(self, tenant: str, period: str) -> None:
        current = period == f"{self.now:%Y-%m}"
        known = self._last[tenant]
        in_force = [number for month, number in sorted(known.items()) if month <= period]
        number = in_force[-1] if in_force else 1
        amount = dict(self._versions[tenant])[number]
        spent = self._spent.get((tenant, period), 0)
        self.model.see(tenant, period, number, spent, amount, current)


def keys_of(alerts: Sequence[Alert]) -> list[Key]:
    """What each threshold's alert is about, recoveries left out."""
    return [
        (each.tenant, each.period, each.version, each.threshold)
        for each in alerts
        if each.recovers is None
    ]


def recoveries_of(alerts: Sequence[Alert]) -> list[Recovered]:
    """What each recovery is about."""
    return [(each.tenant, each.period, each.version) for each in alerts if each.recovers]
