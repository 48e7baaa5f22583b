"""Whether the labels are right, after the results: accuracy, contract, the gate's verdict, latency.

The gate stands between `review_results` and everything that is published or archived.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, get_args

import polars as pl

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.monitors.settings import ServiceSettings
from review_optimizer_dagster.suites.accuracy import WHOLE, validate_accuracy
from review_optimizer_dagster.suites.contract import ContractResult, validate_contract
from review_optimizer_dagster.suites.validator import Validator
from review_optimizer_dagster.taxonomies import Taxonomy
from review_optimizer_dagster.truth.accuracy import (
    CELLS,
    Accuracy,
    Verdict,
    best,
    measure,
    reference_cells,
)
from review_optimizer_dagster.truth.scores import DECIDING, SCORES, Truth, score_truth

SERVICE_UNIT = 5_000  # reviews that the service level's seconds are promised for

RESULTS = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "review_id": pl.String(),
        "identity": pl.String(),
        "content_key": pl.String(),
        "category": pl.String(),
        "product_id": pl.String(),
        "rating": pl.Float64(),
        "ts": pl.Datetime("us", "UTC"),
        "status": pl.String(),  # one of STATUSES
        "level": pl.String(),  # one of LEVELS; 'none' unless labelled
        "repeat": pl.Boolean(),  # same text as an earlier review of the partition
        "labels": pl.String(),  # JSON object, field to label; null unless labelled
        "source_key": pl.String(),
        "score": pl.Float64(),
        "request_id": pl.String(),
        "model": pl.String(),
        "reason": pl.String(),  # why failed or deferred
        "simulated": pl.Boolean(),
        "synthetic": pl.Boolean(),
        "truth": pl.String(),  # JSON object, field to label; '{}' where nothing is known
        "reference": pl.String(),  # JSON object: the reference model's labels; null: not asked
        "reference_asked": pl.Float64(),  # how likely it was to be asked; null: it was not drawn
        "truth_origin": pl.String(),  # 'human' or 'delivered'; null where nothing is known
        "label_asked": pl.Float64(),  # probability of its place in a label sample; null: none
    }
)

VERDICTS = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "verdict": pl.String(),
        "truth": pl.String(),
        "n": pl.Int64(),
        "correct": pl.Int64(),
        "lower": pl.Float64(),  # null without truth
        "upper": pl.Float64(),
        "threshold": pl.Float64(),
        "needed": pl.Int64(),
        "contract": pl.Boolean(),
        "detail": pl.String(),
        "texts": pl.Int64(),  # different texts among the n: what the interval counts
        "accuracy": pl.Float64(),  # weighted where labels come from a sample; null without truth
        "uncovered": pl.Int64(),  # reviews with a true label and without labels
        "goal": pl.Float64(),  # accuracy to strive for; decides nothing
        "simulated": pl.Boolean(),
    }
)

_BOUNDS = ("dimension", "name", "lower", "upper", "shared_upper")


@dataclass(frozen=True)
class Asked:
    """What a tenant asks of its results."""

    threshold: float
    """Least accuracy."""
    scope: str
    """The tenant, or the pool whose answers it may get."""
    goal: float = 0.99
    """Accuracy to strive for; it decides nothing."""


@dataclass(frozen=True)
class Gate:
    """A day's verdicts (VERDICTS), and what they rest on by tenant and taxonomy."""

    verdicts: pl.DataFrame
    accuracies: Mapping[tuple[str, str], Accuracy]
    contracts: Mapping[tuple[str, str], ContractResult]
    cells: pl.DataFrame
    """CELLS: every kind of truth that there is, each by itself."""
    scores: pl.DataFrame
    """SCORES by the truth that decides, or would."""


def gate(
    results: pl.DataFrame,
    references: pl.DataFrame,
    accepted: Mapping[tuple[str, str], int],
    taxonomies: Mapping[str, Taxonomy],
    asked: Mapping[str, Asked],
) -> Gate:
    """Judge a day's results (RESULTS), each tenant and taxonomy by itself.

    references: REFERENCES of them; accepted: (tenant, taxonomy name) to the reviews that the
    partition took in; results of a pair that is not in it break the contract. asked: by tenant.
    """
    validator = Validator()
    found = set(results.select("tenant", "taxonomy").unique().iter_rows())
    accuracies, contracts, rows = {}, {}, []
    cells, scores = [CELLS.to_frame()], [SCORES.to_frame()]
    for key in sorted(found | set(accepted)):
        tenant, name = key
        taxonomy, wanted = taxonomies[name], asked[tenant]
        part = results.filter(pl.col("tenant") == tenant, pl.col("taxonomy") == name)
        contract = validate_contract(
            validator,
            part,
            references,
            taxonomy,
            tenant=tenant,
            scope=wanted.scope,
            accepted=accepted.get(key, 0),
        )
        by_truth = measure(part, taxonomy, wanted.threshold)
        measured = best(by_truth)
        contracts[key], accuracies[key] = contract, measured
        verdict = _gate_verdict(validator, contract, measured, wanted.threshold)
        is_simulated = bool(part["simulated"].any())
        about = {
            "tenant": pl.lit(tenant),
            "taxonomy": pl.lit(name),
            "simulated": pl.lit(is_simulated),
        }
        row = _verdict_row(key, verdict, contract, measured, wanted)
        rows.append((*row, is_simulated))
        reported = [each.cells for each in by_truth.values()]
        reported.append(reference_cells(part, taxonomy, wanted.threshold))
        known = pl.concat(reported).filter(pl.col("n") > 0)
        cells.append(known.with_columns(**about).select(CELLS.names()))
        if measured.truth in DECIDING:
            scores.append(score_truth(part, taxonomy, measured.truth))
    verdicts = pl.DataFrame(rows, schema=VERDICTS, orient="row")
    return Gate(verdicts, accuracies, contracts, pl.concat(cells), pl.concat(scores))


