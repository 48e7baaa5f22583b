"""How a reply is read: a journal record in, labels, faults and usage out; nothing is guessed."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

from review_optimizer_dagster.exchange.prompt import UNSURE, Json

# An error status or code that another request would meet again, and what to do about it.
_NO_CREDIT = "the account has no credit left: add some, or use another key"
_STOPS = {
    "401": "check the key in the environment variable that [engine] api_key_env names",
    "402": _NO_CREDIT,
    "403": "this key may not use it: allow that, or use another key or model",
    "404": "check [engine] base_url and model",
    "billing_hard_limit_reached": _NO_CREDIT,
    "insufficient_quota": _NO_CREDIT,
    "invalid_api_key": "check the key in the environment variable that [engine] api_key_env names",
    "model_not_found": "check [engine] model",
}
# The size of the request, or one of its texts, is at fault: smaller requests may do.
_TOO_MUCH = frozenset(
    {"truncated", "malformed", "refused", "content_filter", "content_policy_violation", "413"}
    | {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length"}
)
_UNEXPLAINED = frozenset({"400", "422"})
_BUSY = frozenset({"408", "429", "503", "504", "529"})
_BROKEN = frozenset({"500", "502", "503", "504", "529"})
_UNWILLING = frozenset({"refused", "content_filter", "content_policy_violation"})
EMBEDDING = "embedding"  # kind of a journal record whose texts were embedded, and not classified
_FINISH_REASONS = {"length": "truncated", "content_filter": "content_filter"}


@dataclass(frozen=True)
class Usage:
    """Tokens that a response reports; cached and cache-written tokens are part of the prompt's.

    Raises ValueError for counts that cannot be: negative, or parts larger than the prompt.
    """

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cache_write_tokens: int = 0

    def __post_init__(self) -> None:
        parts = (self.cached_tokens, self.cache_write_tokens)
        if min(self.prompt_tokens, self.completion_tokens, *parts) < 0:
            raise ValueError(f"token counts must not be negative: {self}")
        if sum(parts) > self.prompt_tokens:
            raise ValueError(f"cached and cache-written tokens are part of the prompt's: {self}")


class Limit(NamedTuple):
    """What a response says of one rate limit."""

    limit: float
    remaining: float
    reset_seconds: float
    """Until it is full again."""


@dataclass(frozen=True)
class Reply:
    """What came of one request; nothing in it is guessed."""

    status: str
    """ok, partial, invalid, http_error, timeout, connection, unknown (no outcome), pending (in a
    job of the Batch API), or how a job ended without one: expired, cancelled, rejected, lost."""
    faults: Mapping[str, str]
    """Item id to what was wrong with its answer."""
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Item id to field to label, where the answer is valid; an embedding has no field."""
    unsure: frozenset[str] = frozenset()
    """Item ids whose valid answer the model says it is not sure of."""
    error: str | None = None
    model: str | None = None
    service_tier: str | None = None
    usage: Usage | None = None
    cost_known: bool = True
    codes: frozenset[str] = frozenset()
    """HTTP status of an error, the endpoint's code and type, or why the reply gave nothing."""
    retry_after: float | None = None
    """Seconds that the endpoint wants to be left alone, from when it answered."""
    limits: Mapping[str, Limit] = field(default_factory=dict)
    """`requests` and `tokens`: the rate limits that the response states."""
    exhausted_for: float = 0.0
    """Seconds until a rate limit of which nothing remains is full again."""

    @property
    def was_read(self) -> bool:
        """Whether the endpoint gave a completion, of whatever worth."""
        return self.status in ("ok", "partial", "invalid") and "no_completion" not in self.codes

    @property
    def is_busy(self) -> bool:
        """Whether the endpoint was asked faster than it can answer."""
        return self.status == "timeout" or bool(self.codes & _BUSY)

    @property
    def is_broken(self) -> bool:
        """Whether the endpoint, not the request, seems to be at fault."""
        broken = bool(self.codes & _BROKEN) or "no_completion" in self.codes
        return self.status in ("timeout", "connection") or broken

    @property
    def is_useless(self) -> bool:
        """Whether a completion, or a refusal of one, came that a better model may do better."""
        return self.was_read or bool(self.codes & _UNWILLING)

    @property
    def is_unexplained(self) -> bool:
        """Whether the request was refused without a reason that lies in its documents."""
        return bool(self.codes & _UNEXPLAINED) and not self.codes & _TOO_MUCH

    @property
    def wants_less(self) -> bool:
        """Whether the items are to be asked again in smaller requests."""
        return bool(self.codes & (_TOO_MUCH | _UNEXPLAINED))

    @property
    def remedy(self) -> str | None:
        """What a person has to do before another request can succeed, where that is so."""
        return next((remedy for sign, remedy in _STOPS.items() if sign in self.codes), None)


