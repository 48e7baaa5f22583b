"""Accuracy by samples, repeated texts and several truths: what an interval may be said of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.bounds import clopper_pearson
from review_optimizer_dagster.core.quality import RESULTS
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy
from review_optimizer_dagster.truth.accuracy import (
    best,
    measure,
    reference_cells,
    standing,
)
from review_optimizer_dagster.truth.scores import score_truth

TAXONOMY = Taxonomy(
    name="notes",
    version=1,
    document="note",
    instructions="Judge.",
    fields=(LabelField(name="tone", question="How?", labels=("light", "dark")),),
)


def results(*rows: Mapping[str, object]) -> pl.DataFrame:
    """One RESULTS row each; `answer`, `known` and `reference` are labels of the one field."""
    full = []
    for number, row in enumerate(rows):
        values: dict[str, Any] = dict(row)
        labels = {
            column: json.dumps({"tone": values.pop(name)}) if name in values else default
            for column, name, default in (
                ("labels", "answer", '{"tone": "dark"}'),
                ("truth", "known", "{}"),
                ("reference", "reference", None),
            )
        }
        common = {
            "tenant": "acme",
            "taxonomy": "notes",
            "review_id": f"r{number}",
            "identity": "acme|i",
            "content_key": f"c{number}",
            "status": "labelled",
            "level": "model",
            "repeat": False,
            "simulated": False,
        }
        full.append(dict.fromkeys(RESULTS) | common | labels | values)
    return pl.DataFrame(full, schema=RESULTS)


def test_a_text_that_comes_ten_times_is_one_text() -> None:
    """Sixty copies of one right answer are no proof; as many different texts are."""
    same = measure(results(*[{"known": "dark", "content_key": "c"}] * 60), TAXONOMY, 0.95)
    assert (same["labels"].n, same["labels"].texts) == (60, 1)
    assert same["labels"].verdict == "inconclusive"
    assert same["labels"].lower == pytest.approx(0.05)
    different = measure(results(*[{"known": "dark"}] * 60), TAXONOMY, 0.95)
    assert different["labels"].verdict == "passed"
    assert different["labels"].lower == clopper_pearson(60, 60)[0]


def test_a_label_holds_for_every_review_of_its_text() -> None:
    """Nobody labels a repeat; its answer is as right or wrong as the first one's."""
    rows = results(
        {"known": "light", "content_key": "same"},
        {"content_key": "same", "level": "l1", "repeat": True},
        {"known": "dark"},
    )
    scores = score_truth(rows, TAXONOMY, "labels")
    assert scores["correct"].to_list() == [False, False, True]
    levels = measure(rows, TAXONOMY, 0.95)["labels"].table("level")
    assert levels.select("name", "n", "correct").rows() == [("l1", 1, 0), ("model", 2, 1)]


def _sample(labelled_rare: int = 20) -> pl.DataFrame:
    """A day of 1,000 texts: 80 of 900 common ones are drawn, all right, and 20 of 100 rare ones,
    half of them wrong, of which so many were labelled."""
    common: list[Mapping[str, object]] = [{"known": "dark", "label_asked": 80 / 900}] * 80
    rare: list[Mapping[str, object]] = [
        {"label_asked": 0.2, "category": "rare"}
        | ({"known": "light" if number % 2 else "dark"} if number < labelled_rare else {})
        for number in range(20)
    ]
    rest: list[Mapping[str, object]] = [{}] * 820 + [{"category": "rare"}] * 80
    return results(*common, *rare, *rest)


def test_a_stratified_sample_counts_each_label_for_what_it_stands_for() -> None:
    """10 of 100 labels are wrong, but they stand for 50 of 1,000 reviews."""
    measured = measure(_sample(), TAXONOMY, 0.9)["labels"]
    assert (measured.n, measured.correct, measured.is_weighted) == (100, 90, True)
    assert measured.estimate == pytest.approx(0.95)
    assert measured.lower < 0.95 < measured.upper
    # Wider than the counts would say, since few labels stand for many reviews.
    lower, upper = clopper_pearson(95, 100)
    assert measured.lower < lower
    assert upper - lower < measured.upper - measured.lower


