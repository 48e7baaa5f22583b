"""Whether the labels are right, after the results: accuracy, contract, the gate's verdict, latency.

The gate stands between `review_results` and everything that is published or archived.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import polars as pl

from review_optimizer_dagster.bounds import clopper_pearson, intervals
from review_optimizer_dagster.settings import ServiceSettings
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy

Truth: TypeAlias = Literal["labels", "stars", "none"]  # best first
Verdict: TypeAlias = Literal["failed", "inconclusive", "passed"]  # worst first

STATUSES = ("labelled", "failed", "deferred")
LEVELS = ("l1", "l2", "l3_exact", "l3_near", "l3_pattern", "model", "none")
REQUIRED = ("tenant", "taxonomy", "review_id", "content_key", "status", "level", "simulated")
MOST_LABELS = (
    10_000_000  # an accuracy that needs more to be told from the threshold is the threshold
)
EXAMPLES = 5
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
    }
)

_TEXTS = ("tenant", "review_id", "category", "level", "field", "truth")
_FIELD_SCORES = pl.Schema(
    # A broken partition may hold an id twice, so the row counts, not the id.
    {"row": pl.Int64(), **dict.fromkeys(_TEXTS, pl.String()), "correct": pl.Boolean()}
)


def _json_object(text: str | None) -> dict[str, Any]:
    """The object in a JSON column; empty where it holds none (the contract reports that)."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _star_truth(rating: float | None, fields: Iterable[LabelField]) -> dict[str, str]:
    if rating is None or rating != math.floor(rating):
        return {}
    star = str(int(rating))
    return {field.name: field.stars[star] for field in fields if star in field.stars}


def _truths(results: pl.DataFrame, taxonomy: Taxonomy, kind: Truth) -> list[dict[str, str]]:
    """What is known of each row: field to true label, empty where nothing is."""
    if kind == "none":
        return [{} for _ in range(results.height)]
    if kind == "stars":
        return [_star_truth(rating, taxonomy.fields) for rating in results["rating"]]
    return [taxonomy.truth_of(text) for text in results["truth"]]


def _score_fields(
    results: pl.DataFrame, taxonomy: Taxonomy, truths: Sequence[Mapping[str, str]]
) -> pl.DataFrame:
    """One row a labelled review and field that has a truth. Returns _FIELD_SCORES."""
    fields = {field.name: field for field in taxonomy.fields}
    rows = results.select("tenant", "review_id", "category", "level", "status", "labels")
    classes: dict[tuple[str, str], set[str]] = {}
    for tenant, truth in zip(rows["tenant"], truths, strict=True):
        for name, label in truth.items():
            classes.setdefault((tenant, name), set()).add(label)
    known = {key: frozenset(labels) for key, labels in classes.items()}
    scores = []
    for number, (row, truth) in enumerate(zip(rows.iter_rows(), truths, strict=True)):
        tenant, review_id, category, level, status, labels = row
        if not truth or status != "labelled":
            continue
        answers = _json_object(labels)
        for name, label in truth.items():
            answer = answers.get(name)
            correct = isinstance(answer, str) and fields[name].agrees(
                answer, label, known[tenant, name]
            )
            scores.append((number, tenant, review_id, category, level, name, label, correct))
    return pl.DataFrame(scores, schema=_FIELD_SCORES, orient="row")


def _score_reviews(fields: pl.DataFrame) -> pl.DataFrame:
    by = ["row", "tenant", "review_id", "category", "level"]
    return fields.group_by(by).agg(pl.col("correct").all()).sort("row").drop("row")


def score_truth(
    results: pl.DataFrame, taxonomy: Taxonomy, kind: Literal["labels", "stars"]
) -> pl.DataFrame:
    """Which labelled reviews are right: tenant, review_id, category, level, correct.

    results: RESULTS of one taxonomy. A review is right when every field that has a truth agrees
    with it, given the classes that the tenant's truth of that field shows in these results.
    Reviews without a truth, or without labels, are left out.
    """
    return _score_reviews(_score_fields(results, taxonomy, _truths(results, taxonomy, kind)))


def labels_needed(correct: int, n: int, threshold: float) -> int | None:
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
    """How right a tenant's labels are, by one kind of truth, with its exact 90 % interval.

    The tables have the columns name, n, correct, lower, upper; a class is named `field=label` by
    its true label, and counts that field alone, as `by_field` does; the others count reviews.
    """

    truth: Truth
    n: int
    correct: int
    estimate: float | None
    lower: float
    upper: float
    verdict: Verdict
    needed: int | None  # labels in all that would decide; None once decided, or out of reach
    uncovered: int  # reviews with a truth and without labels
    by_field: pl.DataFrame
    by_class: pl.DataFrame
    by_category: pl.DataFrame
    by_level: pl.DataFrame


