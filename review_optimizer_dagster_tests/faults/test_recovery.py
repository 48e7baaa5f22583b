"""Disasters that the README tells how to recover from: a warehouse that is lost, or an old one."""

from __future__ import annotations

import shutil
from datetime import timedelta
from typing import Any

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster_tests.conftest import DAY, Runner, deliver, query, reviews

NEXT = DAY + timedelta(days=1)
KEPT = """
SELECT day, review_id, status, level, labels, (SELECT sum(cost_nanos) FROM ledger_entries l
    WHERE (l.day, l.review_id) = (r.day, r.review_id))::BIGINT AS nanos
FROM review_results r ORDER BY ALL
"""


def _two_days(home: Home) -> None:
    deliver(home, reviews(0, 40))
    deliver(home, reviews(20, 60), NEXT)


def _sent(summary: dict[str, Any]) -> int:
    assert summary["problem"] is None
    return int(summary["this_run"]["requests"])


@pytest.mark.campaign
def test_a_lost_warehouse_is_made_again_from_inbox_and_journal(home: Home, run_day: Runner) -> None:
    """What was paid is in the journal: days that are run again in order ask and pay nothing."""
    _two_days(home)
    assert _sent(run_day(DAY)) > 0
    assert _sent(run_day(NEXT)) > 0
    before = query(home, KEPT)
    home.warehouse.unlink()
    shutil.rmtree(home.published)
    assert [_sent(run_day(day)) for day in (DAY, NEXT)] == [0, 0]
    assert query(home, KEPT).equals(before)
    assert (home.published / "analytics.duckdb").exists()


@pytest.mark.campaign
def test_a_backup_of_the_warehouse_catches_up_with_the_journal(home: Home, run_day: Runner) -> None:
    """A restored warehouse knows less than the journal: the days since then are run again, free."""
    _two_days(home)
    run_day(DAY)
    backup = home.folder / "backup.duckdb"
    shutil.copyfile(home.warehouse, backup)
    assert _sent(run_day(NEXT)) > 0
    before = query(home, KEPT)
    backup.replace(home.warehouse)
    assert _sent(run_day(NEXT)) == 0
    assert query(home, KEPT).equals(before)
