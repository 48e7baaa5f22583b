"""The benchmarks of money run, and what they must find they find on a small scale too."""

from __future__ import annotations

import pytest
from rich.console import Console

from review_optimizer_dagster_tests.benchmarks import budgets, ledger


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
