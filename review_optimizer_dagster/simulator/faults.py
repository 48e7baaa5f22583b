"""What can go wrong on purpose: a table of faults, and which request meets which.

A fault is data: an error in place of the answer, a change of the answers, of how the completion
ends, of what it says of itself, of its bytes, or of how they are delivered.
"""

from __future__ import annotations

import hashlib
import random
import re
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import TypeAlias

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.simulator.forms import Answer, Form
from review_optimizer_dagster.simulator.protocol import (
    SERVER_ERROR,
    ChatRequest,
    Delivery,
    Failure,
    Reply,
)

SLOW_FACTOR = 10
SHARE_SPOILED = 0.25  # of a request's documents, where a fault concerns some of them
NO_LABEL = "none of the above"
REFUSAL = "I'm sorry, but I can't help with that."
PAGE = b"<!DOCTYPE html>\n<html><head><title>Bad gateway</title></head><body></body></html>"

Answers: TypeAlias = list[Answer]
Rewrite: TypeAlias = Callable[[Answers, ChatRequest, random.Random], "Answers | None"]


@dataclass(frozen=True)
class Said:
    """What a completion says and why it ended."""

    content: str | None
    finish_reason: str = "stop"
    refusal: str | None = None


@dataclass(frozen=True)
class Fault:
    """One row of the table."""

    name: str
    does: str
    bills: bool = True
    seen: bool = True  # whether a careful client can notice it at all
    failure: Failure | None = None  # answered in place of a completion
    retry_in: int | None = None  # seconds; stated as a date
    rewrite: Rewrite | None = None  # None from it: nothing here to work on
    ends: Callable[[str, Form], Said] | None = None
    model: str | None = None  # named by the response in place of the one asked
    tier: str | None = None
    states_usage: bool = True
    slower: float = 1.0
    late: bool = False
    spoil: Callable[[bytes], bytes] | None = None
    content_type: str | None = None
    delivery: Delivery = Delivery.WHOLE

    @property
    def described(self) -> str:
        """What it does, whether that is billed, and whether it can be noticed."""
        notes = ("" if self.bills else "; not billed") + ("" if self.seen else "; cannot be seen")
        return self.does + notes

    @property
    def delivered(self) -> bool:
        """Whether the client can read the whole answer."""
        return self.delivery is Delivery.WHOLE and self.spoil is None

    @property
    def in_content(self) -> bool:
        """Whether it shows in the answer itself, so that a line of a batch can have it too."""
        return self.failure is not None or not (
            self.late or self.slower != 1.0 or not self.delivered
        )

    @property
    def in_calls(self) -> bool:
        """Whether a call that is no completion can have it."""
        return self.failure is not None or not self.in_content

    def failed(self, now: float) -> Failure | None:
        """The error to answer at a time (seconds since 1970)."""
        if self.failure is None or self.retry_in is None:
            return self.failure
        return replace(
            self.failure, headers={"retry-after": formatdate(now + self.retry_in, usegmt=True)}
        )

    def sent(self, reply: Reply) -> Reply:
        """The reply with its bytes and its delivery spoiled."""
        body = reply.body if self.spoil is None else self.spoil(reply.content())
        kind = self.content_type or reply.content_type
        return replace(reply, body=body, content_type=kind, delivery=self.delivery)


# --- changes of the answers -----------------------------------------------------------------


def _some(answers: Answers, draw: random.Random) -> set[int]:
    """Which answers a fault concerns: a share of them, one at least."""
    return set(draw.sample(range(len(answers)), max(1, int(len(answers) * SHARE_SPOILED))))


def _missing(answers: Answers, _request: ChatRequest, draw: random.Random) -> Answers | None:
    if not answers:
        return None
    gone = _some(answers, draw)
    return [answer for at, answer in enumerate(answers) if at not in gone]


def _extra(answers: Answers, request: ChatRequest, _draw: random.Random) -> Answers | None:
    if not answers:
        return None
    known = {str(document.get("id")) for document in request.documents}
    number = len(known) + 1
    while str(number) in known:
        number += 1
    return [*answers, replace(answers[0], id=str(number))]


def _duplicate(answers: Answers, request: ChatRequest, draw: random.Random) -> Answers | None:
    if not answers:
        return None
    again = draw.choice(answers)
    return [*answers, replace(again, labels=_other_labels(again.labels, request.form))]


def _other_labels(labels: Mapping[str, str], form: Form) -> dict[str, str]:
    """Another label in every field that has another."""
    return {
        field: next((choice for choice in choices if choice != labels[field]), labels[field])
        for field, choices in form.fields.items()
    }


def _swapped(answers: Answers, _request: ChatRequest, draw: random.Random) -> Answers | None:
    order = draw.sample(range(len(answers)), len(answers))
    for one in order[:1]:
        for other in order[1:]:
            if answers[one].labels != answers[other].labels:
                swapped = list(answers)
                swapped[one] = replace(answers[other], id=answers[one].id)
                swapped[other] = replace(answers[one], id=answers[other].id)
                return swapped
    return None


