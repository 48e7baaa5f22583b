"""What the model says to a request: judged, written in the form asked, counted, perhaps spoiled.

Nothing here waits or knows of HTTP, so requests and lines of a batch are answered alike.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from review_optimizer_dagster.simulator.faults import Fault, Said
from review_optimizer_dagster.simulator.forms import Answer
from review_optimizer_dagster.simulator.judge import Judge
from review_optimizer_dagster.simulator.protocol import (
    BilledRequest,
    ChatRequest,
    Failure,
    Reply,
    Usage,
    completion_object,
)
from review_optimizer_dagster.tokens import estimate_tokens

MIN_CACHED_PREFIX = 1_024  # tokens; shorter prefixes are never cached
CACHE_STEP = 128  # tokens; cached prefixes are counted in steps of this size


@dataclass(frozen=True)
class Asked:
    """Whose request it is, and how it came in: `way` is sync or batch."""

    client_request_id: str | None
    way: str
    created: float  # seconds since 1970


class PromptCache:
    """Which prefixes each model has seen."""

    def __init__(self, states_writes: bool) -> None:
        self._states_writes = states_writes
        self._seen: set[bytes] = set()
        self._lock = threading.Lock()

    def use(self, request: ChatRequest) -> tuple[int, int | None]:
        """Tokens read from the cache and written to it; None where writes are not stated."""
        cached = written = 0
        if request.prefix_tokens >= MIN_CACHED_PREFIX:
            key = hashlib.blake2b(
                f"{request.model}\n{request.prefix}".encode(errors="replace")
            ).digest()
            tokens = request.prefix_tokens // CACHE_STEP * CACHE_STEP
            with self._lock:
                seen = key in self._seen
                self._seen.add(key)
            cached, written = (tokens, 0) if seen else (0, tokens)
        return cached, written if self._states_writes else None


@dataclass
class Model:
    """Answers requests. `unsure_rate` is the share of texts it is not sure of, drawn by seed."""

    judge: Judge
    seed: int
    unsure_rate: float
    states_cache_writes: bool
    wrong_rates: Mapping[str, float] = field(default_factory=dict)
    """Model to the share of texts, drawn by seed, whose first field it answers wrong."""
    _cache: PromptCache = field(init=False)

    def __post_init__(self) -> None:
        self._cache = PromptCache(self.states_cache_writes)

    def complete(
        self, request: ChatRequest, asked: Asked, fault: Fault | None, draw: random.Random
    ) -> Reply:
        """The reply to a request, with what it is billed; a fault without effect is none."""
        if fault is not None and (failure := fault.failed(asked.created)):
            return failed(failure, request.model, asked, fault)
        answers = self._answers(request)
        if fault is not None and fault.rewrite is not None:
            rewritten = fault.rewrite(answers, request, draw)
            answers, fault = (answers, None) if rewritten is None else (rewritten, fault)
        said, tokens = _said(request, request.form.encode(answers), fault)
        tier = "batch" if asked.way == "batch" else request.service_tier
        usage = Usage(request.prompt_tokens, *self._cache.use(request), tokens)
        body = completion_object(
            model=(fault and fault.model) or request.model,
            content=said.content,
            refusal=said.refusal,
            finish_reason=said.finish_reason,
            usage=usage if fault is None or fault.states_usage else None,
            tier=(fault and fault.tier) or tier,
            created=int(asked.created),
        )
        billed = BilledRequest(
            asked.client_request_id,
            body["model"],
            usage.prompt,
            usage.cached,
            usage.completion,
            200,
            response_id=body["id"],
            service_tier=body["service_tier"],
            cache_write_tokens=usage.written or 0,
            way=asked.way,
            delivered=fault is None or fault.delivered,
            fault=fault.name if fault else None,
        )
        return Reply(200, body, billed=billed)

    def _answers(self, request: ChatRequest) -> list[Answer]:
        answers = []
        fields, permits_unsure = request.form.fields, request.form.permits_unsure
        for document in request.documents:
            title, text = document.get("title"), str(document.get("text") or "")
            labels = self.judge.judge(title if isinstance(title, str) else None, text, fields)
            if labels is not None:
                unsure = permits_unsure and self._is_unsure(text)
                if self._drawn(f"wrong:{text}", self.wrong_rates.get(request.model, 0.0)):
                    labels = _wrong(labels, fields)
                answers.append(Answer(str(document.get("id")), labels, unsure))
        return answers

    def _is_unsure(self, text: str) -> bool:
        return self._drawn(text, self.unsure_rate)

    def _drawn(self, text: str, rate: float) -> bool:
        if not rate:
            return False
        digest = hashlib.blake2b(f"{self.seed}:{text}".encode(errors="replace"), digest_size=8)
        return int.from_bytes(digest.digest()) < rate * 2**64


def _wrong(labels: Mapping[str, str], fields: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The labels with another one in the first field: a good one turns bad, any other one good."""
    first, choices = next(iter(fields.items()))
    other = choices[0] if labels[first] != choices[0] else choices[-1]
    return {**labels, first: other}


def _said(request: ChatRequest, content: str, fault: Fault | None) -> tuple[Said, int]:
    """What is said of an answer within the limit of tokens, and the tokens of it."""
    said = fault.ends(content, request.form) if fault and fault.ends else Said(content)
    if said.content is None:
        return said, estimate_tokens(said.refusal or "")
    tokens = request.form.count(said.content)
    if request.max_tokens is None or tokens <= request.max_tokens:
        return said, tokens
    cut = request.form.cut(said.content, request.max_tokens)
    return replace(said, content=cut, finish_reason="length"), request.max_tokens


def failed(failure: Failure, model: str, asked: Asked, fault: Fault | None = None) -> Reply:
    """The reply that is an error, and its row in the record."""
    billed = BilledRequest(
        asked.client_request_id,
        model,
        0,
        0,
        0,
        failure.status,
        way=asked.way,
        fault=fault.name if fault else None,
    )
    return failure.reply(billed)
