"""What rechecks leave in the warehouse: judged once, taken back whole, thinned to a fair sample."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.core.batching import PLAN
from review_optimizer_dagster.core.classifier import ANSWERS
from review_optimizer_dagster.rechecks import PATTERN
from review_optimizer_dagster.storage import partition
from review_optimizer_dagster.storage.partition import WarehouseArchive
from review_optimizer_dagster.storage.rechecks import (
    audit_counts,
    chance_sample,
    contradictions,
    entry_history,
    judge,
)
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY

BEFORE, AFTER = DAY - timedelta(days=1), DAY + timedelta(days=1)
GOOD, BAD = '{"sentiment": "positive"}', '{"sentiment": "negative"}'


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Connection]:
    """An empty warehouse, open."""
    with Warehouse(database=str(tmp_path / "warehouse.duckdb")).open() as connection:
        yield connection


def resolved(connection: Connection, text: str, day: date = DAY, **columns: Any) -> None:
    """A review of a text with its resolution: a rechecked exact hit unless told otherwise."""
    review = {"tenant": "acme", "review_id": text, "content_key": text}
    review |= {key: columns.pop(key) for key in ("tenant", "review_id") if key in columns}
    more = {"taxonomy": "reviews", "category": "Lamps", "text": text, "truth": "{}"}
    connection.append("raw_reviews", pl.DataFrame([review | more]), day=day)
    hit = {"identity": "i", "repeat": False, "level": "l3_exact", "labels": GOOD, "score": 1.0}
    hit |= {"source_key": text, "asked": 0.05, "draw": 0.01, "audit": True}
    texts = dict.fromkeys(("level", "labels", "source_key"), pl.String)
    row = pl.DataFrame([review | hit | columns], schema_overrides=texts)
    connection.append("cache_resolution", row, day=day)


def archived(
    connection: Connection, text: str, request_id: str, day: date = BEFORE, identity: str = "i"
) -> None:
    """An answer of the model in L3."""
    row = {"identity": identity, "content_key": text, "text": text, "labels": GOOD}
    connection.append("review_archive", pl.DataFrame([row]), day=day, request_id=request_id)


def answers(*rows: tuple[str, str, str]) -> pl.DataFrame:
    """What the model said: text, labels, request id."""
    return pl.DataFrame(
        [
            ("acme", "i", text, "labelled", labels, "m", q, None, 1, "standard", False, None)
            for text, labels, q in rows
        ],
        ANSWERS,
        orient="row",
    )


def taken_back(frame: pl.DataFrame) -> list[str]:
    return sorted(frame["content_key"])


def test_an_entry_goes_with_everything_that_it_answered(warehouse: Connection) -> None:
    """The audited text, its repeats, and the other texts of the entry; nothing of any other."""
    resolved(warehouse, "a", source_key="s", level="l2")
    resolved(warehouse, "a", review_id="a2", source_key="s", level="l1", repeat=True, audit=False)
    resolved(warehouse, "b", source_key="s", level="l3_near", audit=False)
    resolved(warehouse, "c", source_key="t")
    resolved(warehouse, "d", source_key="s", identity="j", audit=False)
    # A miss of the day whose own text is the entry: the model has answered it, so it stays.
    resolved(warehouse, "s", level=None, labels=None, source_key=None, audit=False)
    resolved(warehouse, "s", review_id="s2", labels=None, level="l1", repeat=True, audit=False)
    for request_id, day in (("q1", BEFORE), ("q2", DAY), ("q3", AFTER)):
        archived(warehouse, "s", request_id, day)
    archived(warehouse, "s", "q1", identity="j")
    said = answers(("a", BAD, "q9"), ("c", GOOD, "q9"))
    assert taken_back(judge(warehouse, DAY, said)) == ["a", "b"]
    left = warehouse.rows(
        "SELECT review_id, level, source_key, score, labels IS NULL, withdrawn_level, "
        "withdrawn_source FROM cache_resolution ORDER BY review_id"
    )
    assert left == [
        ("a", None, None, None, True, "l2", "s"),
        ("a2", "l1", "a", 1.0, True, "l1", "s"),
        ("b", None, None, None, True, "l3_near", "s"),
        ("c", "l3_exact", "t", 1.0, False, None, None),
        ("d", "l3_exact", "s", 1.0, False, None, None),
        ("s", None, None, 1.0, True, None, None),
        ("s2", "l1", "s", 1.0, True, None, None),
    ]
    gone = warehouse.rows(
        "SELECT day, identity, content_key, request_id, level, review_id, audit_request_id "
        "FROM withdrawn_entries ORDER BY request_id"
    )
    assert gone == [(DAY, "i", "s", q, "l2", "a", "q9") for q in ("q1", "q2")]
    audits = warehouse.rows("SELECT review_id, agrees, category FROM audits ORDER BY 1")
    assert audits == [("a", False, "Lamps"), ("c", True, "Lamps")]


def test_a_recheck_is_judged_once(warehouse: Connection) -> None:
    """By the next run the model's new answer is archived; it must not be taken back as well."""
    resolved(warehouse, "a")
    archived(warehouse, "a", "q1")
    said = answers(("a", BAD, "q2"))
    judge(warehouse, DAY, said)
    archived(warehouse, "a", "q2", DAY)
    assert judge(warehouse, DAY, said).is_empty()
    assert warehouse.rows("SELECT request_id FROM withdrawn_entries") == [("q1",)]
    assert warehouse.count("audits", DAY) == 1