def _reordered(answers: Answers, _request: ChatRequest, draw: random.Random) -> Answers | None:
    if len(answers) < 2:
        return None
    turn = draw.randrange(1, len(answers))
    return [*answers[turn:], *answers[:turn]]


def _wrong(answers: Answers, _request: ChatRequest, draw: random.Random) -> Answers | None:
    if not answers:
        return None
    spoiled = _some(answers, draw)
    field = draw.choice(list(answers[0].labels))
    return [
        replace(answer, labels={**answer.labels, field: NO_LABEL}) if at in spoiled else answer
        for at, answer in enumerate(answers)
    ]


_SAYS_NOTHING = re.compile(r"\b(?:reply|answer|respond) with nothing\b", re.IGNORECASE)
_SAYS_LABEL = re.compile(
    r"\b(?:(?:label (?:everything|(?:every|each|all)(?: the)? \w+)|ignore\b[^.!?\n]*\band answer)"
    r"(?: with| as)? [\"'“]?(?P<label>\w[\w -]*)"
    r"|answer (?P<first>\w[\w -]*) (?:for|to) (?:every|each|all)\b)",
    re.IGNORECASE,
)


def _obedient(answers: Answers, request: ChatRequest, _draw: random.Random) -> Answers | None:
    """Answers as the first document that holds an instruction says."""
    for document in request.documents:
        text = f"{document.get('title') or ''}\n{document.get('text') or ''}"
        if _SAYS_NOTHING.search(text):
            return []
        if told := _SAYS_LABEL.search(text):
            words = (told["label"] or told["first"]).lower()
            return [_labelled(answer, words, request.form) for answer in answers]
    return None


def _labelled(answer: Answer, words: str, form: Form) -> Answer:
    """The label that the words begin with, in every field that has it; else a label of no set."""
    meant = {
        field: label
        for field, labels in form.fields.items()
        for label in sorted(labels, key=len)
        if re.match(rf"{re.escape(label.lower())}\b", words)
    }
    first = next(iter(answer.labels))
    return replace(answer, labels={**answer.labels, **(meant or {first: words.strip()})})


# --- other changes --------------------------------------------------------------------------


