"""A run that is killed with SIGKILL loses nothing and pays for nothing twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

REVIEWS = 1_200


def start(home: Home, latency: float, out: Path) -> subprocess.Popen[bytes]:
    """The command, as a user types it, as a process of its own."""
    command = [sys.executable, "-m", "review_optimizer_dagster", "run"]
    command += ["--date", DAY.isoformat(), "--latency", str(latency), "--json", str(out)]
    return subprocess.Popen(command, env=os.environ | {"REVIEW_OPTIMIZER_HOME": str(home.folder)})


def paid_responses(home: Home) -> set[str]:
    """Ids of the requests of the day whose response is in the journal."""
    journal = DayJournal(home.journal, DAY)
    try:
        return {r["request_id"] for r in journal.requests() if r["outcome"] is not None}
    finally:
        journal.close()


@pytest.mark.campaign
@pytest.mark.timeout(300)
@pytest.mark.parametrize("responses", [1, 5, 9])
def test_sigkill_in_classification(home: Home, tmp_path: Path, responses: int) -> None:
    """Killed after some responses: the second run uses each of them and asks only for the rest."""
    deliver(home, reviews(0, REVIEWS))
    out = tmp_path / "summary.json"
    process = start(home, 0.4, out)
    give_up = time.monotonic() + 120
    folder = home.journal / "requests" / DAY.isoformat()
    while not folder.exists() or len(paid_responses(home)) < responses:
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < give_up
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    paid = paid_responses(home)
    assert start(home, 0.0, out).wait() == 0
    summary = json.loads(out.read_text())

    assert summary["reviews"] == summary["labelled"] == REVIEWS
    assert summary["failed"] == summary["deferred"] == 0
    assert summary["llm"]["unknown"] > 0, "it was killed with nothing in flight"
    assert float(summary["held_usd"]) > 0
    attempts = query(home, "SELECT request_id, status, answered, cost_nanos FROM llm_requests")
    used = set(attempts.filter(attempts["status"] == "ok")["request_id"])
    assert paid <= used, "a paid response was not used"
    assert attempts["request_id"].n_unique() == attempts.height
    # Every text has one answer: nothing that was paid for was asked again.
    assert attempts["answered"].sum() == REVIEWS
    ((booked,),) = query(home, "SELECT sum(cost_nanos)::BIGINT FROM ledger_entries").rows()
    assert booked == attempts["cost_nanos"].sum()
    ((entries, distinct),) = query(
        home, "SELECT count(*), count(DISTINCT review_id) FROM ledger_entries"
    ).rows()
    assert entries == distinct == REVIEWS
