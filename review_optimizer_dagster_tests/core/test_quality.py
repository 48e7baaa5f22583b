"""Accuracy, the contract and the gate: what stands between a bad day and everyone who reads it."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.core.quality import (
    RESULTS,
    VERDICTS,
    Asked,
    gate,
    overall,
    percentiles,
    target_seconds,
)
from review_optimizer_dagster.monitors.settings import ServiceSettings
from review_optimizer_dagster.suites.contract import validate_contract
from review_optimizer_dagster.suites.validator import Validator
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy, load_taxonomy
from review_optimizer_dagster.truth.accuracy import Accuracy, best, labels_needed, measure
from review_optimizer_dagster.truth.scores import score_truth

COLOURS = Taxonomy(
    name="colours",
    version=1,
    document="note",
    instructions="Name the colour.",
    fields=(
        LabelField(
            name="colour",
            question="Which?",
            labels=("red", "green", "grey"),
            coarse={"red": "red", "green": "green", "grey": "green"},
            stars={"1": "red", "5": "green"},
        ),
        LabelField(name="tone", question="How?", labels=("light", "dark")),
    ),
)


def _results(*rows: Mapping[str, object], tenant: str = "acme") -> pl.DataFrame:
    """One RESULTS row each; `answer` and `known` are objects, the rest is as in RESULTS."""
    full = []
    for number, row in enumerate(rows):
        values: dict[str, Any] = dict(row)
        answer = values.pop("answer", {"colour": "red", "tone": "dark"})
        common = {
            "tenant": tenant,
            "taxonomy": "colours",
            "review_id": f"r{number}",
            "identity": f"{tenant}|i",
            "content_key": f"c{number}",
            "category": "Books",
            "status": "labelled",
            "level": "model",
            "repeat": False,
            "labels": None if answer is None else json.dumps(answer),
            "score": 1.0,
            "simulated": True,
            "synthetic": True,
            "truth": json.dumps(values.pop("known", {})),
        }
        full.append(dict.fromkeys(RESULTS) | common | values)
    return pl.DataFrame(full, schema=RESULTS)


def _references(results: pl.DataFrame) -> pl.DataFrame:
    """REFERENCES of results whose reviews are all where they should be."""
    known = results.select("tenant", "review_id")
    return known.with_columns(in_raw=pl.lit(True), in_ledger=pl.lit(True))


def _kept(validator: Validator, results: pl.DataFrame, accepted: int, **more: Any) -> Any:
    """What the contract says of acme's results."""
    about: dict[str, Any] = {
        "tenant": "acme",
        "scope": "acme",
        "references": _references(results),
    } | more
    return validate_contract(validator, results, taxonomy=COLOURS, accepted=accepted, **about)


def accuracy(results: pl.DataFrame, taxonomy: Taxonomy, threshold: float) -> Accuracy:
    """By the best truth that there is."""
    return best(measure(results, taxonomy, threshold))


def _judged(right: int, wrong: int, tenant: str = "acme") -> pl.DataFrame:
    rows = [{"known": {"tone": "dark"}}] * right + [{"known": {"tone": "light"}}] * wrong
    return _results(*rows, tenant=tenant)


# --- accuracy ---------------------------------------------------------------------------------


def test_a_review_is_right_when_every_field_with_a_truth_agrees() -> None:
    """One wrong field of two spoils a review; a field without a truth says nothing."""
    results = _results(
        {"known": {"colour": "red", "tone": "dark"}},
        {"known": {"colour": "red", "tone": "light"}},
        {"known": {"tone": "dark"}, "answer": {"colour": "green", "tone": "dark"}},
        {"known": {}},
        {"known": {"colour": "green"}},
        {"known": {"colour": "grey"}, "answer": {"tone": "dark"}},
        {"known": {"shape": "round"}},
    )
    scored = score_truth(results, COLOURS, "labels")
    assert scored.select("review_id", "correct").rows() == [
        ("r0", True),
        ("r1", False),
        ("r2", True),
        ("r4", False),
        ("r5", False),
    ]


