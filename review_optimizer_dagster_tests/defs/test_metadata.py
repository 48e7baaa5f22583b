"""What the Dagster UI is given to show."""

from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.defs import verdicts
from review_optimizer_dagster.defs.metadata import (
    dollars,
    failing,
    figures,
    hit_rates,
    measured,
    table,
)
from review_optimizer_dagster.defs.verdicts import wrong_fields


def test_a_value_that_is_missing_in_one_row_does_not_break_the_table() -> None:
    """Dagster refuses records with different keys: a request without an error broke a run."""
    shown = table([{"status": "ok", "error": None}, {"status": "timeout", "error": "60 s"}])
    assert isinstance(shown, dg.TableMetadataValue)
    assert [record.data["error"] for record in shown.records] == ["", "60 s"]


def test_dates_are_shown_as_text_and_nothing_as_a_word() -> None:
    """Only plain values can be stored."""
    shown = table([{"day": date(2026, 3, 4), "n": 3}])
    assert isinstance(shown, dg.TableMetadataValue)
    assert shown.records[0].data == {"day": "2026-03-04", "n": 3}
    assert table([]) == dg.MetadataValue.text("none")


def test_nano_dollars_are_shown_as_dollars() -> None:
    """Nobody reads nine zeros; what is not known stays so."""
    rows = pl.DataFrame(
        {"tenant": ["a", "b"], "cost_nanos": [5 * 10**8, None], "upper": [10**9, 0]}
    )
    assert dollars(rows, "upper") == [
        {"tenant": "a", "cost_usd": 0.5, "upper_usd": 1.0},
        {"tenant": "b", "cost_usd": None, "upper_usd": 0.0},
    ]


def test_numbers_are_rounded_for_reading_and_dollars_to_a_millionth() -> None:
    """Sixteen digits in a cell hide the two that matter; a cent must not be lost of any sum."""
    row = {"lower": 0.9773353310691487, "p_value": 1.23456e-12, "latency_ms": 12345.678}
    shown = table([row | {"cost_usd": 123.4567891, "correct": True}])
    assert isinstance(shown, dg.TableMetadataValue)
    assert shown.records[0].data == {
        "lower": 0.9773, "p_value": 1.235e-12, "latency_ms": 12346.0, "cost_usd": 123.456789,
        "correct": True,
    }  # fmt: skip


def test_what_fails_is_shown_first_and_says_where_the_rest_is() -> None:
    """A thousand wrong reviews are no table to read: the first are, with a way to all of them."""
    rows = pl.DataFrame({"review_id": [f"r{number}" for number in range(60)]})
    shown = failing("wrong", rows, "FROM scored_reviews WHERE NOT correct")
    listed, number, query = shown["wrong"], shown["wrong_in_all"], shown["wrong_query"]
    assert isinstance(listed, dg.TableMetadataValue)
    assert len(listed.records) == 50
    assert number == dg.MetadataValue.int(60)
    assert query == dg.MetadataValue.text(
        "50 of 60 shown. All of them: FROM scored_reviews WHERE NOT correct, in warehouse.duckdb"
    )
    known = failing("wrong", rows.head(3), "FROM t", 1_200)["wrong_query"]
    assert known == dg.MetadataValue.text(
        "3 of 1,200 shown. All of them: FROM t, in warehouse.duckdb"
    )
    assert failing("wrong", rows.clear(), "FROM t") == {
        "wrong": dg.MetadataValue.text("none"),
        "wrong_in_all": dg.MetadataValue.int(0),
    }


def test_a_figure_that_is_not_known_leaves_a_gap_in_its_plot() -> None:
    """Drawn as 0, a day without labels would look like a day of wrong ones."""
    assert figures(accuracy=None, lower=float("nan"), cost_usd=0.03675591234, n=3) == {
        "cost_usd": 0.036756,
        "n": 3,
    }
    assert hit_rates({"l1": 1, "model": 2, "none": 1}, ["l1", "l2"]) == {
        "hit_rate": 0.25, "hit_rate_l1": 0.25, "hit_rate_l2": 0.0,
    }  # fmt: skip


def test_a_wrong_review_shows_only_what_is_wrong_of_it() -> None:
    """Two JSON objects side by side leave it to the reader to find the difference."""
    given, known = '{"kind": "bug", "tone": "cross"}', '{"kind": "idea", "tone": "cross"}'
    assert wrong_fields(given, known) == "kind: bug -> idea"
    assert wrong_fields(given, '{"tone": "calm"}') == "tone: cross -> calm"
    assert wrong_fields(None, known) == ""


def test_an_accuracy_and_its_interval_are_one_cell() -> None:
    """Four columns of digits do not fit the pane of a check."""
    assert measured(0.991, 0.982, 0.996) == "99.1 % [98.2, 99.6]"
    assert measured(None, None, None) == "not known"


def test_what_is_shown_of_a_review_has_no_address() -> None:
    """Dagster keeps metadata in plain text: the check of a failed day is no place for it."""
    row = {
        "tenant": "a", "review_id": "r1", "category": "Lamps", "level": "model",
        "labels": '{"sentiment": "positive"}', "known": '{"sentiment": "negative"}',
        "text": "Write to jane.doe@example.com, it broke",
    }  # fmt: skip
    shown = verdicts._review(row)
    assert "jane.doe" not in shown["text"]
    assert "it broke" in shown["text"]
