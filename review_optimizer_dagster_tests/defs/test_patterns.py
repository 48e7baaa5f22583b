"""Learned patterns in the daily job: from nothing to a certificate by ordinary traffic."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.config import Home
from review_optimizer_dagster_tests.conftest import DAY, deliver, query

Run = Callable[..., dict[str, Any]]
SECOND, THIRD = DAY + timedelta(days=1), DAY + timedelta(days=2)
TAXONOMY = """
name = "moods"
version = 1
document = "note"
instructions = "Say whether the writer is glad."

[[fields]]
name = "mood"
question = "Is the writer glad?"
labels = ["glad", "sad"]
"""
SETTINGS = """
[engine]
name = "simulator"
[patterns]
min_rows = 200
evidence = {evidence}
holdout = 0.5
category_rows = 100000
[rechecks]
share = {share}
new_share = {share}
[tenants.acme]
taxonomy = "moods"
[tenants.zest]
taxonomy = "moods"
"""
WORDS = """
kettle lamp novel scarf tripod blender keyboard curtain puzzle tent rug
delight joy bright cheerful splendid lovely wonderful charming grand
grief gloom dreary awful dismal wretched horrid miserable bleak
bought opened carried placed showed lent washed stored packed
"""
THINGS, GLAD, SAD, NEITHER = (line.split() for line in WORDS.strip().splitlines())


def notes(start: int, stop: int, *, upside_down: bool = False) -> list[dict[str, Any]]:
    """Notes whose words tell their mood; the labels of `upside_down` ones say the contrary."""
    rows = []
    for number in range(start, stop):
        random_words = random.Random(number)  # noqa: S311 (texts, not secrets)
        glad = number % 2 == 0
        told = random_words.sample(GLAD if glad else SAD, 3)
        words = [*told, *random_words.sample(THINGS, 4), *random_words.sample(NEITHER, 4)]
        random_words.shuffle(words)
        label = "glad" if glad != upside_down else "sad"
        rows.append({"review_id": f"n{number}", "category": "Notes", "text": " ".join(words)})
        rows[-1]["label"] = label
    return rows


@pytest.fixture
def answers(home: Home, tmp_path: Path) -> Callable[..., str]:
    """A home with this taxonomy; the file from which the simulator answers."""

    def prepare(rows: list[dict[str, Any]], evidence: int = 100, share: float = 0.02) -> str:
        (home.folder / "taxonomies").mkdir(parents=True)
        (home.folder / "taxonomies" / "moods.toml").write_text(TAXONOMY, encoding="utf-8")
        home.tenants_file.write_text(SETTINGS.format(evidence=evidence, share=share))
        path = tmp_path / "answers.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return prepare


def learnt(home: Home) -> dict[str, pl.DataFrame]:
    """What the patterns left, but for the clock."""
    tables = ("pattern_evidence", "pattern_certificates", "cache_resolution", "review_results")
    found = {name: query(home, f"FROM {name} ORDER BY ALL") for name in tables}
    sql = "SELECT day, identity, version, rows, archived FROM pattern_versions ORDER BY ALL"
    return found | {"pattern_versions": query(home, sql)}


def of_day(home: Home, day: date) -> pl.DataFrame:
    return query(home, f"FROM cache_resolution WHERE day = '{day}' AND level = 'l3_pattern'")


@pytest.mark.campaign
@pytest.mark.timeout(300)  # trains twice, on cores that others may use too
def test_ordinary_traffic_earns_a_certificate_and_lost_weights_come_back(
    home: Home,
    run_day: Run,
    answers: Callable[..., str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A new tenant's first day is asked in full; the second is answered under a stated bound.

    Weights can be made again from the archive, bit for bit; meanwhile the model answers.
    """
    rows = notes(0, 1_100)
    file = answers(rows)
    deliver(home, rows[:600])
    first = run_day(answers=file)
    assert first["problem"] is None
    assert (first["hits"]["l3_pattern"], first["misses"]) == (0, 600)

    deliver(home, rows[600:900], SECOND)
    deliver(home, rows[900:1_000], SECOND, "zest")
    second = run_day(SECOND, answers=file)
    assert second["problem"] is None
    served = of_day(home, SECOND)
    assert second["hits"]["l3_pattern"] == served.height > 200
    assert second["by_tenant"]["acme"]["accuracy"]["correct"] == 300
    assert set(served["tenant"]) == {"acme"}, "zest has its own pattern to earn"
    assert served.filter(pl.col("bound") > 0.03).is_empty()
    (source,) = served["source_key"].unique()
    (version,) = query(home, "SELECT version FROM pattern_versions")["version"]
    assert source == f"pattern:{version}"

    before = learnt(home)
    (path,) = (home.folder / "patterns").glob("*.npz")
    weights = path.read_bytes()
    path.unlink()
    for day in (DAY, SECOND):
        assert run_day(day, answers=file)["this_run"]["requests"] == 0
    for name, frame in learnt(home).items():
        assert frame.equals(before[name]), name
    assert path.read_bytes() == weights

    with pytest.raises(SystemExit) as left:
        cli.main(["explain", served["review_id"][0], "--tenant", "acme"])
    told = capsys.readouterr().out
    assert left.value.code == 0
    assert "a learned pattern" in told
    assert "error at most" in told
    assert version in told

    path.unlink()
    deliver(home, rows[1_000:], THIRD)
    third = run_day(THIRD, answers=file)
    assert (third["hits"]["l3_pattern"], third["misses"]) == (0, 100)


@pytest.mark.campaign
def test_a_world_that_changes_switches_a_pattern_off(
    home: Home, run_day: Run, answers: Callable[..., str]
) -> None:
    """Rechecks that contradict a pattern correct the review, and end its answers."""
    old, changed = notes(0, 600), notes(600, 900, upside_down=True)
    file = answers(old + changed, evidence=10_000, share=1.0)
    deliver(home, old)
    run_day(answers=file)
    deliver(home, changed[:200], SECOND)
    second = run_day(SECOND, answers=file)
    assert second["audits"] == second["audits_disagreed"] > 100
    assert second["accuracy"]["correct"] == 200, "what was rechecked is published as rechecked"
    statuses = set(query(home, f"FROM pattern_certificates WHERE day = '{SECOND}'")["status"])
    assert "serving" not in statuses
    assert "switched off" in statuses or "abstains" in statuses

    deliver(home, changed[200:], THIRD)
    assert run_day(THIRD, answers=file)["hits"]["l3_pattern"] == 0
