"""Learned patterns answer where evidence shows that they are right, and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest

from review_optimizer_dagster.bounds import Rule, upper_bound
from review_optimizer_dagster.core.patterns import (
    ANSWERED,
    CERTIFICATES,
    EVIDENCE,
    JUDGEMENTS,
    POOLED,
    STATUSES,
    TRAINING,
    answer,
    certify,
    due,
    evidence,
    is_holdout,
    judge,
    train,
    with_references,
)
from review_optimizer_dagster.exchange.prompt import as_json
from review_optimizer_dagster.learning.classifier import Judged, OutOfFold
from review_optimizer_dagster.settings import PatternSettings
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy, load_taxonomy

DAY = date(2026, 3, 1)
FLOWERS = Taxonomy(
    name="flowers",
    version=1,
    document="note",
    instructions="Name the flower.",
    fields=(
        LabelField(name="kind", question="Which?", labels=("rose", "iris", "lily")),
        LabelField(name="scent", question="How?", labels=('"sweet"', "größer", "none")),
    ),
)
SETTINGS = PatternSettings()


@dataclass(frozen=True)
class ScriptedPattern:
    """Says what its texts say: `rose 0.91` is the label rose of every field with score 0.91."""

    out_of_fold: Mapping[str, OutOfFold]
    version: str = "v1"

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.out_of_fold)

    def judge(self, texts: Sequence[str]) -> Mapping[str, Judged]:
        labels, scores = zip(*(text.rsplit(" ", 1) for text in texts), strict=True)
        said = Judged(list(labels), np.array([float(score) for score in scores], dtype=np.float32))
        return dict.fromkeys(self.fields, said)


def scripted(
    *fields: str, labels: Sequence[str] = ("rose",), rows: int = 4_000, grade: float = 0.2
) -> ScriptedPattern:
    """A pattern whose scores are uniform in (0, 1), and wrong with chance grade * (1 - score)."""
    random = np.random.default_rng(1)
    scores = random.random(rows).astype(np.float32)
    correct = random.random(rows) >= grade * (1 - scores)
    said = [labels[number % len(labels)] for number in range(rows)]
    return ScriptedPattern({field: OutOfFold(said, scores, correct) for field in fields})


def observed(
    rows: int,
    *,
    field: str = "kind",
    label: str = "rose",
    category: str | None = None,
    grade: float = 0.2,
    seed: int = 2,
    **columns: Any,
) -> pl.DataFrame:
    """EVIDENCE of one label, as wrong as `scripted` says, one content a minute."""
    random = np.random.default_rng(seed)
    scores = random.random(rows).astype(np.float32).astype(float)
    agrees = random.random(rows) >= grade * (1 - scores)
    values: dict[str, Any] = {
        "identity": "i",
        "version": "v1",
        "field": field,
        "content_key": [f"{category}.{label}.{seed}.{number}" for number in range(rows)],
        "day": [DAY + timedelta(days=number // 100) for number in range(rows)],
        "category": category,
        "label": label,
        "score": scores,
        "reference": [label if right else "other" for right in agrees],
        "agrees": agrees,
        "draw": random.random(rows),
        "live": False,
    }
    return pl.DataFrame(values | columns, schema=EVIDENCE)


def certificate(**columns: object) -> dict[str, object]:
    """A row of CERTIFICATES that serves rose from 0.8 on."""
    return {
        "identity": "i",
        "version": "v1",
        "field": "kind",
        "label": "rose",
        "category": POOLED,
        "threshold": 0.8,
        "n": 100,
        "errors": 0,
        "bound": 0.01,
        "max_error": 0.015,
        "rule": "one-look",
        "status": "serving",
    } | columns


def certificates(*rows: Mapping[str, object]) -> pl.DataFrame:
    """CERTIFICATES; by default `certificate()` and the same of the label "none" of scent."""
    default = (certificate(), certificate(field="scent", label="none", bound=0.002))
    return pl.DataFrame(list(rows or default), schema=CERTIFICATES)


def judgement(key: str, **columns: object) -> list[dict[str, object]]:
    """JUDGEMENTS of both fields of a text; `kind` and `scent` are (label, score)."""
    said: dict[str, Any] = {"kind": ("rose", 0.9), "scent": ("none", 0.95)}
    said |= {name: columns.pop(name) for name in tuple(columns) if name in said}
    common = {"identity": "i", "content_key": key, "category": None, "version": "v1"} | columns
    return [
        common | {"field": field, "label": pair[0], "score": pair[1]}
        for field, pair in said.items()
        if pair
    ]


def answered(*judged: list[dict[str, object]], by: pl.DataFrame | None = None) -> pl.DataFrame:
    frame = pl.DataFrame([row for rows in judged for row in rows], schema=JUDGEMENTS)
    return answer(frame, certificates() if by is None else by, FLOWERS)


# --- training -------------------------------------------------------------------------------------


def test_what_is_held_out_is_a_fixed_share_for_ever() -> None:
    """A content that ever trained a pattern must never judge one; shares only grow."""
    keys = pl.Series([f"{number:x}" for number in range(20_000)])
    quarter, half = is_holdout(keys, 0.25), is_holdout(keys, 0.5)
    assert 0.24 < quarter.mean() < 0.26  # type: ignore[operator] # a share, since it is not empty
    assert not (quarter & ~half).any()
    assert is_holdout(keys.reverse(), 0.25).reverse().to_list() == quarter.to_list()
    assert is_holdout(keys.head(0), 0.25).to_list() == []


@pytest.mark.parametrize(
    ("rows", "trained_on", "expected"),
    [(999, None, False), (1_000, None, True), (1_499, 1_000, False), (1_500, 1_000, True)],
)
def test_training_is_due_when_the_archive_has_grown(
    rows: int, trained_on: int | None, expected: bool
) -> None:
    """Training costs time, and every new version starts without live evidence."""
    assert due(rows, trained_on, SETTINGS) == expected


def test_a_human_is_believed_before_the_model() -> None:
    """References teach and judge patterns; labels that do not exist do neither."""
    rows = pl.DataFrame(
        {
            "labels": ['{"kind": "rose", "scent": "none"}', '{"kind": "oak"}', "{}"],
            "truth": ['{"kind": "iris"}', '{"scent": "größer"}', '{"kind": "oak"}'],
        }
    )
    assert with_references(rows, FLOWERS)["labels"].to_list() == [
        '{"kind": "iris", "scent": "none"}',
        '{"scent": "größer"}',
        "{}",
    ]


def test_a_coarse_human_does_not_overrule_a_finer_model() -> None:
    """Who only knows good and bad cannot say that `mixed` is wrong; who says good can."""
    reviews = load_taxonomy("reviews")
    main = reviews.main
    finer = next(name for name in main.labels if main.coarse[name] != name)
    stands_for = main.coarse[finer]
    other = next(name for name in main.coarse.values() if name != stands_for)
    rows = pl.DataFrame(
        {
            "labels": [json.dumps({main.name: finer})] * 3,
            "truth": [json.dumps({main.name: name}) for name in (stands_for, other)] + ["{}"],
        }
    )
    told = [json.loads(text)[main.name] for text in with_references(rows, reviews)["labels"]]
    assert told == [finer, other, finer]


def test_training_rows_are_a_set() -> None:
    """The same archive gives the same pattern, whatever order it was read in."""
    words = {"rose": "red petals thorn", "iris": "blue sword leaf"}
    rows = pl.DataFrame(
        [
            {
                "content_key": f"{number:04}",
                "text": f"{words[label]} {number}",
                "labels": json.dumps({"kind": label, "scent": "none" if number % 3 else "oak"}),
            }
            for number, label in enumerate(["rose", "iris"] * 60)
        ],
        schema=TRAINING,
    )
    pattern = train(rows, FLOWERS, SETTINGS)
    again = train(rows.reverse(), FLOWERS, SETTINGS)
    assert pattern.version == again.version
    assert set(pattern.fields) == {"kind", "scent"}
    texts = ["red petals", "sword leaf blue"]
    assert pattern.judge(texts)["kind"].labels == ["rose", "iris"]
    assert pattern.judge(texts)["scent"].labels == ["none", "none"]


# --- evidence -------------------------------------------------------------------------------------


def test_a_judgement_is_a_row_a_field() -> None:
    """What a pattern says is stored, and compared later with what it should have said."""
    texts = pl.DataFrame(
        {"content_key": ["a", "b"], "category": ["Garden", None], "text": ["rose 0.75", "none 1"]}
    )
    found = judge(scripted("kind", "scent"), "i", texts)
    assert found.schema == JUDGEMENTS
    assert found.rows() == [
        ("i", "a", "Garden", "v1", "kind", "rose", 0.75),
        ("i", "b", None, "v1", "kind", "none", 1.0),
        ("i", "a", "Garden", "v1", "scent", "rose", 0.75),
        ("i", "b", None, "v1", "scent", "none", 1.0),
    ]


def references(*rows: tuple[object, ...]) -> pl.DataFrame:
    names = ("content_key", "day", "category", "labels", "draw", "live")
    return pl.DataFrame(rows, schema=names, orient="row")


def test_evidence_says_where_a_pattern_and_its_reference_differ() -> None:
    """A field without a reference says nothing, and what was not judged is no evidence."""
    judged = pl.DataFrame(judgement("a") + judgement("b", kind=("iris", 0.5)), schema=JUDGEMENTS)
    found = evidence(
        judged,
        references(
            ("a", DAY, "Garden", '{"kind": "rose", "scent": "\\"sweet\\""}', 0.5, True),
            ("b", DAY, None, '{"kind": "rose"}', 0.25, False),
            ("c", DAY, None, '{"kind": "rose"}', 0.25, False),
        ),
    )
    assert found.schema == EVIDENCE
    told = found.select("content_key", "field", "category", "reference", "agrees", "draw", "live")
    assert told.rows() == [
        ("b", "kind", None, "rose", False, 0.25, False),
        ("a", "kind", "Garden", "rose", True, 0.5, True),
        ("a", "scent", "Garden", '"sweet"', False, 0.5, True),
    ]


def test_a_text_counts_once_however_often_it_was_asked() -> None:
    """The same answer again is no second trial: a bound that counted it would be too narrow."""
    found = evidence(
        pl.DataFrame(judgement("a", scent=None), schema=JUDGEMENTS),
        references(
            ("a", DAY + timedelta(days=1), None, '{"kind": "rose"}', 0.1, True),
            ("a", DAY, None, '{"kind": "iris"}', 0.9, False),
        ),
    )
    assert found.select("day", "agrees").rows() == [(DAY, False)]


def test_no_judgements_are_no_evidence() -> None:
    """The day before the first pattern."""
    nothing = evidence(JUDGEMENTS.to_frame(), references(("a", DAY, None, "{}", 0.1, False)))
    assert (nothing.schema, nothing.height) == (EVIDENCE, 0)


# --- certificates ---------------------------------------------------------------------------------


def test_a_label_is_served_as_far_as_its_evidence_reaches() -> None:
    """The certificate states region, counts and bound, and another exact bound confirms it."""
    rows = observed(3_000)
    found = certify(rows, scripted("kind"), 0.05, SETTINGS)
    (row,) = found.rows(named=True)
    assert (row["status"], row["category"], row["rule"]) == ("serving", POOLED, "one-look")
    served = rows.filter(pl.col("score") >= row["threshold"])
    errors = served.filter(~pl.col("agrees")).height
    assert (row["n"], row["errors"]) == (served.height, errors)
    assert row["bound"] == upper_bound(errors, served.height) <= 0.05
    # 0.1 * (1 - threshold) are wrong: the region whose error is exactly 0.05 begins at 0.5.
    assert 0.5 < row["threshold"] < 0.7


def test_without_evidence_enough_a_pattern_abstains() -> None:
    """The row is there all the same, so that one sees how far it is from a certificate."""
    found = certify(observed(40), scripted("kind"), 0.05, SETTINGS)
    (row,) = found.rows(named=True)
    assert (row["status"], row["threshold"], row["n"]) == ("abstains", None, 40)
    assert row["bound"] > 0.05
    assert certify(EVIDENCE.to_frame(), scripted("kind"), 0.05, SETTINGS).schema == CERTIFICATES


def test_the_allowed_error_is_split_over_the_fields() -> None:
    """A review is wrong where any of its fields is."""
    rows = pl.concat([observed(3_000, field="kind"), observed(3_000, field="scent")])
    both = certify(rows, scripted("kind", "scent"), 0.1, SETTINGS)
    assert both["max_error"].to_list() == [0.05, 0.05]
    alone = certify(rows.filter(field="kind"), scripted("kind"), 0.1, SETTINGS)
    assert alone["threshold"][0] < both["threshold"][0]


def test_each_predicted_label_is_certified_by_itself() -> None:
    """Nothing may hide behind a majority class that is nearly always right."""
    rows = pl.concat(
        [observed(3_000, label="rose", grade=0.02), observed(600, label="iris", grade=0.6)]
    )
    random = np.random.default_rng(5)
    scores = random.random(4_000).astype(np.float32)
    grades = np.tile([0.02, 0.6], 2_000)
    seen = OutOfFold(["rose", "iris"] * 2_000, scores, random.random(4_000) > grades * (1 - scores))
    found = certify(rows, ScriptedPattern({"kind": seen}), 0.05, SETTINGS)
    assert found.select("label", "status").rows() == [("iris", "abstains"), ("rose", "serving")]
    rose = found.filter(label="rose").row(0, named=True)
    assert rose["n"] == 3_000


def test_a_large_category_is_certified_by_itself_and_a_small_one_with_the_others() -> None:
    """Pooled evidence says little about a category that is unlike the rest."""
    rows = pl.concat(
        [
            observed(2_000, category="good", seed=1),
            observed(2_000, category="bad", seed=2, grade=1.5),
            *(observed(500, category=f"small {seed}", seed=seed) for seed in range(3, 9)),
            observed(200, category="odd", seed=9, grade=1.5),
            observed(50, category=None, seed=10),
        ]
    )
    found = certify(rows, scripted("kind"), 0.05, SETTINGS)
    statuses = dict(found.select("category", "status").iter_rows())
    assert statuses == {
        POOLED: "serving",
        "good": "serving",
        "bad": "abstains",
        "odd": "cut out",
    }
    assert set(statuses.values()) < set(STATUSES)
    odd = found.filter(category="odd").row(0, named=True)
    assert (odd["threshold"], odd["n"] <= 200, odd["bound"] > 0.05) == (None, True, True)
    pooled = found.filter(category=POOLED).row(0, named=True)
    assert 1_000 < pooled["n"] < 3_250


def test_what_live_answers_contradict_is_switched_off_until_they_agree_again() -> None:
    """Old evidence outweighs a sudden drift for weeks; the last answers do not wait."""
    before = observed(9_000)
    later: dict[str, Any] = {"day": DAY + timedelta(days=200), "live": True}
    drifted = pl.concat([before, observed(400, seed=3, grade=0.9, **later)])
    found = certify(drifted, scripted("kind"), 0.05, SETTINGS).row(0, named=True)
    assert (found["status"], found["threshold"]) == ("switched off", None)
    assert found["n"] < 400
    assert found["bound"] > 0.05
    # The same answers from before it served only weigh as much as all others.
    old = drifted.with_columns(live=pl.lit(False))
    assert certify(old, scripted("kind"), 0.05, SETTINGS)["status"][0] == "serving"
    mended = observed(1_500, seed=4, day=DAY + timedelta(days=201), live=True)
    again = certify(pl.concat([drifted, mended]), scripted("kind"), 0.05, SETTINGS)
    assert again["status"][0] == "serving"


def test_a_certificate_for_all_looks_serves_less() -> None:
    """The price of looking every day; the rule is in the certificate."""
    rows = observed(6_000)
    one_look, anytime = (
        certify(rows, scripted("kind"), 0.05, PatternSettings(rule=rule)).row(0, named=True)
        for rule in ("one-look", "anytime")
    )
    assert (anytime["status"], anytime["rule"]) == ("serving", "anytime")
    assert anytime["threshold"] > one_look["threshold"]


@pytest.mark.parametrize("rule", ["one-look", "anytime"])
def test_thresholds_are_proposed_without_looking_at_the_outcome(rule: Rule) -> None:
    """Else the bound would be that of the luckiest threshold: worse evidence stops earlier only."""
    rows, settings = observed(4_000), PatternSettings(rule=rule)
    pattern = scripted("kind")
    strict = certify(rows, pattern, 0.05, settings)["threshold"][0]
    region = pl.col("score") >= strict
    # Wrong everywhere below what was certified: it is still certified, from the same threshold.
    hopeless = rows.with_columns(agrees=pl.col("agrees") & region)
    assert certify(hopeless, pattern, 0.05, settings)["threshold"][0] == strict


def test_thresholds_for_all_looks_do_not_move_with_the_evidence() -> None:
    """A sequence that starts elsewhere every day would test other hypotheses every day."""
    wrong = observed(6_000, agrees=False)
    pattern = scripted("kind")
    for rule, moves in (("anytime", False), ("one-look", True)):
        first_tested = [
            certify(wrong.head(rows), pattern, 0.05, PatternSettings(rule=rule))["n"][0]
            for rows in (1_000, 6_000)
        ]
        # Nothing passes, so the counts are those of the first threshold.
        start = wrong["score"].sort(descending=True)[first_tested[1] - 1]
        at_that_start = (wrong.head(1_000)["score"] >= start).sum()
        assert (first_tested[0] != at_that_start) == moves


def test_evidence_is_read_in_the_order_of_time_however_it_arrives() -> None:
    """What was certified for all time stays so; only the days and draws say what came first."""
    rows = observed(3_000, grade=0.0)
    later = observed(600, seed=3, agrees=False, day=DAY + timedelta(days=99))
    settings = PatternSettings(rule="anytime")
    found = certify(pl.concat([later, rows]), scripted("kind"), 0.05, settings)
    assert found["status"].to_list() == ["serving"]
    assert found.equals(certify(pl.concat([rows, later]), scripted("kind"), 0.05, settings))


def test_evidence_of_another_pattern_certifies_nothing() -> None:
    """Another version, or another identity, may be wrong elsewhere."""
    pattern = scripted("kind")
    for column in ("version", "identity"):
        mixed = pl.concat([observed(9), observed(9).with_columns(pl.lit("v2").alias(column))])
        with pytest.raises(ValueError, match="cannot certify v1"):
            certify(mixed, pattern, 0.05, SETTINGS)
    with pytest.raises(ValueError, match="cannot certify v1"):
        certify(observed(9, version="v2"), pattern, 0.05, SETTINGS)


# --- answers --------------------------------------------------------------------------------------


def test_an_answer_is_canonical_and_says_where_it_came_from() -> None:
    """The same bytes as the model's own labels, so that nothing downstream can tell by form."""
    found = answered(judgement("a"))
    assert found.schema == ANSWERED
    ((identity, key, labels, source, score, bound),) = found.rows()
    assert (identity, key, source, score) == ("i", "a", "pattern:v1", 0.9)
    assert labels == as_json({"kind": "rose", "scent": "none"}).decode()
    assert bound == pytest.approx(0.012)