def _by(scores: pl.DataFrame, name: pl.Expr) -> pl.DataFrame:
    counts = (
        scores.group_by(name.alias("name"))
        .agg(n=pl.len().cast(pl.Int64), correct=pl.col("correct").sum().cast(pl.Int64))
        .sort("name")
    )
    lower, upper = intervals(counts["correct"].to_numpy(), counts["n"].to_numpy())
    return counts.with_columns(
        lower=pl.Series(lower, dtype=pl.Float64), upper=pl.Series(upper, dtype=pl.Float64)
    )


def accuracy(results: pl.DataFrame, taxonomy: Taxonomy, threshold: float) -> Accuracy:
    """The accuracy of labelled reviews (RESULTS of one taxonomy) against the truth that exists.

    Labels are the truth where any covers a labelled review; star ratings only without them, and
    they never decide. Verdict: `passed` where the lower end of the interval reaches the threshold,
    `failed` where the upper end is below it, else `inconclusive`.
    """
    truth: Truth
    for truth in ("labels", "stars", "none"):
        fields = _score_fields(results, taxonomy, _truths(results, taxonomy, truth))
        if fields.height:
            break
    reviews = _score_reviews(fields)
    n, correct = reviews.height, int(reviews["correct"].sum())
    lower, upper = clopper_pearson(correct, n)
    verdict = _verdict(truth, lower, upper, threshold)
    undecided = (correct, n) if truth == "labels" else (0, 0)
    unlabelled = results.filter(pl.col("status") != "labelled")
    return Accuracy(
        truth=truth,
        n=n,
        correct=correct,
        estimate=correct / n if n else None,
        lower=lower,
        upper=upper,
        verdict=verdict,
        needed=labels_needed(*undecided, threshold) if verdict == "inconclusive" else None,
        uncovered=sum(map(bool, _truths(unlabelled, taxonomy, "labels"))),
        by_field=_by(fields, pl.col("field")),
        by_class=_by(fields, pl.format("{}={}", "field", "truth")),
        by_category=_by(reviews, pl.col("category")),
        by_level=_by(reviews, pl.col("level")),
    )


def _verdict(truth: Truth, lower: float, upper: float, threshold: float) -> Verdict:
    if truth != "labels":
        return "inconclusive"
    if lower >= threshold:
        return "passed"
    return "failed" if upper < threshold else "inconclusive"


class Failure(NamedTuple):
    """An expectation that the results did not meet."""

    expectation: str
    column: str | None
    severity: str  # 'critical' fails the gate, 'warning' leaves it inconclusive
    unexpected: int | None  # rows, where the expectation counts rows
    examples: tuple[str, ...]  # at most EXAMPLES, as `review_id: value`

    def __str__(self) -> str:
        where = f" on {self.column}" if self.column else ""
        count = "" if self.unexpected is None else f": {self.unexpected:,} rows"
        shown = f" ({'; '.join(self.examples)})" if self.examples else ""
        return f"{self.expectation}{where}{count}{shown}"


@dataclass(frozen=True)
class ContractResult:
    """Whether a tenant's results keep the contract, and what breaks it."""

    success: bool
    failures: tuple[Failure, ...]


def _expectations() -> Any:
    # By name: the package re-exports its expectations in a way that a type checker does not see.
    return import_module("great_expectations.expectations")


def contract_suite(taxonomy: Taxonomy) -> Any:
    """The Great Expectations suite of a taxonomy's results, for the frame of `_contract_columns`.

    Its parameters `accepted` (reviews) and `tenants` (the one name) are given when it is validated.
    An empty frame would pass every column expectation, and null every set: hence the row count and
    the not-null expectations.
    """
    from great_expectations import ExpectationSuite
    from great_expectations.expectations.row_conditions import Column

    expect = _expectations()
    labelled = Column("status") == "labelled"
    unlabelled = Column("status") != "labelled"
    sets: dict[str, Any] = {
        "tenant": {"$PARAMETER": "tenants"},
        "taxonomy": [taxonomy.name],
        "status": list(STATUSES),
        "level": list(LEVELS),
        **{_label_column(field): list(field.labels) for field in taxonomy.fields},
    }
    expectations = [
        expect.ExpectTableRowCountToEqual(value={"$PARAMETER": "accepted"}),
        *(expect.ExpectColumnValuesToNotBeNull(column=column) for column in REQUIRED),
        *(
            expect.ExpectColumnValuesToBeInSet(column=column, value_set=values)
            for column, values in sets.items()
        ),
        *(
            expect.ExpectColumnValuesToNotBeNull(
                column=_label_column(field), row_condition=labelled
            )
            for field in taxonomy.fields
        ),
        expect.ExpectColumnValuesToBeNull(column="labels", row_condition=unlabelled),
        expect.ExpectColumnValuesToNotBeInSet(
            column="level", value_set=["none"], row_condition=labelled
        ),
        expect.ExpectColumnValuesToBeUnique(column="review_id"),
        expect.ExpectColumnUniqueValueCountToBeBetween(column="simulated", max_value=1),
        expect.ExpectColumnValuesToBeBetween(column="score", min_value=0, max_value=1),
    ]
    return ExpectationSuite(name=f"contract of {taxonomy.identity}", expectations=expectations)


