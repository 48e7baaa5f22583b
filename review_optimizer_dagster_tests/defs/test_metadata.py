"""What the Dagster UI is given to show."""

from datetime import date

import dagster as dg

from review_optimizer_dagster.defs.metadata import table


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
