"""How right labels are: shares with their intervals, of a day, of its parts, of all days."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias, get_args

import polars as pl

from review_optimizer_dagster.bounds import (
    anytime_upper_bound,
    clopper_pearson,
    weighted_interval,
)
from review_optimizer_dagster.suites.accuracy import WHOLE
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster.truth.scores import (
    DECIDING,
    Truth,
    score_fields,
    score_reviews,
    truths_of,
)

Verdict: TypeAlias = Literal["failed", "inconclusive", "passed"]  # worst first

PARTS = ("class", "category", "level")  # dimensions whose cells are told by an alert
SHARED_TAIL = 0.05  # the chance that any part of a day is told wrongly, shared among them
MOST_LABELS = (
    10_000_000  # an accuracy that needs more to be told from the threshold is the threshold
)

CELLS = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "simulated": pl.Boolean(),
        "truth": pl.String(),  # of Truth; 'reference': the reference model by true labels
        "dimension": pl.String(),  # all, field, class (by its true label), category, level, origin
        "name": pl.String(),
        "n": pl.Int64(),  # reviews; of a field or class, their labels in that field
        "texts": pl.Int64(),
        "correct": pl.Int64(),
        "accuracy": pl.Float64(),
        "lower": pl.Float64(),  # of the two-sided 90 % interval
        "upper": pl.Float64(),
        "shared_upper": pl.Float64(),  # upper end that holds for all PARTS of the day at once
        "below": pl.Boolean(),  # shared_upper is under the threshold; of PARTS and deciding truth
    }
)


def labels_needed(correct: float, n: int, threshold: float) -> int | None:
    """How many labels in all would decide, were the observed share to stay (1.0 for n = 0).

    None where not even MOST_LABELS would: the share is the threshold, as far as anyone can tell.
    """
    share = correct / n if n else 1.0

    def decides(labels: int) -> bool:
        lower, upper = clopper_pearson(share * labels, labels)
        return lower >= threshold or upper < threshold

    enough = max(n, 1)
    while not decides(enough):
        enough *= 2
        if enough > MOST_LABELS:
            return None
    short = enough // 2 if enough > n else 0
    while enough - short > 1:
        middle = (short + enough) // 2
        short, enough = (short, middle) if decides(middle) else (middle, enough)
    return enough


@dataclass(frozen=True)
class Accuracy:
    """How right a tenant's labels are, by one kind of truth, with its 90 % interval.

    The interval counts different texts, each with what it stands for: a text that comes ten times
    is one text. `n` and `correct` count reviews.
    """

    truth: Truth
    n: int
    texts: int
    correct: int
    estimate: float | None
    lower: float
    upper: float
    verdict: Verdict
    needed: int | None  # labels in all that would decide; None once decided, or out of reach
    uncovered: int  # reviews with a truth and without labels
    is_weighted: bool  # the labels are of a sample with unlike chances
    cells: pl.DataFrame
    """CELLS without tenant, taxonomy and simulated; the first is the whole."""

    def table(self, dimension: str) -> pl.DataFrame:
        """The cells of a dimension: name, n, texts, correct, accuracy, lower, upper, ..."""
        return self.cells.filter(pl.col("dimension") == dimension)


def _interval(scores: pl.DataFrame, confidence: float = 0.90) -> tuple[int, float, float, float]:
    """Texts, weighted share and its interval, of scores: content_key, correct, weight."""
    units = scores.group_by("content_key").agg(
        right=(pl.col("correct") * pl.col("weight")).sum() / pl.col("weight").sum(),
        weight=pl.col("weight").sum(),
    )
    weights, right = units["weight"].to_numpy(), units["right"].to_numpy()
    share = float((weights * right).sum() / weights.sum()) if len(weights) else 0.0
    return (units.height, share, *weighted_interval(weights, right, confidence))


def _cells(
    fields: pl.DataFrame, reviews: pl.DataFrame, truth: str, threshold: float
) -> pl.DataFrame:
    """CELLS of a day's scores, without tenant, taxonomy and simulated."""
    named = (
        (WHOLE, reviews, pl.lit("")),
        ("field", fields, pl.col("field")),
        ("class", fields, pl.format("{}={}", "field", "truth")),
        ("category", reviews, pl.col("category").fill_null("")),
        ("level", reviews, pl.col("level")),
        ("origin", reviews.drop_nulls("origin"), pl.col("origin")),
    )
    groups = [
        (dimension, str(name), part)
        for dimension, scores, key in named
        for (name,), part in scores.group_by(key.alias("name"), maintain_order=True)
    ]
    parts = sum(dimension in PARTS for dimension, *_ in groups)
    rows = []
    for dimension, name, part in sorted(groups, key=lambda each: each[:2]):
        texts, share, lower, upper = _interval(part)
        shared = upper
        # A shared end is never lower than its own, so that most need no second look.
        if dimension in PARTS and upper < threshold:
            shared = _interval(part, 1 - 2 * SHARED_TAIL / parts)[3]
        below = dimension in PARTS and truth in DECIDING and shared < threshold
        counts = (part.height, texts, int(part["correct"].sum()))
        rows.append((truth, dimension, name, *counts, share, lower, upper, shared, below))
    schema = {name: CELLS[name] for name in CELLS.names()[3:]}
    return pl.DataFrame(rows, schema=schema, orient="row")