def read_reply(record: Json) -> Reply:
    """Read a journal record: an intent with its `outcome` (None: unknown)."""
    asked = [item_id for item_id, _, _ in record["items"]]
    outcome = record["outcome"]
    if outcome is None or outcome["failure"] is not None:
        waits = ("pending", "its job of the Batch API has not ended", True)
        died = ("unknown", "the run ended before the answer came", True)
        status, error, maybe_sent = (
            (outcome["failure"], outcome["error"], outcome["maybe_sent"])
            if outcome
            else (waits if record.get("way") == "batch" else died)
        )
        return Reply(status, dict.fromkeys(asked, error), error=error, cost_known=not maybe_sent)
    body = _parsed(outcome["body"])
    body = body if isinstance(body, dict) else {}
    if not 200 <= outcome["http_status"] < 300:
        return _read_error(asked, outcome, body)
    if record["kind"] == EMBEDDING:
        return _read_embeddings(asked, body)
    usage = _usage(body.get("usage"))
    answers = _read_answers(body, asked, record["fields"], record.get("codes") or {})
    notes = [f"{count} {fault}" for fault, count in Counter(answers.faults.values()).items()]
    notes += [f"{answers.unknown} unknown ids"] * (answers.unknown > 0)
    return Reply(
        status="ok" if not answers.faults else "partial" if answers.labels else "invalid",
        faults=answers.faults,
        labels=answers.labels,
        unsure=frozenset(answers.unsure),
        error=", ".join(notes + ["no usage"] * (usage is None)) or None,
        model=_text(body.get("model")),
        service_tier=_text(body.get("service_tier")),
        usage=usage,
        cost_known=usage is not None,
        codes=frozenset([answers.reason] if answers.reason else []),
        limits=_limits(outcome["headers"]),
        exhausted_for=_exhausted_for(outcome["headers"]),
    )


def escalated(record: Json, reply: Reply) -> list[str]:
    """Items that the next tier is asked about, in the order of the batch.

    Pure, so that a later run finds the same.

    What brought nothing useful for the `tier_attempts`th time comes first, then what the model is
    unsure of, no more than the record's `most_escalated`.
    """
    if record.get("next_tier") is None or not reply.is_useless:
        return []
    is_last = record["useless_before"] + 1 >= record["tier_attempts"] or not record["attempts_left"]
    ids = [item_id for item_id, _, _ in record["items"]]
    wanted = [item_id for item_id in ids if is_last and item_id in reply.faults]
    wanted += [item_id for item_id in ids if item_id in reply.unsure]
    return wanted[: record["most_escalated"]]


def _read_embeddings(asked: Sequence[str], body: Json) -> Reply:
    """What a response with embeddings says: no label, but what is to be paid for it."""
    usage, data = body.get("usage"), body.get("data")
    usage = _usage(usage | {"completion_tokens": 0}) if isinstance(usage, dict) else None
    whole = isinstance(data, list) and len(data) == len(asked)
    faults = {} if whole else dict.fromkeys(asked, "missing")
    return Reply(
        status="ok" if whole else "invalid",
        faults=faults,
        labels={item_id: {} for item_id in asked if whole},
        error=None if whole else "the answer holds no embeddings",
        model=_text(body.get("model")),
        usage=usage,
        cost_known=usage is not None,
    )


