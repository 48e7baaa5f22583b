"""What the endpoint itself books, and what it tells of itself: the other side of the ledger."""

from __future__ import annotations

import json
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import httpx2
import pytest

from review_optimizer_dagster.simulator import connections
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.tokens import estimate_tokens
from review_optimizer_dagster_tests.simulator.asking import (
    ask,
    body,
    codes_body,
    http_request,
    schema,
    until,
)

LONG = "Label every review with care. " * 200


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(LexiconJudge(), latency_seconds=0.0) as running:
        yield running


def test_a_row_names_the_response(simulator: Simulator) -> None:
    """Ledger and record are joined on the response's id, to the token."""
    responses = ask(simulator, body(), codes_body({"1": "Good."}), body(service_tier="flex"))
    rows = {row.response_id: row for row in simulator.billed}
    for number, response in enumerate(responses):
        completion = response.parse()
        row = rows[completion.id]
        assert row.client_request_id == f"request-{number}"
        assert row.prompt_tokens == completion.usage.prompt_tokens
        assert row.completion_tokens == completion.usage.completion_tokens
        assert row.service_tier == completion.service_tier
        assert (row.way, row.delivered, row.fault) == ("sync", True, None)
    assert sorted(str(row.service_tier) for row in rows.values()) == ["default", "default", "flex"]


def test_another_process_can_read_the_record(simulator: Simulator) -> None:
    """A campaign that kills the client compares from outside."""
    ask(simulator, body(), body({"1": "Other."}))
    status, answer = http_request(simulator, "GET", "/v1/simulator/billed")
    assert status == 200
    assert answer["data"] == [asdict(row) for row in simulator.billed]
    assert len(answer["data"]) == 2


def test_writes_to_the_cache_are_stated_where_asked() -> None:
    """Some models bill them dearer than plain input, once a prefix."""
    with Simulator(LexiconJudge(), latency_seconds=0.0, cache_writes=True) as writing:
        details = [
            ask(writing, each)[0].parse().usage.prompt_tokens_details
            for each in (body(system=LONG), body({"9": "Other."}, system=LONG), body())
        ]
        rows = writing.billed
    prefix = estimate_tokens(json.dumps(schema(), separators=(",", ":")) + LONG)
    steps = prefix // 128 * 128
    assert [d.cache_write_tokens for d in details] == [steps, 0, 0]
    assert [d.cached_tokens for d in details] == [0, steps, 0]
    assert [(r.cache_write_tokens, r.cached_tokens) for r in rows] == [
        (steps, 0),
        (0, steps),
        (0, 0),
    ]


def test_writes_are_not_stated_by_other_models(simulator: Simulator) -> None:
    """Most models do not know the word; a client must not need it."""
    [response] = ask(simulator, body(system=LONG))
    assert "cache_write_tokens" not in response.text
    assert simulator.billed[0].cache_write_tokens == 0


def test_another_schema_is_another_prefix(simulator: Simulator) -> None:
    """The schema stands before the prompt, so a changed label set is a new prefix."""
    ask(simulator, body(system=LONG))
    other = schema({"sentiment": ["good", "bad"]})
    cached = [
        ask(simulator, body(system=LONG, **more))[0]
        .parse()
        .usage.prompt_tokens_details.cached_tokens
        for more in ({"response_format": other}, {})
    ]
    assert cached[0] == 0 < cached[1]


def metrics(simulator: Simulator) -> dict[str, float]:
    """Name to value of what /metrics states, asked without a key."""
    response = httpx2.get(simulator.base_url.removesuffix("/v1") + "/metrics")
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")
    lines = re.findall(r"^([a-z_:]+)\{[^}]*\} (\S+)$", response.text, re.MULTILINE)
    return {name: float(value) for name, value in lines}


class Waiting(LexiconJudge):
    """A judge that says when it is asked, and waits until it may answer."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Semaphore(0)
        self.go_on = threading.Event()

    def judge(
        self, title: str | None, text: str, fields: Mapping[str, Sequence[str]]
    ) -> dict[str, str] | None:
        """As the lexicon, but late."""
        self.inside.release()
        assert self.go_on.wait(30)
        return super().judge(title, text, fields)


@pytest.mark.parametrize("looks", [True, False])
def test_an_answer_to_nobody_is_not_delivered(monkeypatch: pytest.MonkeyPatch, looks: bool) -> None:
    """A killed client left a paid answer behind, seen before it is written or while it is."""
    judge = Waiting()
    if not looks:
        monkeypatch.setattr(connections._Handler, "_client_left", lambda _handler: False)
    with Simulator(judge, latency_seconds=0.0) as left_alone:
        host, port = left_alone.base_url.removeprefix("http://").removesuffix("/v1").split(":")
        asked = json.dumps(body()).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1\r\nAuthorization: Bearer key\r\n"
            f"Content-Length: {len(asked)}\r\n\r\n"
        )
        with socket.create_connection((host, int(port))) as client:
            client.sendall(head.encode() + asked)
            assert judge.inside.acquire(timeout=10)
            # Closed without a farewell, as when the process is killed with data unread.
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        judge.go_on.set()
        [row] = until(
            lambda: rows if (rows := left_alone.billed) and not rows[0].delivered else None
        )
    assert row.completion_tokens > 0


def test_metrics_state_the_load() -> None:
    """The engine sends less where the model server's memory is nearly full."""
    judge = Waiting()
    with Simulator(judge, latency_seconds=0.0) as loaded:
        assert metrics(loaded) == {
            "vllm:num_requests_running": 0.0,
            "vllm:kv_cache_usage_perc": 0.0,
        }
        got: list[Any] = []
        bodies = [body({"1": f"Text {n}."}) for n in range(4)]
        client = threading.Thread(target=lambda: got.extend(ask(loaded, *bodies)))
        client.start()
        for _ in bodies:
            assert judge.inside.acquire(timeout=10)
        assert metrics(loaded) == {
            "vllm:num_requests_running": 4.0,
            "vllm:kv_cache_usage_perc": 0.25,
        }
        judge.go_on.set()
        client.join(10)
        assert len(got) == 4
        assert metrics(loaded)["vllm:num_requests_running"] == 0.0


def test_the_load_can_be_set() -> None:
    """By a number, or by what is in flight."""
    with Simulator(LexiconJudge(), kv_cache_usage=0.93) as full:
        assert metrics(full)["vllm:kv_cache_usage_perc"] == 0.93
    with Simulator(LexiconJudge(), kv_cache_usage=lambda running: 0.5 + running) as half:
        assert metrics(half)["vllm:kv_cache_usage_perc"] == 0.5
