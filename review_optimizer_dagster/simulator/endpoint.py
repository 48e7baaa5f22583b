"""The endpoint behind the wire: which request is answered how, when, and what it is billed."""

from __future__ import annotations

import json
import math
import random
import re
import threading
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, asdict, dataclass, field, replace
from typing import NamedTuple

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.simulator.batches import Batches, Course, Line
from review_optimizer_dagster.simulator.completions import Asked, Model, failed
from review_optimizer_dagster.simulator.faults import (
    FAULTS,
    Draws,
    Fault,
    FaultRates,
    fault_named,
)
from review_optimizer_dagster.simulator.files import Files
from review_optimizer_dagster.simulator.judge import Judge
from review_optimizer_dagster.simulator.limits import Limits
from review_optimizer_dagster.simulator.protocol import (
    FAULT_HEADER,
    UNAUTHORIZED,
    BilledRequest,
    ChatRequest,
    Failure,
    Json,
    RefusedError,
    Reply,
    Request,
    count_tokens,
    invalid,
    parse_object,
)

MODELS = (
    "gpt-6-luna",
    "gpt-5.6-luna",
    "gpt-5.4-nano",
    "gpt-5.4-mini",
    "gpt-4o-mini",
    "gpt-4o",
)
MODELS_SINCE = 1_767_225_600  # seconds since 1970
EMBEDDING_SIZE = 256
MOST_INPUTS = 2_048
REQUESTS_THAT_FILL = 16  # in flight: the key-value cache is full then, where nothing else is said


NO_FAULTS = FaultRates({})


class Route(NamedTuple):
    """A method, a path, and what answers."""

    method: str
    path: re.Pattern[str]
    answer: Callable[[Request], Reply]
    needs_key: bool = True
    rates: FaultRates = NO_FAULTS  # of the calls that are no completions
    limited: bool = False  # by the limits, and by `faults`


