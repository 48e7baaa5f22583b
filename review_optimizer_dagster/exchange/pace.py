"""How fast the engine may ask: places in flight, rate limits, circuit breakers, memory.

Everything is told the time and sleeps nowhere, so that it can be tested by the clock of a test.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from review_optimizer_dagster.exchange.reply import Limit

FIRST_IN_FLIGHT = 8  # a day of few batches is over before a slower start has found its pace
GOOD_ROUNDS = 2  # before a refusal that is not a sign of too fast a pace
FAILURES_THAT_OPEN = 8  # in a row: as many as may be in flight when an endpoint goes down
FIRST_OPEN_SECONDS = 5.0
LONGEST_OPEN_SECONDS = 60.0
PROBES_THAT_FAIL = 5  # one after the other: 5 + 10 + 20 + 40 + 60 s of silence
SMALLEST_SIZE = 1 / 8
SIZE_RECOVERY = 1.25
MEMORY_STEP_SECONDS = 5.0


class Window:
    """How many requests may be in flight: additive increase, multiplicative decrease.

    It begins with a few and grows by one a response, as TCP's slow start does (RFC 5681), until
    something is too much; then it is halved and grows by one a round. A first trouble, or one after
    a long good time, need not be the pace's fault: then it grows back by one a response.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(min(FIRST_IN_FLIGHT, most))
        self._fast_until = float(most)
        self._halved_at = -math.inf
        self._good = math.inf  # responses since the last halving

    def faster(self) -> None:
        """A response came."""
        self._good += 1
        step = 1.0 if self.limit < self._fast_until else 1 / self.limit
        self.limit = min(float(self.most), self.limit + step)

    def slower(self, sent_at: float, now: float) -> None:
        """It was too much; requests sent before the last halving tell nothing of the pace since."""
        if sent_at <= self._halved_at:
            return
        is_isolated = self._good >= GOOD_ROUNDS * self.limit
        self._fast_until = self.limit if is_isolated else 0.0
        self.limit, self._halved_at, self._good = max(1.0, self.limit / 2), now, 0


class Bucket:
    """One rate limit as the response headers tell it; it fills continuously.

    Nothing is held back before the first header.
    """

    def __init__(self) -> None:
        self._limit = self._rate = math.inf
        self._level = math.inf
        self._at = 0.0

    def learn(self, stated: Limit, not_counted: float, now: float) -> None:
        """Take what a response says; `not_counted` is in flight and may be missing from it."""
        used = stated.limit - stated.remaining
        by_reset = used / stated.reset_seconds if stated.reset_seconds > 0 and used > 0 else 0.0
        self._limit, self._rate = stated.limit, by_reset or stated.limit / 60
        self._level, self._at = stated.remaining - not_counted, now

    def wait(self, amount: float, now: float) -> float:
        """Seconds until an amount fits; one larger than the limit waits for a full bucket."""
        missing = min(amount, self._limit) - self._filled(now)
        return missing / self._rate if missing > 0 else 0.0

    def take(self, amount: float, now: float) -> None:
        """Use an amount up."""
        self._level, self._at = self._filled(now) - amount, now

    def _filled(self, now: float) -> float:
        if self._level == math.inf:
            return math.inf
        return min(self._limit, self._level + (now - self._at) * self._rate)


class Breaker:
    """Leaves a model alone that fails again and again, then tries it with single requests.

    After Nygard's circuit breaker (Release It!, 2007).
    """

    def __init__(self) -> None:
        self._failures = 0
        self._probes = 0
        self._open_until = -math.inf
        self._probing = False

    @property
    def is_given_up(self) -> bool:
        """Whether so many probes failed that this run has no use for the model any more."""
        return self._probes >= PROBES_THAT_FAIL

    def wait(self, now: float) -> float:
        """Seconds until a request may be sent; infinite while a probe is under way."""
        if self._failures < FAILURES_THAT_OPEN:
            return 0.0
        return math.inf if self._probing else max(0.0, self._open_until - now)

    def sent(self) -> None:
        """A request is on its way; while the breaker is open, it is the probe."""
        self._probing = self._failures >= FAILURES_THAT_OPEN

    def succeeded(self) -> None:
        """The model answered, of whatever worth."""
        self._failures = self._probes = 0
        self._probing = False

    def failed(self, now: float) -> None:
        """The endpoint failed: no answer in time, no connection, an error of its own."""
        self._failures += 1
        if self._probing or self._failures == FAILURES_THAT_OPEN:
            self._probes += self._probing
            seconds = min(LONGEST_OPEN_SECONDS, FIRST_OPEN_SECONDS * 2.0**self._probes)
            self._open_until, self._probing = now + seconds, False