def test_a_truth_of_two_classes_is_scored_by_the_coarse_mapping_of_its_tenant() -> None:
    """`grey` stands for green, so it is no error where the tenant's truth never says grey."""
    grey = {"answer": {"colour": "grey", "tone": "dark"}, "known": {"colour": "green"}}
    red = {"known": {"colour": "red"}}
    two = _results(grey, red, tenant="two")
    three = _results(grey, red, {"known": {"colour": "grey"}}, tenant="three")
    scored = score_truth(pl.concat([two, three]), COLOURS, "labels")
    assert scored.filter(pl.col("review_id") == "r0").select("tenant", "correct").rows() == [
        ("two", True),
        ("three", False),
    ]


def test_reviews_without_labels_are_counted_as_uncovered_and_not_as_wrong() -> None:
    """A review that failed has no label to be wrong; hiding it would hide the failure."""
    failed = {"known": {"tone": "dark"}, "status": "failed", "level": "none", "answer": None}
    measured = accuracy(_results({"known": {"tone": "dark"}}, failed, failed), COLOURS, 0.95)
    assert (measured.n, measured.correct, measured.uncovered) == (1, 1, 2)


def test_the_tables_break_accuracy_down() -> None:
    """One bad category hides in a good average; each row has an interval of its own."""
    results = _results(
        {"known": {"colour": "red", "tone": "dark"}, "category": "Books", "level": "l1"},
        {"known": {"colour": "red", "tone": "light"}, "category": "Garden", "level": "l2"},
        {"known": {"colour": "green"}, "category": "Garden", "level": "l2"},
    )
    measured = accuracy(results, COLOURS, 0.95)

    def counts(frame: pl.DataFrame) -> dict[str, tuple[int, int]]:
        assert frame.filter(pl.col("lower") > pl.col("upper")).is_empty()
        found = frame.select("name", "n", "correct").iter_rows()
        return {name: (n, correct) for name, n, correct in found}

    assert counts(measured.table("field")) == {"colour": (3, 2), "tone": (2, 1)}
    assert counts(measured.table("class")) == {
        "colour=red": (2, 2),
        "colour=green": (1, 0),
        "tone=dark": (1, 1),
        "tone=light": (1, 0),
    }
    assert counts(measured.table("category")) == {"Books": (1, 1), "Garden": (2, 0)}
    assert counts(measured.table("level")) == {"l1": (1, 1), "l2": (2, 0)}
    assert measured.table("level")["lower"][0] == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("errors", "n"), [(0, 59), (1, 93), (5, 208), (10, 336), (20, 577)], ids=str
)
def test_the_interval_is_the_exact_one(errors: int, n: int) -> None:
    """Known smallest samples whose lower bound reaches 95 %; one label fewer must not do."""
    assert clopper_pearson(n - errors, n)[0] >= 0.95
    assert clopper_pearson(n - 1 - errors, n - 1)[0] < 0.95


def test_the_interval_agrees_with_the_published_one() -> None:
    """3 of 10 at 95 %, in every table of exact binomial limits; and nothing is known of none."""
    assert clopper_pearson(3, 10, 0.95) == pytest.approx((0.0667, 0.6525), abs=1e-4)
    assert clopper_pearson(0, 10, 0.95) == pytest.approx((0.0, 0.3085), abs=1e-4)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("right", "wrong", "verdict", "needed"),
    [
        (59, 0, "passed", None),
        (58, 0, "inconclusive", 59),
        (97, 3, "inconclusive", 343),
        (95, 5, "inconclusive", None),  # exactly the threshold: no number of labels tells
        (90, 10, "failed", None),
        (88, 12, "failed", None),
        (0, 1, "inconclusive", 2),
        (0, 2, "failed", None),
        (0, 0, "inconclusive", 59),
    ],
)
def test_the_verdict_needs_evidence_either_way(
    right: int, wrong: int, verdict: str, needed: int | None
) -> None:
    """Passing on a handful of labels would be a statement without a denominator."""
    measured = accuracy(_judged(right, wrong), COLOURS, 0.95)
    assert (measured.verdict, measured.needed) == (verdict, needed)