def accuracy_by(
    results: pl.DataFrame, taxonomy: Taxonomy, threshold: float, kind: Truth
) -> Accuracy:
    """The accuracy of labelled reviews (RESULTS of one taxonomy) by one kind of truth.

    Verdict: `passed` where the lower end of the interval reaches the threshold, `failed` where the
    upper end is below it, else `inconclusive`, as it always is for stars.
    """
    fields = score_fields(results, taxonomy, truths_of(results, taxonomy, kind), kind)
    reviews = score_reviews(fields)
    n, correct = reviews.height, int(reviews["correct"].sum())
    texts, share, lower, upper = _interval(reviews)
    verdict = verdict_of(kind, lower, upper, threshold)
    undecided = (share * texts, texts) if kind in DECIDING else (0.0, 0)
    unlabelled = results.filter(pl.col("status") != "labelled")
    return Accuracy(
        truth=kind,
        n=n,
        texts=texts,
        correct=correct,
        estimate=share if n else None,
        lower=lower,
        upper=upper,
        verdict=verdict,
        needed=labels_needed(*undecided, threshold) if verdict == "inconclusive" else None,
        uncovered=sum(map(bool, truths_of(unlabelled, taxonomy, "labels"))),
        is_weighted=reviews["weight"].n_unique() > 1,
        cells=_cells(fields, reviews, kind, threshold),
    )


def best(measured: Mapping[Truth, Accuracy]) -> Accuracy:
    """The accuracy by the best truth that covers any labelled review, of those measured."""
    found = (measured[kind] for kind in get_args(Truth) if kind in measured)
    covered = [each for each in found if each.n]
    return covered[0] if covered else replace(measured["stars"], truth="none")


def verdict_of(truth: Truth, lower: float, upper: float, threshold: float) -> Verdict:
    """What an interval of an accuracy says of a threshold; a weak truth never says anything."""
    if truth not in DECIDING:
        return "inconclusive"
    if lower >= threshold:
        return "passed"
    return "failed" if upper < threshold else "inconclusive"


def measure(results: pl.DataFrame, taxonomy: Taxonomy, threshold: float) -> dict[Truth, Accuracy]:
    """The accuracy of labelled reviews (RESULTS of one taxonomy) by each kind of truth."""
    kinds: tuple[Truth, ...] = ("labels", "audits", "stars")
    return {kind: accuracy_by(results, taxonomy, threshold, kind) for kind in kinds}


def reference_cells(results: pl.DataFrame, taxonomy: Taxonomy, threshold: float) -> pl.DataFrame:
    """How often the reference model is right by true labels, where both speak: what it is worth.

    Returns the cells as `Accuracy` has them, their truth `reference`.
    """
    judged = results.filter(pl.col("reference").is_not_null()).with_columns(
        labels=pl.col("reference"), status=pl.lit("labelled")
    )
    judged = judged.drop("label_asked", strict=False)
    fields = score_fields(judged, taxonomy, truths_of(judged, taxonomy, "labels"), "labels")
    return _cells(fields, score_reviews(fields), "reference", threshold)


class Standing(NamedTuple):
    """Accuracy over all days so far, by bounds that hold at every look at once."""

    days: int
    texts: int
    correct: int
    lower: float
    upper: float
    verdict: Verdict


def standing(days: int, texts: int, correct: int, threshold: float) -> Standing:
    """What all days together show, however often it is looked at.

    texts: each counted once, on the first day it came, in a uniform sample. Both bounds hold at
    95 % for every day at once (`bounds.anytime_upper_bound`), so that a service whose accuracy is
    under the threshold every day is passed by any of its looks with a chance of 5 % at most, and
    one whose accuracy is over it fails with no more.
    """
    lower = 1.0 - anytime_upper_bound(texts - correct, texts)
    upper = anytime_upper_bound(correct, texts)
    return Standing(
        days, texts, correct, lower, upper, verdict_of("labels", lower, upper, threshold)
    )
