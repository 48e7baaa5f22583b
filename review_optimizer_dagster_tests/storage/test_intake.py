"""What becomes of a day's deliveries when they are read again, corrected or withdrawn."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from itertools import chain
from typing import Any

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.reviews import Chunk, TenantRules, read_reviews
from review_optimizer_dagster.storage import inbox
from review_optimizer_dagster.storage.intake import Intake, replace_deliveries
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster_tests.conftest import DAY, query

NEXT_DAY = DAY + timedelta(days=1)


def _put(
    home: Home, name: str, *rows: tuple[str | None, str], tenant: str = "acme", day: date = DAY
) -> None:
    """A file of (review_id, text) in a tenant's inbox."""
    folder = home.inbox / tenant / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"review_id": i, "category": "Lamps", "text": t}) for i, t in rows]
    (folder / name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _withdraw(home: Home, name: str) -> None:
    (home.inbox / "acme" / DAY.isoformat() / name).unlink()


def _chunks(home: Home, day: date) -> Iterator[Chunk]:
    def rules(tenant: str) -> TenantRules:
        return TenantRules(home.taxonomy(tenant), {})

    files = inbox.day_files(home.inbox, day)
    return chain.from_iterable(read_reviews(file, rules, home.settings.input) for file in files)


def _take(home: Home, day: date = DAY) -> Intake:
    """Read the day's inbox, as the first step of a run does."""
    files = [source.file for source in inbox.day_files(home.inbox, day)]
    with Warehouse(database=str(home.warehouse)).open() as connection:
        return replace_deliveries(connection, day, _chunks(home, day), files)


def _accepted(home: Home) -> dict[str, str]:
    """review_id to text, of all days."""
    return dict(query(home, "SELECT review_id, text FROM raw_reviews ORDER BY ALL").iter_rows())


def _quarantined(home: Home) -> list[tuple[Any, ...]]:
    sql = "SELECT file[-7:], line, review_id, reason FROM quarantined_reviews ORDER BY ALL"
    return query(home, sql).rows()


def _everything(home: Home) -> list[list[tuple[Any, ...]]]:
    tables = ("raw_reviews", "quarantined_reviews")
    return [query(home, f"FROM {table} ORDER BY ALL").rows() for table in tables]


def test_ids_that_were_made_up_are_the_same_on_a_second_read(home: Home) -> None:
    """Ledger and results know a review by its id: another one would be booked and paid again."""
    _put(home, "a.jsonl", (None, "Fine."), (None, "Poor."), (None, "Fine."))
    _put(home, "b.jsonl", (None, "Fine."), ("own", "Fine."))
    assert _take(home).accepted == 5
    before = _everything(home)
    ids = query(home, "SELECT review_id, content_key, text FROM raw_reviews ORDER BY file, line")
    fine, poor = ids["content_key"][0], ids["content_key"][1]
    assert ids["review_id"].to_list() == [
        f"gen-{fine}-1",
        f"gen-{poor}-1",
        f"gen-{fine}-2",
        f"gen-{fine}-3",
        "own",
    ]
    _take(home)
    assert _everything(home) == before


def test_made_up_ids_do_not_depend_on_what_stands_around_them(home: Home) -> None:
    """A corrected file may have other rows before and after a review that stayed."""
    _put(home, "a.jsonl", (None, "Fine."), (None, "Poor."))
    _take(home)
    before = set(_accepted(home))
    _put(home, "a.jsonl", (None, "Poor."), (None, "Dear."), (None, "Fine."))
    _take(home)
    assert before < set(_accepted(home))


def test_the_same_text_of_two_tenants_has_one_made_up_id_in_each(home: Home) -> None:
    """Ids are unique in a tenant; another tenant's deliveries must not shift them."""
    _put(home, "a.jsonl", (None, "Fine."))
    _put(home, "b.jsonl", (None, "Fine."), tenant="bolt")
    assert _take(home).accepted == 2
    assert len(_accepted(home)) == 1


def test_rows_of_a_file_that_has_left_the_inbox_stay(home: Home) -> None:
    """Inboxes are swept; what was delivered was delivered, and is billed."""
    _put(home, "a.jsonl", ("a1", "Fine."), ("a2", " "))
    _put(home, "b.jsonl", ("b1", "Poor."))
    _take(home)
    before = _everything(home)
    _withdraw(home, "a.jsonl")
    taken = _take(home)
    assert (taken.accepted, taken.quarantined, taken.files) == (2, 1, 1)
    assert _everything(home) == before
    _withdraw(home, "b.jsonl")
    assert _take(home).files == 0
    assert _everything(home) == before


def test_texts_without_ids_stay_when_another_file_leaves_the_inbox(home: Home) -> None:
    """The same text in a swept file and in one that is still there are two reviews, as before."""
    _put(home, "a.jsonl", (None, "Fine."))
    _put(home, "b.jsonl", (None, "Fine."), (None, "Fine."))
    _take(home)
    before = _everything(home)
    _withdraw(home, "a.jsonl")
    _take(home)
    assert _everything(home) == before


def test_a_text_without_id_that_comes_after_a_file_has_left_is_a_further_review(
    home: Home,
) -> None:
    """Whether the first file was swept in between must not decide what is accepted."""
    _put(home, "a.jsonl", (None, "Fine."))
    _take(home)
    _withdraw(home, "a.jsonl")
    _put(home, "b.jsonl", (None, "Fine."))
    assert _take(home).accepted == 2
    assert _quarantined(home) == []


def test_a_corrected_file_replaces_its_own_rows_alone(home: Home) -> None:
    """The correction is the delivery; what it no longer holds is gone, quarantine included."""
    _put(home, "a.jsonl", ("a1", "Fine."), ("a2", " "), ("a3", "Dear."))
    _put(home, "b.jsonl", ("b1", "Poor."), ("b2", " "))
    _take(home)
    _put(home, "a.jsonl", ("a1", "Fine indeed."), ("a2", "Mended."))
    _take(home)
    assert _accepted(home) == {"a1": "Fine indeed.", "a2": "Mended.", "b1": "Poor."}
    assert _quarantined(home) == [("b.jsonl", 2, "b2", "empty_text")]


def test_a_file_that_was_emptied_takes_its_rows_back(home: Home) -> None:
    """This is how a delivery is withdrawn: the file stays, without rows."""
    _put(home, "a.jsonl", ("a1", "Fine."))
    _take(home)
    _put(home, "a.jsonl")
    assert _take(home).accepted == 0
    assert _everything(home) == [[], []]


def test_one_id_with_two_texts_in_two_files_is_taken_from_neither(home: Home) -> None:
    """Which one is right cannot be known; the person who mends it needs both places."""
    _put(home, "a.jsonl", ("x", "Fine."), ("y", "Dear."))
    _put(home, "b.jsonl", ("z", "Poor."), ("x", "Awful."))
    taken = _take(home)
    assert (taken.accepted, taken.quarantined) == (2, 2)
    assert set(_accepted(home)) == {"y", "z"}
    conflicts = [("a.jsonl", 1, "x", "id_conflict"), ("b.jsonl", 2, "x", "id_conflict")]
    assert _quarantined(home) == conflicts
    _put(home, "b.jsonl", ("z", "Poor."))
    _take(home)
    assert _accepted(home) == {"x": "Fine.", "y": "Dear.", "z": "Poor."}
    assert _quarantined(home) == []


def test_a_conflict_with_a_file_that_has_left_is_the_same_on_every_read(home: Home) -> None:
    """Reading again must change nothing: a review that was refused would appear all at once."""
    _put(home, "a.jsonl", ("x", "Fine."))
    _take(home)
    _withdraw(home, "a.jsonl")
    _put(home, "b.jsonl", ("x", "Awful."), ("z", "Poor."))
    _take(home)
    before = _everything(home)
    assert set(_accepted(home)) == {"z"}
    assert len(_quarantined(home)) == 2
    _take(home)
    assert _everything(home) == before


def test_one_id_of_two_tenants_is_two_reviews(home: Home) -> None:
    """Tenants number their reviews by themselves."""
    _put(home, "a.jsonl", ("1", "Fine."))
    _put(home, "a.jsonl", ("1", "Awful."), tenant="bolt")
    taken = _take(home)
    assert (taken.accepted, taken.quarantined) == (2, 0)


def test_a_row_that_comes_again_is_taken_once_and_named(home: Home) -> None:
    """In the same file or in another: counted twice, it would be billed twice."""
    _put(home, "a.jsonl", ("x", "Fine."), ("x", "Fine."))
    _put(home, "b.jsonl", ("x", "Fine."))
    assert _take(home).accepted == 1
    assert _quarantined(home) == [
        ("a.jsonl", 2, "x", "duplicate_row"),
        ("b.jsonl", 1, "x", "duplicate_row"),
    ]
    before = _everything(home)
    _take(home)
    assert _everything(home) == before


def test_other_days_are_not_touched(home: Home) -> None:
    """An id and a text may come again on another day: a re-delivery, not a duplicate."""
    _put(home, "a.jsonl", ("x", "Fine."), (None, "Dear."), ("bad", " "))
    _take(home)
    _put(home, "a.jsonl", ("x", "Awful."), (None, "Dear."), day=NEXT_DAY)
    taken = _take(home, NEXT_DAY)
    assert (taken.accepted, taken.quarantined) == (2, 0)
    by_day = "SELECT day, count(*) FROM raw_reviews GROUP BY day ORDER BY day"
    assert query(home, by_day).rows() == [(DAY, 2), (NEXT_DAY, 2)]
    kept = f"FROM raw_reviews WHERE day = '{NEXT_DAY}' ORDER BY ALL"
    before = query(home, kept).rows()
    _put(home, "a.jsonl")
    _take(home)
    assert query(home, kept).rows() == before
    assert query(home, by_day).rows() == [(NEXT_DAY, 2)]


def test_files_under_no_tenants_name_are_quarantined_and_the_others_taken(home: Home) -> None:
    """A misspelt folder must neither be passed over in silence nor hold up the day."""
    _put(home, "a.jsonl", ("a1", "Fine."))
    _put(home, "b.jsonl", ("b1", "Poor."), ("b2", "Dear."), tenant="Acme")
    assert _take(home).accepted == 1
    assert [row[0] for row in _quarantined(home)] == ["b.jsonl", "b.jsonl"]
    sql = "SELECT DISTINCT contains(detail, 'Acme') FROM quarantined_reviews"
    assert query(home, sql).rows() == [(True,)]


def test_a_read_that_breaks_off_leaves_the_day_as_it_was(home: Home) -> None:
    """Half a day must never be taken for the whole one."""
    _put(home, "a.jsonl", ("a1", "Fine."), ("a2", " "))
    _take(home)
    before = _everything(home)
    _put(home, "a.jsonl", ("a1", "Other."), ("a3", " "))

    def broken() -> Iterator[Chunk]:
        yield from _chunks(home, DAY)
        raise OSError("the disk is gone")

    files = [source.file for source in inbox.day_files(home.inbox, DAY)]
    with (
        Warehouse(database=str(home.warehouse)).open() as connection,
        pytest.raises(OSError, match="the disk is gone"),
    ):
        replace_deliveries(connection, DAY, broken(), files)
    assert _everything(home) == before


def test_labels_outside_the_taxonomy_are_counted_over_all_files(home: Home) -> None:
    """A misspelt label costs a truth, and no row; this count is the only sign of it."""
    folder = home.inbox / "acme" / DAY.isoformat()
    folder.mkdir(parents=True)
    row = {"review_id": "x", "category": "Lamps", "text": "Fine.", "label": "postive"}
    (folder / "a.jsonl").write_text(json.dumps(row) + "\n")
    (folder / "b.jsonl").write_text(json.dumps(row | {"review_id": "y"}) + "\n")
    assert list(_take(home).unknown_truth.values()) == [2]
