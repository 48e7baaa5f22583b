"""Which reviews are right, by one kind of truth, and what each of them stands for."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import polars as pl

from review_optimizer_dagster.taxonomies import LabelField, Taxonomy, parse_labels, truth_classes

Truth: TypeAlias = Literal["labels", "audits", "stars", "none"]  # best first

DECIDING = ("labels", "audits")  # star ratings never do

SCORES = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "simulated": pl.Boolean(),
        "truth": pl.String(),  # of Truth
        "review_id": pl.String(),
        "identity": pl.String(),
        "content_key": pl.String(),
        "category": pl.String(),
        "level": pl.String(),
        "source_key": pl.String(),
        "request_id": pl.String(),
        "labels": pl.String(),  # JSON object: what was served
        "known": pl.String(),  # JSON object: the truth
        "correct": pl.Boolean(),
        "weight": pl.Float64(),  # reviews that it stands for
        "uniform": pl.Boolean(),  # in a uniform sample of the day's texts
    }
)

FIELD_SCORES = pl.Schema(
    # A broken partition may hold an id twice, so the row counts, not the id.
    {
        "row": pl.Int64(),
        "content_key": pl.String(),
        "category": pl.String(),
        "level": pl.String(),
        "origin": pl.String(),  # of a true label: human or delivered; null of any other truth
        "field": pl.String(),
        "truth": pl.String(),
        "correct": pl.Boolean(),
        "weight": pl.Float64(),
    }
)


def _star_truth(rating: float | None, fields: Iterable[LabelField]) -> dict[str, str]:
    if rating is None or rating != math.floor(rating):
        return {}
    star = str(int(rating))
    return {field.name: field.stars[star] for field in fields if star in field.stars}


def truths_of(results: pl.DataFrame, taxonomy: Taxonomy, kind: Truth) -> list[dict[str, str]]:
    """What is known of each row: field to true label, empty where nothing is.

    A text has the truth of any review of the day with the same text, unless it has its own.
    """
    if kind == "none":
        return [{} for _ in range(results.height)]
    if kind == "stars":
        return [_star_truth(rating, taxonomy.fields) for rating in results["rating"]]
    own = list(map(taxonomy.truth_of, results["truth" if kind == "labels" else "reference"]))
    by_text: dict[str, dict[str, str]] = {}
    for text, truth in zip(results["content_key"], own, strict=True):
        if truth:
            by_text.setdefault(text, truth)
    return [
        truth or by_text.get(text, {})
        for text, truth in zip(results["content_key"], own, strict=True)
    ]


def _weights(
    results: pl.DataFrame, truths: Sequence[Mapping[str, str]], kind: Truth
) -> list[float | None]:
    """What each row's truth stands for: reviews; None where it is not to be counted.

    Where texts were drawn to be labelled, they alone count: labels that came otherwise are of
    reviews that somebody chose. Each stands for as many as its chance of being drawn and labelled
    says, what was drawn and not labelled being like the rest of its stratum.
    """
    name = {"labels": "label_asked", "audits": "reference_asked"}.get(kind, "")
    asked = dict[str, float]()
    if name in results.columns:
        drawn = results.select("content_key", name).drop_nulls()
        asked = dict(drawn.unique("content_key", keep="first", maintain_order=True).iter_rows())
    known = {text for text, truth in zip(results["content_key"], truths, strict=True) if truth}
    if not known & asked.keys():
        return [1.0 if truth else None for truth in truths]
    answered = dict.fromkeys(asked.values(), 0)
    of_stratum = dict(answered)
    for text, chance in asked.items():
        of_stratum[chance] += 1
        answered[chance] += text in known
    return [
        of_stratum[asked[text]] / (answered[asked[text]] * asked[text])
        if truth and text in asked
        else None
        for text, truth in zip(results["content_key"], truths, strict=True)
    ]


def score_fields(
    results: pl.DataFrame, taxonomy: Taxonomy, truths: Sequence[Mapping[str, str]], kind: Truth
) -> pl.DataFrame:
    """One row a labelled review and field that has a truth. Returns FIELD_SCORES."""
    fields = {field.name: field for field in taxonomy.fields}
    origin = pl.col("truth_origin") if kind == "labels" else pl.lit(None, pl.String)
    rows = results.select(
        "tenant", "content_key", "category", "level", "status", "labels", origin.alias("origin")
    )
    by_tenant: dict[str, list[Mapping[str, str]]] = {}
    for tenant, truth in zip(rows["tenant"], truths, strict=True):
        by_tenant.setdefault(tenant, []).append(truth)
    known = {tenant: truth_classes(own) for tenant, own in by_tenant.items()}
    scores = []
    weights = _weights(results, truths, kind)
    for number, (row, truth, weight) in enumerate(
        zip(rows.iter_rows(), truths, weights, strict=True)
    ):
        tenant, content_key, category, level, status, labels, said = row
        if not truth or status != "labelled" or weight is None:
            continue
        answers = parse_labels(labels)
        for name, label in truth.items():
            answer = answers.get(name)
            correct = isinstance(answer, str) and fields[name].agrees(
                answer, label, known[tenant][name]
            )
            about = (number, content_key, category, level, said, name, label, correct, weight)
            scores.append(about)
    return pl.DataFrame(scores, schema=FIELD_SCORES, orient="row")


def score_reviews(fields: pl.DataFrame) -> pl.DataFrame:
    """One row a review: right where every field that has a truth agrees (FIELD_SCORES)."""
    by = ["row", "content_key", "category", "level", "origin", "weight"]
    return fields.group_by(by).agg(pl.col("correct").all()).sort("row")


def _is_uniform(content_key: str, weight: float, most: float) -> bool:
    """Whether a text stays in a uniform part of the sample: thinned to the least likely ones."""
    if weight >= most:
        return True
    digest = hashlib.blake2b(f"uniform|{content_key}".encode(), digest_size=7).digest()
    return int.from_bytes(digest) < 2**56 * weight / most


def score_truth(results: pl.DataFrame, taxonomy: Taxonomy, kind: Truth) -> pl.DataFrame:
    """Which labelled reviews are right by one kind of truth: SCORES.

    results: RESULTS of one taxonomy. A review is right when every field that has a truth agrees
    with it, given the classes that the tenant's truth of that field shows in these results.
    Reviews without a truth, or without labels, are left out.
    """
    truths = truths_of(results, taxonomy, kind)
    scores = score_reviews(score_fields(results, taxonomy, truths, kind))
    most = scores["weight"].max()
    kept = [
        _is_uniform(text, weight, float(most))  # type: ignore[arg-type]  # there is a row
        for text, weight in scores.select("content_key", "weight").iter_rows()
    ]
    known = [json.dumps(truths[row], sort_keys=True) for row in scores["row"]]
    rows = results[scores["row"]]
    return (
        rows.with_columns(
            truth=pl.lit(kind),
            known=pl.Series(known, dtype=pl.String),
            correct=scores["correct"],
            weight=scores["weight"],
            uniform=pl.Series(kept, dtype=pl.Boolean),
        )
        .select(SCORES.names())
        .cast(SCORES)
    )
