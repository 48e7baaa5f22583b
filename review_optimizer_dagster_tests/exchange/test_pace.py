"""How fast the engine goes: places in flight, rate limits, circuit breakers, memory."""

from __future__ import annotations

import math

import pytest

from review_optimizer_dagster.exchange.pace import (
    FAILURES_THAT_OPEN,
    MEMORY_STEP_SECONDS,
    PROBES_THAT_FAIL,
    SMALLEST_SIZE,
    Breaker,
    Bucket,
    Pace,
    Window,
)
from review_optimizer_dagster.exchange.reply import Limit


def test_the_window_opens_by_a_place_a_response_until_it_was_too_much() -> None:
    """A day of a few dozen batches must not spend half of them on finding its pace."""
    window = Window(20)
    assert window.limit == 8
    for _ in range(40):
        window.faster()
    assert window.limit == 20
    window.slower(sent_at=1.0, now=2.0)
    window.slower(sent_at=1.5, now=2.1)  # sent before the halving: the same sign of overload
    assert window.limit == 10
    window.slower(sent_at=2.5, now=3.0)
    assert window.limit == 5
    window.faster()
    assert 5 < window.limit < 6
    assert Window(4).limit == 4


def test_a_refusal_out_of_the_blue_is_forgotten_soon() -> None:
    """One 429 in twenty says nothing about the pace; a round at half of it would cost a tenth."""
    window = Window(8)
    window.slower(sent_at=1.0, now=2.0)
    for _ in range(4):
        window.faster()
    assert window.limit == 8
    window.slower(sent_at=3.0, now=4.0)  # again, and soon: this is too fast
    for _ in range(4):
        window.faster()
    assert 4 < window.limit < 5
    for _ in range(16):
        window.faster()
    window.slower(sent_at=5.0, now=6.0)
    for _ in range(8):
        window.faster()
    assert window.limit > 6


def test_a_bucket_lets_through_what_the_headers_say_is_left() -> None:
    """Asking for more than is left only earns a refusal."""
    bucket = Bucket()
    assert bucket.wait(10**9, 0.0) == 0  # nothing is known yet
    bucket.learn(Limit(limit=600, remaining=50, reset_seconds=55), not_counted=0, now=10.0)
    assert bucket.wait(50, 10.0) == 0
    assert bucket.wait(60, 10.0) == pytest.approx(1.0)  # ten a second come back
    bucket.take(50, 10.0)
    assert bucket.wait(20, 11.0) == pytest.approx(1.0)
    assert bucket.wait(20, 12.0) == pytest.approx(0.0)
    assert bucket.wait(10**6, 66.0) == pytest.approx(4.0)  # the full bucket is all there will be


def test_a_bucket_counts_what_the_endpoint_had_not_seen() -> None:
    """Requests sent after the one that was answered may be missing from its headers."""
    bucket = Bucket()
    bucket.learn(Limit(limit=600, remaining=100, reset_seconds=0), not_counted=80, now=0.0)
    assert bucket.wait(50, 0.0) == pytest.approx(3.0)


def test_a_breaker_opens_probes_and_closes() -> None:
    """An endpoint that is down is asked by single requests, further and further apart."""
    breaker = Breaker()
    for _ in range(FAILURES_THAT_OPEN):
        assert breaker.wait(0.0) == 0
        breaker.sent()
        breaker.failed(0.0)
    assert breaker.wait(0.0) == 5
    assert breaker.wait(5.0) == 0
    breaker.sent()
    assert breaker.wait(5.0) == math.inf  # one probe at a time
    breaker.failed(6.0)
    assert breaker.wait(6.0) == 10
    breaker.sent()
    breaker.succeeded()
    assert breaker.wait(7.0) == 0


def test_a_breaker_gives_up_in_the_end() -> None:
    """A run that waits for ever is worse than one that reports what it could not ask."""
    breaker = Breaker()
    for _ in range(FAILURES_THAT_OPEN + PROBES_THAT_FAIL):
        assert not breaker.is_given_up
        breaker.sent()
        breaker.failed(0.0)
    assert breaker.is_given_up


def test_now_and_then_a_failure_opens_nothing() -> None:
    """One error in eight is an endpoint that works."""
    breaker = Breaker()
    for _ in range(10):
        for _ in range(FAILURES_THAT_OPEN - 1):
            breaker.failed(0.0)
        breaker.succeeded()
    assert breaker.wait(0.0) == 0


def test_a_model_in_trouble_holds_no_other_up() -> None:
    """Limits, pauses and failures are a model's own; only the places in flight are shared."""
    pace = Pace(8, 0.8)
    pace.sent("small", "r1", 100, 0.0)
    limits = {"tokens": Limit(limit=600, remaining=0, reset_seconds=60)}
    pace.ended("small", "r1", limits, pause=7.0, now=1.0)
    assert pace.wait("small", 100, 1.0) == pytest.approx(10.0)
    assert pace.wait("small", 1, 1.0) == pytest.approx(7.0)
    assert pace.wait("large", 100, 1.0) == 0
    for number in range(8):
        pace.sent("large", f"l{number}", 100, 1.0)
    assert pace.wait("small", 1, 99.0) == math.inf


def test_what_was_sent_since_is_not_counted_on() -> None:
    """A response tells what was left when it was admitted, not what its successors took."""
    pace = Pace(8, 0.8)
    pace.sent("m", "first", 10, 0.0)
    pace.sent("m", "second", 60, 1.0)
    limits = {"tokens": Limit(limit=600, remaining=100, reset_seconds=0)}
    pace.ended("m", "first", limits, pause=0.0, now=2.0)
    assert pace.wait("m", 50, 2.0) == pytest.approx(1.0)  # 40 are left, 10 a second come back
    pace.ended("m", "second", limits, pause=0.0, now=2.0)
    assert pace.wait("m", 50, 2.0) == 0


def test_short_memory_means_smaller_and_fewer_batches_and_passes() -> None:
    """A server that swaps answers nobody; one that has recovered is used in full again."""
    pace = Pace(8, 0.8)
    assert (pace.window.limit, pace.size) == (8, 1)
    pace.memory(0.9, 0.0)
    pace.memory(0.95, 1.0)  # what is in flight has to end before a step shows
    assert (pace.window.limit, pace.size) == (4, 0.5)
    pace.answered()
    assert pace.window.limit == 4  # no growth while it is short
    for step in range(1, 9):
        pace.memory(0.9, step * MEMORY_STEP_SECONDS)
    assert (pace.window.limit, pace.size) == (1, SMALLEST_SIZE)
    for second in range(20):
        pace.memory(0.5, 100.0 + second)
        pace.answered()
    assert pace.size == 1
    assert pace.window.limit > 4
