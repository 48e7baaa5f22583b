"""Delivery: every alert that is owed to a channel reaches it at least once, under the same id.

What is owed stands in the journal, so a process that ends loses nothing: the next run, the sensor
or the command goes on. Channels do not wait for each other.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from types import TracebackType

from review_optimizer_dagster.alerts.channels import Channel, DeliveryError
from review_optimizer_dagster.alerts.store import (
    Delivery,
    Kept,
    change_delivery,
    complete_all,
    forget_settled,
)
from review_optimizer_dagster.money.budgets import State

Clock = Callable[[], datetime]

FIRST_DELAY = 30.0  # seconds after the first failure; doubled by each further one
LONGEST_DELAY = 3600.0
LIMIT_SECONDS = 30.0  # of one pass: Dagster gives a sensor 60
_JITTER = 0.2
_PATIENCE = 3  # failures in a row after which a channel is left alone for this pass
_GRACE = timedelta(seconds=30)  # that a claim outlives the attempt's own time-out
_IDLE_SECONDS = 30.0  # between two looks of a dispatcher that nobody wakes


@dataclass(frozen=True)
class Pass:
    """What one pass came to."""

    delivered: int = 0
    failed: int = 0
    waiting: int = 0
    """Deliveries that are owed still, to whatever channel."""
    errors: Mapping[str, str] | None = None
    """The last error of each channel that had one."""


def deliver_due(
    state: State,
    channels: Sequence[Channel],
    now: Clock,
    log: logging.Logger,
    *,
    force: bool = False,
    limit_seconds: float = LIMIT_SECONDS,
) -> Pass:
    """Try what is due of every channel, each in a thread of its own, and say what came of it.

    force: whatever the back-off says. A channel that takes longer than the limit goes on in the
    background and is not waited for.
    """
    if not complete_all(state):
        return Pass(errors={})
    give_up = time.monotonic() + limit_seconds
    senders = [_Sender(state, channel, now, log, lambda: give_up, force) for channel in channels]
    threads = []
    for sender in senders:
        if sender.channel.is_local:
            sender.run()
        else:
            threads.append(threading.Thread(target=sender.run, daemon=True))
            threads[-1].start()
    for thread in threads:
        thread.join(max(0.0, give_up - time.monotonic()))
    left = _settle(state, [channel.name for channel in channels])
    return Pass(
        delivered=sum(sender.delivered for sender in senders),
        failed=sum(sender.failed for sender in senders),
        waiting=left,
        errors={each.channel.name: each.error for each in senders if each.error is not None},
    )


def back_off(attempts: int, seed: str) -> float:
    """Seconds until the next attempt: 30 doubling to an hour, and up to a fifth less or more.

    The same seed has the same jitter; different ones keep receivers from being hit all at once.
    """
    digest = hashlib.blake2b(f"{seed}|{attempts}".encode(), digest_size=8).digest()
    share = int.from_bytes(digest, "big") / 2**64
    plain = FIRST_DELAY * 2.0 ** min(attempts - 1, 16)
    return min(LONGEST_DELAY, plain * (1 - _JITTER + 2 * _JITTER * share))


def _settle(state: State, configured: Iterable[str]) -> int:
    """Forget what nobody is owed any more; returns how many deliveries are left.

    What is owed to a channel that is configured no more waits for it, until somebody has
    acknowledged the alert.
    """
    known, settled, left = set(configured), [], 0
    for name, kept in complete_all(state).items():
        owed = kept.outstanding
        if kept.acknowledged_at is not None:
            owed = [channel for channel in owed if channel in known]
        left += len(owed)
        if not owed:
            settled.append(name)
    forget_settled(state, settled)
    return left


class _Sender:
    """One channel's turn."""

    def __init__(
        self,
        state: State,
        channel: Channel,
        now: Clock,
        log: logging.Logger,
        give_up: Callable[[], float],
        force: bool = False,
    ) -> None:
        """give_up: the moment of the monotonic clock after which nothing more is begun."""
        self.channel = channel
        self.delivered = 0
        self.failed = 0
        self.error: str | None = None
        self._state = state
        self._now = now
        self._log = log
        self._force = force
        self._give_up = give_up

    def run(self) -> None:
        """Send what is due, the longest waiting first, until the time or the patience is out."""
        in_a_row = 0
        for kept in self._due():
            if in_a_row >= _PATIENCE or time.monotonic() >= self._give_up():
                break
            if not self._claim(kept):
                continue
            in_a_row = 0 if self._attempt(kept) else in_a_row + 1

    def _due(self) -> list[Kept]:
        now, name = self._now(), self.channel.name
        due = [
            kept
            for kept in complete_all(self._state).values()
            if name in kept.deliveries and self._is_due(kept.deliveries[name], now)
        ]
        return sorted(
            due,
            key=lambda kept: (
                kept.deliveries[name].next_attempt_at or kept.alert.raised_at,
                kept.alert.alert_id,
            ),
        )

    def _is_due(self, delivery: Delivery, now: datetime) -> bool:
        if delivery.delivered_at is not None:
            return False
        if delivery.claimed_until is not None and now < delivery.claimed_until:
            return False  # another process is sending it
        return self._force or delivery.next_attempt_at is None or delivery.next_attempt_at <= now

    def _claim(self, kept: Kept) -> bool:
        claim, now = uuid.uuid4().hex, self._now()
        until = now + timedelta(seconds=self.channel.timeout_seconds) + _GRACE

        def taken(delivery: Delivery) -> Delivery:
            if not self._is_due(delivery, now):
                return delivery
            return replace(
                delivery, attempts=delivery.attempts + 1, claim=claim, claimed_until=until
            )

        name = kept.alert.alert_id
        return change_delivery(self._state, name, self.channel.name, taken).claim == claim

    def _attempt(self, kept: Kept) -> bool:
        alert, error = kept.alert, None
        wait = 0.0
        try:
            self.channel.send(alert, self._now())
        except DeliveryError as problem:
            error, wait = str(problem), problem.retry_after
        except Exception as problem:  # a fault of ours must not stop the other alerts
            error = f"the channel broke: {type(problem).__name__}"
        now = self._now()
        seed = f"{alert.alert_id}|{self.channel.name}"

        def ended(delivery: Delivery) -> Delivery:
            free = replace(delivery, error=error, claim=None, claimed_until=None)
            if error is None:
                return replace(free, delivered_at=delivery.delivered_at or now)
            pause = max(back_off(delivery.attempts, seed), min(wait, LONGEST_DELAY))
            return replace(free, next_attempt_at=now + timedelta(seconds=pause))

        kept_as = change_delivery(self._state, alert.alert_id, self.channel.name, ended)
        if error is None:
            self.delivered += 1
            return True
        self.failed += 1
        self.error = error
        self._log.warning(
            "alert %s is not delivered through %s: %s; attempt %d, next at %s",
            alert.alert_id,
            self.channel.name,
            error,
            kept_as.attempts,
            kept_as.next_attempt_at,
        )
        return False