def _gate_verdict(
    validator: Validator, contract: ContractResult, measured: Accuracy, threshold: float
) -> Verdict:
    # Only a deciding truth has cells that say something; any other stands in with open bounds.
    cells = measured.cells
    if measured.truth not in DECIDING or cells.is_empty():
        cells = pl.DataFrame(
            [(WHOLE, "", 0.0, 1.0, 1.0)],
            schema={name: CELLS[name] for name in _BOUNDS},
            orient="row",
        )
    failures = validate_accuracy(validator, cells, threshold)
    severities = {failure.severity for failure in (*contract.failures, *failures)} - {"info"}
    if "critical" in severities:
        return "failed"
    return "inconclusive" if severities else "passed"


def _verdict_row(
    key: tuple[str, str],
    verdict: Verdict,
    contract: ContractResult,
    measured: Accuracy,
    wanted: Asked,
) -> tuple[object, ...]:
    threshold = wanted.threshold
    bounds = (measured.lower, measured.upper) if measured.truth != "none" else (None, None)
    counts = (measured.truth, measured.n, measured.correct, *bounds)
    broken = [f"contract broken: {failure}" for failure in contract.failures]
    told = _sentence(measured, threshold)
    if measured.truth in DECIDING and measured.lower >= wanted.goal:
        told += f"; the goal of {wanted.goal:.2%} is reached"
    detail = ". ".join([*broken, told])
    rest = (threshold, measured.needed, contract.success, detail)
    return (
        *key,
        verdict,
        *counts,
        *rest,
        measured.texts,
        measured.estimate,
        measured.uncovered,
        wanted.goal,
    )


def _sentence(measured: Accuracy, threshold: float) -> str:
    """The accuracy in words, for a person who has to decide what to do."""
    missing = f"; {measured.uncovered:,} with a truth have no labels" if measured.uncovered else ""
    if measured.estimate is None:
        return f"no labelled review has a truth{missing}; {measured.needed} right labels would do"
    by = {
        "labels": "true labels",
        "audits": "the reference model",
        "stars": "star ratings, which never decide",
    }[measured.truth]
    weighted = f", {100 * measured.estimate:.2f} % weighted" if measured.is_weighted else ""
    repeats = f" ({measured.texts:,} texts)" if measured.texts < measured.n else ""
    text = (
        f"{measured.correct:,} of {measured.n:,}{repeats} right by {by}{weighted} "
        f"(90 % interval {100 * measured.lower:.2f} % to {100 * measured.upper:.2f} %, "
        f"asked for {100 * threshold:.2f} %)"
    )
    if measured.verdict == "inconclusive":
        needed = "no number of" if measured.needed is None else f"about {measured.needed:,}"
        text += f"; {needed} labels in all would decide"
    below = measured.cells.filter("below")
    if below.height:
        named = (
            f"{dimension} {name} ({correct:,} of {n:,})"
            for dimension, name, correct, n in below.select(
                "dimension", "name", "correct", "n"
            ).iter_rows()
        )
        text += f"; below it beyond doubt: {', '.join(named)}"
    return text + missing


class Overall(NamedTuple):
    """A day over all its tenants: the counts of the best truth, and the worst verdict."""

    truth: Truth
    n: int
    correct: int
    lower: float | None
    upper: float | None
    verdict: Verdict


def overall(verdicts: pl.DataFrame) -> Overall:
    """All tenants' verdicts (VERDICTS) as one; tenants that only stars speak for count last."""
    truths, reached = set(verdicts["truth"]), set(verdicts["verdict"])
    truth: Truth = next((kind for kind in get_args(Truth) if kind in truths), "none")
    counted = verdicts.filter(pl.col("truth") == truth)
    n, correct = int(counted["n"].sum()), int(counted["correct"].sum())
    lower, upper = _bounds_of_all(counted) if n else (None, None)
    worst: Verdict = next((v for v in get_args(Verdict) if v in reached), "inconclusive")
    return Overall(truth, n, correct, lower, upper, worst)


def _bounds_of_all(verdicts: pl.DataFrame) -> tuple[float | None, float | None]:
    """A tenant's own interval; of several tenants that of their texts, as if all counted alike."""
    if verdicts.height == 1:
        return verdicts["lower"][0], verdicts["upper"][0]
    # Days of an older version did not tell texts from reviews.
    texts = verdicts.with_columns(texts=pl.coalesce("texts", "n")).select(
        right=(pl.col("correct") / pl.col("n") * pl.col("texts")).sum(), n=pl.col("texts").sum()
    )
    return clopper_pearson(*texts.row(0))


class Percentiles(NamedTuple):
    """Milliseconds, or None where nothing was measured."""

    p50: float | None
    p95: float | None
    p99: float | None


def percentiles(latencies: Iterable[float | None]) -> Percentiles:
    """Exact nearest-rank percentiles: the smallest value that so many per cent do not exceed."""
    ordered = sorted(value for value in latencies if value is not None)
    if not ordered:
        return Percentiles(None, None, None)
    return Percentiles(
        *(ordered[-(-percent * len(ordered) // 100) - 1] for percent in (50, 95, 99))
    )


def target_seconds(reviews: int, settings: ServiceSettings) -> float:
    """How long a run may take: the promised seconds for each started SERVICE_UNIT reviews."""
    return settings.target_seconds * max(1, -(-reviews // SERVICE_UNIT))