@dataclass
class _Sent:
    at: float
    amounts: Mapping[str, float]


@dataclass
class _Lane:
    """What is known of one model."""

    buckets: dict[str, Bucket] = field(
        default_factory=lambda: {"requests": Bucket(), "tokens": Bucket()}
    )
    breaker: Breaker = field(default_factory=Breaker)
    resume_at: float = -math.inf
    in_flight: dict[str, _Sent] = field(default_factory=dict)


class Pace:
    """May another request be sent, and how large: one window for all, a lane for each model."""

    def __init__(self, most_in_flight: int, most_memory: float) -> None:
        self.window = Window(most_in_flight)
        self.size = 1.0
        """The share of a planned batch that is sent at once; below 1 where memory is short."""
        self._most_memory = most_memory
        self._lanes: dict[str, _Lane] = {}
        self._memory_is_short = False
        self._shrunk_at = -math.inf

    def lane(self, model: str) -> _Lane:
        """What is known of a model's limits and requests."""
        return self._lanes.setdefault(model, _Lane())

    @property
    def in_flight(self) -> int:
        """Requests that wait for their answer, of all models."""
        return sum(len(lane.in_flight) for lane in self._lanes.values())

    def wait(self, model: str, tokens: float, now: float) -> float:
        """Seconds until such a request may be sent; infinite until something in flight ends."""
        if self.in_flight >= int(self.window.limit):
            return math.inf
        lane = self.lane(model)
        amounts = {"requests": 1.0, "tokens": tokens}
        return max(
            0.0,
            lane.resume_at - now,
            lane.breaker.wait(now),
            *(lane.buckets[name].wait(amount, now) for name, amount in amounts.items()),
        )

    def sent(self, model: str, request_id: str, tokens: float, now: float) -> None:
        """A request is on its way."""
        lane = self.lane(model)
        amounts = {"requests": 1.0, "tokens": tokens}
        lane.in_flight[request_id] = _Sent(now, amounts)
        lane.breaker.sent()
        for name, amount in amounts.items():
            lane.buckets[name].take(amount, now)

    def ended(
        self, model: str, request_id: str, limits: Mapping[str, Limit], pause: float, now: float
    ) -> float:
        """A request came to its end; returns when it was sent.

        limits: what its response states; pause: seconds that it wants this model left alone.
        """
        lane = self.lane(model)
        sent = lane.in_flight.pop(request_id)
        for name, stated in limits.items():
            # Those that were sent after it may not have been counted when it was answered.
            later = [each for each in lane.in_flight.values() if each.at >= sent.at]
            lane.buckets[name].learn(stated, sum(each.amounts[name] for each in later), now)
        lane.resume_at = max(lane.resume_at, now + pause)
        return sent.at

    def answered(self) -> None:
        """A response came: one more may be in flight, unless memory is short."""
        if not self._memory_is_short:
            self.window.faster()

    def memory(self, share: float, now: float) -> None:
        """A reading of the model server's memory: above the limit, smaller and fewer batches.

        What is in flight has to end before a step down shows, so steps are apart.
        """
        self._memory_is_short = share > self._most_memory
        if not self._memory_is_short:
            self.size = min(1.0, self.size * SIZE_RECOVERY)
        elif now - self._shrunk_at >= MEMORY_STEP_SECONDS:
            self._shrunk_at = now
            self.size = max(SMALLEST_SIZE, self.size / 2)
            self.window.slower(now, now)