@pytest.mark.parametrize(("correct", "n"), [(58, 58), (97, 100), (93, 100), (1_900, 2_010)])
def test_the_labels_needed_decide_and_one_fewer_does_not(correct: int, n: int) -> None:
    """Somebody will be asked to label that many."""
    needed = labels_needed(correct, n, 0.95)
    assert needed is not None

    def decided(labels: int) -> bool:
        lower, upper = clopper_pearson(labels * correct / n, labels)
        return lower >= 0.95 or upper < 0.95

    assert decided(needed)
    assert needed == n or not decided(needed - 1)


@pytest.mark.parametrize("rating", [1.0, 5.0])
def test_stars_stand_in_for_labels_but_never_decide(rating: float) -> None:
    """A rating is of the product and not of the text, so it can neither pass nor fail a day."""
    unusable = ({"rating": 3.0}, {"rating": 4.5}, {"rating": None})
    measured = accuracy(_results(*[{"rating": rating}] * 300, *unusable), COLOURS, 0.95)
    right = 300 if rating == 1.0 else 0
    assert (measured.truth, measured.n, measured.correct) == ("stars", 300, right)
    assert (measured.verdict, measured.needed) == ("inconclusive", 59)


def test_one_label_makes_stars_be_ignored() -> None:
    """Mixing a weak truth with a strong one would weaken the strong one."""
    rows = [{"rating": 1.0}] * 300 + [{"rating": 1.0, "known": {"tone": "light"}}]
    measured = accuracy(_results(*rows), COLOURS, 0.95)
    assert (measured.truth, measured.n, measured.correct) == ("labels", 1, 0)


def test_the_shipped_taxonomies_are_scored_by_the_same_code() -> None:
    """No code knows a label's name; truth and answer come from the taxonomy's own labels."""
    for name in ("reviews", "complaints"):
        taxonomy = load_taxonomy(name)
        answer = {field.name: field.labels[0] for field in taxonomy.fields}
        wrong = answer | {taxonomy.main.name: taxonomy.main.labels[1]}
        known = {"known": {taxonomy.main.name: taxonomy.main.labels[0]}}
        results = _results(known | {"answer": answer}, known | {"answer": wrong})
        assert score_truth(results, taxonomy, "labels")["correct"].to_list() == [True, False]


# --- the contract -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def validator() -> Validator:
    return Validator()


GOOD: tuple[Mapping[str, object], ...] = (
    {},
    {"status": "failed", "level": "none", "answer": None},
    {"level": "l1"},
)


def test_whole_and_well_formed_results_keep_the_contract(validator: Validator) -> None:
    """A failed review is part of a good day: it is counted, and has no labels."""
    outcome = _kept(validator, _results(*GOOD), 3)
    assert (outcome.success, outcome.failures) == (True, ())


@pytest.mark.parametrize(
    ("row", "expectation", "column", "example"),
    [
        ({"review_id": "r0"}, "values_to_be_unique", "review_id", "r0: r0"),
        ({"review_id": None}, "values_to_not_be_null", "review_id", None),
        ({"answer": None}, "values_to_not_be_null", "label_colour", "r3: None"),
        ({"answer": {"colour": "red"}}, "values_to_not_be_null", "label_tone", "r3: None"),
        ({"labels": "{broken"}, "values_to_not_be_null", "label_tone", "r3: None"),
        ({"labels": "[1]"}, "values_to_not_be_null", "label_tone", "r3: None"),
        (
            {"answer": {"colour": "blue", "tone": "dark"}},
            "values_to_be_in_set",
            "label_colour",
            "r3: blue",
        ),
        ({"status": "deferred"}, "values_to_be_null", "labels", None),
        ({"status": "lost", "answer": None}, "values_to_be_in_set", "status", "r3: lost"),
        ({"level": "l9"}, "values_to_be_in_set", "level", "r3: l9"),
        ({"level": "none"}, "values_to_not_be_in_set", "level", "r3: none"),
        ({"tenant": "other"}, "values_to_be_in_set", "tenant", "r3: other"),
        ({"taxonomy": "shapes"}, "values_to_be_in_set", "taxonomy", "r3: shapes"),
        ({"simulated": False}, "unique_value_count_to_be_between", "simulated", "observed 2"),
        ({"score": 1.01}, "values_to_be_between", "score", "r3: 1.01"),
        ({"score": None}, "values_to_not_be_null", "score", "r3: nan"),
        ({"identity": "other|i"}, "values_to_be_in_set", "scope", "r3: other"),
    ],
)
def test_one_bad_row_breaks_the_contract(
    validator: Validator,
    row: Mapping[str, object],
    expectation: str,
    column: str,
    example: str | None,
) -> None:
    """Each is a way to publish something that nobody can use or trace; the row is named."""
    outcome = _kept(validator, _results(*GOOD, row), 4)
    assert not outcome.success
    found = {(each.expectation, each.column): each for each in outcome.failures}
    failure = found[f"expect_column_{expectation}", column]
    assert failure.severity == "critical"
    assert example is None or example in failure.examples


