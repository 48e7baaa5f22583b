"""The command `label`: a blind sample goes out, comes back, and counts without being paid for."""

from __future__ import annotations

import csv
import json
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster_tests.conftest import DAY, Runner, deliver, query, reviews

NEXT = DAY + timedelta(days=1)


def label(*arguments: object, tenant: str = "acme") -> int:
    """Run `review-optimizer label` and return its exit code."""
    with pytest.raises(SystemExit) as left:
        cli.main(["label", "--tenant", tenant, *map(str, arguments)])
    return int(str(left.value.code))


def results(home: Home, n: int, day: date = DAY) -> None:
    """A judged day of acme's, as a run leaves it."""
    ids = [f"r{number:03}" for number in range(n)]
    common = {"tenant": "acme", "taxonomy": "reviews", "review_id": ids, "category": "Lamps"}
    keys = [f"{number:032x}" for number in range(n)]
    raw = pl.DataFrame(
        common
        | {"content_key": keys, "title": "=1+1", "text": [f"Call 555-0100 about {i}" for i in ids]}
        | {"truth": "{}"}
    )
    told = json.dumps({"sentiment": "positive"})
    judged = pl.DataFrame(
        common
        | {"content_key": keys, "identity": "i", "status": "labelled", "level": "model"}
        | {"labels": told, "score": 1.0, "repeat": False}
    )
    with Warehouse(database=str(home.warehouse)).open() as connection:
        connection.append("raw_reviews", raw, day=day)
        connection.append("review_results", judged, day=day)


def rows(path: Path) -> list[dict[str, str]]:
    """A CSV file's rows, as a spreadsheet reads them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def fill(path: Path, target: Path, labels: dict[str, str], column: str = "sentiment") -> Path:
    """A labeller's copy of a sample: these reviews have these labels."""
    filled = [row | {column: labels.get(row["review_id"], "")} for row in rows(path)]
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(filled[0]))
        writer.writeheader()
        writer.writerows(filled)
    return target


def test_the_sample_is_blind_whole_and_safe_to_open(home: Home, tmp_path: Path) -> None:
    """Nobody is led by the system's answer, and no cell runs; the text is as it was delivered."""
    results(home, 30)
    out = tmp_path / "s.csv"
    assert label("--reviews", 10, "--out", out, "--json", tmp_path / "s.json") == 0
    sample = rows(out)
    assert list(sample[0]) == [
        "review_id", "day", "category", "title", "text",
        "sentiment", "product_quality", "purchase_recommendation",
    ]  # fmt: skip
    assert len({row["review_id"] for row in sample}) == 10
    assert {row["sentiment"] for row in sample} == {""}
    assert sample[0]["title"] == "'=1+1"
    assert sample[0]["text"] == f"Call 555-0100 about {sample[0]['review_id']}"
    assert "positive" not in out.read_text(encoding="utf-8")
    guide = (tmp_path / "s.csv.guide.md").read_text(encoding="utf-8")
    assert "`mixed`: clear praise" in guide
    done = json.loads((tmp_path / "s.json").read_text(encoding="utf-8"))
    assert done["texts"] == sum(each["drawn"] for each in done["strata"]) == 10
    weights = query(home, "SELECT sum(1 / asked) AS w, min(sample_id) AS s FROM label_samples")
    assert weights["w"].to_list() == pytest.approx([30])


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_every_format_can_be_taken_back(home: Home, tmp_path: Path, suffix: str) -> None:
    """What was written is read by the same readers as a delivery."""
    results(home, 8)
    out = tmp_path / f"s.{suffix}"
    assert label("--reviews", 4, "--out", out, "--show-answers") == 0
    frame = {
        "csv": lambda: pl.read_csv(out, infer_schema=False),
        "jsonl": lambda: pl.read_ndjson(out),
        "parquet": lambda: pl.read_parquet(out),
    }[suffix]()
    assert frame["answer_sentiment"].to_list() == ["positive"] * 4
    frame = frame.with_columns(sentiment=pl.lit("mixed"))
    write: Any = {"csv": frame.write_csv, "jsonl": frame.write_ndjson}.get(
        suffix, frame.write_parquet
    )
    write(out)
    assert label("--take", out, "--labeller", "kim") == 0
    assert query(home, "SELECT day, label, labeller FROM human_labels").unique().rows() == [
        (DAY, "mixed", "kim")
    ]


def test_a_day_is_drawn_once_and_a_span_goes_on_from_there(home: Home, tmp_path: Path) -> None:
    """Asking again must not change whom people were asked about; --redraw says otherwise."""
    results(home, 30)
    results(home, 30, NEXT)
    assert label("--date", DAY, "--reviews", 10, "--out", tmp_path / "a.csv") == 0
    assert label("--date", DAY, "--reviews", 20, "--out", tmp_path / "b.csv") == 0
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()
    span = ("--from", DAY, "--to", NEXT, "--reviews", 16)
    assert label(*span, "--out", tmp_path / "c.csv") == 0
    by_day = [row["day"] for row in rows(tmp_path / "c.csv")]
    assert (by_day.count(str(DAY)), by_day.count(str(NEXT))) == (10, 6)
    assert label(*span, "--redraw", "--out", tmp_path / "d.csv") == 0
    assert query(home, "SELECT count(*) AS n, sum(1 / asked) AS w FROM label_samples").rows() == [
        (16, pytest.approx(60))
    ]


