"""The benchmark of sampled batches runs, and finds on a small scale what it is there to find."""

from __future__ import annotations

from rich.console import Console

from review_optimizer_dagster_tests.benchmarks import batch_quality


def test_good_tiers_are_left_alone_and_bad_ones_found() -> None:
    """At the threshold on 5 % of the days at most; at 0.80 nearly always; naive pauses them all."""
    figures = batch_quality.measure(batch_quality.read_options(["--days", "300"]))
    rows = {(row["batches"], row["accuracy"]): row for row in figures["rows"]}
    for batches in batch_quality.BATCHES:
        assert rows[batches, 0.95]["ours"]["days"]["lower"] <= 0.05
        assert rows[batches, 0.97]["ours"]["days"]["share"] <= 0.02
    assert rows[20, 0.80]["ours"]["days"]["share"] > 0.99
    assert rows[20, 0.96]["naive"]["days"]["share"] > 0.9
    batch_quality.show(Console(width=160, quiet=True), figures)