@pytest.mark.parametrize("where", ["in_raw", "in_ledger"])
def test_a_review_that_nothing_refers_to_breaks_the_contract(
    validator: Validator, where: str
) -> None:
    """What nobody delivered, or nobody is billed for, was made up or mixed up."""
    results = _results(*GOOD)
    references = _references(results).with_columns(
        pl.when(pl.col("review_id") == "r2").then(False).otherwise(pl.lit(True)).alias(where)
    )
    (failure,) = _kept(validator, results, 3, references=references).failures
    assert (failure.column, failure.examples) == (where, ("r2: False",))
    gone = _kept(validator, results, 3, references=references.head(2))
    assert {each.column for each in gone.failures} == {"in_raw", "in_ledger"}


def test_a_pools_answers_are_its_members_own(validator: Validator) -> None:
    """The scope is what may answer a tenant, and that may be a pool."""
    pooled = _results(*[{"identity": "pool|i"}] * 3)
    assert _kept(validator, pooled, 3, scope="pool").success
    assert not _kept(validator, pooled, 3).success


@pytest.mark.parametrize("kept", [0, 2])
def test_lost_reviews_break_the_contract_even_if_none_is_left(
    validator: Validator, kept: int
) -> None:
    """An empty table meets every expectation on its columns."""
    results = _results(*GOOD).head(kept)
    outcome = _kept(validator, results, 3)
    (failure,) = outcome.failures
    assert str(failure) == f"expect_table_row_count_to_equal (observed {kept})"


# --- the gate ---------------------------------------------------------------------------------


def _gate(results: pl.DataFrame, **accepted: int) -> pl.DataFrame:
    pairs = {(tenant, "colours"): count for tenant, count in accepted.items()}
    asked = {tenant: Asked(0.95, tenant) for tenant in (*accepted, "acme")}
    judged = gate(results, _references(results), pairs, {"colours": COLOURS}, asked)
    verdicts = judged.verdicts
    assert verdicts.schema == VERDICTS
    return verdicts


def test_each_tenant_gets_a_verdict_of_its_own() -> None:
    """One tenant's bad day must not keep back another's good one."""
    day = pl.concat(
        [_judged(100, 0, "good"), _judged(60, 40, "bad"), _judged(20, 1, "few"), _judged(9, 0)]
    )
    verdicts = _gate(day, good=100, bad=100, few=21, acme=10, empty=0, gone=5)
    by_tenant = {row["tenant"]: row for row in verdicts.iter_rows(named=True)}
    assert {tenant: row["verdict"] for tenant, row in by_tenant.items()} == {
        "good": "passed",
        "bad": "failed",
        "few": "inconclusive",
        "acme": "failed",  # one of its ten reviews is missing
        "empty": "inconclusive",
        "gone": "failed",
    }
    broken = {tenant for tenant, row in by_tenant.items() if not row["contract"]}
    assert broken == {"acme", "gone"}
    assert by_tenant["few"]["needed"] > 21
    assert "labels in all would decide" in by_tenant["few"]["detail"]
    assert "expect_table_row_count_to_equal" in by_tenant["gone"]["detail"]
    assert by_tenant["gone"]["lower"] is None


def test_results_that_were_never_accepted_break_the_contract() -> None:
    """A tenant that no input speaks of can only be a mix-up of tenants."""
    assert _gate(_judged(100, 0))["contract"].to_list() == [False]


