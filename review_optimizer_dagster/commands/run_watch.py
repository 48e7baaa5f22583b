"""Looks at a run from another process: Dagster's events, the journal, counters and alerts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

from review_optimizer_dagster.alerts.store import KEY_PREFIX
from review_optimizer_dagster.commands.run_state import Requests, RunFacts, snapshot
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.money.budgets import (
    HOLD,
    Budget,
    Spend,
    budget_versions,
    budgeted_tenants,
)
from review_optimizer_dagster.money.prices import load_prices
from review_optimizer_dagster.storage.journal_tail import JournalReader

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home


class Events(Protocol):
    """Where runs are told of."""

    def find(self, day: date | None = None, run_id: str | None = None) -> RunFacts | None:
        """A run by its id; else the newest that goes on, else the newest."""


class Watcher:
    """One run after the other, each as snapshots; only what is new is read at each look.

    The warehouse is never opened: a run has it to itself.
    """

    def __init__(self, home: Home, events: Events, day: date | None = None) -> None:
        self._home, self._events, self._day = home, events, day
        self._state = JournalReader.of_state(home.journal)
        self._prices = load_prices(home.prices_file)
        self._followed: str | None = None
        self._run_id: str | None = None
        self._requests = Requests(self._prices)
        self._journal: JournalReader | None = None

    def look(self, now: datetime) -> dict[str, Any] | None:
        """The run as it is now: the one looked at last while it goes on, else the newest.

        None where nothing was run yet.
        """
        facts = self._events.find(self._day, self._followed)
        if facts is None:
            return None
        self._followed = facts.run_id if facts.is_going else None
        if facts.run_id != self._run_id:
            self._run_id, self._requests = facts.run_id, Requests(self._prices)
            self._journal = JournalReader.of_day(self._home.journal, facts.day)
        if facts.started_at is not None and self._journal is not None:
            self._requests.add(self._journal.new_records(facts.started_at.timestamp()))
        if facts.status == "dead" and facts.ended_at is not None:
            # It cannot have told of its end: that was after the last thing it did.
            last = self._requests.last_at or facts.ended_at
            facts = replace(facts, ended_at=max(facts.ended_at, last))
        spends = self._spends(self._requests.simulated, facts.ended_at or now)
        return snapshot(facts, self._requests, spends, self._alerts(facts), now)

    def _spends(self, simulated: bool | None, now: datetime) -> list[Spend]:
        """Where each tenant's budget stands; before the first request, in all books."""
        found = []
        for tenant in budgeted_tenants(self._state):
            version = budget_versions(self._state, tenant)[-1]
            for book in (False, True) if simulated is None else (simulated,):
                own = Budget(self._state, tenant, version, simulated=book, hold=self._hold(tenant))
                spend = own.state(now)
                if spend.spent or spend.reserved:
                    found.append(spend)
        return found

    def _hold(self, tenant: str) -> timedelta:
        try:
            return timedelta(hours=self._home.tenant(tenant).hold_hours)
        except UserError:
            return HOLD  # a tenant of before, or settings that are being edited

    def _alerts(self, facts: RunFacts) -> list[Mapping[str, Any]]:
        """What was raised since the run began, oldest first."""
        if facts.started_at is None:
            return []
        since = facts.started_at
        values = self._state.changed_since(KEY_PREFIX, since.timestamp())
        raised = [each for each in values if datetime.fromisoformat(each["raised_at"]) >= since]
        return [
            {name: each[name] for name in ("tenant", "kind", "severity", "message", "raised_at")}
            for each in sorted(raised, key=lambda each: str(each["raised_at"]))
        ]