def _truncated(content: str, form: Form) -> Said:
    return Said(form.cut(content, max(1, form.count(content) // 2)), "length")


def _refused(_content: str, _form: Form) -> Said:
    return Said(None, "stop", REFUSAL)


def _filtered(_content: str, _form: Form) -> Said:
    return Said(None, "content_filter")


def _half(body: bytes) -> bytes:
    return body[: len(body) // 2]


def _nothing(_body: bytes) -> bytes:
    return b""


def _page(_body: bytes) -> bytes:
    return PAGE


def _rate_limited(wait: str, **headers: str) -> Failure:
    message = f"Rate limit reached for requests per min (RPM). Please try again in {wait}."
    return Failure(429, "requests", "rate_limit_exceeded", message, headers=headers)


def _bad(status: int, code: str | None, message: str, param: str | None = None) -> Failure:
    return Failure(status, "invalid_request_error", code, message, param)


_ROWS = (
    Fault(
        "rate_limit_seconds",
        "429 with Retry-After: 1",
        bills=False,
        failure=_rate_limited("1s", **{"retry-after": "1"}),
    ),
    Fault(
        "rate_limit_ms",
        "429 with retry-after-ms: 50",
        bills=False,
        failure=_rate_limited("50ms", **{"retry-after-ms": "50"}),
    ),
    Fault(
        "rate_limit_date",
        "429 with Retry-After as a date, 2 s ahead",
        bills=False,
        failure=_rate_limited("2s"),
        retry_in=2,
    ),
    Fault(
        "rate_limit_long",
        "429 with Retry-After: 3600",
        bills=False,
        failure=_rate_limited("1h0m0s", **{"retry-after": "3600"}),
    ),
    Fault(
        "insufficient_quota",
        "429 that no retry mends",
        bills=False,
        failure=Failure(
            429,
            "insufficient_quota",
            "insufficient_quota",
            "You exceeded your current quota, please check your plan and billing details.",
        ),
    ),
    Fault("server_error", "500: it broke", bills=False, failure=SERVER_ERROR),
    Fault(
        "overloaded",
        "503: overloaded",
        bills=False,
        failure=Failure(
            503,
            "service_unavailable_error",
            "slow_down",
            "The engine is currently overloaded, please try again later.",
        ),
    ),
    Fault(
        "html_error",
        "502 with a page of HTML",
        bills=False,
        failure=Failure(502, "server_error", None, "Bad gateway."),
        spoil=_page,
        content_type="text/html",
    ),
    Fault(
        "context_length",
        "400: the request is too long",
        bills=False,
        failure=_bad(
            400,
            "context_length_exceeded",
            "Your input exceeds the context window of this model. Please reduce its length.",
            "messages",
        ),
    ),
    Fault(
        "unauthorized",
        "401: a wrong key",
        bills=False,
        failure=_bad(401, "invalid_api_key", "Incorrect API key provided."),
    ),
    Fault(
        "forbidden",
        "403: a key without the right",
        bills=False,
        failure=_bad(403, "access_denied", "This key is not allowed to use this model."),
    ),
    Fault(
        "not_found",
        "404: no such model",
        bills=False,
        failure=_bad(
            404, "model_not_found", "The model does not exist or you do not have access to it."
        ),
    ),
    Fault("slow", f"{SLOW_FACTOR} times the latency", slower=SLOW_FACTOR),
    Fault("never_ending", "headers, then blanks for ever", delivery=Delivery.ENDLESS),
    Fault("late_success", "answers and bills after late_seconds", late=True),
    Fault("cut_before_body", "billed, then closed before any byte", delivery=Delivery.NOTHING),
    Fault("cut_in_body", "headers and half of the body", delivery=Delivery.HALF),
    Fault("malformed_json", "200 whose body ends in the middle", spoil=_half),
    Fault("empty_body", "200 without a body", spoil=_nothing),
    Fault("not_json", "200 with a page of HTML", spoil=_page, content_type="text/html"),
    Fault("missing_usage", "no usage in the response", states_usage=False),
    Fault("missing_ids", "some documents are not answered", rewrite=_missing),
    Fault("extra_ids", "an id that was not asked", rewrite=_extra),
    Fault("duplicate_ids", "an id twice, with two answers", rewrite=_duplicate),
    Fault("swapped_ids", "two documents' labels exchanged", seen=False, rewrite=_swapped),
    Fault("reordered_ids", "answers in another order", rewrite=_reordered),
    Fault("wrong_labels", "labels or codes outside the set", rewrite=_wrong),
    Fault("truncated", "cut, with finish_reason length", ends=_truncated),
    Fault("refusal", "a refusal in place of the answer", ends=_refused),
    Fault("content_filter", "no content, finish_reason content_filter", ends=_filtered),
    Fault("other_model", "the response names gpt-4o", model="gpt-4o"),
    Fault("other_tier", "the response names service_tier flex", tier="flex"),
    Fault(
        "obeys_instructions",
        "does what a document says, to all of them",
        seen=False,
        rewrite=_obedient,
    ),
)
FAULTS: Mapping[str, Fault] = {fault.name: fault for fault in _ROWS}

# What an error rate without a name stands for, each as likely as the other.
COMMON_ERRORS = ("server_error", "overloaded", "rate_limit_ms")


def common_errors(rate: float) -> dict[str, float]:
    """An error rate as rates of faults."""
    return {name: rate / len(COMMON_ERRORS) for name in COMMON_ERRORS if rate}


def fault_named(name: str) -> Fault:
    """The row of that name.

    Raises UserError that lists the names.
    """
    if name not in FAULTS:
        raise UserError(f"there is no fault {name!r}: choose from {', '.join(FAULTS)}")
    return FAULTS[name]


class FaultRates:
    """The share of requests that meets each fault; at most one a request."""

    def __init__(self, rates: Mapping[str, float]) -> None:
        """Raises UserError where a name is unknown or the rates are no shares."""
        for name, rate in rates.items():
            fault_named(name)
            if not 0.0 <= rate <= 1.0:
                raise UserError(
                    f"the rate of fault {name!r} is {rate}, but must be between 0 and 1 "
                    f"(names: {', '.join(FAULTS)})"
                )
        total = sum(rates.values())
        if total > 1.0 + 1e-9:
            raise UserError(
                f"the rates of {', '.join(rates)} add up to {total:g}: a request meets one fault "
                "at most, so they must not exceed 1"
            )
        self._rates: Sequence[tuple[Fault, float]] = [
            (fault, rates[name]) for name, fault in FAULTS.items() if rates.get(name)
        ]

    def pick(self, share: float) -> Fault | None:
        """The fault of a number drawn evenly from 0 to 1."""
        for fault, rate in self._rates:
            share -= rate
            if share < 0.0:
                return fault
        return None


class Draws:
    """Random numbers by seed, body and how often that body came, never by the threads' order."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._sent: Counter[bytes] = Counter()
        self._lock = threading.Lock()

    def of(self, body: bytes) -> random.Random:
        """The draws of a request."""
        digest = hashlib.blake2b(body, digest_size=16).digest()
        with self._lock:
            self._sent[digest] += 1
            times = self._sent[digest]
        # Faults and latencies are made up, not secrets.
        return random.Random(f"{self._seed}:{digest.hex()}:{times}")  # noqa: S311
