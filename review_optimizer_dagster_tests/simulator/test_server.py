"""The endpoint, through the client that the pipeline uses and through plain HTTP."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import openai
import pytest

from review_optimizer_dagster.simulator.faults import COMMON_ERRORS, FAULTS, common_errors
from review_optimizer_dagster.simulator.forms import LabelsForm
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.tokens import estimate_tokens
from review_optimizer_dagster_tests.simulator.asking import (
    AUTHORIZED,
    TEXTS,
    ask,
    body,
    http_request,
    schema,
)


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    with Simulator(LexiconJudge(), latency_seconds=0.0) as running:
        yield running


def test_answers_each_document_by_its_id(simulator: Simulator) -> None:
    """The whole point: the real client gets labels, keyed by id, in the schema it asked for."""
    [response] = ask(simulator, body())
    completion = response.parse()
    assert json.loads(completion.choices[0].message.content) == {
        "answers": [
            {"id": "1", "sentiment": "positive"},
            {"id": "2", "sentiment": "negative"},
        ]
    }
    assert completion.choices[0].finish_reason == "stop"
    assert completion.model == "gpt-6-luna"
    assert completion.service_tier == "default"
    assert completion.system_fingerprint.startswith("fp_")


def test_states_usage_and_limits() -> None:
    """Cost and pace are taken from usage and headers, so every one of them must be there."""
    with Simulator(LexiconJudge(), latency_seconds=0.0, clock=lambda: 0.0) as simulator:
        [response] = ask(simulator, body())
    completion = response.parse()
    content = completion.choices[0].message.content
    tokens = LabelsForm("answers", {}, False).count(content)
    assert completion.usage.completion_tokens == tokens
    assert completion.usage.total_tokens == completion.usage.prompt_tokens + tokens
    assert completion.usage.prompt_tokens_details.cached_tokens == 0
    assert completion.usage.completion_tokens_details.reasoning_tokens == 0
    headers = response.headers
    assert headers["x-request-id"].startswith("req_")
    assert headers["x-ratelimit-limit-requests"] == "10000"
    assert headers["x-ratelimit-remaining-requests"] == "9999"
    used = completion.usage.total_tokens
    assert int(headers["x-ratelimit-remaining-tokens"]) == 10_000_000 - used
    assert headers["x-ratelimit-reset-tokens"].endswith("s")
    assert headers["x-ratelimit-reset-requests"].endswith("s")


def test_nothing_on_the_wire_gives_it_away(simulator: Simulator) -> None:
    """The client must not be able to tell it from the real thing."""
    responses = ask(simulator, body(), body(response_format=None))
    said = [str(dict(responses[0].headers)), responses[0].text, str(responses[1].response.text)]
    assert not any(
        word in text.lower() for text in said for word in ("simulat", "python", "lexicon")
    )


def test_lists_models(simulator: Simulator) -> None:
    """Tools ask for the models before they do anything else."""

    async def models() -> list[str]:
        async with openai.AsyncOpenAI(base_url=simulator.base_url, api_key="key") as client:
            return [model.id async for model in await client.models.list()]

    assert "gpt-6-luna" in asyncio.run(models())


def test_follows_whatever_schema_is_asked_for(simulator: Simulator) -> None:
    """Another taxonomy is another schema: names and labels come from the request alone."""
    fields = {"product": ["mortgage", "student loan"], "colour": ["red", "green"]}
    text = {"a": "They lost my student loan papers. The green form, green again."}
    [response] = ask(simulator, body(text, response_format=schema(fields, "verdicts")))
    assert json.loads(response.parse().choices[0].message.content) == {
        "verdicts": [{"id": "a", "product": "student loan", "colour": "green"}]
    }


def test_a_plain_message_is_one_document(simulator: Simulator) -> None:
    """A person who tries the endpoint by hand does not write our envelope."""
    messages = [{"role": "user", "content": "Awful. It broke at once."}]
    [response] = ask(simulator, body(messages=messages))
    assert json.loads(response.parse().choices[0].message.content) == {
        "answers": [{"id": "1", "sentiment": "negative"}]
    }


def test_a_document_without_answer_is_missing() -> None:
    """An answers file that lacks a text must lead to a missing item, not to an invented label."""

    class Silent:
        policy = "silent"

        def judge(
            self, _title: str | None, text: str, _fields: Mapping[str, Sequence[str]]
        ) -> dict[str, str] | None:
            return None if text == TEXTS["1"] else {"sentiment": "mixed"}

    with Simulator(Silent(), latency_seconds=0.0) as silent:
        [response] = ask(silent, body())
    content = json.loads(response.parse().choices[0].message.content)
    assert content == {"answers": [{"id": "2", "sentiment": "mixed"}]}


def test_half_a_surrogate_pair_is_answered(simulator: Simulator) -> None:
    """JSON may hold what UTF-8 cannot; a text from the wild must not be a server error."""
    asked = json.dumps(body({"1": "Great \ud83d sound."}, system="Label \ud83d. " * 800)).encode()
    for _ in range(2):
        status, answer = http_request(simulator, "POST", "/v1/chat/completions", asked)
        assert status == 200
    assert answer["usage"]["prompt_tokens_details"]["cached_tokens"] > 0


def test_stops_at_the_token_limit(simulator: Simulator) -> None:
    """A batch that is too long for its limit comes back cut, and says so."""
    [response] = ask(simulator, body(max_completion_tokens=10))
    completion = response.parse()
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage.completion_tokens == 10


def test_a_long_prefix_is_cached_the_second_time(simulator: Simulator) -> None:
    """Prompt caching is part of the price: 1,024 tokens at least, seen before, same model."""
    long = "Label every review with care. " * 200
    usages = [
        ask(simulator, each)[0].parse().usage.prompt_tokens_details.cached_tokens
        for each in (
            body(system=long),
            body({"9": "Other."}, system=long),
            body(system=long, model="gpt-4o"),
            body(system="Short."),
            body(system="Short."),
        )
    ]
    prefix = json.dumps(schema(), separators=(",", ":")) + long
    assert usages == [0, estimate_tokens(prefix) // 128 * 128, 0, 0, 0]


@pytest.mark.parametrize(
    ("method", "path", "data", "headers", "status"),
    [
        ("GET", "/v1/models", b"", {"Authorization": "Basic abc"}, 401),
        ("POST", "/v1/chat/completions", b"{}", {"X-Nothing": "1"}, 401),
        ("GET", "/v1/nothing", b"", {}, 404),
        ("GET", "/v1/chat/completions", b"", {}, 405),
        ("POST", "/v1/chat/completions", b"{not json", {}, 400),
        ("POST", "/v1/chat/completions", b"[1]", {}, 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", {}, 400),
        ("POST", "/v1/chat/completions", json.dumps({"model": "m"}).encode(), {}, 400),
        ("PUT", "/v1/chat/completions", b"", {}, 501),
    ],
)
def test_refuses_in_the_shape_of_openai(
    simulator: Simulator,
    method: str,
    path: str,
    data: bytes,
    headers: dict[str, str],
    status: int,
) -> None:
    """Clients read error.type, code and message; a bare HTML page would hide the reason."""
    answered, answer = http_request(simulator, method, path, data, **headers)
    assert answered == status
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert answer["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"response_format": None},
        {"response_format": {"type": "text"}},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}},
        {"response_format": schema({})},
        {"messages": []},
        {"messages": [{"role": "user", "content": 7}]},
        {"messages": [{"role": "user", "content": '{"documents": {"id": "1"}}'}]},
        {"model": ""},
        {"stream": True},
        {"max_completion_tokens": 0},
    ],
)
def test_a_request_that_cannot_be_answered_is_a_400(
    simulator: Simulator, change: dict[str, Any]
) -> None:
    """The client's own mistakes are errors of its own kind, and cost nothing."""
    [error] = ask(simulator, body(**change))
    assert isinstance(error, openai.BadRequestError)
    assert [(bill.http_status, bill.completion_tokens) for bill in simulator.billed] == [(400, 0)]


