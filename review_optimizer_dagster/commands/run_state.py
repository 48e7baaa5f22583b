"""What is known of a run that goes on: its requests as the journal tells them, and one snapshot.

Nothing here opens the warehouse or waits for the run; nothing here knows a terminal.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.steps import title
from review_optimizer_dagster.money.amounts import usd

if TYPE_CHECKING:
    from review_optimizer_dagster.money.budgets import Spend
    from review_optimizer_dagster.money.prices import PriceTable

WINDOW = timedelta(minutes=1)
MARKS = (50, 75, 90)  # per cent of a budget
GOING = frozenset({"queued", "running"})
EMBEDDING = "embedding"  # kind of a request that classifies nothing
_INTENT, _OUTCOME = "intent:", "outcome:"


@dataclass(frozen=True)
class RunFacts:
    """What the orchestrator says of a run."""

    run_id: str
    job: str
    day: date
    status: str
    """queued, running, dead, succeeded, gate_failed, failed or canceled."""
    started_at: datetime | None
    ended_at: datetime | None = None
    step: str | None = None
    """The one that goes on now; of a run that has ended, the one that broke."""
    step_started_at: datetime | None = None
    steps_done: int = 0
    steps_total: int = 0
    reviews: int | None = None
    hits: Mapping[str, int] = field(default_factory=dict)
    """Reviews by the level that answered, and `miss`, once the cache was asked."""
    planned: int | None = None
    """Texts that the model is asked about, once they are packed."""
    problem: str | None = None

    @property
    def is_going(self) -> bool:
        """Whether there is more to come."""
        return self.status in GOING


@dataclass(frozen=True)
class _Answered:
    """A request that has an outcome."""

    received_at: datetime
    latency_ms: float | None
    reviews: int
    texts: int  # with a valid answer
    is_error: bool


class Requests:
    """The requests of one run, folded from the journal's records as they come."""

    def __init__(self, prices: PriceTable) -> None:
        self._prices = prices
        self._open: dict[str, Mapping[str, Any]] = {}
        self._asked: set[tuple[str, str]] = set()
        self._labelled: set[tuple[str, str]] = set()
        self._answered: list[_Answered] = []
        self._first_sent_at: datetime | None = None
        self.sent = 0
        self.retries = 0
        self.errors = 0
        self.cost_nanos = 0
        self.simulated: bool | None = None
        self.memory: Mapping[str, Any] | None = None

    def add(self, records: Iterable[tuple[str, Any]]) -> None:
        """Take in keys and values of the journal, in the order in which they were written."""
        for key, value in records:
            if key.startswith(_INTENT):
                self._sent(value)
            elif key.startswith(_OUTCOME):
                intent = self._open.pop(key.removeprefix(_OUTCOME), None)
                if intent is not None:
                    self._settled({**intent, "outcome": value})

    def _sent(self, intent: Mapping[str, Any]) -> None:
        self._open[intent["request_id"]] = intent
        self.sent += 1
        self.retries += intent["attempt"] > 1
        self.simulated = intent["simulated"]
        self.memory = intent.get("memory") or self.memory
        if intent["kind"] != EMBEDDING:
            self._asked |= _texts(intent)
        self._first_sent_at = self._first_sent_at or datetime.fromisoformat(intent["sent_at"])

    def _settled(self, record: dict[str, Any]) -> None:
        from review_optimizer_dagster.core.costs import reply_cost
        from review_optimizer_dagster.exchange.reply import read_reply

        reply = read_reply(record)
        keys = {item_id: key for item_id, key, _ in record["items"]}
        labelled = {
            (record["identity"], keys[each])
            for each, labels in reply.labels.items()
            if labels  # an embedding has none
        }
        new = labelled - self._labelled
        self._labelled |= new
        self.cost_nanos += reply_cost(record, reply, self._prices) if reply.cost_known else 0
        is_error = reply.status not in ("ok", "partial")
        self.errors += is_error
        outcome = record["outcome"]
        self._answered.append(
            _Answered(
                datetime.fromisoformat(outcome["received_at"]),
                outcome.get("latency_ms"),
                len(keys),
                len(new),
                is_error,
            )
        )

    @property
    def in_flight(self) -> int:
        """Requests without an outcome; of a run that is gone, those of unknown outcome."""
        return len(self._open)

    @property
    def last_at(self) -> datetime | None:
        """When the last answer came."""
        return max((each.received_at for each in self._answered), default=None)

    def texts(self, planned: int | None, now: datetime) -> dict[str, Any]:
        """Texts answered, of those asked or planned, with the last minute's rate."""
        answered = len(self._labelled)
        asked = max(planned or 0, len(self._asked))
        recent = sum(each.texts for each in self._recent(now))
        rate = None
        if self._first_sent_at is not None and recent:
            span = min(WINDOW, now - self._first_sent_at).total_seconds()
            rate = recent / span if span > 0 else None
        left = max(0, asked - answered)
        return {
            "answered": answered,
            "asked": asked,
            "per_second": None if rate is None else round(rate, 2),
            "remaining_seconds": None if not rate else round(left / rate, 1),
        }

    def last_minute(self, now: datetime) -> dict[str, Any]:
        """Requests answered lately: how many reviews they held, and how long they took."""
        recent = self._recent(now)
        sizes = [each.reviews for each in recent]
        times = sorted(each.latency_ms for each in recent if each.latency_ms is not None)
        return {
            "answered": len(recent),
            "errors": sum(each.is_error for each in recent),
            "batch_sizes": {
                "least": min(sizes, default=None),
                "median": statistics.median_high(sizes) if sizes else None,
                "most": max(sizes, default=None),
            },
            "latency_ms": {
                "p50": _ranked(times, 0.5),
                "p95": _ranked(times, 0.95),
                "most": _ranked(times, 1.0),
            },
        }

    def _recent(self, now: datetime) -> list[_Answered]:
        return [each for each in self._answered if each.received_at > now - WINDOW]


