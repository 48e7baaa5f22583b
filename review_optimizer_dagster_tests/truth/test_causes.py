"""What a failed day comes from: named beyond doubt, and no more asked anew than that."""

from __future__ import annotations

from typing import Any

from review_optimizer_dagster.truth.causes import CAUSES, blame
from review_optimizer_dagster_tests.truth.test_accuracy import TAXONOMY, results


def _cached(level: str, source: str, wrong: int, right: int) -> list[dict[str, Any]]:
    row = {"level": level, "source_key": source}
    return [row | {"known": "light"}] * wrong + [row | {"known": "dark"}] * right


def _asked(category: str, wrong: int, right: int) -> list[dict[str, Any]]:
    row = {"request_id": "q1", "model": "m", "category": category}
    return [row | {"known": "light"}] * wrong + [row | {"known": "dark"}] * right


def test_an_entry_that_a_truth_contradicts_is_to_blame_with_all_that_it_answered() -> None:
    """Two of its reviews have no label; they have its answer all the same."""
    rows = results(
        *_cached("l3_near", "bad", wrong=1, right=1),
        *[{"level": "l3_near", "source_key": "bad"}] * 2,
        *_cached("l3_exact", "good", wrong=0, right=5),
    )
    found = blame(rows, TAXONOMY, "labels", 0.95, 0.03)
    (cause,) = found.causes.iter_rows(named=True)
    assert (cause["kind"], cause["source"], cause["wrong"], cause["n"], cause["reviews"]) == (
        ("entry", "bad", 1, 2, 4)
    )
    assert found.texts["content_key"].to_list() == ["c0", "c1", "c2", "c3"]
    assert found.causes.schema == CAUSES


def test_a_patterns_label_is_to_blame_where_it_is_wrong_too_often() -> None:
    """A label with an error that the bound allows goes on; single errors of it are allowed."""
    rows = results(
        *_cached("l3_pattern", "pattern:v1", wrong=10, right=30),
        *[row | {"answer": "light"} for row in _cached("l3_pattern", "pattern:v1", 40, 0)],
    )
    found = blame(rows, TAXONOMY, "labels", 0.95, 0.03)
    (cause,) = found.causes.iter_rows(named=True)
    assert (cause["kind"], cause["source"], cause["field"], cause["label"]) == (
        ("pattern", "pattern:v1", "tone", "dark")
    )
    assert (cause["wrong"], cause["n"], found.texts.height) == (10, 40, 40)


def test_the_model_is_to_blame_in_the_categories_where_it_is_below() -> None:
    """Elsewhere only the answers that a truth contradicts are asked anew."""
    rows = results(*_asked("Books", 10, 30), *_asked("Lamps", 1, 59))
    found = blame(rows, TAXONOMY, "labels", 0.95, 0.03)
    kinds = found.causes.select("kind", "source", "category", "wrong", "n").rows()
    assert kinds == [("model", "m", "Books", 10, 40), ("model", "m", None, 1, 1)]
    assert found.texts.height == 41
    assert "m in Books (10 of 40 wrong); single answers of m (1)" in str(found)


def test_a_repeat_of_what_the_model_said_today_is_the_models_fault() -> None:
    """It counts as a hit of L1, but there is no entry to switch off."""
    row = {"request_id": "q", "model": "m", "known": "light", "content_key": "same"}
    rows = results(row, row | {"level": "l1", "repeat": True, "source_key": "same"})
    found = blame(rows, TAXONOMY, "labels", 0.95, 0.03)
    assert set(found.causes["kind"]) == {"model"}
    assert found.texts["content_key"].to_list() == ["same"]


def test_where_nothing_is_beyond_doubt_the_worst_label_is_named() -> None:
    """A failed day must not be run again for nothing."""
    rows = results(*_cached("l3_pattern", "pattern:v1", wrong=1, right=1))
    found = blame(rows, TAXONOMY, "labels", 0.95, 0.5)
    assert found.causes.select("kind", "label", "wrong").rows() == [("pattern", "dark", 1)]


def test_unlabelled_reviews_are_nobodys_fault() -> None:
    """A review that failed was not answered wrongly."""
    failed = {"status": "failed", "level": "none", "known": "light", "labels": None}
    found = blame(results(failed), TAXONOMY, "labels", 0.95, 0.03)
    assert found.causes.is_empty()
    assert found.texts.is_empty()
    assert str(found) == ""
