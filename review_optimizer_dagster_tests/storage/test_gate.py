"""What a failed day leaves behind: named once, asked anew once, switched off until it is new."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.core.patterns import CERTIFICATES
from review_optimizer_dagster.storage import gate, learning
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.truth.causes import CAUSES, Blame
from review_optimizer_dagster_tests.conftest import DAY
from review_optimizer_dagster_tests.storage.test_rechecks import archived, resolved

NOW = datetime(2026, 3, 5, 12, tzinfo=UTC)
NEXT = DAY + timedelta(days=1)


@pytest.fixture
def warehouse(tmp_path: Path) -> Iterator[Connection]:
    """An empty warehouse, open."""
    with Warehouse(database=str(tmp_path / "warehouse.duckdb")).open() as connection:
        yield connection


def _blame(*texts: str, **cause: Any) -> Blame:
    row = dict.fromkeys(CAUSES) | {"identity": "i", "wrong": 1, "n": 2, "reviews": 2} | cause
    keys = {"identity": ["i"] * len(texts), "content_key": list(texts)}
    return Blame(pl.DataFrame([row], CAUSES), pl.DataFrame(keys))


def _blamed(connection: Connection, blame: Blame) -> int:
    return gate.replace_blame(connection, DAY, "acme", "reviews", blame, NOW)


def test_an_entry_to_blame_is_withdrawn_and_what_it_answered_is_asked_anew_once(
    warehouse: Connection,
) -> None:
    """A second failure for the same texts would pay again and again."""
    archived(warehouse, "bad", "r1")
    resolved(warehouse, "a", source_key="bad", audit=False)
    resolved(warehouse, "b", source_key="good", audit=False)
    blame = _blame("a", kind="entry", source="bad", level="l3_near")
    assert _blamed(warehouse, blame) == 1
    assert warehouse.rows("SELECT content_key, tenant FROM withdrawn_entries") == [("bad", "acme")]
    assert gate.due_anew(warehouse, DAY).rows() == [("i", "a")]
    gate.take_back(warehouse, DAY, NOW)
    levels = "SELECT content_key, level, withdrawn_level FROM cache_resolution ORDER BY 1"
    assert warehouse.rows(levels) == [("a", None, "l3_exact"), ("b", "l3_exact", None)]
    assert gate.due_anew(warehouse, DAY).is_empty()
    assert _blamed(warehouse, blame) == 0
    assert len(warehouse.rows("FROM withdrawn_entries")) == 1


def test_a_patterns_label_is_switched_off_until_there_is_another_version(
    warehouse: Connection,
) -> None:
    """Evidence certifies it again the next day: it does not know of the day that failed."""
    rows = [
        dict.fromkeys(CERTIFICATES)
        | {"identity": "i", "version": version, "field": "tone", "label": label, "category": ""}
        | {"threshold": 0.5, "n": 9, "errors": 0, "bound": 0.01, "status": "serving"}
        for version in ("v1", "v2")
        for label in ("light", "dark")
    ]
    old, new = (pl.DataFrame(part, CERTIFICATES) for part in (rows[:2], rows[2:]))
    learning.replace_certificates(warehouse, DAY - timedelta(days=1), "i", old)
    blame = _blame(kind="pattern", source="pattern:v1", field="tone", label="dark")
    _blamed(warehouse, blame)

    def serving(day: Any) -> list[str]:
        found = learning.certificates(warehouse, day, "i")
        return found.filter(status="serving")["label"].sort().to_list()

    assert serving(DAY - timedelta(days=1)) == ["dark", "light"]  # as it stood then
    assert serving(DAY) == ["light"]
    learning.replace_certificates(warehouse, DAY, "i", old)
    assert serving(DAY) == ["light"]
    stored = "SELECT label, status FROM pattern_certificates WHERE day = ? ORDER BY 1"
    assert warehouse.rows(stored, [DAY]) == [("dark", "switched off"), ("light", "serving")]
    resolved(warehouse, "a")
    assert learning.switched_off(warehouse, DAY).is_empty()  # the gate's alert has told it
    learning.replace_certificates(warehouse, NEXT, "i", new)
    assert serving(NEXT) == ["dark", "light"]


def test_a_text_is_evidence_on_the_first_day_it_is_scored(warehouse: Connection) -> None:
    """The same answer to the same text again proves nothing new."""
    common = {"tenant": "acme", "taxonomy": "reviews", "truth": "labels", "simulated": False}

    def score(day: Any, *scores: tuple[str, bool, bool]) -> None:
        rows = [
            common | {"content_key": key, "correct": correct, "uniform": uniform}
            for key, correct, uniform in scores
        ]
        warehouse.replace("scored_reviews", pl.DataFrame(rows), day)

    score(DAY, ("a", True, True), ("a", True, True), ("b", False, True), ("c", True, False))
    score(NEXT, ("a", True, True), ("b", True, True), ("d", True, True))
    about = ("acme", "reviews", "labels", False)
    assert gate.standing_counts(warehouse, DAY, *about) == (1, 2, 1)
    assert gate.standing_counts(warehouse, NEXT, *about) == (2, 3, 2)
    assert gate.standing_counts(warehouse, NEXT, "acme", "reviews", "labels", True) == (0, 0, 0)


def test_references_tell_what_is_in_the_raw_reviews_and_in_the_ledger(
    warehouse: Connection,
) -> None:
    """A hit whose entry was taken back is no longer booked."""
    review = {"tenant": "acme", "level": "l3_exact"}
    for name in ("hit", "back", "paid", "unpaid", "unknown"):
        if name != "unknown":
            resolved(warehouse, name, audit=False)
        asked = {"level": "model", "request_id": f"q-{name}"} if "paid" in name else {}
        row = review | {"review_id": name, "content_key": name} | asked
        warehouse.append("review_results", pl.DataFrame([row]), day=DAY)
    entries = [
        {"entry_id": "1", "review_id": "hit", "kind": "hit"},
        {"entry_id": "2", "review_id": "back", "kind": "hit"},
        {"entry_id": "3", "review_id": "back", "kind": "correction", "corrects": "2"},
        {"entry_id": "4", "review_id": "paid", "kind": "classification", "request_id": "q-paid"},
    ]
    warehouse.append("ledger_entries", pl.DataFrame(entries), day=DAY, tenant="acme")
    found = {row[1]: row[2:] for row in gate.references(warehouse, DAY).rows()}
    assert found == {
        "hit": (True, True),
        "back": (True, False),
        "paid": (True, True),
        "unpaid": (True, False),
        "unknown": (False, False),
    }


def test_a_condition_has_its_first_day_whoever_looks_later(warehouse: Connection) -> None:
    """Its alert is named by that day: told once, and never again by a sensor that looks back."""
    common = {"tenant": "acme", "taxonomy": "reviews", "simulated": False, "truth": "labels"}
    days = [DAY + timedelta(days=number) for number in range(5)]
    for day, below, standing in zip(
        days, (True, False, True, True, False), ("inconclusive", *["failed"] * 4), strict=True
    ):
        verdict = common | {"verdict": "passed", "standing_verdict": standing}
        warehouse.append("gate_verdicts", pl.DataFrame([verdict]), day=day)
        warehouse.append("accuracy_cells", pl.DataFrame([common | {"below": below}]), day=day)

    def since(day: Any) -> gate.BadSince:
        return gate.bad_since(warehouse, day, "acme", "reviews", False)

    assert [since(day)[0] for day in days] == [days[0], days[1], days[2], days[2], days[4]]
    assert [since(day)[1] for day in days] == [days[0], *[days[1]] * 4]