def test_the_client_reads_the_error_classes(simulator: Simulator) -> None:
    """401 and 404 must arrive as what the client's retry rules look for."""

    async def call(path: str, **headers: str) -> None:
        async with openai.AsyncOpenAI(
            base_url=simulator.base_url + path,
            api_key="key",
            max_retries=0,
            default_headers=headers,
        ) as client:
            await client.chat.completions.create(**body())

    with pytest.raises(openai.AuthenticationError) as refused:
        asyncio.run(call("", Authorization="none"))
    assert refused.value.code == "invalid_api_key"
    with pytest.raises(openai.NotFoundError):
        asyncio.run(call("/elsewhere"))


def statuses(seed: int, rate: float, order: Sequence[int]) -> dict[int, list[int]]:
    """Body number to the statuses of sending it twice, for bodies sent in that order."""
    found: dict[int, list[int]] = {}
    with Simulator(
        LexiconJudge(), latency_seconds=0.0, faults=common_errors(rate), seed=seed
    ) as failing:
        address = failing.base_url.removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(address, timeout=10)
        for number in order:
            data = json.dumps(body({"1": f"Review number {number}."}))
            for _ in range(2):
                connection.request("POST", "/v1/chat/completions", data, AUTHORIZED)
                response = connection.getresponse()
                response.read()
                found.setdefault(number, []).append(response.status)
        connection.close()
    return found


