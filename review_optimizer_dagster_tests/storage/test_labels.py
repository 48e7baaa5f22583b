"""Label files in the warehouse: read once, read anew, taken back, and over what was delivered."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.storage.labels import Loaded, read_labels, resolved_truth
from review_optimizer_dagster.storage.publish import write_analytics
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY

NEXT = DAY + timedelta(days=1)


@pytest.fixture
def warehouse(home: Home) -> Iterator[Connection]:
    """The home's warehouse, with two days of deliveries: `a` comes on both, `b` and `c` on one."""
    with Warehouse(database=str(home.warehouse)).open() as connection:
        for day, ids in ((DAY, ["a", "b", "c"]), (NEXT, ["a"])):
            connection.append("raw_reviews", _delivered(ids), day=day)
        yield connection


def _delivered(ids: list[str], truth: str = "{}", key: str | None = None) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "tenant": "acme",
            "taxonomy": "reviews",
            "review_id": ids,
            "content_key": [key or f"key of {each}" for each in ids],
            "category": "Lamps",
            "text": [f"text of {each}" for each in ids],
            "truth": truth,
        }
    )


def drop(home: Home, name: str, text: str, hour: int = 12) -> Path:
    """Put a label file into acme's labels, as it was saved at some hour."""
    path = home.labels / "acme" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    os.utime(path, (1_772_600_000 + 3_600 * hour,) * 2)
    return path


def look(warehouse: Connection, home: Home, *days: date) -> Loaded:
    """Read what is new and settle some days."""
    return read_labels(warehouse, home, days or (DAY, NEXT))


def truths(warehouse: Connection, day: date = DAY) -> dict[str, tuple[dict[str, str], str | None]]:
    """Review to its truth and where that is from."""
    rows = resolved_truth(warehouse, day).select("review_id", "truth", "truth_origin").rows()
    return {name: (json.loads(truth), origin) for name, truth, origin in rows}


def kept(warehouse: Connection, columns: str = "review_id, label, labeller") -> list[Any]:
    """All judgements."""
    return warehouse.rows(f"SELECT {columns} FROM human_labels ORDER BY ALL")  # noqa: S608


def reasons(warehouse: Connection) -> list[Any]:
    """Why rows mean nothing."""
    return warehouse.rows("SELECT file, line, reason FROM quarantined_labels ORDER BY ALL")


def test_labels_outrank_the_delivery_field_by_field(warehouse: Connection, home: Home) -> None:
    """One corrected field leaves the others as they were delivered; a dispute leaves none."""
    given = '{"sentiment": "negative", "product_quality": "poor"}'
    warehouse.execute("UPDATE raw_reviews SET truth = ? WHERE review_id <> 'c'", [given])
    drop(home, "kim.csv", "review_id,label\na,positive\nb,positive\n")
    drop(home, "lee.csv", "review_id,label\nb,neutral\n")
    look(warehouse, home)
    assert truths(warehouse) == {
        "a": ({"sentiment": "positive", "product_quality": "poor"}, "human"),
        "b": ({"product_quality": "poor"}, "delivered"),
        "c": ({}, None),
    }
    disputed = warehouse.rows("SELECT review_id FROM resolved_labels WHERE status = 'disputed'")
    assert disputed == [("b",)]


def test_the_rule_is_the_tenants(warehouse: Connection, home: Home) -> None:
    """Majority if nothing is said; the newest where a tenant asks for that."""
    for name, label, hour in (("kim", "negative", 1), ("lee", "negative", 2), ("mo", "mixed", 3)):
        drop(home, f"{name}.csv", f"review_id,label\na,{label}\n", hour)
    look(warehouse, home)
    assert truths(warehouse)["a"] == ({"sentiment": "negative"}, "human")
    home.tenants_file.write_text('[tenants.acme]\nlabel_rule = "newest"\n')
    look(warehouse, Home(home.folder))
    assert truths(warehouse)["a"] == ({"sentiment": "mixed"}, "human")


def test_a_day_keeps_a_label_to_that_delivery(warehouse: Connection, home: Home) -> None:
    """Without one it is about every delivery of the review."""
    drop(home, "kim.csv", f"review_id,day,label,product_quality\na,{NEXT},mixed,\na,,,good\n")
    look(warehouse, home)
    assert truths(warehouse, DAY)["a"] == ({"product_quality": "good"}, "human")
    assert truths(warehouse, NEXT)["a"][0] == {"sentiment": "mixed", "product_quality": "good"}


