"""Says in plain words where a review's labels came from; reads what `storage.explain` found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any

_LEVELS = {
    "l1": "L1, the same text used lately",
    "l2": "L2, a popular entry",
    "l3_exact": "L3, the same text in the archive",
    "l3_near": "L3, a similar text in the archive",
    "l3_pattern": "L3, a learned pattern",
    "model": "the model",
}
_IDENTITY = ("scope", "taxonomy", "prompt", "model", "normaliser", "kind")
_EXCERPT = 160


def explanation(facts: Mapping[str, Any], scores: Mapping[str, tuple[str, float]]) -> str:
    """The story of one review, a line a fact.

    facts: what `storage.explain.explain` returns; scores: field to label and confidence, what the
    pattern that answered says of the text (empty for other levels).
    """
    rows = [
        ("review", f"{facts['review_id']} of {facts['tenant']}, {facts['category']}"),
        ("delivered", f"{facts['day']} in {facts['file']}, line {facts['line']}"),
        ("text", _excerpt(facts["title"], facts["text"])),
        *_answer(facts),
        *_identity(facts["identity"]),
        *_source(facts),
        *_certificates(facts, scores),
        *_rechecks(facts),
        *_attempts(facts["attempts"]),
        *_money(facts["ledger"]),
        *_gate(facts),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name.ljust(width)}  {text}" for name, text in rows)


def _excerpt(title: str | None, text: str) -> str:
    whole = " ".join(f"{title or ''} {text}".split())
    return whole if len(whole) <= _EXCERPT else whole[: _EXCERPT - 3] + "..."


def _labels(text: str | None) -> str:
    return ", ".join(f"{name} = {label}" for name, label in json.loads(text or "{}").items())


def _answer(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["status"] is None:
        yield "labels", "none yet: the day was not run to its end"
        return
    if facts["status"] != "labelled":
        yield "labels", f"none: {facts['status']}, {facts['reason'] or 'no reason given'}"
        return
    marked = " (simulated)" if facts["simulated"] else ""
    yield "labels", _labels(facts["labels"]) + marked
    level = _LEVELS[facts["level"]]
    same = " (a repeat of another review of the day)" if facts["repeat"] else ""
    score = f", score {facts['score']:.4f}" if facts["score"] is not None else ""
    yield "answered by", f"{level}{same}{score}"
    if facts["level"] == "model":
        yield "request", f"{facts['request_id']}, model {facts['model']}"
    if facts["veto"]:
        near = f" (ratio {facts['near_score']:.3f})" if facts["near_score"] else ""
        yield "vetoed", f"a similar text{near} was refused: {facts['veto']}"
    if facts["withdrawn_level"]:
        yield (
            "withdrawn",
            f"{_LEVELS[facts['withdrawn_level']]} had said {_labels(facts['withdrawn_labels'])}; "
            "a recheck or the gate took it back",
        )


def _identity(identity: str | None) -> Iterator[tuple[str, str]]:
    if identity:
        parts = zip(_IDENTITY, identity.split("|"), strict=False)
        yield "kept under", ", ".join(f"{name} {value}" for name, value in parts)


def _source(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for row in facts["source"]:
        gone = f"; withdrawn on {row['withdrawn_on']}" if row["withdrawn_on"] else ""
        yield (
            "source",
            f"review {row['review_id']} of {row['tenant']}, {row['day']}: {_labels(row['labels'])} "
            f"by {row['model']}, request {row['request_id']}{gone}",
        )
        yield "its text", _excerpt(None, row["text"])
    for row in facts["pattern"]:
        yield (
            "pattern",
            f"{row['version']}, trained on {row['day']} with {row['rows']:,} of "
            f"{row['archived']:,} archived answers in {row['seconds']:.1f} s",
        )


def _certificates(
    facts: Mapping[str, Any], scores: Mapping[str, tuple[str, float]]
) -> Iterator[tuple[str, str]]:
    for field, (label, score) in scores.items():
        own = _of_label(facts["certificates"], field, label, facts["category"])
        if own is None:
            yield field, f"{label}, confidence {score:.4f}: no certificate"
            continue
        where = f"in {own['category']}" if own["category"] else "categories pooled"
        yield (
            field,
            f"{label}, confidence {score:.4f}, asked for {own['threshold']:.4f} ({where}): "
            f"{own['errors']} wrong of {own['n']:,}, error at most {100 * own['bound']:.2f} % "
            f"of {100 * own['max_error']:.2f} % allowed, {own['rule']}, {own['day']}",
        )


def _of_label(
    certificates: Sequence[Mapping[str, Any]], field: str, label: str, category: str | None
) -> Mapping[str, Any] | None:
    """The certificate that speaks for a label: the category's own, else the pooled one."""
    fitting = [
        row
        for row in certificates
        if row["field"] == field
        and row["label"] == label
        and row["category"] in ("", category)
        and row["threshold"] is not None
    ]
    return max(fitting, key=lambda row: str(row["category"]), default=None)


def _rechecks(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["asked"] is not None and facts["asked"] < 1 and facts["draw"] is not None:
        drawn = "rechecked" if facts["audit"] else "not rechecked"
        yield (
            "this hit",
            f"recheck probability {facts['asked']:.4f}, drew {facts['draw']:.4f}: {drawn}",
        )
    for row in facts["own_rechecks"]:
        verdict = "agrees" if row["agrees"] else f"says {_labels(row['answer'])}"
        yield "recheck", f"the model {verdict}, request {row['request_id']}"
    rechecks = facts["rechecks"]
    if rechecks:
        contradicted = sum(not row["agrees"] for row in rechecks)
        yield (
            "its source",
            f"{len(rechecks)} rechecks of its answers so far, {contradicted} contradicted it",
        )


def _attempts(attempts: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for row in attempts:
        way = " through the Batch API" if row["way"] == "batch" else ""
        doubt = ", not sure" if row["unsure"] else ""
        tier = f"{row['tier']} ({row['model']})"
        yield "asked", f"attempt {row['attempt']}, {tier}{way}: {row['status']}{doubt}"


def _money(ledger: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for row in ledger:
        cost, avoided = Decimal(row["cost_nanos"]), Decimal(row["avoided_nanos"])
        saved = f", avoided ${avoided.scaleb(-9):f}" if avoided else ""
        yield "ledger", f"{row['kind']}: ${cost.scaleb(-9):f}{saved}"


def _gate(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["verdict"]:
        published = "published" if facts["published"] else "not published"
        yield "gate", f"{facts['verdict']}, {published}: {facts['verdict_detail']}"