def accuracy_suite() -> Any:
    """The suite of one row of bounds (lower, upper) against its parameter `threshold`.

    An upper bound below it is critical; a lower bound below it leaves the day undecided.
    """
    from great_expectations import ExpectationSuite

    expect = _expectations()

    at_least = {"min_value": {"$PARAMETER": "threshold"}}
    expectations = [
        expect.ExpectTableRowCountToEqual(value=1),
        expect.ExpectColumnValuesToBeBetween(column="upper", severity="critical", **at_least),
        expect.ExpectColumnValuesToBeBetween(column="lower", severity="warning", **at_least),
    ]
    return ExpectationSuite(name="accuracy", expectations=expectations)


def _label_column(field: LabelField) -> str:
    return f"label_{field.name}"


def _contract_columns(results: pl.DataFrame, taxonomy: Taxonomy) -> dict[str, list[Any]]:
    """The columns that the contract is about, the labels exploded into one a field."""
    columns = {name: results[name].to_list() for name in (*REQUIRED, "score", "labels")}
    answers = [_json_object(text) for text in results["labels"]]
    for field in taxonomy.fields:
        columns[_label_column(field)] = [answer.get(field.name) for answer in answers]
    return columns


class Validator:
    """Great Expectations in memory: no files, no network, no progress bars; one for a whole day."""

    def __init__(self) -> None:
        from great_expectations import get_context
        from great_expectations.data_context.types.base import ProgressBarsConfig

        context = get_context(mode="ephemeral")
        context.enable_analytics(False)
        context.variables.progress_bars = ProgressBarsConfig(globally=False)
        source = context.data_sources.add_pandas("results")
        asset = source.add_dataframe_asset("results")
        self._table = asset.add_batch_definition_whole_dataframe("results")

    def failures(
        self,
        suite: Any,
        columns: Mapping[str, Sequence[Any]],
        parameters: Mapping[str, Any],
        numbers: Sequence[str] = (),
        ids: str | None = None,
    ) -> tuple[Failure, ...]:
        """What a table of columns breaks of a suite; `ids` is the column that names a row.

        `numbers` are the columns of floats; the others keep their Python values.
        """
        import pandas as pd

        # Object columns: pandas would otherwise pick string types that want pyarrow.
        frame = pd.DataFrame(dict(columns), dtype=object).astype(dict.fromkeys(numbers, float))
        batch, given = self._table.get_batch({"dataframe": frame}), dict(parameters)
        # Listing and naming what is wrong takes longer than the verdict, and mostly nothing is.
        quick = batch.validate(suite, result_format="BOOLEAN_ONLY", expectation_parameters=given)
        broken = {_key(each.expectation_config) for each in quick.results if not each.success}
        if not broken:
            return ()
        outcome = batch.validate(_only(suite, broken), expectation_parameters=given)
        names = columns[ids] if ids else None
        return tuple(_failure(each, names) for each in outcome.results if not each.success)


def _key(config: Any) -> tuple[str, str | None]:
    """What tells the expectations of one of our suites apart."""
    return config.type, config.kwargs.get("column")


def _only(suite: Any, wanted: set[tuple[str, str | None]]) -> Any:
    """A suite of those expectations of another one."""
    from great_expectations import ExpectationSuite

    chosen = [each for each in suite.expectations if _key(each.configuration) in wanted]
    return ExpectationSuite(name=suite.name, expectations=chosen)


def _failure(outcome: Any, names: Sequence[Any] | None) -> Failure:
    config, result = outcome.expectation_config, outcome.result
    values = result.get("partial_unexpected_list", [])[:EXAMPLES]
    rows = result.get("partial_unexpected_index_list") or []
    if "observed_value" in result:
        examples = [f"observed {result['observed_value']}"]
    elif names is not None and len(rows) >= len(values):
        pairs = zip(rows, values, strict=False)
        examples = [f"{names[row]}: {str(value)[:60]}" for row, value in pairs]
    else:
        examples = [str(value)[:60] for value in values]
    unexpected = result.get("unexpected_count")
    return Failure(
        expectation=config.type,
        column=config.kwargs.get("column"),
        severity=str(getattr(config.severity, "value", config.severity)),
        unexpected=None if unexpected is None else int(unexpected),
        examples=tuple(examples),
    )