def test_errors_are_chosen_by_seed_and_not_by_order() -> None:
    """A run with faults can be repeated exactly, however its requests overtake one another."""
    order = list(range(40))
    shuffled = [7 * n % 40 for n in order]
    first = statuses(5, 0.3, order)
    assert first == statuses(5, 0.3, shuffled)
    assert first != statuses(6, 0.3, order)
    assert any(once != again for once, again in first.values())


def test_error_rate_is_the_share_of_errors() -> None:
    """0.25 means a quarter, spread over the three faults; 0 means none and 1 means all."""
    counts = Counter(s for each in statuses(1, 0.25, range(200)).values() for s in each)
    assert set(counts) == {200, 500, 503, 429}
    assert 0.19 < 1 - counts[200] / 400 < 0.31
    assert {s for each in statuses(1, 0.0, range(5)).values() for s in each} == {200}
    assert 200 not in {s for each in statuses(1, 1.0, range(5)).values() for s in each}


def test_a_rate_limit_error_says_when_to_come_back() -> None:
    """The client waits for retry-after-ms; without it the retry would be a guess."""
    with Simulator(LexiconJudge(), latency_seconds=0.0, faults=common_errors(1.0)) as failing:
        errors = ask(failing, *(body({"1": f"Text {n}."}) for n in range(12)))
    assert {type(error) for error in errors} == {
        openai.RateLimitError,
        openai.InternalServerError,
    }
    assert {error.status_code for error in errors} == {
        failure.status for name in COMMON_ERRORS if (failure := FAULTS[name].failure)
    }
    for error in errors:
        limited = isinstance(error, openai.RateLimitError)
        assert ("retry-after-ms" in error.response.headers) == limited


def test_bills_exactly_what_it_said(simulator: Simulator) -> None:
    """The ledger is compared with this record, to the token, also under concurrent requests."""
    bodies = [body({"1": f"Great speaker number {n}."}) for n in range(24)]
    responses = ask(simulator, *bodies)
    stated = {}
    for number, response in enumerate(responses):
        usage = response.parse().usage
        stated[f"request-{number}"] = (usage.prompt_tokens, usage.completion_tokens)
    billed = {
        bill.client_request_id: (bill.prompt_tokens, bill.completion_tokens)
        for bill in simulator.billed
    }
    assert billed == stated
    assert {(bill.model, bill.http_status) for bill in simulator.billed} == {("gpt-6-luna", 200)}


def test_one_connection_serves_many_requests(simulator: Simulator) -> None:
    """Keep-alive, also after an error, so that a batch does not pay for a new connection."""
    address = simulator.base_url.removeprefix("http://").removesuffix("/v1")
    connection = http.client.HTTPConnection(address, timeout=10)
    socket_seen = set()
    for path, status in (("/v1/models", 200), ("/v1/none", 404), ("/v1/models", 200)):
        connection.request("GET", path, headers=AUTHORIZED)
        response = connection.getresponse()
        response.read()
        assert response.status == status
        socket_seen.add(connection.sock)
    connection.close()
    assert len(socket_seen) == 1


def test_a_judge_that_breaks_is_a_server_error(caplog: pytest.LogCaptureFixture) -> None:
    """A defect must show in the log, and must not leave the client waiting."""

    class Broken:
        policy = "broken"

        def judge(
            self, _title: str | None, _text: str, _fields: Mapping[str, Sequence[str]]
        ) -> dict[str, str] | None:
            raise ZeroDivisionError

    with Simulator(Broken(), latency_seconds=0.0) as broken:
        [error] = ask(broken, body())
        assert broken.billed == []
    assert isinstance(error, openai.InternalServerError)
    assert "could not answer /v1/chat/completions" in caplog.text


def test_latency_grows_with_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fixed part plus a part a token, times a factor that the seed repeats."""
    waited: list[float] = []

    def wait(timeout: float | None = None) -> bool:
        waited.append(timeout or 0.0)
        return False

    def seconds(sigma: float) -> float:
        with Simulator(
            LexiconJudge(), latency_seconds=0.5, seconds_per_token=0.01, sigma=sigma
        ) as slow:
            monkeypatch.setattr(slow._closing, "wait", wait)
            [response] = ask(slow, body())
        tokens.append(response.parse().usage.completion_tokens)
        return waited[-1]

    tokens: list[int] = []
    assert seconds(0.0) == pytest.approx(0.5 + 0.01 * tokens[0])
    assert seconds(0.3) == seconds(0.3) != waited[0]


def test_closing_ends_what_is_waiting() -> None:
    """A run that is cancelled must not hang on an answer that would take a minute."""
    judged = threading.Event()

    class Announcing(LexiconJudge):
        def judge(
            self, title: str | None, text: str, fields: Mapping[str, Sequence[str]]
        ) -> dict[str, str] | None:
            judged.set()
            return super().judge(title, text, fields)

    slow = Simulator(Announcing(), latency_seconds=60.0)
    errors: list[Any] = []
    with slow:
        client = threading.Thread(target=lambda: errors.extend(ask(slow, body())))
        client.start()
        assert judged.wait(10)
    client.join(10)
    assert isinstance(errors[0], openai.APIConnectionError)
    assert slow.billed == []
    with pytest.raises(RuntimeError, match="not open"):
        _ = slow.base_url


def test_closing_lets_idle_connections_go() -> None:
    """A kept-alive connection must not keep a thread of a closed endpoint for ever."""
    idle = Simulator(LexiconJudge(), latency_seconds=0.0)
    with idle:
        address = idle.base_url.removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/v1/models", headers=AUTHORIZED)
        connection.getresponse().read()
    assert connection.sock.recv(1) == b""
    connection.close()


def test_opens_again_on_another_port(simulator: Simulator) -> None:
    """Two endpoints in one process do not get in each other's way; a closed one can reopen."""
    other = Simulator(LexiconJudge(), latency_seconds=0.0)
    for _ in range(2):
        with other:
            assert other.base_url != simulator.base_url
            assert http_request(other, "GET", "/v1/models")[0] == 200


