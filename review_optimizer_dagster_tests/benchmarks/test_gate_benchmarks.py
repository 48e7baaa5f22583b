"""The benchmarks of the gate at small sizes: they measure what they say they do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from review_optimizer_dagster_tests.benchmarks import gate, quality_week


def test_days_of_known_accuracy(tmp_path: Path) -> None:
    """Bad days are failed and good ones passed; every design is there beside the naive rule."""
    out = tmp_path / "figures.json"
    sizes = ("--days", "200", "--weighted-days", "3", "--services", "2")
    gate.main([*sizes, "--json", str(out)])
    figures = json.loads(out.read_text())
    rows = {(row["design"], row["accuracy"], row["labels"]): row for row in figures["days"]}
    assert {design for design, *_ in rows} == {
        "random sample",
        "texts that come 1 to 20 times",
        "stratified, errors evenly",
        "stratified, errors in the rare strata",
    }
    bad, good = (rows["random sample", accuracy, 1_000] for accuracy in (0.93, 0.99))
    assert bad["failed"] > 100 > bad["passed"] == 0
    assert good["passed"] == good["naive_passed"] == 200
    years = {(row["accuracy"], row["labels"]): row for row in figures["years"]}
    assert years[0.93, 200]["ever_failed_standing"] == years[0.99, 200]["ever_passed_standing"] == 2


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_a_week_and_a_poisoned_day(tmp_path: Path) -> None:
    """All of a category's answers are wrong for a day: it is stopped, named, and asked anew."""
    out = tmp_path / "figures.json"
    sizes = ("--archived", "60", "--day-rows", "120", "--labelled", "1.0", "--rates", "1.0")
    quality_week.main([*sizes, "--json", str(out)])
    figures = json.loads(out.read_text())
    assert len(figures["days"]) == 7
    assert all(row["verdict"]["verdict"] == "passed" for row in figures["days"])
    (spoiled,) = figures["poisoned"]
    assert spoiled["poisoned"]["verdict"]["verdict"] == "failed"
    assert spoiled["poisoned"]["published"]["reviews"] == 0
    assert spoiled["run_again"]["verdict"]["verdict"] == "passed"
    assert spoiled["run_again"]["wrong"] == 0
    assert 0 < spoiled["run_again"]["requests_of_the_run"] < 10
