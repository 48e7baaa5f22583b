"""What answers in place of a paid model: an OpenAI-compatible HTTP endpoint on loopback.

Light to import and to start, so that a run can bring its own endpoint up in a thread.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import random
import socket
import sys
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.simulator.protocol import (
    BYTES_PER_TOKEN,
    UNAUTHORIZED,
    ChatRequest,
    Failure,
    RefusedError,
    Reply,
    completion_object,
    count_tokens,
    invalid,
    usage_object,
)

if TYPE_CHECKING:
    from review_optimizer_dagster.simulator.judge import Judge

MODELS = (
    "gpt-6-luna",
    "gpt-5.6-luna",
    "gpt-5.4-nano",
    "gpt-5.4-mini",
    "gpt-4o-mini",
    "gpt-4o",
)
MIN_CACHED_PREFIX = 1_024  # tokens; shorter prefixes are never cached
CACHE_STEP = 128  # tokens; cached prefixes are counted in steps of this size
EMBEDDING_SIZE = 256
MOST_INPUTS = 2_048
CLIENT_REQUEST_HEADER = "X-Client-Request-Id"

log = logging.getLogger(__name__)

# What `error_rate` draws from, each as likely as the other.
FAULTS = (
    Failure(
        500,
        "server_error",
        None,
        "The server had an error while processing your request. Sorry about that!",
    ),
    Failure(
        503,
        "service_unavailable_error",
        "slow_down",
        "The engine is currently overloaded, please try again later.",
    ),
    Failure(
        429,
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached for requests per min (RPM). Please try again in 50ms.",
        headers={"retry-after-ms": "50"},
    ),
)


@dataclass(frozen=True)
class BilledRequest:
    """One request as the endpoint booked it; tokens are 0 where it answered an error."""

    client_request_id: str | None
    model: str
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    http_status: int


class _Allowance:
    """A limit a minute that refills continuously; it is reported, and refuses nothing."""

    def __init__(self, name: str, per_minute: int) -> None:
        self.name = name
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._seen = time.monotonic()

    def take(self, amount: int) -> dict[str, str]:
        """Take an amount and give the headers that state the limit afterwards."""
        now = time.monotonic()
        refilled = self._left + (now - self._seen) * self.per_minute / 60
        self._left = max(0.0, min(float(self.per_minute), refilled) - amount)
        self._seen = now
        seconds = (self.per_minute - self._left) * 60 / self.per_minute
        return {
            f"x-ratelimit-limit-{self.name}": str(self.per_minute),
            f"x-ratelimit-remaining-{self.name}": str(int(self._left)),
            f"x-ratelimit-reset-{self.name}": f"{seconds:.3f}s",
        }


class Simulator:
    """The endpoint: a context manager that listens while it is open.

    latency_seconds and seconds_per_token (of the completion) make up the time of an answer, times
    a lognormal factor of median 1 where `sigma` is not 0. `error_rate` is the share of requests
    answered by one of FAULTS. What happens to a request depends on the seed, its body
    and how often that body was sent before, never on the order in which threads come to run.
    """

    def __init__(
        self,
        judge: Judge,
        *,
        latency_seconds: float = 0.05,
        seconds_per_token: float = 0.0,
        sigma: float = 0.0,
        error_rate: float = 0.0,
        seed: int = 0,
        requests_per_minute: int = 10_000,
        tokens_per_minute: int = 10_000_000,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.judge = judge
        self.latency_seconds = latency_seconds
        self.seconds_per_token = seconds_per_token
        self.sigma = sigma
        self.error_rate = error_rate
        self.seed = seed
        self._address = (host, port)
        self._allowances = (
            _Allowance("requests", requests_per_minute),
            _Allowance("tokens", tokens_per_minute),
        )
        self._billed: list[BilledRequest] = []
        self._sent: Counter[bytes] = Counter()
        self._prefixes: set[bytes] = set()
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Simulator:
        self._closing.clear()
        self._server = _Server(self._address, self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="endpoint", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop the open connections; what is still waiting is not billed."""
        self._closing.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`. Raises RuntimeError while closed."""
        if self._server is None:
            raise RuntimeError("the endpoint is not open: use it as a context manager")
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/v1"

    @property
    def billed(self) -> list[BilledRequest]:
        """Every request that was answered, errors too, in the order of their answers."""
        with self._lock:
            return list(self._billed)

    def models(self, _raw: bytes, _client_request_id: str | None) -> Reply:
        """GET /v1/models."""
        created = 1_767_225_600
        data = [
            {"id": name, "object": "model", "created": created, "owned_by": "system"}
            for name in MODELS
        ]
        return Reply(200, {"object": "list", "data": data}, {})

    def chat(self, raw: bytes, client_request_id: str | None) -> Reply:
        """POST /v1/chat/completions: judge every document, wait as long as a model would, bill."""
        try:
            request = ChatRequest.parse(raw)
        except RefusedError as refused:
            self._bill(BilledRequest(client_request_id, "", 0, 0, 0, refused.failure.status))
            raise
        draw = self._draw(raw)
        prompt_tokens = count_tokens(request.prompt)
        if draw.random() < self.error_rate:
            fault = FAULTS[int(draw.random() * len(FAULTS))]
            self._wait(0, draw)
            self._bill(BilledRequest(client_request_id, request.model, 0, 0, 0, fault.status))
            headers = self._take(prompt_tokens)
            return Reply(fault.status, fault.body(), {**headers, **fault.headers})
        content, finish_reason = self._complete(request)
        completion_tokens = count_tokens(content)
        cached_tokens = self._cached(request)
        self._wait(completion_tokens, draw)
        self._bill(
            BilledRequest(
                client_request_id,
                request.model,
                prompt_tokens,
                cached_tokens,
                completion_tokens,
                200,
            )
        )
        usage = usage_object(prompt_tokens, cached_tokens, completion_tokens)
        headers = self._take(prompt_tokens + completion_tokens)
        return Reply(200, completion_object(request.model, content, finish_reason, usage), headers)

    def embeddings(self, raw: bytes, client_request_id: str | None) -> Reply:
        """POST /v1/embeddings: letter trigrams hashed with signs; like spellings are near."""
        try:
            body = json.loads(raw)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise invalid("We could not parse the JSON body of your request.")
        model, texts = body.get("model"), body.get("input")
        texts = [texts] if isinstance(texts, str) else texts
        if not isinstance(model, str) or not model:
            raise invalid("you must provide a model parameter", "model")
        if not isinstance(texts, list) or not 0 < len(texts) <= MOST_INPUTS:
            raise invalid("'$.input' is invalid.", "input")
        if not all(isinstance(text, str) and text for text in texts):
            raise invalid("'$.input' is invalid.", "input")
        if body.get("encoding_format", "float") != "float":
            raise invalid("This model answers floats only.", "encoding_format")
        tokens = sum(map(count_tokens, texts))
        draw = self._draw(raw)
        self._wait(0, draw)
        fails = draw.random() < self.error_rate
        fault = FAULTS[int(draw.random() * len(FAULTS))] if fails else None
        status, billed = (fault.status, 0) if fault else (200, tokens)
        self._bill(BilledRequest(client_request_id, model, billed, 0, 0, status))
        headers = self._take(tokens)
        if fault:
            return Reply(status, fault.body(), {**headers, **fault.headers})
        data = [
            {"object": "embedding", "index": at, "embedding": _trigrams(text)}
            for at, text in enumerate(texts)
        ]
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        answer = {"object": "list", "data": data, "model": model, "usage": usage}
        return Reply(200, answer, headers)

    def _draw(self, raw: bytes) -> random.Random:
        digest = hashlib.blake2b(raw, digest_size=16).digest()
        with self._lock:
            self._sent[digest] += 1
            times = self._sent[digest]
        # Faults and latencies are made up, not secrets.
        return random.Random(f"{self.seed}:{digest.hex()}:{times}")  # noqa: S311

    def _complete(self, request: ChatRequest) -> tuple[str, str]:
        """The content of the answer and why it ended."""
        answers = []
        for document in request.documents:
            title, text = document.get("title"), document.get("text")
            labels = self.judge.judge(
                title if isinstance(title, str) else None, str(text or ""), request.fields
            )
            if labels is not None:
                answers.append({"id": str(document.get("id")), **labels})
        content = json.dumps(
            {request.list_name: answers}, ensure_ascii=False, separators=(",", ":")
        )
        if request.max_tokens is None or count_tokens(content) <= request.max_tokens:
            return content, "stop"
        kept = content.encode(errors="replace")[: request.max_tokens * BYTES_PER_TOKEN]
        return kept.decode(errors="ignore"), "length"

    def _cached(self, request: ChatRequest) -> int:
        """Tokens of the system prefix that were already seen for this model."""
        tokens = count_tokens(request.system)
        if tokens < MIN_CACHED_PREFIX:
            return 0
        prefix = hashlib.blake2b(repr((request.model, request.system)).encode()).digest()
        with self._lock:
            seen = prefix in self._prefixes
            self._prefixes.add(prefix)
        return tokens // CACHE_STEP * CACHE_STEP if seen else 0

    def _wait(self, completion_tokens: int, draw: random.Random) -> None:
        seconds = self.latency_seconds + self.seconds_per_token * completion_tokens
        seconds *= math.exp(draw.gauss(0.0, self.sigma)) if self.sigma else 1.0
        if self._closing.wait(seconds):
            raise ConnectionAbortedError

    def _bill(self, request: BilledRequest) -> None:
        with self._lock:
            self._billed.append(request)

    def _take(self, tokens: int) -> dict[str, str]:
        requests, token_allowance = self._allowances
        with self._lock:
            return requests.take(1) | token_allowance.take(tokens)


def _trigrams(text: str) -> list[float]:
    """A vector of length 1; the same for the same text in every process."""
    vector = [0.0] * EMBEDDING_SIZE
    padded = f"  {text.lower()}  "
    for at in range(len(padded) - 2):
        hashed = zlib.crc32(padded[at : at + 3].encode(errors="replace"))
        vector[hashed % EMBEDDING_SIZE] += 1.0 if hashed & 0x8000_0000 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]


Route = Callable[[Simulator, bytes, "str | None"], Reply]
ROUTES: Mapping[str, tuple[str, Route]] = {
    "/v1/models": ("GET", Simulator.models),
    "/v1/chat/completions": ("POST", Simulator.chat),
    "/v1/embeddings": ("POST", Simulator.embeddings),
}


class _Server(ThreadingHTTPServer):
    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], simulator: Simulator) -> None:
        self.simulator = simulator
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer looks the host's name up here, which can take seconds; nobody needs it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        super().server_close()
        # A kept-alive connection would hold its thread until the client lets go.
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Clients may hang up at any time; anything else is a defect of the endpoint."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("the endpoint dropped the connection to %s", client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536  # headers and body in one packet

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        started = time.monotonic()
        try:
            reply = self._route()
        except RefusedError as refused:
            failure = refused.failure
            reply = Reply(failure.status, failure.body(), failure.headers)
        except ConnectionError:
            self.close_connection = True
            return
        except Exception:
            log.exception("the endpoint could not answer %s", self.path)
            reply = Reply(500, FAULTS[0].body(), {})
        self._send(reply, time.monotonic() - started)

    def _route(self) -> Reply:
        raw = self._body()
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise RefusedError(UNAUTHORIZED)
        path = self.path.partition("?")[0]
        if path not in ROUTES:
            message = f"Invalid URL ({self.command} {path})"
            raise RefusedError(Failure(404, "invalid_request_error", None, message))
        method, route = ROUTES[path]
        if method != self.command:
            message = f"Not allowed to {self.command} on {path} (HINT: use {method})"
            raise RefusedError(
                Failure(405, "invalid_request_error", "method_not_supported", message)
            )
        return route(self.server.simulator, raw, self.headers.get(CLIENT_REQUEST_HEADER))

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the next request begins cannot be known
            raise invalid("A request needs a Content-Length that is a number.")
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            raise ConnectionAbortedError
        return raw

    def _send(self, reply: Reply, seconds: float) -> None:
        body = json.dumps(reply.body).encode()
        self.send_response(reply.status)
        headers = {
            "content-type": "application/json",
            "content-length": str(len(body)),
            "x-request-id": f"req_{uuid.uuid4().hex}",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(int(seconds * 1000)),
            **reply.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class answers to broken HTTP, shaped as every other error."""
        self.close_connection = True
        text = message or explain or "Bad request"
        self._send(Reply(code, Failure(code, "invalid_request_error", None, text).body(), {}), 0.0)

    def version_string(self) -> str:
        return "api"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Requests are in `billed`, not on stderr."""


def serve(simulator: Simulator, announce: Callable[[str], object]) -> None:
    """Listen until interrupted; `announce` is given the base URL once requests are accepted."""
    # An interrupt can come as soon as the address is known, so all of it is inside.
    with suppress(KeyboardInterrupt), simulator:
        announce(simulator.base_url)
        threading.Event().wait()