def test_files_are_read_once_and_anew_when_they_change(warehouse: Connection, home: Home) -> None:
    """A nightly look costs nothing where nothing happened; a correction replaces its own rows."""
    drop(home, "kim.csv", "review_id,label\na,positive\nb,positive\n")
    drop(home, "lee.csv", "review_id,label\na,positive\n")
    assert look(warehouse, home).read == ("acme/kim.csv", "acme/lee.csv")
    before = kept(warehouse, "*")
    assert look(warehouse, home).read == ()
    assert kept(warehouse, "*") == before
    drop(home, "kim.csv", "review_id,label\na,negative\n", hour=13)
    assert look(warehouse, home).read == ("acme/kim.csv",)
    assert kept(warehouse) == [("a", "negative", "kim"), ("a", "positive", "lee")]


def test_a_file_that_is_gone_takes_its_labels_back(warehouse: Connection, home: Home) -> None:
    """That is how a tenant takes back what was wrong; the quarantine goes with it."""
    path = drop(home, "kim.csv", "review_id,label\na,positive\nb,purple\n")
    drop(home, "kim.csv.jsonl", '{"review_id": "b", "label": "mixed"}\n')
    look(warehouse, home)
    assert reasons(warehouse) == [("acme/kim.csv", 3, "unknown_label")]
    path.unlink()
    assert look(warehouse, home).removed == ("acme/kim.csv",)
    assert kept(warehouse) == [("b", "mixed", "kim")]
    assert reasons(warehouse) == []
    assert truths(warehouse)["a"] == ({}, None)


def test_a_label_waits_in_quarantine_for_its_review(warehouse: Connection, home: Home) -> None:
    """Labels may come before the delivery; the quarantine says which ones mean nothing yet."""
    drop(home, "kim.csv", f"review_id,day,label\nlate,,mixed\nb,{NEXT},mixed\n")
    look(warehouse, home)
    assert [(line, why) for _, line, why in reasons(warehouse)] == [
        (2, "unknown_review"),
        (3, "unknown_review"),
    ]
    warehouse.append("raw_reviews", _delivered(["late"]), day=NEXT)
    assert look(warehouse, home).read == ()
    assert [line for _, line, _ in reasons(warehouse)] == [3]
    assert truths(warehouse, NEXT)["late"] == ({"sentiment": "mixed"}, "human")


def test_a_folder_names_the_labeller_and_other_files_are_left_alone(
    warehouse: Connection, home: Home
) -> None:
    """Two people hand in the same file name; an editor's rests are nobody's labels."""
    for name in ("kim/s.csv", "lee/s.csv", ".s.csv", "half.csv.part", ".git/s.csv"):
        drop(home, name, "review_id,label\na,positive\n")
    drop(home, "notes.md", "read me")
    look(warehouse, home)
    assert kept(warehouse) == [("a", "positive", "kim"), ("a", "positive", "lee")]
    assert reasons(warehouse) == [("acme/notes.md", None, "unknown_format")]


def test_a_folder_of_no_tenant_is_quarantined(warehouse: Connection, home: Home) -> None:
    """A misspelt tenant must be seen, and become one as soon as it is known."""
    home.tenants_file.write_text("[tenants.globex]\n")
    drop(home, "kim.csv", "review_id,label\na,positive\n")
    look(warehouse, Home(home.folder))
    assert reasons(warehouse) == [("acme/kim.csv", None, "unknown_tenant")]
    home.tenants_file.write_text("[tenants.acme]\n")
    look(warehouse, Home(home.folder))
    assert reasons(warehouse) == []
    assert kept(warehouse) == [("a", "positive", "kim")]


def test_labels_are_read_anew_when_the_taxonomy_or_the_columns_change(
    warehouse: Connection, home: Home
) -> None:
    """The file did not change, but what it means did."""
    home.tenants_file.write_text("[tenants.acme]\n")
    drop(home, "kim.csv", "review_id,verdict\na,positive\n")
    look(warehouse, Home(home.folder))
    assert [why for *_, why in reasons(warehouse)] == ["no_label_column"]
    home.tenants_file.write_text('[tenants.acme.columns]\nlabel = "verdict"\n')
    look(warehouse, Home(home.folder))
    assert reasons(warehouse) == []
    assert kept(warehouse) == [("a", "positive", "kim")]