def _read_error(asked: Sequence[str], outcome: Json, body: Json) -> Reply:
    problem = body.get("error", body)
    problem = problem if isinstance(problem, dict) else {"message": problem}
    codes = [str(problem[key]) for key in ("code", "type") if problem.get(key)]
    words = ["HTTP", str(outcome["http_status"]), *codes[:1], _text(problem.get("message")) or ""]
    error = " ".join(" ".join(words).split())[:300]
    return Reply(
        status="http_error",
        faults=dict.fromkeys(asked, error),
        error=error,
        codes=frozenset([str(outcome["http_status"]), *codes]),
        retry_after=_retry_after(outcome),
        limits=_limits(outcome["headers"]),
        exhausted_for=_exhausted_for(outcome["headers"]),
    )


def _retry_after(outcome: Json) -> float | None:
    """Seconds from `retry-after-ms`, else `retry-after` (seconds, else a date); None without."""
    headers = outcome["headers"]
    for name, scale in (("retry-after-ms", 1_000), ("retry-after", 1)):
        if (seconds := _number(headers.get(name))) is not None and seconds > 0:
            return seconds / scale
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    wait = (moment - datetime.fromisoformat(outcome["received_at"])).total_seconds()
    return wait if wait > 0 else None


def _limits(headers: Mapping[str, str]) -> dict[str, Limit]:
    """The rate limits that a response states in full, by `requests` and `tokens`."""
    found = {}
    for name in ("requests", "tokens"):
        limit = _number(headers.get(f"x-ratelimit-limit-{name}"))
        remaining = _number(headers.get(f"x-ratelimit-remaining-{name}"))
        if limit is not None and limit > 0 and remaining is not None:
            found[name] = Limit(limit, remaining, _reset_seconds(headers, name))
    return found


def _exhausted_for(headers: Mapping[str, str]) -> float:
    """The longest reset of the limits that stand at 0."""
    waits = [0.0]
    for name in ("requests", "tokens"):
        if _number(headers.get(f"x-ratelimit-remaining-{name}")) == 0:
            waits.append(_reset_seconds(headers, name))
    return max(waits)