def test_two_labellers_disputes_and_what_is_missing(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever takes labels back learns what they came to, and which days they concern."""
    results(home, 12)
    out = tmp_path / "s.csv"
    label("--reviews", 6, "--out", out)
    first, second, third, *_ = [row["review_id"] for row in rows(out)]
    kim = fill(out, tmp_path / "kim.csv", {first: "positive", second: "negative", third: "prple"})
    assert label("--take", kim) == 1  # a row means nothing
    lee = fill(out, tmp_path / "lee.csv", {first: "positive", second: "mixed"})
    capsys.readouterr()
    assert label("--take", lee, "--labeller", "lee", "--json", tmp_path / "t.json") == 0
    told = capsys.readouterr().out
    assert f"{DAY} {second}: sentiment" in told
    assert f"run --date {DAY}" in told
    done = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert (done["judgements"], done["reviews"], done["days"]) == (2, 2, [str(DAY)])
    assert [each["review_id"] for each in done["disputed"]] == [second]
    assert done["samples"] == [{"day": str(DAY), "texts": 6, "labelled": 2, "missing": 4}]
    again = fill(out, tmp_path / "lee.csv", {first: "positive", second: "negative"})
    assert label("--take", again, "--labeller", "lee", "--json", tmp_path / "t.json") == 0
    done = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert (done["replaced"], done["disputed"]) == (True, [])


def test_nothing_is_taken_that_holds_no_label(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reasons are said, and nothing lies in the folder that a run would read."""
    results(home, 4)
    bad = tmp_path / "bad.csv"
    for text, why in (
        ("review_id,label\nr001,purple\n", "'purple' is no sentiment"),
        ("review_id,label\nr001,\n", "cells are empty"),
        ("review_id,lable\nr001,mixed\n", "it has none of: label"),
    ):
        bad.write_text(text, encoding="utf-8")
        assert label("--take", bad) == 2
        assert why in capsys.readouterr().err
    bad.with_suffix(".db").write_text("no database")
    assert label("--take", bad.with_suffix(".db")) == 2
    assert not home.labels.exists()


def test_nobodys_labels_are_overwritten(home: Home, tmp_path: Path) -> None:
    """Neither the file that is being filled in, nor what another person handed in."""
    results(home, 4)
    out = tmp_path / "s.csv"
    out.write_text("review_id,label\nr001,mixed\n", encoding="utf-8")
    assert label("--out", out) == 2
    assert label("--take", out) == label("--take", out) == 0
    out.write_text("review_id,label\nr001,neutral\n", encoding="utf-8")
    assert label("--take", out) == 2
    assert query(home, "SELECT label FROM human_labels")["label"].to_list() == ["mixed"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--from", DAY),
        ("--from", NEXT, "--to", DAY),
        ("--date", DAY, "--from", DAY, "--to", DAY),
        ("--labeller", "kim"),
        ("--take", "s.csv", "--redraw"),
        ("--take", "no-such.csv"),
        ("--out", "s.xlsx"),
        ("--date", "2026-01-05"),
        ("--take", "pyproject.toml"),
        ("--take", "s.csv", "--labeller", "../kim"),
    ],
)
def test_what_cannot_work_is_refused(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[object, ...]
) -> None:
    """With exit code 2, and nothing written."""
    results(home, 4)
    monkeypatch.chdir(tmp_path)
    Path("pyproject.toml").touch()
    Path("s.csv").write_text("review_id,label\nr001,mixed\n", encoding="utf-8")
    before = sorted(tmp_path.iterdir())
    assert label(*arguments) == 2
    assert sorted(tmp_path.iterdir()) == before
    assert not home.labels.exists()


@pytest.mark.campaign
def test_labels_that_come_later_count_and_cost_nothing(
    home: Home, run_day: Runner, tmp_path: Path
) -> None:
    """The day is judged anew by what people said: no request, no money, the same labels."""
    given = reviews(0, 30)
    for row in given:
        del row["label"]
    given.append(given[0] | {"review_id": "again"})
    deliver(home, given)
    assert run_day()["accuracy"]["truth"] == "none"
    spent = query(home, "SELECT count(*) AS n, sum(cost_nanos) AS c FROM llm_requests").rows()
    out = tmp_path / "s.csv"
    assert label("--reviews", 40, "--out", out) == 0  # all 30 texts
    right = {row["review_id"]: "positive" if "love" in row["text"] else "negative" for row in given}
    wrong = next(iter(rows(out)))["review_id"]
    right[wrong] = "mixed"
    assert label("--take", fill(out, tmp_path / "kim.csv", right)) == 0
    summary = run_day()
    assert query(home, "SELECT count(*) AS n, sum(cost_nanos) AS c FROM llm_requests").rows() == (
        spent
    )
    wrong_reviews = 2 if wrong in ("r0", "again") else 1
    assert (summary["accuracy"]["n"], summary["accuracy"]["correct"]) == (31, 31 - wrong_reviews)
    told = query(home, "SELECT truth_origin, label_asked FROM review_results").unique().rows()
    assert told == [("human", 1.0)]
