"""What the Dagster UI is given to show."""

from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.defs.metadata import dollars, table


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