@dataclass(eq=False)
class Endpoint:
    """Answers requests as OpenAI's API does.

    What happens to a request depends on the seed, its body and how often that body was sent
    before, never on the order in which threads come to run. Raises UserError for faults that do
    not exist and for rates that are no shares.
    """

    judge: Judge
    _: KW_ONLY
    latency_seconds: float = 0.05
    """The time of an answer, with `seconds_per_token` of the completion on top."""
    seconds_per_token: float = 0.0
    sigma: float = 0.0
    """Spread of the time: it is multiplied by a lognormal factor of median 1."""
    seed: int = 0
    requests_per_minute: int = 10_000
    tokens_per_minute: int = 10_000_000
    max_concurrent: int | None = None
    """More requests at once are refused."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Name of a row of `faults.FAULTS` to the share of requests that meets it."""
    late_seconds: float = 300.0
    unsure_rate: float = 0.0
    """The share of documents that is answered `unsure`, where the form permits it."""
    wrong_rates: Mapping[str, float] = field(default_factory=dict)
    """Model to the share of documents whose first field it answers wrong."""
    cache_writes: bool = False
    """Whether usage states the tokens written to the prompt cache."""
    kv_cache_usage: float | Callable[[int], float] | None = None
    """What /metrics states, 0 to 1: a number, or a function of the requests in flight."""
    batch_seconds: float = 0.0
    """How long a batch takes; 0: it is done when it is looked at for the second time."""
    batch_fate: str = "completed"
    """How batches that are made from now on end: one of `batches.FATES`."""
    batch_done_share: float = 0.5
    """The share of lines answered when a batch expires, is cancelled or gets stuck."""
    batch_call_faults: Mapping[str, float] = field(default_factory=dict)
    """Like `faults`, for the calls to /v1/files and /v1/batches."""
    clock: Callable[[], float] = time.time
    """Seconds since 1970."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.unsure_rate <= 1.0:
            raise UserError(f"unsure_rate is {self.unsure_rate}, but must be between 0 and 1")
        self._rates = FaultRates(self.faults)
        for name in self.batch_call_faults:
            if not fault_named(name).in_calls:
                raise UserError(f"fault {name!r} is one of answers: batch_call_faults has no use")
        self._draws = Draws(self.seed)
        self._limits = Limits(self.requests_per_minute, self.tokens_per_minute, self.max_concurrent)
        for model, rate in self.wrong_rates.items():
            if not 0.0 <= rate <= 1.0:
                raise UserError(f"the share {model} answers wrong is {rate}, but not from 0 to 1")
        self._model = Model(
            self.judge, self.seed, self.unsure_rate, self.cache_writes, self.wrong_rates
        )
        self._record: list[BilledRequest] = []
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._files = Files(self.clock)
        self._batches = Batches(self._files, self._line, self._course, self.clock, self.seed)
        self._course()
        self._routes = self._table()

    def _table(self) -> tuple[Route, ...]:
        calls = FaultRates(self.batch_call_faults)

        def call(method: str, path: str, answer: Callable[[Request], Reply]) -> Route:
            return Route(method, re.compile(path), answer, rates=calls)

        files, batches = self._files, self._batches
        return (
            Route("GET", re.compile("/v1/models"), self._models),
            Route("POST", re.compile("/v1/chat/completions"), self._chat, limited=True),
            Route("POST", re.compile("/v1/embeddings"), self._embeddings, limited=True),
            call("POST", "/v1/files", files.upload),
            call("GET", "/v1/files/[^/]+", files.get),
            call("DELETE", "/v1/files/[^/]+", files.delete),
            call("GET", "/v1/files/[^/]+/content", files.content),
            call("POST", "/v1/batches", batches.create),
            call("GET", "/v1/batches", batches.page),
            call("GET", "/v1/batches/[^/]+", batches.get),
            call("POST", "/v1/batches/[^/]+/cancel", batches.cancel),
            Route("GET", re.compile("/v1/simulator/billed"), self._billed),
            Route("GET", re.compile("/metrics"), self._metrics, needs_key=False),
        )

    @property
    def billed(self) -> list[BilledRequest]:
        """Every request and line that was answered, errors too, in the order of their answers."""
        self._batches.advance_all()
        with self._lock:
            return list(self._record)

    def answer(self, request: Request) -> Reply:
        """The reply to a request, after the time it takes; it is in the record by then.

        Raises ConnectionAbortedError where the endpoint is closed meanwhile.
        """
        try:
            reply = self._routed(request)
        except RefusedError as refused:
            return refused.failure.reply()
        if reply.billed is None:
            return reply
        billed = reply.billed
        if billed.delivered and request.left():
            billed = replace(billed, delivered=False)
        with self._lock:
            self._record.append(billed)
        return replace(reply, billed=billed)

    def lost(self, billed: BilledRequest) -> None:
        """Note that an answer did not reach its client."""
        with self._lock:
            for at in reversed(range(len(self._record))):
                if self._record[at] is billed:
                    self._record[at] = replace(billed, delivered=False)
                    return

    def _routed(self, request: Request) -> Reply:
        matching = {r.method: r for r in self._routes if r.path.fullmatch(request.path)}
        if all(route.needs_key for route in matching.values()):
            scheme, _, token = request.headers.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token.strip():
                raise RefusedError(UNAUTHORIZED)
        if not matching:
            raise invalid(f"Invalid URL ({request.method} {request.path})", status=404)
        if request.method not in matching:
            allowed = " or ".join(matching)
            message = f"Not allowed to {request.method} on {request.path} (HINT: use {allowed})"
            failure = Failure(405, "invalid_request_error", "method_not_supported", message)
            raise RefusedError(failure)
        route = matching[request.method]
        return route.answer(request) if route.limited else self._disturbed(request, route)

    def _fault_asked(self, request: Request) -> Fault | None:
        name = request.headers.get(FAULT_HEADER)
        try:
            return None if name is None else fault_named(name)
        except UserError as problem:
            raise invalid(str(problem)) from problem

    def _disturbed(self, request: Request, route: Route) -> Reply:
        """The reply of a call that is no completion, with the fault drawn or asked for."""
        # Not by the body: the ids and boundaries in there are new in every run.
        draw = self._draws.of(f"{route.method} {route.path.pattern}".encode())
        fault = self._fault_asked(request) or route.rates.pick(draw.random())
        if fault is None:
            return route.answer(request)
        self._wait(0, None, fault)
        failure = fault.failed(self.clock())
        return fault.sent(route.answer(request) if failure is None else failure.reply())

    def _models(self, _request: Request) -> Reply:
        data = [
            {"id": name, "object": "model", "created": MODELS_SINCE, "owned_by": "system"}
            for name in MODELS
        ]
        return Reply(200, {"object": "list", "data": data})

    def _chat(self, request: Request) -> Reply:
        """Judge every document, and take as long as a model would."""
        asked = Asked(request.client_request_id, "sync", self.clock())
        try:
            chat = ChatRequest.parse(request.raw)
        except RefusedError as refused:
            return failed(refused.failure, "", asked)
        # OpenAI counts the most that a request may take against the limit, not what it took.
        admitted = max(chat.prompt_tokens, chat.max_tokens or 0)

        def complete(fault: Fault | None, draw: random.Random) -> Reply:
            return self._model.complete(chat, asked, fault, draw)

        return self._limited(request, asked, chat.model, admitted, complete)

    def _line(self, line: Line) -> Reply:
        """Answer and book a line of a batch; faults of the transport do not concern it."""
        asked = Asked(line.custom_id, "batch", self.clock())
        try:
            chat = ChatRequest.read(line.body)
        except RefusedError as refused:
            reply = failed(refused.failure, "", asked)
        else:
            draw = self._draws.of(json.dumps(line.body).encode())
            fault = self._rates.pick(draw.random())
            met = fault if fault is not None and fault.in_content else None
            reply = self._model.complete(chat, asked, met, draw)
        if reply.billed is not None:
            with self._lock:
                self._record.append(reply.billed)
        return reply

    def _course(self) -> Course:
        return Course(self.batch_seconds, self.batch_fate, self.batch_done_share)

    def _embeddings(self, request: Request) -> Reply:
        """Letter trigrams hashed with signs: like spellings are near."""
        asked = Asked(request.client_request_id, "sync", self.clock())
        model, texts = _embedding_request(request.raw)
        tokens = count_tokens(texts)

        def embed(fault: Fault | None, _draw: random.Random) -> Reply:
            if fault is not None and (failure := fault.failed(asked.created)):
                return failed(failure, model, asked, fault)
            if fault is not None and (fault.rewrite or fault.ends or fault.model or fault.tier):
                fault = None  # they are faults of a completion
            data = [
                {"object": "embedding", "index": at, "embedding": _trigrams(text)}
                for at, text in enumerate(texts)
            ]
            answer: Json = {"object": "list", "data": data, "model": model}
            if fault is None or fault.states_usage:
                answer["usage"] = {"prompt_tokens": tokens, "total_tokens": tokens}
            billed = BilledRequest(
                asked.client_request_id,
                model,
                tokens,
                0,
                0,
                200,
                delivered=fault is None or fault.delivered,
                fault=fault.name if fault else None,
            )
            return Reply(200, answer, billed=billed)

        return self._limited(request, asked, model, tokens, embed)

    def _limited(
        self,
        request: Request,
        asked: Asked,
        model: str,
        tokens: int,
        produce: Callable[[Fault | None, random.Random], Reply],
    ) -> Reply:
        """The reply inside the limits, with the fault that was drawn or asked for, in its time."""
        wanted = self._fault_asked(request)
        try:
            with self._limits.admit(tokens, asked.created):
                draw = self._draws.of(request.raw)
                drawn = self._rates.pick(draw.random())
                reply = produce(wanted or drawn, draw)
                assert reply.billed is not None  # noqa: S101 - for mypy: models always bill
                fault = FAULTS[reply.billed.fault] if reply.billed.fault else None
                self._wait(reply.billed.completion_tokens, draw, fault)
        except RefusedError as refused:
            return failed(refused.failure, model, asked)
        used = reply.billed.prompt_tokens + reply.billed.completion_tokens
        headers = self._limits.settle(used - tokens, self.clock())
        reply = replace(reply, headers={**headers, **reply.headers})
        return reply if fault is None else fault.sent(reply)

    def _wait(self, tokens: int, draw: random.Random | None, fault: Fault | None) -> None:
        seconds = self.latency_seconds + self.seconds_per_token * tokens
        if self.sigma and draw is not None:
            seconds *= math.exp(draw.gauss(0.0, self.sigma))
        if fault is not None:
            seconds = self.late_seconds if fault.late else seconds * fault.slower
        if self._closing.wait(seconds):
            raise ConnectionAbortedError

    def _billed(self, _request: Request) -> Reply:
        """The record, for another process to compare with."""
        return Reply(200, {"object": "list", "data": [asdict(row) for row in self.billed]})

    def _metrics(self, _request: Request) -> Reply:
        """The load as a vLLM server states it, in Prometheus' text format."""
        running = self._limits.running
        usage = self.kv_cache_usage
        if usage is None:
            usage = min(1.0, running / REQUESTS_THAT_FILL)
        elif callable(usage):
            usage = usage(running)
        gauges = {
            "vllm:num_requests_running": ("Requests that are being worked on.", running),
            "vllm:kv_cache_usage_perc": ("Share of the key-value cache in use, 0 to 1.", usage),
        }
        lines = [
            f"# HELP {name} {meaning}\n# TYPE {name} gauge\n"
            f'{name}{{engine="0",model_name="{MODELS[0]}"}} {float(value)}\n'
            for name, (meaning, value) in gauges.items()
        ]
        return Reply(200, "".join(lines).encode(), content_type="text/plain; version=0.0.4")


def _embedding_request(raw: bytes) -> tuple[str, list[str]]:
    """The model and the texts of a request for embeddings. Raises RefusedError (400)."""
    body = parse_object(raw)
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
    return model, texts


def _trigrams(text: str) -> list[float]:
    """A vector of length 1; the same for the same text in every process."""
    vector = [0.0] * EMBEDDING_SIZE
    padded = f"  {text.lower()}  "
    for at in range(len(padded) - 2):
        hashed = zlib.crc32(padded[at : at + 3].encode(errors="replace"))
        vector[hashed % EMBEDDING_SIZE] += 1.0 if hashed & 0x8000_0000 else -1.0
    length = math.sqrt(sum(value * value for value in vector)) or 1.0
    return [value / length for value in vector]