def test_two_rechecks_of_one_entry_take_it_back_once(warehouse: Connection) -> None:
    """An entry is gone or not; both rechecks are counted."""
    resolved(warehouse, "a", source_key="s")
    resolved(warehouse, "b", source_key="s")
    archived(warehouse, "s", "q1")
    assert taken_back(judge(warehouse, DAY, answers(("a", BAD, "q"), ("b", BAD, "q")))) == [
        "a",
        "b",
    ]
    assert warehouse.count("withdrawn_entries", DAY) == 1
    assert warehouse.count("audits", DAY) == 2


def test_a_pattern_loses_the_contradicted_text_alone(warehouse: Connection) -> None:
    """A pattern may be wrong as often as its certificate says: it is no entry to take back."""
    resolved(warehouse, "a", level="l3_pattern", source_key="pattern:1")
    resolved(warehouse, "b", level="l3_pattern", source_key="pattern:1", audit=False)
    repeat: dict[str, Any] = {"level": "l1", "repeat": True, "audit": False}
    resolved(warehouse, "a", review_id="a2", source_key="pattern:1", **repeat)
    assert taken_back(judge(warehouse, DAY, answers(("a", BAD, "q")))) == ["a"]
    kept = warehouse.rows("SELECT review_id FROM cache_resolution WHERE labels IS NOT NULL")
    assert kept == [("b",)]
    assert warehouse.count("withdrawn_entries", DAY) == 0
    assert contradictions(warehouse, DAY).is_empty()


def test_a_recheck_that_came_late_still_counts(warehouse: Connection) -> None:
    """Its hit was taken back by another recheck of the entry; leaving it out would be a bias."""
    resolved(warehouse, "a", source_key="s")
    resolved(warehouse, "b", source_key="s")
    judge(warehouse, DAY, answers(("a", BAD, "q1")))
    assert judge(warehouse, DAY, answers(("a", BAD, "q1"), ("b", BAD, "q2"))).is_empty()
    found = warehouse.rows("SELECT review_id, level, source_key, labels FROM audits ORDER BY 1")
    assert found == [(text, "l3_exact", "s", GOOD) for text in "ab"]


def test_audits_of_reviews_that_are_gone_are_forgotten(warehouse: Connection) -> None:
    """A corrected delivery has its own rechecks."""
    resolved(warehouse, "a")
    judge(warehouse, DAY, answers(("a", GOOD, "q")))
    warehouse.execute("DELETE FROM cache_resolution")
    judge(warehouse, DAY, answers())
    assert warehouse.count("audits", DAY) == 0


def test_who_is_told_of_a_contradiction(warehouse: Connection) -> None:
    """Everyone of the pool whose published labels came from the entry, with how many."""
    resolved(warehouse, "a", source_key="s")
    resolved(warehouse, "b", BEFORE, source_key="s", audit=False)
    resolved(warehouse, "b", BEFORE, source_key="s", tenant="bolt", repeat=True, audit=False)
    resolved(warehouse, "c", BEFORE, source_key="s", tenant="bolt", audit=False)
    resolved(warehouse, "d", BEFORE, source_key="t", tenant="cobra", audit=False)
    judge(warehouse, DAY, answers(("a", BAD, "q")))
    told = contradictions(warehouse, DAY).select("tenant", "source_key", "rechecks", "answered")
    assert told.rows() == [("acme", "s", 1, 1), ("bolt", "s", 1, 2)]


