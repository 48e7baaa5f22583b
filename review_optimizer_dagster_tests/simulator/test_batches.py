"""The Batch API through the real client: every state, every end, and what it is billed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import openai
import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.simulator import batches, files
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster_tests.simulator.asking import (
    answers,
    ask,
    body,
    codes_body,
    http_request,
)

CHAT: Any = "/v1/chat/completions"


def line(number: int, **more: Any) -> dict[str, Any]:
    """A line of an input file."""
    asked = codes_body({"1": f"I love it. {number}", "2": "Terrible, it broke."})
    return {"custom_id": f"line-{number}", "method": "POST", "url": CHAT, "body": asked, **more}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(each).encode() + b"\n" for each in lines)


TEN = jsonl(*(line(number) for number in range(10)))


@contextmanager
def simulated(**options: Any) -> Iterator[tuple[Simulator, openai.OpenAI]]:
    """A simulator and a client of it."""
    options = {"latency_seconds": 0.0} | options
    with (
        Simulator(LexiconJudge(), **options) as simulator,
        openai.OpenAI(base_url=simulator.base_url, api_key="key", max_retries=0) as client,
    ):
        yield simulator, client


def send(client: openai.OpenAI, content: bytes = TEN, **more: Any) -> Any:
    """Upload a file and make a batch of it."""
    uploaded = client.files.create(file=("batch.jsonl", content), purpose="batch")
    return client.batches.create(
        **{
            "input_file_id": uploaded.id,
            "endpoint": CHAT,
            "completion_window": "24h",
            **more,
        }
    )


def read(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    """The lines of an output or error file."""
    if file_id is None:
        return []
    return [json.loads(text) for text in client.files.content(file_id).text.splitlines()]


def look(client: openai.OpenAI, batch: Any) -> Any:
    """The batch as it is now."""
    return client.batches.retrieve(batch.id)


def ended(client: openai.OpenAI, batch: Any) -> Any:
    """The batch as it is when it is looked at for the second time."""
    look(client, batch)
    return look(client, batch)


def test_a_batch_is_answered_like_requests() -> None:
    """Half the price for the same labels: what comes back must be what `sync` would have said."""
    with simulated() as (simulator, client):
        batch = send(client, metadata={"tenant": "acme"})
        assert batch.status == "validating"
        states = [look(client, batch).status for _ in range(3)]
        assert states == ["in_progress", "completed", "completed"]
        batch = look(client, batch)
        lines = read(client, batch.output_file_id)
        [response] = ask(simulator, line(3)["body"])
        rows = [row for row in simulator.billed if row.way == "batch"]
    assert batch.error_file_id is None
    assert batch.metadata == {"tenant": "acme"}
    assert (batch.request_counts.total, batch.request_counts.completed) == (10, 10)
    found = {each["custom_id"]: each for each in lines}
    assert len(found) == 10
    content = found["line-3"]["response"]["body"]["choices"][0]["message"]["content"]
    assert json.loads(content)["answers"] == answers(response)
    assert found["line-3"]["error"] is None
    assert found["line-3"]["response"]["status_code"] == 200
    stated = {
        (each["response"]["body"]["id"], each["response"]["body"]["usage"]["completion_tokens"])
        for each in lines
    }
    assert {(row.response_id, row.completion_tokens) for row in rows} == stated
    assert {row.service_tier for row in rows} == {"batch"}
    assert {each["response"]["body"]["service_tier"] for each in lines} == {"batch"}
    assert {row.client_request_id for row in rows} == set(found)
    assert batch.usage.output_tokens == sum(row.completion_tokens for row in rows)


def test_output_comes_in_another_order() -> None:
    """Whoever joins on the position labels the wrong reviews; the seed repeats the order."""

    def order(seed: int) -> list[str]:
        with simulated(seed=seed) as (_, client):
            batch = ended(client, send(client))
            return [each["custom_id"] for each in read(client, batch.output_file_id)]

    asked = [f"line-{number}" for number in range(10)]
    first = order(1)
    assert first != asked
    assert sorted(first) == asked
    assert order(1) == first != order(2)


def test_the_clock_leads_through_the_states() -> None:
    """A batch takes hours, and every state between must be read rightly whenever one looks."""
    now = [1_000_000.0]
    with simulated(batch_seconds=1_000.0, clock=lambda: now[0]) as (simulator, client):
        batch = send(client)
        seen = []
        for seconds in (50, 150, 500, 920, 1_000):
            now[0] = 1_000_000.0 + seconds
            batch = look(client, batch)
            counts = batch.request_counts
            seen.append((batch.status, counts.total, counts.completed, len(simulator.billed)))
    assert seen == [
        ("validating", 0, 0, 0),
        ("in_progress", 10, 1, 1),
        ("in_progress", 10, 5, 5),
        ("finalizing", 10, 10, 10),
        ("completed", 10, 10, 10),
    ]
    assert batch.created_at == 1_000_000
    assert batch.in_progress_at == 1_000_100
    assert batch.finalizing_at == 1_000_900
    assert batch.completed_at == 1_001_000
    assert batch.expires_at == 1_086_400
    assert batch.expired_at is None


def test_the_record_moves_on_without_a_look() -> None:
    """Work goes on at the provider while the client is dead, and is billed."""
    now = [0.0]
    with simulated(batch_seconds=100.0, clock=lambda: now[0]) as (simulator, client):
        send(client)
        assert simulator.billed == []
        now[0] = 200.0
        assert len(simulator.billed) == 10


@pytest.mark.parametrize(
    ("fate", "code"), [("expired", "batch_expired"), ("cancelled", "batch_cancelled")]
)
def test_what_was_finished_is_returned_and_billed(fate: str, code: str) -> None:
    """A batch that ends early is paid for in part: the rest is asked again, the part never."""
    with simulated(batch_fate=fate, batch_done_share=0.3) as (simulator, client):
        batch = ended(client, send(client))
        done = read(client, batch.output_file_id)
        undone = read(client, batch.error_file_id)
        assert batch.status == fate
        assert len(simulator.billed) == 3
    assert (len(done), len(undone)) == (3, 7)
    assert {(each["response"], each["error"]["code"]) for each in undone} == {(None, code)}
    assert len({each["custom_id"] for each in done + undone}) == 10
    assert getattr(batch, f"{fate}_at")
    assert batch.request_counts.failed == 7


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_all_or_nothing_may_be_finished(share: float) -> None:
    """Each file is there only where it has lines."""
    with simulated(batch_fate="expired", batch_done_share=share) as (_, client):
        batch = ended(client, send(client))
    assert (batch.output_file_id is None) == (share == 0.0)
    assert (batch.error_file_id is None) == (share == 1.0)


def test_a_client_cancels() -> None:
    """Between the wish and the end more lines may be finished; those are billed."""
    now = [0.0]
    options = {"batch_seconds": 100.0, "batch_done_share": 0.6, "clock": lambda: now[0]}
    with simulated(**options) as (simulator, client):
        batch = send(client)
        now[0] = 20.0
        assert look(client, batch).request_counts.completed == 1
        assert client.batches.cancel(batch.id).status == "cancelling"
        now[0] = 25.0
        assert client.batches.cancel(batch.id).status == "cancelling"
        now[0] = 31.0
        batch = look(client, batch)
        assert batch.status == "cancelled"
        assert (batch.cancelling_at, batch.cancelled_at) == (20, 30)
        assert len(read(client, batch.output_file_id)) == 6 == len(simulator.billed)
        with pytest.raises(openai.ConflictError, match="Cannot cancel a batch with status"):
            client.batches.cancel(batch.id)


def test_a_stuck_batch_never_ends_but_can_be_cancelled() -> None:
    """Without a deadline of its own a client would wait for it for ever."""
    now = [0.0]
    with simulated(batch_fate="stuck", batch_seconds=10.0, clock=lambda: now[0]) as (_, client):
        batch = send(client)
        now[0] = 1_000_000.0
        batch = look(client, batch)
        assert batch.status == "in_progress"
        assert batch.request_counts.completed == 5
        client.batches.cancel(batch.id)
        now[0] += 2.0
        assert look(client, batch).status == "cancelled"


def test_a_batch_may_fail_as_a_whole() -> None:
    """It costs nothing, has no files, and says why."""
    with simulated(batch_fate="failed") as (simulator, client):
        batch = ended(client, send(client))
        assert batch.status == "failed"
        assert batch.errors.data[0].code == "batch_failed"
        assert (batch.output_file_id, batch.error_file_id) == (None, None)
        assert simulator.billed == []
        # Whoever mends the cause goes on with the same endpoint.
        simulator.batch_fate = "completed"
        assert ended(client, send(client)).status == "completed"


OTHER_MODEL = {**line(1)["body"], "model": "gpt-4o"}


@pytest.mark.parametrize(
    ("content", "errors"),
    [
        (TEN + b"{broken\n[1]\n", [("invalid_json_line", 11), ("invalid_json_line", 12)]),
        (jsonl(line(1), line(1)), [("duplicate_custom_id", 2)]),
        (jsonl(line(1), line(2, url="/v1/embeddings")), [("url_mismatch", 2)]),
        (jsonl(line(1, method="GET")), [("invalid_method", 1)]),
        (jsonl(line(1), line(2, body=OTHER_MODEL)), [("model_mismatch", 2)]),
        (jsonl(line(1, custom_id="")), [("missing_required_parameter", 1)]),
        (jsonl(line(1, body=None)), [("missing_required_parameter", 1)]),
        (b"\n\n", [("empty_file", None)]),
    ],
)
def test_a_broken_file_fails_the_batch(content: bytes, errors: list[tuple[str, int]]) -> None:
    """One bad line loses the whole batch, and the error says which."""
    with simulated() as (simulator, client):
        batch = send(client, content)
        assert batch.status == "validating"
        batch = ended(client, batch)
        assert batch.status == "failed"
        assert [(error.code, error.line) for error in batch.errors.data] == errors
        assert batch.failed_at
        assert simulator.billed == []


def test_limits_of_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 lines and 200 MB are the API's; a client has to split."""
    assert (batches.MOST_LINES, files.MOST_BATCH_BYTES) == (50_000, 200_000_000)
    monkeypatch.setattr(batches, "MOST_LINES", 9)
    with simulated() as (_, client):
        batch = ended(client, send(client))
        assert batch.errors.data[0].code == "too_many_tasks"
        monkeypatch.setattr(files, "MOST_BATCH_BYTES", len(TEN) - 1)
        with pytest.raises(openai.APIStatusError) as refused:
            send(client)
    assert refused.value.status_code == 413


