"""1,000 random spend histories with restarts: each threshold exactly once, and each recovery."""

from __future__ import annotations

import pytest

from review_optimizer_dagster.alerts.store import raised
from review_optimizer_dagster_tests.alerts.histories import (
    History,
    keys_of,
    recoveries_of,
)
from review_optimizer_dagster_tests.memory_state import MemoryState

HISTORIES = 1_000
STEPS = 40


@pytest.mark.parametrize("part", range(4))
def test_each_threshold_and_each_recovery_is_raised_exactly_once(part: int) -> None:
    """Iff it was reached: several tenants, budgets up and down, months, late data, restarts."""
    thresholds = recoveries = 0
    for seed in range(part, HISTORIES, 4):
        state = MemoryState()
        history = History(seed, state)
        history.play(STEPS)
        model, kept = history.model, raised(state)
        assert sorted(keys_of(kept)) == sorted(keys_of(history.news)) == sorted(model.due), seed
        found = sorted(recoveries_of(kept))
        assert found == sorted(recoveries_of(history.news)) == sorted(model.recovered), seed
        thresholds += len(model.due)
        recoveries += len(found)
    assert thresholds > HISTORIES // 4  # the histories are about something
    assert recoveries > HISTORIES // 20