@pytest.mark.parametrize("label", ['"sweet"', "größer"])
def test_labels_are_escaped_as_everywhere(label: str) -> None:
    """A label set is a tenant's own file; it may hold quotes and umlauts."""
    by = certificates(certificate(), certificate(field="scent", label=label))
    found = answered(judgement("a", scent=(label, 0.9)), by=by)
    assert found["labels"].to_list() == [as_json({"kind": "rose", "scent": label}).decode()]


@pytest.mark.parametrize(
    "columns",
    [
        {"scent": None},
        {"scent": ("none", 0.79)},
        {"scent": ("größer", 1.0)},
        {"scent": ("none", float("nan"))},
        {"scent": ("none", None)},
        {"kind": ("oak", 1.0)},
        {"version": "v2"},
        {"identity": "j"},
    ],
)
def test_one_field_without_a_certificate_is_no_answer(columns: dict[str, object]) -> None:
    """A review is served whole or not at all, and only under its own certificates."""
    oak = certificate(label="oak")  # no label of the taxonomy, whoever certified it
    by = pl.concat([certificates(), certificates(oak)])
    assert answered(judgement("a", **columns), judgement("b"), by=by)["content_key"].to_list() == [
        "b"
    ]


def test_a_category_s_own_certificate_decides_whatever_it_says() -> None:
    """Who was cut out, or has failed by itself, must not slip in under the pool."""
    by = certificates(
        certificate(),
        certificate(category="strict", threshold=0.95),
        certificate(category="lax", threshold=0.5, bound=0.005),
        *(
            certificate(category=status, status=status, threshold=None)
            for status in STATUSES
            if status != "serving"
        ),
        certificate(field="scent", label="none"),
    )
    judged = [
        judgement("pooled", category="unknown"),
        judgement("strict", category="strict"),
        judgement("lax", category="lax", kind=("rose", 0.6)),
        *(judgement(status, category=status) for status in STATUSES if status != "serving"),
    ]
    found = answered(*judged, by=by)
    assert found.select("content_key", "bound").rows() == [
        ("lax", pytest.approx(0.015)),
        ("pooled", pytest.approx(0.02)),
    ]


def test_a_status_that_does_not_serve_never_serves() -> None:
    """Even with a threshold: the status is what people read."""
    for status in STATUSES[1:]:
        by = certificates(certificate(status=status), certificate(field="scent", label="none"))
        assert answered(judgement("a"), by=by).is_empty()


def test_a_text_that_was_judged_twice_is_served_once_and_by_the_worse() -> None:
    """The same text may come from two categories."""
    by = pl.concat([certificates(), certificates(certificate(category="lax", bound=0.001))])
    twice = [judgement("a", category="lax"), judgement("a", category=None)]
    found = answered(*twice, by=by)
    assert found["bound"].to_list() == [pytest.approx(0.012)]
    cut = pl.concat([by, certificates(certificate(category="out", status="cut out"))])
    assert answered(*twice, judgement("a", category="out"), by=cut).is_empty()


def test_nothing_certified_answers_nothing() -> None:
    """The first day: no certificates, or nothing to judge."""
    assert answered(judgement("a"), by=CERTIFICATES.to_frame()).schema == ANSWERED
    assert answered().is_empty()