def test_faults_meet_lines() -> None:
    """An error goes to the error file, a bad answer to the output; each line by itself."""
    lines = jsonl(*(line(number) for number in range(100)))
    rates = {"server_error": 0.2, "missing_ids": 0.2, "cut_in_body": 0.2}
    with simulated(faults=rates) as (simulator, client):
        batch = ended(client, send(client, lines))
        good, bad = read(client, batch.output_file_id), read(client, batch.error_file_id)
        faults = Counter(row.fault for row in simulator.billed)
    assert batch.status == "completed"
    assert {each["response"]["status_code"] for each in bad} == {500}
    assert {each["error"] for each in bad} == {None}
    assert bad[0]["response"]["body"]["error"]["type"] == "server_error"
    contents = [each["response"]["body"]["choices"][0]["message"]["content"] for each in good]
    short = [text for text in contents if len(json.loads(text)["answers"]) == 1]
    assert faults == {
        "server_error": len(bad),
        "missing_ids": len(short),
        None: 100 - len(bad + short),
    }
    assert len(bad) > 5
    assert len(short) > 5


def test_a_line_that_cannot_be_answered_is_an_error_of_its_own() -> None:
    """What would be a 400 by itself must not lose the others."""
    asked = {**body(), "response_format": None}
    with simulated() as (_, client):
        batch = ended(client, send(client, jsonl(line(1), line(2, body=asked))))
        [bad] = read(client, batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("line-2", 400)
    assert batch.status == "completed"
    assert batch.request_counts.completed == 1


def test_files_come_and_go() -> None:
    """Uploads are tidied away by the client; what is gone is a 404."""
    with simulated() as (_, client):
        uploaded = client.files.create(file=("batch.jsonl", TEN), purpose="batch")
        assert (uploaded.bytes, uploaded.filename) == (len(TEN), "batch.jsonl")
        assert client.files.retrieve(uploaded.id) == uploaded
        assert client.files.content(uploaded.id).content == TEN
        assert client.files.delete(uploaded.id).deleted
        with pytest.raises(openai.NotFoundError):
            client.files.retrieve(uploaded.id)
        with pytest.raises(openai.BadRequestError, match="No such file"):
            client.batches.create(input_file_id=uploaded.id, endpoint=CHAT, completion_window="24h")


def test_an_upload_keeps_every_byte() -> None:
    """Line ends and dashes of the content must not be taken for the form's own."""
    content = b"\r\n--a\r\n\r\n\xff\x00 --\r\n"
    with simulated() as (_, client):
        uploaded = client.files.create(file=("odd.jsonl", content), purpose="batch")
        assert client.files.content(uploaded.id).content == content


@pytest.mark.parametrize(
    ("name", "content", "purpose"),
    [("batch.txt", TEN, "batch"), ("batch.jsonl", b"", "batch"), ("b.jsonl", TEN, "vision")],
)
def test_uploads_that_are_refused(name: str, content: bytes, purpose: Any) -> None:
    """Mistakes show at once, and not a day later."""
    with simulated() as (_, client), pytest.raises(openai.BadRequestError):
        client.files.create(file=(name, content), purpose=purpose)


def test_an_upload_that_is_no_form_is_refused() -> None:
    """By hand one forgets the form."""
    with simulated() as (simulator, _):
        status, answer = http_request(simulator, "POST", "/v1/files", TEN)
    assert status == 400
    assert "multipart" in answer["error"]["message"]


@pytest.mark.parametrize(
    "change",
    [
        {"endpoint": "/v1/nothing"},
        {"completion_window": "1h"},
        {"metadata": {"key": "x" * 513}},
        {"metadata": {str(number): "x" for number in range(17)}},
        {"input_file_id": "file-none"},
    ],
)
def test_batches_that_are_refused(change: dict[str, Any]) -> None:
    """As for requests: a 400 that names the parameter, and no batch."""
    with simulated() as (_, client):
        with pytest.raises(openai.BadRequestError) as refused:
            send(client, **change)
        assert refused.value.param in change
        assert client.batches.list().data == []


def test_lists_batches_newest_first() -> None:
    """A client that crashed right after it sent one finds it by its metadata."""
    with simulated() as (_, client):
        made = [send(client, metadata={"n": str(number)}).id for number in range(5)]
        page = client.batches.list(limit=2)
        assert [batch.id for batch in page.data] == made[:2:-1]
        assert page.has_more
        assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
        last = client.batches.list(limit=2, after=made[1])
        assert [batch.id for batch in last.data] == made[:1]
        assert not last.has_more
        with pytest.raises(openai.BadRequestError):
            client.batches.list(limit=101)
        with pytest.raises(openai.NotFoundError):
            client.batches.retrieve("batch_none")


def test_calls_of_the_batch_api_fail_at_a_rate() -> None:
    """A lost answer to the creation is a batch that runs, and that its maker knows nothing of."""
    with simulated(batch_call_faults={"cut_before_body": 0.5}, seed=2) as (simulator, client):
        sent = 0
        for _ in range(12):
            try:
                send(client)
            except openai.APIConnectionError:
                continue
            sent += 1
        with openai.OpenAI(base_url=simulator.base_url, api_key="key", max_retries=9) as patient:
            known = list(patient.batches.list())
    assert 0 < sent < len(known) < 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_fate": "lost"}, "batch_fate is 'lost', but must be one of completed, failed"),
        ({"batch_done_share": 1.2}, "batch_done_share"),
        ({"batch_seconds": -1.0}, "batch_seconds"),
        ({"batch_call_faults": {"missing_ids": 0.1}}, "missing_ids"),
        ({"batch_call_faults": {"none": 0.1}}, "choose from"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], message: str) -> None:
    """At the start, and not at the first batch."""
    with pytest.raises(UserError, match=message):
        Simulator(LexiconJudge(), **options)
