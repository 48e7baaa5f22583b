"""The benchmark of latency alarms runs, and finds on a small scale what it must."""

from __future__ import annotations

import numpy as np
import pytest
from rich.console import Console

from review_optimizer_dagster_tests.benchmarks import latency


def test_latency_alarms_are_measured_beside_thresholds() -> None:
    """Sizes explain what a fixed threshold takes for slowness."""
    options = latency.read_options(["--steps", "3", "--quiet", "2", "--length", "600"])
    figures = latency.measure(options)
    assert {row["requests"] for row in figures["false_alarms"]} == {1_200}
    ours = {row["step"]: row for row in figures["delays"] if row["way"] == "ours"}
    assert set(ours) == {1.2, 1.5, 2.0}
    assert ours[2.0]["found"] == ours[2.0]["streams"] > 0
    assert ours[2.0]["median"] < 20
    told = {
        (row["requests"], row["reviews"], row["way"]): row["told"] for row in figures["singles"]
    }
    small, fixed = "10 to 49", "a fixed threshold, one in a hundred"
    assert told["5 times as long", small, "z over 4, the default"] > 0.8
    assert told["5 times as long", small, fixed] < 0.1
    console = Console(width=120, record=True, quiet=True)
    latency.show(console, figures)


def test_thresholds_are_calibrated_to_the_false_alarms_asked_for() -> None:
    """A threshold that was set by luck would make ours look good."""
    values = np.random.default_rng(1).normal(size=20_000)
    limit = latency.calibrated([values], 20)
    assert latency.crossings(values, limit) <= 20 < latency.crossings(values, limit - 0.05)
    assert latency.crossings(np.array([2.0, 2.0, 0.0, 2.0]), 1.0) == 2
    assert list(latency.poisson_interval(0)) == [0.0, pytest.approx(3.689, abs=0.001)]