def _texts(record: Mapping[str, Any]) -> set[tuple[str, str]]:
    return {(record["identity"], key) for _, key, _ in record["items"]}


def _ranked(times: Sequence[float], share: float) -> float | None:
    """The exact nearest rank of sorted times."""
    if not times:
        return None
    return round(times[max(0, -int(-share * len(times) // 1) - 1)], 1)


def snapshot(
    facts: RunFacts,
    requests: Requests,
    spends: Sequence[Spend],
    alerts: Sequence[Mapping[str, Any]],
    now: datetime,
) -> dict[str, Any]:
    """A run at one moment, as `watch --json` writes it: times in UTC, money in dollars."""
    end = facts.ended_at or now
    return {
        "at": now.isoformat(),
        "state": facts.status,
        "day": facts.day.isoformat(),
        "run_id": facts.run_id,
        "job": facts.job,
        "simulated": requests.simulated,
        "started_at": None if facts.started_at is None else facts.started_at.isoformat(),
        "ended_at": None if facts.ended_at is None else facts.ended_at.isoformat(),
        "seconds": _seconds(facts.started_at, end),
        "step": facts.step
        and {
            "name": facts.step,
            "title": title(facts.step),
            "seconds": _seconds(facts.step_started_at, end),
        },
        "steps": {"done": facts.steps_done, "total": facts.steps_total},
        "reviews": facts.reviews,
        "hits": dict(facts.hits) or None,
        "texts": requests.texts(facts.planned, end),
        "requests": {
            "sent": requests.sent,
            "in_flight": requests.in_flight,
            "retries": requests.retries,
            "errors": requests.errors,
            "last_minute": requests.last_minute(end),
        },
        "memory": None if requests.memory is None else dict(requests.memory),
        "cost_usd": usd(requests.cost_nanos),
        "budgets": [_budget(spend) for spend in spends],
        "alerts": [dict(alert) for alert in alerts],
        "problem": facts.problem,
    }


def _budget(spend: Spend) -> dict[str, Any]:
    used = spend.spent / spend.amount if spend.amount else 1.0
    return {
        "tenant": spend.tenant,
        "simulated": spend.simulated,
        "period": spend.period,
        "spent_usd": usd(spend.spent),
        "reserved_usd": usd(spend.reserved),
        "budget_usd": usd(spend.amount),
        "used": round(used, 6),
        "marks": [mark for mark in MARKS if 100 * used >= mark],
    }


def _seconds(since: datetime | None, until: datetime) -> float | None:
    return None if since is None else round(max(0.0, (until - since).total_seconds()), 1)
