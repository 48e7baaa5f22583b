"""Limits that refuse: what a client that does not pace itself meets."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import openai

from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster_tests.simulator.asking import ask, body, http_request, until


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def ask_in_turn(simulator: Simulator, number: int, **more: Any) -> list[Any]:
    """Requests one after the other, so that the first ones fill the limit."""
    return [ask(simulator, body({"1": f"Text {n}."}, **more))[0] for n in range(number)]


def test_requests_a_minute_refill_continuously() -> None:
    """A limit of 6 a minute is one every ten seconds, not six and then a minute of nothing."""
    clock = Clock()
    with Simulator(
        LexiconJudge(), latency_seconds=0.0, requests_per_minute=6, clock=clock
    ) as limited:
        answered = ask_in_turn(limited, 7)
        refused = answered[6]
        assert isinstance(refused, openai.RateLimitError)
        assert refused.code == "rate_limit_exceeded"
        headers = refused.response.headers
        assert headers["retry-after-ms"] == "10000"
        assert headers["retry-after"] == "10"
        assert headers["x-ratelimit-remaining-requests"] == "0"
        assert headers["x-ratelimit-reset-requests"] == "1m0s"
        clock.now += 9.9
        assert isinstance(ask_in_turn(limited, 1)[0], openai.RateLimitError)
        clock.now += 0.1
        again = ask_in_turn(limited, 2)
        assert again[0].headers["x-ratelimit-remaining-requests"] == "0"
        assert isinstance(again[1], openai.RateLimitError)
        billed = limited.billed
    assert [row.http_status for row in billed] == [200] * 6 + [429, 429, 200, 429]
    assert {row.completion_tokens for row in billed if row.http_status == 429} == {0}


def test_successes_state_what_is_left() -> None:
    """A client that reads them never meets a 429."""
    with Simulator(
        LexiconJudge(), latency_seconds=0.0, requests_per_minute=60, clock=Clock()
    ) as limited:
        remaining = [
            (
                response.headers["x-ratelimit-limit-requests"],
                response.headers["x-ratelimit-remaining-requests"],
                response.headers["x-ratelimit-reset-requests"],
            )
            for response in ask_in_turn(limited, 2)
        ]
    assert remaining == [("60", "59", "1s"), ("60", "58", "2s")]


def test_the_most_that_may_be_said_counts() -> None:
    """OpenAI counts max_completion_tokens at the start, so a generous limit costs pace."""
    with Simulator(
        LexiconJudge(), latency_seconds=0.0, tokens_per_minute=2_500, clock=Clock()
    ) as limited:
        first, second, third = ask_in_turn(limited, 3, max_completion_tokens=1_200)
        assert first.headers["x-ratelimit-remaining-tokens"] == "1300"
        assert second.headers["x-ratelimit-remaining-tokens"] == "100"
        assert isinstance(third, openai.RateLimitError)
        assert third.response.headers["retry-after-ms"] == "26400"  # 1,100 missing, 2,500 a minute
        [huge] = ask_in_turn(limited, 1, max_completion_tokens=2_501)
        assert isinstance(huge, openai.RateLimitError)
        assert "too large" in str(huge)
        assert "retry-after-ms" not in huge.response.headers


def test_what_was_used_beyond_is_counted_afterwards() -> None:
    """Without max_completion_tokens nobody knows beforehand; the limit must hold all the same."""
    with Simulator(
        LexiconJudge(), latency_seconds=0.0, tokens_per_minute=1_000, clock=Clock()
    ) as limited:
        [response] = ask_in_turn(limited, 1)
    left = 1_000 - response.parse().usage.total_tokens
    assert response.headers["x-ratelimit-remaining-tokens"] == str(left)


def test_a_refused_request_does_not_spend_a_draw() -> None:
    """Which fault a request meets must not depend on how often it was turned away."""

    def statuses(per_minute: int) -> list[int]:
        clock, asked = Clock(), json.dumps(body()).encode()
        found: list[int] = []
        with Simulator(
            LexiconJudge(),
            latency_seconds=0.0,
            requests_per_minute=per_minute,
            faults={"server_error": 0.5},
            clock=clock,
        ) as limited:
            while len(found) < 12:
                status, _ = http_request(limited, "POST", "/v1/chat/completions", asked)
                if status != 429:
                    found.append(status)
                clock.now += 30.0
        return found

    assert statuses(1) == statuses(100)
    assert set(statuses(100)) == {200, 500}


def test_more_at_once_than_allowed_are_refused() -> None:
    """A server with a queue of its own says so with a 429, however empty the minute is."""
    inside, go_on = threading.Event(), threading.Event()

    class Waiting(LexiconJudge):
        def judge(
            self, title: str | None, text: str, fields: Mapping[str, Sequence[str]]
        ) -> dict[str, str] | None:
            inside.set()
            assert go_on.wait(30)
            return super().judge(title, text, fields)

    with Simulator(Waiting(), latency_seconds=0.0, max_concurrent=1) as narrow:
        got: list[Any] = []
        first = threading.Thread(target=lambda: got.extend(ask(narrow, body())))
        first.start()
        assert inside.wait(10)
        [error] = ask(narrow, body({"1": "Other."}))
        assert isinstance(error, openai.RateLimitError)
        assert error.response.headers["retry-after-ms"] == "50"
        go_on.set()
        first.join(10)
        assert until(lambda: got or None)[0].status_code == 200
        assert ask(narrow, body())[0].status_code == 200
