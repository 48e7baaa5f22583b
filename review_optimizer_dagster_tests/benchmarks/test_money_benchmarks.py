"""The benchmarks of money run, and what they must find they find on a small scale too."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import pytest
from rich.console import Console

from review_optimizer_dagster_tests.benchmarks import budgets, ledger


@pytest.mark.campaign
def test_a_ledger_is_measured_at_two_sizes_beside_the_naive_way() -> None:
    """A day's append must find what is new, and only that, whatever the size."""
    options = ledger.read_options(
        ["--entries", "3000", "--day-entries", "20", "--window", "2", "--naive"]
    )
    figures = ledger.measure(options)
    small, large = figures["sizes"]
    assert (small["entries"], large["entries"]) == (660, 3_000)
    assert figures["with_key"]["entries"] == 3_000
    console = Console(width=120, record=True, quiet=True)
    ledger.show(console, figures)


def test_trials_of_earlier_runs_are_counted_together(tmp_path: Path) -> None:
    """A thousand trials take the better part of an hour: they may be made in parts."""
    trial = budgets.Trial(100, 60, 60, 30, 4, 8, has_faults=False)
    over = budgets.Trial(100, 101, 90, 0, 4, 8, has_faults=True)
    files = []
    for number, each in enumerate((trial, over)):
        files.append(tmp_path / f"{number}.json")
        files[-1].write_text(json.dumps({"each": [asdict(each)], "seconds": 2.0}))
    options = budgets.read_options(["--trials", "0", "--add", *map(str, files)])
    figures = budgets.measure(options)
    assert (figures["trials"], figures["seconds"]) == (2, pytest.approx(4.0, abs=1.0))
    assert figures["groups"]["no faults"]["unused_median"] == pytest.approx(0.1)
    assert [group["overspent"] for group in figures["groups"].values()] == [0, 1]


@pytest.mark.campaign
def test_no_budget_is_overspent_by_processes_that_spend_it_together() -> None:
    """Real processes on a real state; the endpoint's own record says what was billed."""
    options = budgets.read_options(
        ["--trials", "9", "--processes", "3", "--texts", "12", "--batch", "2"]
    )
    figures = budgets.measure(options)
    assert [trial for trial in figures["each"] if trial["billed"] > trial["budget"]] == []
    for group in figures["groups"].values():
        assert group["overspent"] == group["counted_over_budget"] == 0
        assert group["billed_unlike_spent"] == 0
        assert group["with_deferred"] > 0
    budgets.show(Console(width=120, quiet=True), figures)
