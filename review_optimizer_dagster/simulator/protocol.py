"""What goes over the wire between client and endpoint: requests read, errors and answers shaped.

The shapes are those of OpenAI's chat completions.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BYTES_PER_TOKEN = 4


@dataclass(frozen=True)
class Reply:
    """What goes back over the wire."""

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """An answer that is an error: status, OpenAI's error object, and extra headers."""

    status: int
    kind: str
    code: str | None
    message: str
    param: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, Any]:
        """The error object as OpenAI shapes it."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": error}


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


def invalid(message: str, param: str | None = None) -> RefusedError:
    """A request that cannot be answered as it stands: 400."""
    return RefusedError(Failure(400, "invalid_request_error", None, message, param))


@dataclass(frozen=True)
class ChatRequest:
    """The parts of a chat completion request that the answer depends on."""

    model: str
    system: str
    prompt: str
    documents: Sequence[Mapping[str, Any]]
    list_name: str
    fields: Mapping[str, Sequence[str]]
    max_tokens: int | None

    @classmethod
    def parse(cls, raw: bytes) -> ChatRequest:
        """Read a request body.

        Raises RefusedError (400) with the parameter that is wrong.
        """
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise invalid("We could not parse the JSON body of your request.")
        model, messages = body.get("model"), body.get("messages")
        if not isinstance(model, str) or not model:
            raise invalid("you must provide a model parameter", "model")
        if not isinstance(messages, list) or not all(map(_is_message, messages)) or not messages:
            raise invalid("'messages' must be an array of messages with role and text", "messages")
        if body.get("stream"):
            raise invalid("This model does not support streaming.", "stream")
        list_name, fields = _requested_fields(body.get("response_format"))
        limit = body.get("max_completion_tokens")
        if limit is not None and (not isinstance(limit, int) or limit < 1):
            raise invalid("'max_completion_tokens' must be at least 1", "max_completion_tokens")
        system = [m["content"] for m in messages if m["role"] in ("system", "developer")]
        return cls(
            model=model,
            system="\n".join(system),
            prompt="\n".join(m["content"] for m in messages),
            documents=_documents(messages[-1]["content"]),
            list_name=list_name,
            fields=fields,
            max_tokens=limit,
        )


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
    )


def _requested_fields(response_format: object) -> tuple[str, dict[str, list[str]]]:
    """The name of the list to answer with, and field -> labels, out of a json_schema."""
    name = "response_format"
    if not isinstance(response_format, dict) or response_format.get("type") != "json_schema":
        raise invalid("'response_format' of type 'json_schema' is required", name)
    try:
        properties = response_format["json_schema"]["schema"]["properties"]
        list_name = next(key for key, value in properties.items() if value["type"] == "array")
        items = properties[list_name]["items"]["properties"]
        fields = {key: list(value["enum"]) for key, value in items.items() if "enum" in value}
    except (KeyError, TypeError, AttributeError, StopIteration):
        fields = {}
    if not fields or not all(fields.values()):
        raise invalid("Invalid schema for response_format: no list of items with enums", name)
    return list_name, fields


def _documents(content: str) -> list[Mapping[str, Any]]:
    """The documents of a user message; a message that is no such JSON is one document itself."""
    try:
        documents = json.loads(content)["documents"]
    except (ValueError, KeyError, TypeError):
        return [{"id": "1", "text": content}]
    if not isinstance(documents, list) or not all(isinstance(d, dict) for d in documents):
        raise invalid("'documents' must be an array of objects", "messages")
    return documents


def count_tokens(text: str) -> int:
    """Tokens of a text, by its size."""
    return -(-len(text.encode(errors="replace")) // BYTES_PER_TOKEN)


def usage_object(prompt_tokens: int, cached_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {"cached_tokens": cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def completion_object(
    model: str, content: str, finish_reason: str, usage: dict[str, Any]
) -> dict[str, Any]:
    message: dict[str, Any] = {
        "role": "assistant",
        "content": content,
        "refusal": None,
        "annotations": [],
    }
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}
    fingerprint = hashlib.blake2b(model.encode(), digest_size=5).hexdigest()
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [choice],
        "usage": usage,
        "service_tier": "default",
        "system_fingerprint": f"fp_{fingerprint}",
    }