def _database(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with duckdb.connect(str(path)) as raw:
        raw.execute('CREATE SCHEMA "my team"')
        raw.execute(
            "CREATE TABLE \"my team\".gold AS SELECT * FROM (VALUES ('a', 'positive', "
            "DATE '2026-03-04', TIMESTAMPTZ '2026-03-06 10:00:00+00'), ('b', NULL, NULL, NULL), "
            "('c', 'mixed', NULL, NULL)) t(review_id, label, day, labelled_at)"
        )
        raw.execute("CREATE TABLE other AS SELECT 1 AS number")
        raw.execute("CREATE VIEW seen AS SELECT 'b' AS review_id, 'mixed' AS label")


def test_tables_of_a_duckdb_database_are_read(warehouse: Connection, home: Home) -> None:
    """Every table with a review_id, with its own days and times; no views."""
    path = home.labels / "acme" / "team.duckdb"
    _database(path)
    look(warehouse, home)
    columns = "review_id, label, labeller, day, origin, file, line, labelled_at::VARCHAR"
    first, second = kept(warehouse, columns)
    where = ("table", "acme/team.duckdb//my team.gold")
    assert first == ("a", "positive", "team", DAY, *where, 1, "2026-03-06 10:00:00+00")
    assert second[:-1] == ("c", "mixed", "team", None, *where, 3)
    path.unlink()
    look(warehouse, home)
    assert kept(warehouse) == []


def test_a_database_that_cannot_be_opened_keeps_what_was_read(
    warehouse: Connection, home: Home
) -> None:
    """It is being written at this moment: nothing is lost, and it is read the next time."""
    path = home.labels / "acme" / "team.db"
    _database(path)
    look(warehouse, home)
    whole, before = path.read_bytes(), kept(warehouse)
    path.write_bytes(b"half a file")
    look(warehouse, home)
    assert kept(warehouse) == before
    assert reasons(warehouse) == [("acme/team.db", None, "unreadable_file")]
    assert str(home.folder) not in str(warehouse.rows("SELECT detail FROM quarantined_labels"))
    path.write_bytes(whole)
    look(warehouse, home)
    assert kept(warehouse) == before
    assert reasons(warehouse) == []


def test_a_drawn_texts_label_is_carried_to_its_repeats(warehouse: Connection, home: Home) -> None:
    """What was drawn is the text; a repeat that was corrected since is another text."""
    warehouse.append("raw_reviews", _delivered(["b2", "b3"], key="key of b"), day=DAY)
    sample = pl.DataFrame({"review_id": ["b", "b2", "b3"], "content_key": "key of b"})
    warehouse.append(
        "label_samples", sample, day=DAY, tenant="acme", taxonomy="reviews", shown="b", asked=0.5
    )
    warehouse.execute("UPDATE raw_reviews SET content_key = 'new' WHERE review_id = 'b3'")
    drop(home, "kim.csv", f"review_id,day,label\nb,{DAY},mixed\n")
    look(warehouse, home)
    origins = {name: origin for name, (_, origin) in truths(warehouse).items()}
    assert origins == {"a": None, "b": "human", "b2": "human", "b3": None, "c": None}


def test_analysts_see_judgements_disputes_and_agreement(warehouse: Connection, home: Home) -> None:
    """Kim and Lee agree on one of two, by Kim's newest word; Mo has nothing in common with them."""
    drop(home, "kim.csv", "review_id,label\na,mixed\na,positive\nb,mixed\n")
    drop(home, "lee.csv", f"review_id,label,day\na,positive,{DAY}\nb,neutral,\n")
    drop(home, "mo.csv", "review_id,label\nc,neutral\n")
    look(warehouse, home)
    path = home.published / "analytics.duckdb"
    write_analytics(warehouse, path, 90)
    with duckdb.connect(str(path), read_only=True) as analyst:
        agreement = analyst.execute(
            "SELECT labeller, other_labeller, pairs, agreeing, agreement_share "
            "FROM labeller_agreement"
        ).fetchall()
        disputed = analyst.execute("SELECT review_id, labels FROM disputed_labels").fetchall()
        (judgements,) = analyst.execute("SELECT count(*) FROM label_judgements").fetchall()
    assert agreement == [("kim", "lee", 2, 1, 0.5)]
    assert disputed == [("b", "mixed, neutral")]
    assert judgements == (6,)
