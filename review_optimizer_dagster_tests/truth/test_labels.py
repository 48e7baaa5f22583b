"""What a row of a label file says, and what several of them come to."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.core.reviews import TenantRules
from review_optimizer_dagster.formats import InputError, Record
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy
from review_optimizer_dagster.truth.labels import (
    JUDGEMENTS,
    Batch,
    LabelSource,
    label_columns,
    read_judgements,
    resolved,
)

NOON = datetime(2026, 3, 4, 12, tzinfo=UTC)
SOURCE = LabelSource("acme", "acme/kim.csv", "kim", NOON, "file")
MOOD = LabelField(name="mood", question="?", labels=("good", "bad"), truth_aliases={"fine": "good"})
FAULT = LabelField(name="fault", question="?", labels=("none", "broken"))
TAXONOMY = Taxonomy(
    name="lamps", version=1, document="review", instructions="Label.", fields=(MOOD, FAULT)
)


def read(rows: list[dict[str, Any] | InputError], **columns: str) -> Batch:
    """The one batch of some rows, numbered from 2 as under a header."""
    records: list[Record] = [(line, 0, row) for line, row in enumerate(rows, 2)]
    (batch,) = read_judgements(records, SOURCE, TenantRules(TAXONOMY, columns))
    return batch


def said(batch: Batch, *columns: str) -> list[tuple[Any, ...]]:
    """Columns of the judgements of a batch."""
    return batch.judgements.select(columns).rows()


def test_a_cell_is_a_judgement_and_an_empty_one_is_none() -> None:
    """A half-filled table is what people hand in, and no error."""
    batch = read(
        [
            {"review_id": "a", "label": " GOOD ", "fault": "broken"},
            {"review_id": "b", "label": "", "fault": None},
            {"review_id": 3.0, "label": None, "fault": "none"},
            {"review_id": "c", "mood": "fine"},
        ]
    )
    assert said(batch, "review_id", "field", "label", "line") == [
        ("a", "mood", "good", 2),
        ("a", "fault", "broken", 2),
        ("3", "fault", "none", 4),
        ("c", "mood", "good", 5),
    ]
    assert batch.refusals.is_empty()


def test_who_when_and_which_day_come_from_the_row_or_the_file() -> None:
    """A file of one person needs no further columns; one of many has them."""
    row = {"review_id": "a", "label": "good"}
    batch = read(
        [row, row | {"labeller": "lee", "labelled_at": "2026-03-05T01:00:00Z", "day": "2026-03-04"}]
    )
    assert said(batch, "labeller", "labelled_at", "day", "origin", "file") == [
        ("kim", NOON, None, "file", "acme/kim.csv"),
        ("lee", NOON + timedelta(hours=13), date(2026, 3, 4), "file", "acme/kim.csv"),
    ]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"label": "good"}, "no_review_id"),
        ({"review_id": " ", "label": "good"}, "no_review_id"),
        ({"review_id": "a", "label": "purple"}, "unknown_label"),
        ({"review_id": "a", "label": 1}, "unknown_label"),
        ({"review_id": "a", "label": "good", "mood": "bad"}, "two_labels"),
        ({"review_id": "a", "label": "good", "day": "4 March"}, "wrong_type"),
        ({"review_id": "a", "label": "good", "labelled_at": "noon"}, "wrong_type"),
        ({"review_id": "a", "label": "good", "tenant": "globex"}, "other_tenant"),
        (InputError("broken_csv", "a quote is never closed"), "broken_csv"),
    ],
)
def test_a_bad_row_is_quarantined_and_costs_the_others_nothing(
    row: dict[str, Any] | InputError, reason: str
) -> None:
    """Whoever handed it in must find out which row, and keep the rest."""
    batch = read([row, {"review_id": "z", "label": "bad"}])
    assert batch.refusals.select("file", "line", "reason").rows() == [("acme/kim.csv", 2, reason)]
    assert said(batch, "review_id", "label") == [("z", "bad")]


def test_a_bad_cell_costs_the_other_fields_of_its_row_nothing() -> None:
    """A typing error in one column is no reason to lose the answer in the next."""
    batch = read([{"review_id": "a", "label": "purple", "fault": "none"}])
    assert said(batch, "field", "label") == [("fault", "none")]
    assert batch.refusals["review_id"].to_list() == ["a"]


def test_a_table_without_a_label_column_is_refused_as_a_whole() -> None:
    """Silence would look like success."""
    refusals = read([{"review_id": "a", "lable": "good"}]).refusals
    assert refusals["reason"].to_list() == ["no_label_column"]
    assert refusals["line"].to_list() == [None]
    assert "label, mood, fault" in refusals["detail"][0]


def test_the_column_map_of_the_tenant_holds_for_labels_too() -> None:
    """What is called so in a delivery is called so in a label file."""
    rows: list[dict[str, Any] | InputError] = [{"nr": "a", "verdict": "bad"}]
    assert said(read(rows, review_id="nr", label="verdict"), "review_id", "label") == [("a", "bad")]


def test_a_fields_own_name_does_not_take_another_ones_column() -> None:
    """`day` is a day, and another field's truth column is that field's."""
    fields = (
        LabelField(name="day", question="?", labels=("x", "y"), truth_column="which"),
        LabelField(name="mood", question="?", labels=("x", "y"), truth_column="mind"),
        LabelField(name="mind", question="?", labels=("x", "y"), truth_column="head"),
    )
    taxonomy = TAXONOMY.model_copy(update={"fields": fields})
    assert label_columns(taxonomy, {}) == {
        "day": ("which",),
        "mood": ("mind", "mood"),
        "mind": ("head",),
    }


def judged(*rows: tuple[str, str, str, int]) -> pl.DataFrame:
    """Judgements of the field mood: review, labeller, label, hour."""
    about, file = ("acme", "lamps"), "acme/a.csv"
    full = [
        (*about, review, None, "mood", label, who, NOON + timedelta(hours=hour), "file", file, line)
        for line, (review, who, label, hour) in enumerate(rows, 2)
    ]
    return pl.DataFrame(full, schema=JUDGEMENTS, orient="row")


def outcome(frame: pl.DataFrame) -> list[tuple[Any, ...]]:
    """What is resolved, in short."""
    return frame.select("review_id", "label", "status", "labellers", "votes").rows()


def test_most_labellers_win_each_by_the_newest_word() -> None:
    """Whoever corrects a label has one vote, not two."""
    given = judged(
        ("a", "kim", "bad", 0), ("a", "kim", "bad", 1), ("a", "kim", "good", 2),
        ("a", "lee", "good", 0), ("a", "mo", "bad", 3),
    )  # fmt: skip
    assert outcome(resolved(given, "majority")) == [("a", "good", "settled", 3, 2)]
    assert outcome(resolved(given, "newest")) == [("a", "bad", "settled", 3, 1)]


@pytest.mark.parametrize("rule", ["majority", "newest"])
def test_a_tie_is_disputed_and_no_truth(rule: Any) -> None:
    """A coin must not decide what is true; one review's tie leaves the next alone."""
    given = judged(("a", "kim", "bad", 1), ("a", "lee", "good", 1), ("b", "kim", "bad", 1))
    assert outcome(resolved(given, rule)) == [
        ("a", None, "disputed", 2, 1),
        ("b", "bad", "settled", 1, 1),
    ]


def test_of_one_moment_the_later_line_is_the_newer_word() -> None:
    """A file without times is of one moment; a row added below corrects the one above."""
    given = judged(("a", "kim", "bad", 0), ("a", "kim", "good", 0))
    assert outcome(resolved(given, "majority")) == [("a", "good", "settled", 1, 1)]
    assert outcome(resolved(given.reverse(), "majority")) == [("a", "good", "settled", 1, 1)]


def test_nothing_comes_to_nothing() -> None:
    """A day without labels is the rule."""
    assert resolved(judged(), "majority").is_empty()