def validate_contract(
    validator: Validator, results: pl.DataFrame, tenant: str, accepted: int, taxonomy: Taxonomy
) -> ContractResult:
    """Whether a tenant's results (RESULTS) are whole and well formed.

    `accepted` is how many reviews of the tenant the partition took in.
    """
    failures = validator.failures(
        contract_suite(taxonomy),
        _contract_columns(results, taxonomy),
        {"accepted": accepted, "tenants": [tenant]},
        numbers=("score",),
        ids="review_id",
    )
    return ContractResult(success=not failures, failures=failures)


@dataclass(frozen=True)
class Gate:
    """A day's verdicts (VERDICTS), and what they rest on by tenant and taxonomy."""

    verdicts: pl.DataFrame
    accuracies: Mapping[tuple[str, str], Accuracy]
    contracts: Mapping[tuple[str, str], ContractResult]


def gate(
    results: pl.DataFrame,
    accepted: Mapping[tuple[str, str], int],
    taxonomies: Mapping[str, Taxonomy],
    thresholds: Mapping[str, float],
) -> Gate:
    """Judge a day's results (RESULTS), each tenant and taxonomy by itself.

    accepted: (tenant, taxonomy name) to the reviews that the partition took in; results of a pair
    that is not in it break the contract. thresholds: tenant to the accuracy asked for.
    """
    validator = Validator()
    found = set(results.select("tenant", "taxonomy").unique().iter_rows())
    accuracies, contracts, rows = {}, {}, []
    for key in sorted(found | set(accepted)):
        tenant, name = key
        taxonomy, threshold = taxonomies[name], thresholds[tenant]
        part = results.filter(pl.col("tenant") == tenant, pl.col("taxonomy") == name)
        contract = validate_contract(validator, part, tenant, accepted.get(key, 0), taxonomy)
        measured = accuracy(part, taxonomy, threshold)
        contracts[key], accuracies[key] = contract, measured
        verdict = _gate_verdict(validator, contract, measured, threshold)
        rows.append(_verdict_row(key, verdict, contract, measured, threshold))
    return Gate(pl.DataFrame(rows, schema=VERDICTS, orient="row"), accuracies, contracts)


def _gate_verdict(
    validator: Validator, contract: ContractResult, measured: Accuracy, threshold: float
) -> Verdict:
    # Only labels decide: any other truth stands in with bounds that say nothing.
    decides = measured.truth == "labels"
    bounds = {
        "lower": [measured.lower if decides else 0.0],
        "upper": [measured.upper if decides else 1.0],
    }
    asked = {"threshold": threshold}
    failures = validator.failures(accuracy_suite(), bounds, asked, numbers=("lower", "upper"))
    severities = {failure.severity for failure in (*contract.failures, *failures)}
    if "critical" in severities:
        return "failed"
    return "inconclusive" if severities else "passed"


def _verdict_row(
    key: tuple[str, str],
    verdict: Verdict,
    contract: ContractResult,
    measured: Accuracy,
    threshold: float,
) -> tuple[object, ...]:
    bounds = (measured.lower, measured.upper) if measured.truth != "none" else (None, None)
    counts = (measured.truth, measured.n, measured.correct, *bounds)
    broken = [f"contract broken: {failure}" for failure in contract.failures]
    detail = ". ".join([*broken, _sentence(measured, threshold)])
    return (*key, verdict, *counts, threshold, measured.needed, contract.success, detail)


def _sentence(measured: Accuracy, threshold: float) -> str:
    """The accuracy in words, for a person who has to decide what to do."""
    missing = f"; {measured.uncovered:,} with a truth have no labels" if measured.uncovered else ""
    if measured.truth == "none":
        return f"no labelled review has a truth{missing}; {measured.needed} right labels would do"
    by = {"labels": "true labels", "stars": "star ratings, which never decide"}[measured.truth]
    text = (
        f"{measured.correct:,} of {measured.n:,} right by {by} "
        f"(90 % interval {100 * measured.lower:.2f} % to {100 * measured.upper:.2f} %, "
        f"asked for {100 * threshold:.2f} %)"
    )
    if measured.verdict == "inconclusive":
        needed = "no number of" if measured.needed is None else f"about {measured.needed:,}"
        text += f"; {needed} labels in all would decide"
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
    lower, upper = clopper_pearson(correct, n) if n else (None, None)
    worst: Verdict = next((v for v in get_args(Verdict) if v in reached), "inconclusive")
    return Overall(truth, n, correct, lower, upper, worst)


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