def test_the_sample_is_thinned_to_the_least_probability_of_day_and_level(
    warehouse: Connection,
) -> None:
    """New and popular entries are rechecked more; counted alike they would weigh too much."""
    resolved(warehouse, "old", asked=0.02, draw=0.5, audit=False)
    resolved(warehouse, "lucky", asked=0.02, draw=0.01)
    resolved(warehouse, "new", asked=0.05, draw=0.03)
    resolved(warehouse, "new2", asked=0.05, draw=0.019)
    resolved(warehouse, "forced", asked=1.0, draw=0.9)
    resolved(warehouse, "near", asked=0.05, draw=0.03, level="l3_near", source_key="s")
    resolved(warehouse, "sole", BEFORE, asked=1.0, draw=0.9)
    # Taking a hit back must not change what it stands for.
    said = answers(
        ("near", BAD, "q"), *((text, GOOD, "q") for text in ("lucky", "new", "new2", "forced"))
    )
    judge(warehouse, BEFORE, answers(("sole", GOOD, "q")))
    assert taken_back(judge(warehouse, DAY, said)) == ["near"]
    assert set(chance_sample(warehouse, DAY, 30)["content_key"]) == {
        "lucky",
        "new2",
        "near",
        "sole",
    }
    assert set(chance_sample(warehouse, DAY, 1)["content_key"]) == {"lucky", "new2", "near"}
    assert chance_sample(warehouse, BEFORE, 30)["content_key"].to_list() == ["sole"]


def test_the_history_of_an_entry(warehouse: Connection) -> None:
    """Whether it is new, whether it was vetted, and how much of the day it has answered."""
    resolved(warehouse, "s", BEFORE)
    judge(warehouse, BEFORE, answers(("s", GOOD, "q")))
    resolved(warehouse, "v", BEFORE, audit=False)
    resolved(warehouse, "a", source_key="s", audit=False)
    resolved(warehouse, "later", AFTER, source_key="w", audit=False)
    reviews = pl.DataFrame(
        {
            "tenant": ["acme"] * 5,
            "review_id": ["1", "2", "3", "4", "5"],
            "identity": ["i"] * 5,
            "content_key": ["b", "b", "c", "d", "e"],
        }
    )
    resolution = pl.DataFrame(
        {
            "identity": ["i"] * 4,
            "content_key": ["b", "c", "d", "e"],
            "source_key": ["s", "v", "w", None],
            "level": ["l3_near", "l3_near", "l3_exact", None],
        }
    )
    found = entry_history(warehouse, DAY, reviews, resolution)
    columns = ["content_key", "reviews", "answered_before", "vetted", "entry_reviews"]
    assert found.filter(pl.col("source_key").is_not_null()).select(columns).rows() == [
        ("b", 2, True, True, 1),
        ("c", 1, True, False, 0),
        ("d", 1, False, False, 0),
    ]
    assert found["identity_reviews"].to_list() == [6] * 4
    assert found["content_key"].to_list() == ["b", "c", "d", "e"]


def test_a_text_that_a_pattern_answered_may_come_again(warehouse: Connection) -> None:
    """It is asked more often than one that comes for the first time, or that the model answered."""
    resolved(warehouse, "old", BEFORE, level=PATTERN, source_key="pattern:v")
    resolved(warehouse, "known", BEFORE, level=PATTERN, source_key="pattern:v")
    texts = {"identity": ["i"] * 3, "content_key": ["known", "new", "old"]}
    sources = {"source_key": ["known", "pattern:v", "pattern:v"]}
    levels = {"level": ["l3_exact", PATTERN, PATTERN]}
    resolution = pl.DataFrame(texts | sources | levels)
    found = entry_history(warehouse, DAY, pl.DataFrame(texts), resolution)
    assert found["comes_again"].to_list() == [False, False, True]


def test_an_entry_that_was_taken_back_begins_anew(warehouse: Connection) -> None:
    """What its old answer was vetted for says nothing of the new one."""
    resolved(warehouse, "s", BEFORE)
    judge(warehouse, BEFORE, answers(("s", GOOD, "q")))
    gone = {"identity": ["i"], "content_key": ["s"], "request_id": ["q1"]}
    warehouse.append("withdrawn_entries", pl.DataFrame(gone), day=DAY)
    review = {"identity": ["i"], "content_key": ["s"]}
    resolution = pl.DataFrame(review | {"source_key": ["s"], "level": ["l3_exact"]})
    found = entry_history(warehouse, AFTER, pl.DataFrame(review), resolution)
    assert found.select("answered_before", "vetted").rows() == [(False, False)]


def archive(connection: Connection, day: date = AFTER, **ttl: int | None) -> list[tuple[Any, ...]]:
    """What L3 shows on a day, near and exact, as (identity, text, day)."""
    seen = WarehouseArchive(connection, day, 30, ttl)
    keys = pl.DataFrame({"identity": ["i", "j"], "content_key": ["s", "s"]})
    near = pl.concat([seen.near("i", 10), seen.near("j", 10)])
    columns = ["identity", "content_key", "day"]
    exact = seen.exact(keys).select(columns).sort(columns)
    assert exact.equals(near.select(columns).sort(columns))
    return exact.rows()