class Dispatcher:
    """Delivers in the background while a run goes on, and once more when it ends.

    A thread a channel, none of which the run waits for, but at the end for a moment.
    """

    def __init__(
        self,
        state: State,
        channels: Sequence[Channel],
        now: Clock,
        log: logging.Logger,
        *,
        drain_seconds: float = 3.0,
    ) -> None:
        """drain_seconds: longest that leaving the block waits for what is under way."""
        self._drain_seconds = drain_seconds
        self._workers = [_Worker(state, channel, now, log) for channel in channels]

    def __enter__(self) -> Dispatcher:
        for worker in self._workers:
            worker.thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        give_up = time.monotonic() + self._drain_seconds
        for worker in self._workers:
            worker.stop(give_up)
        for worker in self._workers:
            worker.thread.join(max(0.0, give_up - time.monotonic()))

    def wake(self) -> None:
        """Something was raised. Returns at once."""
        for worker in self._workers:
            worker.awake.set()


class _Worker:
    """The thread of one channel."""

    def __init__(self, state: State, channel: Channel, now: Clock, log: logging.Logger) -> None:
        self.awake = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"alerts-{channel.name}", daemon=True)
        self._stop_at: float | None = None
        self._longest = 0.0
        self._state = state
        self._channel = channel
        self._now = now
        self._log = log

    def stop(self, give_up: float) -> None:
        """Look once more, until a moment of the monotonic clock, and end."""
        self._stop_at = give_up
        self.awake.set()

    def _run(self) -> None:
        while True:
            self.awake.wait(_IDLE_SECONDS)
            self.awake.clear()
            is_last = self._stop_at is not None
            self._longest = time.monotonic() + LIMIT_SECONDS
            try:
                _Sender(self._state, self._channel, self._now, self._log, self._give_up).run()
            except Exception as error:  # the run must not end by what only its alerts met
                self._log.warning(
                    "alerts wait for %s: %s", self._channel.name, type(error).__name__
                )
            if is_last:
                return

    def _give_up(self) -> float:
        return self._longest if self._stop_at is None else self._stop_at