def test_great_expectations_and_the_measured_accuracy_give_the_same_verdict() -> None:
    """The rule is stated twice, as bounds to read and as a suite to run elsewhere."""
    cases = [(59, 0), (58, 0), (90, 10), (95, 5), (0, 1), (0, 2), (300, 15), (0, 0)]
    frames = [_judged(right, wrong, f"t{right}-{wrong}") for right, wrong in cases]
    accepted = {(f"t{right}-{wrong}", "colours"): right + wrong for right, wrong in cases}
    asked = {tenant: Asked(0.95, tenant) for tenant, _ in accepted}
    results = pl.concat(frames)
    day = gate(results, _references(results), accepted, {"colours": COLOURS}, asked)
    assert len(day.accuracies) == len(cases)
    for row in day.verdicts.iter_rows(named=True):
        assert row["verdict"] == day.accuracies[row["tenant"], "colours"].verdict


def test_stars_alone_neither_pass_nor_fail_a_day() -> None:
    """The detail says so, for whoever wonders why nothing was decided."""
    (row,) = _gate(_results(*[{"rating": 5.0}] * 200), acme=200).iter_rows(named=True)
    assert (row["verdict"], row["truth"], row["n"], row["correct"]) == (
        "inconclusive",
        "stars",
        200,
        0,
    )
    assert "star ratings, which never decide" in row["detail"]


def test_a_goal_is_told_and_decides_nothing() -> None:
    """99 % is what one strives for; 95 % is what one asks for."""
    day = pl.concat([_judged(100, 0, "close"), _judged(400, 0, "there")])
    rows = {row["tenant"]: row for row in _gate(day, close=100, there=400).iter_rows(named=True)}
    assert [rows[name]["verdict"] for name in ("close", "there")] == ["passed", "passed"]
    assert "goal" not in rows["close"]["detail"]
    assert "the goal of 99.00 % is reached" in rows["there"]["detail"].replace("00%", "00 %")


def test_validating_touches_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are customers' data; a validation library must not phone home."""

    def refuse(*args: object) -> None:
        raise AssertionError(f"connects to {args[1:]}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert _gate(_judged(100, 0), acme=100)["verdict"].to_list() == ["passed"]


def test_a_day_over_all_tenants_takes_the_worst_verdict_and_the_best_truth() -> None:
    """The summary has one line for all; star counts must not dilute label counts."""
    day = pl.concat([_judged(100, 0, "good"), _results({"rating": 5.0}, tenant="stars")])
    whole = overall(_gate(day, good=100, stars=1))
    assert (whole.truth, whole.n, whole.correct, whole.verdict) == (
        "labels",
        100,
        100,
        "inconclusive",
    )
    assert (whole.lower, whole.upper) == clopper_pearson(100, 100)
    assert overall(pl.DataFrame(schema=VERDICTS))[:4] == ("none", 0, 0, None)


def test_a_day_over_tenants_counts_their_texts() -> None:
    """A text that comes ten times is no ten proofs in the summary either."""
    alone = _results(*[{"known": {"tone": "dark"}}] * 40, tenant="alone")
    again = _results(*[{"known": {"tone": "dark"}, "content_key": "c"}] * 40, tenant="again")
    verdicts = _gate(pl.concat([alone, again]), alone=40, again=40)
    whole = overall(verdicts)
    assert (whole.n, whole.lower) == (80, clopper_pearson(41, 41)[0])
    one = overall(verdicts.filter(tenant="again"))
    assert (one.n, one.lower) == (40, verdicts.filter(tenant="again")["lower"][0])


# --- latency and service levels -------------------------------------------------------------------


def test_percentiles_are_values_that_were_measured() -> None:
    """Nearest rank: no interpolated latency that no request ever had."""
    assert percentiles([float(value) for value in range(1, 101)]) == (50.0, 95.0, 99.0)
    assert percentiles([3.0, None, 1.0, 2.0]) == (2.0, 3.0, 3.0)
    assert percentiles([7.0]) == (7.0, 7.0, 7.0)
    assert percentiles([None]) == (None, None, None)


@pytest.mark.parametrize(
    ("reviews", "seconds"), [(0, 30.0), (1, 30.0), (5_000, 30.0), (5_001, 60.0), (12_000, 90.0)]
)
def test_the_target_counts_every_started_five_thousand(reviews: int, seconds: float) -> None:
    """The promise is for each started unit, so one review over 5,000 starts another."""
    assert target_seconds(reviews, ServiceSettings()) == seconds