def test_the_archive_never_shows_what_was_taken_back(warehouse: Connection) -> None:
    """A new answer of the same text is another one, and so is that of another scope."""
    archived(warehouse, "s", "q1")
    archived(warehouse, "s", "q1", identity="j")
    gone = {"identity": ["i"], "content_key": ["s"], "request_id": ["q1"]}
    warehouse.append("withdrawn_entries", pl.DataFrame(gone), day=DAY)
    assert archive(warehouse) == [("j", "s", BEFORE)]
    assert archive(warehouse, BEFORE) == [("j", "s", BEFORE)], "wrong is wrong on any day"
    archived(warehouse, "s", "q2", DAY)
    assert archive(warehouse) == [("i", "s", DAY), ("j", "s", BEFORE)]


def test_the_archive_hides_what_is_too_old(warehouse: Connection) -> None:
    """Each identity by its own taxonomy; without a limit an answer holds for ever."""
    archived(warehouse, "s", "q1")
    archived(warehouse, "s", "q1", identity="j")
    both = [("i", "s", BEFORE), ("j", "s", BEFORE)]
    assert archive(warehouse) == archive(warehouse, i=2) == archive(warehouse, i=None) == both
    assert archive(warehouse, i=1) == both[1:]
    assert archive(warehouse, DAY, i=1) == both


def test_rechecks_are_asked_after_misses(warehouse: Connection) -> None:
    """A short budget goes to what has no answer at all."""
    for text, audit in (("a", True), ("m", False), ("h", False)):
        miss: dict[str, Any] = {"level": None, "labels": None} if text == "m" else {}
        resolved(warehouse, text, audit=audit, **miss)
    wanted = partition.unanswered(warehouse, DAY)
    assert wanted.select("content_key", "purpose").rows() == [
        ("a", "audit"),
        ("m", "classification"),
    ]
    rows = [("1", 1, "1", "acme", "reviews", "i", "a", "standard", 0.0, 1, "audit")]
    rows.append(("2", 1, "1", "acme", "reviews", "i", "m", "standard", 0.0, 1, "classification"))
    # Planned once, and answered by the cache since: nobody waits for it any more.
    rows.append(("3", 1, "1", "acme", "reviews", "i", "h", "standard", 0.0, 1, "audit"))
    partition.replace_plan(warehouse, DAY, pl.DataFrame(rows, PLAN, orient="row"))
    assert partition.planned(warehouse, DAY)["content_key"].to_list() == ["m", "a"]


def test_only_the_first_review_of_a_text_is_drawn(warehouse: Connection) -> None:
    """Its repeats follow it; drawn themselves they would be counted, and paid, twice."""
    reviews = pl.DataFrame(
        {
            "tenant": ["acme"] * 2,
            "review_id": ["1", "2"],
            "identity": ["i"] * 2,
            "content_key": ["a"] * 2,
            "known": [False] * 2,
        }
    )
    hit: dict[str, Any] = {
        "identity": "i",
        "content_key": "a",
        "level": "l3_pattern",
        "labels": GOOD,
    }
    hit |= {"source_key": "pattern:1", "near_score": 0.86, "veto": "negation: not"}
    chance = {"score": 0.9, "bound": 0.03, "asked": 0.05, "draw": 0.01, "audit": True}
    resolution = pl.DataFrame([hit | chance])
    partition.store_resolution(
        warehouse, DAY, reviews, resolution, datetime(2026, 3, 5, tzinfo=UTC)
    )
    stored = warehouse.rows(
        "SELECT review_id, level, source_key, score, bound, asked, draw, audit "
        "FROM cache_resolution ORDER BY 1"
    )
    assert stored == [
        ("1", "l3_pattern", "pattern:1", 0.9, 0.03, 0.05, 0.01, True),
        ("2", "l1", "pattern:1", 0.9, None, None, None, False),
    ]


def test_audits_are_counted_with_what_they_cost(warehouse: Connection) -> None:
    """A recheck that was asked twice cost twice, and is one recheck."""
    resolved(warehouse, "a")
    resolved(warehouse, "b")
    judge(warehouse, DAY, answers(("a", GOOD, "q"), ("b", BAD, "q")))
    paid = pl.DataFrame({"kind": ["audit", "audit", "classification"], "cost_nanos": [3, 4, 50]})
    warehouse.append("ledger_entries", paid, day=DAY)
    assert audit_counts(warehouse, DAY) == {"audits": 2, "audits_disagreed": 1, "cost_nanos": 7}
    assert set(audit_counts(warehouse, AFTER).values()) == {0}
