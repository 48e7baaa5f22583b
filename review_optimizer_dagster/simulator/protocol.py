"""What goes over the wire between client and endpoint: requests read, errors and answers shaped.

The shapes are those of OpenAI's chat completions.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from typing import Any, TypeAlias

import polars as pl

from review_optimizer_dagster.simulator.forms import Form, read_form
from review_optimizer_dagster.tokens import estimate_tokens, estimated_tokens

Json: TypeAlias = dict[str, Any]

CLIENT_REQUEST_HEADER = "x-client-request-id"
FAULT_HEADER = "x-simulator-fault"
JSON_TYPE = "application/json"


class Delivery(Enum):
    """How much of an answer reaches the client."""

    WHOLE = "whole"
    NOTHING = "nothing"  # the connection is closed before the first byte
    HALF = "half"  # the headers and half of the body, then it is closed
    ENDLESS = "endless"  # the headers, and blanks for as long as both sides stay


@dataclass(frozen=True)
class BilledRequest:
    """One request, or line of a batch, as the endpoint booked it; tokens are 0 for an error."""

    client_request_id: str | None  # of a line: its custom_id
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    http_status: int
    response_id: str | None = None
    service_tier: str | None = None
    cache_write_tokens: int = 0
    way: str = "sync"  # or "batch"
    delivered: bool = True  # False: the client cannot have read the whole answer
    fault: str | None = None


@dataclass(frozen=True)
class Request:
    """What came over the wire; header names are in lower case."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    raw: bytes
    left: Callable[[], bool] = lambda: False
    """Whether the client has hung up."""

    @property
    def client_request_id(self) -> str | None:
        """The id that the client gave its request, if it did."""
        return self.headers.get(CLIENT_REQUEST_HEADER)


@dataclass(frozen=True)
class Reply:
    """What goes back over the wire, and how it is booked."""

    status: int
    body: Mapping[str, Any] | bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    content_type: str = JSON_TYPE
    delivery: Delivery = Delivery.WHOLE
    billed: BilledRequest | None = None

    def content(self) -> bytes:
        """The body as bytes."""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Failure:
    """An answer that is an error: status, OpenAI's error object, and extra headers."""

    status: int
    kind: str
    code: str | None
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> Json:
        """The error object as OpenAI shapes it."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}

    def reply(self, billed: BilledRequest | None = None) -> Reply:
        """This refusal as a reply; billed: where the work had been done already."""
        return Reply(self.status, self.body(), self.headers, billed=billed)


class RefusedError(Exception):
    """A request that gets a Failure instead of an answer."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.message)
        self.failure = failure


UNAUTHORIZED = Failure(
    401,
    "invalid_request_error",
    "invalid_api_key",
    "You didn't provide an API key. You need to provide your API key in an Authorization header "
    "using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
)
SERVER_ERROR = Failure(
    500,
    "server_error",
    None,
    "The server had an error while processing your request. Sorry about that!",
)


def invalid(message: str, param: str | None = None, status: int = 400) -> RefusedError:
    """A request that cannot be answered as it stands."""
    return RefusedError(Failure(status, "invalid_request_error", None, message, param))


def parse_object(raw: bytes) -> Json:
    """A request body that is a JSON object.

    Raises RefusedError (400).
    """
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise invalid("We could not parse the JSON body of your request.")
    return body


@dataclass(frozen=True)
class ChatRequest:
    """The parts of a chat completion request that the answer depends on."""

    model: str
    prefix: str  # what a prompt cache keys by: the schema and the system prompt
    prefix_tokens: int
    prompt_tokens: int
    documents: Sequence[Mapping[str, Any]]
    form: Form
    max_tokens: int | None
    service_tier: str

    @classmethod
    def parse(cls, raw: bytes) -> ChatRequest:
        """Read a request body.

        Raises RefusedError (400) with the parameter that is wrong.
        """
        return cls.read(parse_object(raw))

    @classmethod
    def read(cls, body: Json) -> ChatRequest:
        """As `parse`, of a body that is an object already."""
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise invalid("you must provide a model parameter", "model")
        if not isinstance(messages, list) or not all(map(_is_message, messages)) or not messages:
            raise invalid("'messages' must be an array of messages with role and text", "messages")
        if body.get("stream"):
            raise invalid("This model does not support streaming.", "stream")
        tier = body.get("service_tier") or "auto"
        schema = json.dumps(body.get("response_format"), ensure_ascii=False, separators=(",", ":"))
        fixed = [m["content"] for m in messages if m["role"] in ("system", "developer")]
        system = "\n".join(fixed)
        try:
            form = read_form(schema, system)
        except ValueError as problem:
            raise invalid(str(problem), "response_format") from problem
        limit = body.get("max_completion_tokens")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise invalid("'max_completion_tokens' must be at least 1", "max_completion_tokens")
        prefix = f"{schema}\n{system}"
        asked = [m["content"] for m in messages if m["role"] not in ("system", "developer")]
        return cls(
            model=model,
            prefix=prefix,
            prefix_tokens=_prefix_tokens(prefix),
            prompt_tokens=_prefix_tokens(prefix) + count_tokens(asked),
            documents=_documents(messages[-1]["content"]),
            form=form,
            max_tokens=limit,
            service_tier=tier if tier in ("flex", "priority") else "default",
        )


def count_tokens(texts: Sequence[str]) -> int:
    """`estimate_tokens` of all texts, in a fraction of its time for long ones."""
    try:
        counted = pl.select(estimated_tokens(pl.lit(pl.Series(texts, dtype=pl.String))).sum())
    except UnicodeEncodeError:  # half a surrogate pair, which JSON may hold and polars cannot
        return sum(map(estimate_tokens, texts))
    return int(counted.item())


# The prefix is the same for every request of a taxonomy.
_prefix_tokens = lru_cache(maxsize=64)(estimate_tokens)


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
    )


def _documents(content: str) -> list[Mapping[str, Any]]:
    """The documents of a user message; a message that is no such JSON is one document itself."""
    try:
        documents = json.loads(content)["documents"]
    except (ValueError, KeyError, TypeError):
        return [{"id": "1", "text": content}]
    if not isinstance(documents, list) or not all(isinstance(d, dict) for d in documents):
        raise invalid("'documents' must be an array of objects", "messages")
    return documents


@dataclass(frozen=True)
class Usage:
    """Tokens of one completion; cached and written ones are part of the prompt's."""

    prompt: int
    cached: int
    written: int | None  # None: a model that does not state them
    completion: int

    def body(self) -> Json:
        """The usage object as OpenAI shapes it."""
        written = {} if self.written is None else {"cache_write_tokens": self.written}
        return {
            "prompt_tokens": self.prompt,
            "completion_tokens": self.completion,
            "total_tokens": self.prompt + self.completion,
            "prompt_tokens_details": {"cached_tokens": self.cached, "audio_tokens": 0, **written},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }


def completion_object(
    *,
    model: str,
    content: str | None,
    refusal: str | None,
    finish_reason: str,
    usage: Usage | None,
    tier: str,
    created: int,
) -> Json:
    """A chat completion; `created` is in seconds since 1970."""
    message: Json = {
        "role": "assistant",
        "content": content,
        "refusal": refusal,
        "annotations": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    fingerprint = hashlib.blake2b(model.encode(), digest_size=5).hexdigest()
    completion = {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [choice],
        "service_tier": tier,
        "system_fingerprint": f"fp_{fingerprint}",
    }
    return completion if usage is None else {**completion, "usage": usage.body()}