def _reset_seconds(headers: Mapping[str, str], name: str) -> float:
    """Seconds of a reset header: `1s`, `6m0s`, `20ms`, or a plain number of seconds."""
    reset = headers.get(f"x-ratelimit-reset-{name}", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|h|m|s|$)", reset)
    scale = {"ms": 0.001, "s": 1.0, "": 1.0, "m": 60.0, "h": 3_600.0}
    return sum(float(count) * scale[unit] for count, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        number = float(text or "")
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _usage(value: object) -> Usage | None:
    """The tokens of a response, or None where it does not say, or says what cannot be."""
    if not isinstance(value, dict):
        return None
    details = value.get("prompt_tokens_details")
    details = details if isinstance(details, dict) else {}
    counts = [value.get("prompt_tokens"), value.get("completion_tokens")]
    counts += [details.get(key) or 0 for key in ("cached_tokens", "cache_write_tokens")]
    whole = [count for count in counts if isinstance(count, int) and not isinstance(count, bool)]
    try:
        prompt, completion, cached, written = whole
        return Usage(prompt, cached, completion, written)
    except ValueError:  # a count is missing, or cannot be
        return None


class _Answers(NamedTuple):
    """What a reply says of each document that was asked, in `labels` or else in `faults`."""

    labels: dict[str, dict[str, str]]
    """Item id to field to label, where the answer is valid."""
    faults: dict[str, str]
    """Item id to missing, wrong_label, duplicate, or the reason for the reply as a whole."""
    reason: str | None
    """Why the reply as a whole gave nothing: no_completion, malformed, truncated, refused, ..."""
    unsure: tuple[str, ...] = ()
    unknown: int = 0
    """Answers to ids that were not asked."""


class _Entry(NamedTuple):
    """One answer of a reply: whom it is for, its labels where they are valid, and its doubt."""

    item_id: str
    labels: dict[str, str] | None
    unsure: bool


def _read_answers(
    completion: Json,
    asked: Sequence[str],
    fields: Mapping[str, Sequence[str]],
    codes: Mapping[str, Sequence[str]],
) -> _Answers:
    """Sort a chat completion out, item by item; nothing is guessed.

    asked: the item ids; fields: name to labels; codes: name to the codes of the labels, in their
    order, where the reply has the codes form.
    """
    choices = completion.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _Answers({}, dict.fromkeys(asked, "no_completion"), "no_completion")
    content = _parsed(message.get("content"))
    answers = content.get("answers") if isinstance(content, dict) else None
    if isinstance(answers, list):
        legend = {name: dict(zip(codes[name], fields[name], strict=True)) for name in codes}
        entries = [_entry(answer, fields, legend) for answer in answers]
        return _sorted_out([entry for entry in entries if entry], asked)
    finish = _FINISH_REASONS.get(str(choice.get("finish_reason")), "malformed")
    reason = "refused" if message.get("refusal") else finish
    return _Answers({}, dict.fromkeys(asked, reason), reason)


def _sorted_out(entries: Sequence[_Entry], asked: Sequence[str]) -> _Answers:
    """An id that is answered twice has no answer: which of the two was meant cannot be known."""
    given: dict[str, list[_Entry]] = {item_id: [] for item_id in asked}
    unknown = 0
    for entry in entries:
        if entry.item_id in given:
            given[entry.item_id].append(entry)
        else:
            unknown += 1
    labels: dict[str, dict[str, str]] = {}
    faults: dict[str, str] = {}
    for item_id, answers in given.items():
        if not answers:
            faults[item_id] = "missing"
        elif len(answers) > 1:
            faults[item_id] = "duplicate"
        elif answers[0].labels is None:
            faults[item_id] = "wrong_label"
        else:
            labels[item_id] = answers[0].labels
    unsure = tuple(item_id for item_id in labels if given[item_id][0].unsure)
    return _Answers(labels, faults, None, unsure, unknown)


def _entry(
    answer: object, fields: Mapping[str, Sequence[str]], legend: Mapping[str, Mapping[str, str]]
) -> _Entry | None:
    """An answer in the form that was asked for; None where it is not for anybody."""
    if legend:
        if not isinstance(answer, list) or not answer or not isinstance(answer[0], str):
            return None
        code = answer[1] if len(answer) == 2 and isinstance(answer[1], str) else ""
        return _Entry(answer[0], _decoded(code.removesuffix(UNSURE), legend), UNSURE in code)
    item_id = answer.get("id") if isinstance(answer, dict) else None
    if not isinstance(answer, dict) or not isinstance(item_id, str):
        return None
    return _Entry(item_id, _valid_labels(answer, fields), answer.get("unsure") is True)


def _decoded(code: str, legend: Mapping[str, Mapping[str, str]]) -> dict[str, str] | None:
    """Field to label of a code, which is one code of each field behind the other."""
    labels = {}
    for name, choices in legend.items():
        length = len(next(iter(choices)))
        part, code = code[:length], code[length:]
        if part not in choices:
            return None
        labels[name] = choices[part]
    return None if code else labels


def _valid_labels(entry: Json, fields: Mapping[str, Sequence[str]]) -> dict[str, str] | None:
    labels = {
        name: label
        for name, choices in fields.items()
        if isinstance(label := entry.get(name), str) and label in choices
    }
    return labels if len(labels) == len(fields) else None


def _parsed(text: object) -> Any:
    """The value of a JSON text, or None; a key that stands twice with two values has none."""

    def unambiguous(pairs: list[tuple[str, Any]]) -> Json:
        found: Json = {}
        for key, value in pairs:
            found[key] = value if found.get(key, value) == value else None
        return found

    try:
        return json.loads(text, object_pairs_hook=unambiguous) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return None