def test_what_was_drawn_and_not_labelled_is_like_the_rest_of_its_stratum() -> None:
    """Leaving it out would make the stratum small, and its errors with it."""
    measured = measure(_sample(labelled_rare=10), TAXONOMY, 0.9)["labels"]
    assert measured.n == 90
    assert measured.estimate == pytest.approx(0.95)


def test_volunteered_labels_do_not_count_beside_a_sample() -> None:
    """Somebody picked them; they are no random part of the day."""
    picked = results(*[{"known": "light"}] * 50)
    picked = picked.with_columns(
        pl.format("p{}", "review_id").alias("review_id"),
        pl.format("p{}", "content_key").alias("content_key"),
    )
    both = measure(pl.concat([_sample(), picked]), TAXONOMY, 0.9)["labels"]
    assert both.n == 100


def test_a_uniform_part_of_a_sample_is_kept_for_all_days_together() -> None:
    """Days of other designs are added up by it, so no stratum may stand out in it."""
    scores = score_truth(_sample(), TAXONOMY, "labels")
    kept = scores.filter("uniform")
    # All that stand for most, and of the others as many as their weight says: 4/9 of 20.
    assert kept.filter(pl.col("weight") > 10).height == 80
    assert 3 <= kept.filter(pl.col("weight") < 10).height <= 15
    assert scores.filter(pl.col("weight") < 10).height == 20


def test_audits_decide_where_nobody_labelled_and_stand_apart() -> None:
    """The reference model is no human; how right it is itself is told beside."""
    audited = [{"reference": "dark", "reference_asked": 0.5}] * 60
    rows = results(*audited, *[{}] * 60)
    measured = measure(rows, TAXONOMY, 0.95)
    assert (best(measured).truth, best(measured).verdict) == ("audits", "passed")
    labelled = results(
        *[{**audited[0], "known": "dark"}] * 3, {**audited[0], "known": "light"}, *audited[:56]
    )
    assert best(measure(labelled, TAXONOMY, 0.95)).truth == "labels"
    cells = reference_cells(labelled, TAXONOMY, 0.95)
    whole = cells.filter(dimension="all").row(0, named=True)
    assert (whole["truth"], whole["n"], whole["correct"]) == ("reference", 4, 3)


def test_true_labels_are_told_apart_by_who_gave_them() -> None:
    """A delivery's own labels may be worth less than those of people who looked."""
    rows = results(
        *[{"known": "dark", "truth_origin": "human"}] * 2,
        *[{"known": "light", "truth_origin": "delivered"}] * 3,
    )
    found = measure(rows, TAXONOMY, 0.95)["labels"].table("origin")
    assert found.select("name", "n", "correct").rows() == [("delivered", 3, 0), ("human", 2, 2)]


def test_a_part_is_told_only_beyond_a_doubt_that_all_parts_share() -> None:
    """With ten categories one would be below by chance on half the days."""
    bad = [{"known": "light", "category": "bad"}] * 4 + [{"known": "dark", "category": "bad"}] * 36
    fine = [
        {"known": "dark", "category": f"fine {number}"} for number in range(9) for _ in range(40)
    ]
    cells = measure(results(*bad, *fine), TAXONOMY, 0.95)["labels"].table("category")
    bad_cell = cells.filter(name="bad").row(0, named=True)
    assert bad_cell["upper"] > 0.95  # not even by itself
    worse = [{"known": "light", "category": "bad"}] * 8 + bad[8:]
    cells = measure(results(*worse, *fine), TAXONOMY, 0.95)["labels"].table("category")
    assert cells.filter("below")["name"].to_list() == ["bad"]
    found = cells.filter(name="bad").row(0, named=True)
    assert found["upper"] < found["shared_upper"] < 0.95


def test_all_days_together_need_more_than_one_look() -> None:
    """Bounds that hold at every look pass later, and stay passed."""
    assert standing(1, 60, 60, 0.95).verdict == "inconclusive"
    assert standing(3, 180, 180, 0.95).verdict == "passed"
    assert standing(30, 1_800, 1_620, 0.95).verdict == "failed"
    assert standing(0, 0, 0, 0.95)[3:] == (0.0, 1.0, "inconclusive")