def test_serve_announces_its_address_and_stops_on_interrupt() -> None:
    """The standalone command prints the address once it accepts requests, and ends cleanly."""
    code = (
        "from review_optimizer_dagster.simulator import judge, server;"
        "server.serve(server.Simulator(judge.LexiconJudge()), lambda url: print(url, flush=True))"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as alone:
        assert alone.stdout is not None
        address = alone.stdout.readline().strip().removeprefix("http://").removesuffix("/v1")
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/v1/models", headers=AUTHORIZED)
        assert connection.getresponse().status == 200
        alone.send_signal(signal.SIGINT)
        assert alone.wait(10) == 0
        connection.close()


def test_is_light_to_import() -> None:
    """A run opens it in its own process: it must not pull in a client, or the orchestrator."""
    code = (
        "import sys, review_optimizer_dagster.simulator.server;"
        "print([m for m in ('openai', 'dagster', 'sklearn', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def embed(simulator: Simulator, texts: Any, **more: Any) -> tuple[int, dict[str, Any]]:
    data = json.dumps({"model": "text-embedding-3-small", "input": texts, **more}).encode()
    headers = AUTHORIZED | {"X-Client-Request-Id": "request-1"}
    return http_request(simulator, "POST", "/v1/embeddings", data, **headers)


def test_embeds_like_spellings_alike_and_bills_them(simulator: Simulator) -> None:
    """Vectors must tell texts apart, the same in every process, and cost what they say."""
    texts = ["it broke at once", "It broke at once!", "lovely and soft"]
    status, answer = embed(simulator, texts)
    assert status == 200
    assert [item["index"] for item in answer["data"]] == [0, 1, 2]
    near, same, far = (item["embedding"] for item in answer["data"])
    assert sum(value * value for value in near) == pytest.approx(1.0)

    def likeness(other: list[float]) -> float:
        return float(sum(one * two for one, two in zip(near, other, strict=True)))

    assert likeness(same) > 0.7 > 0.4 > likeness(far)
    assert embed(simulator, texts[2])[1]["data"][0]["embedding"] == far
    tokens = sum(map(estimate_tokens, texts))
    assert answer["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    billed = simulator.billed[0]
    assert (billed.client_request_id, billed.prompt_tokens) == ("request-1", tokens)


@pytest.mark.parametrize(
    ("texts", "more"),
    [
        ([], {}),
        ([""], {}),
        ([1], {}),
        (["a"] * 2_049, {}),
        (["a"], {"model": ""}),
        (["a"], {"encoding_format": "base64"}),
    ],
)
def test_refuses_what_cannot_be_embedded(
    simulator: Simulator, texts: Any, more: dict[str, Any]
) -> None:
    """What a real endpoint refuses must not pass here."""
    status, answer = embed(simulator, texts, **more)
    assert status == 400
    assert answer["error"]["type"] == "invalid_request_error"
    assert simulator.billed == []


def test_one_model_may_be_wrong_and_the_others_right() -> None:
    """A ladder whose first step is bad can be tried without a second endpoint."""
    texts = {str(n): f"I love it, excellent sound, number {n}." for n in range(300)}
    with Simulator(
        LexiconJudge(), latency_seconds=0.0, wrong_rates={"gpt-6-luna": 0.2}
    ) as simulator:
        found = ask(simulator, body(texts), body(texts), body(texts) | {"model": "gpt-5.4-mini"})
    told = [
        [
            answer["sentiment"]
            for answer in json.loads(r.parse().choices[0].message.content)["answers"]
        ]
        for r in found
    ]
    assert told[0] == told[1]
    assert 0.13 < 1 - told[0].count("positive") / 300 < 0.27
    assert set(told[2]) == {"positive"}
