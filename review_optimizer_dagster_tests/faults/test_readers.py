"""Analysts read analytics.duckdb while runs publish it: nobody fails, and nobody sees a mixture."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster_tests.conftest import DAY, Runner, deliver, reviews

RUNS = 2
REVIEWS = 120
# A file is whole where its parts say the same: the calendar, the sums and the rows.
WHOLE = """
SELECT (SELECT max(day) FROM dim_day)::VARCHAR AS last_day,
    (SELECT sum(reviews) FROM fact_daily)::BIGINT AS delivered,
    (SELECT sum(reviews) FROM fact_reviews)::BIGINT AS published,
    (SELECT count(*) FROM catalog) > 60 AS listed
"""
# Opens, asks and closes until it is told to stop.
AGAIN = """
import json, pathlib, sys, time, duckdb
path, stop, sql = sys.argv[1:4]
seen, opened = [], 0
while not pathlib.Path(stop).exists():
    with duckdb.connect(path, read_only=True) as connection:
        row = connection.execute(sql).fetchone()
    opened += 1
    if row not in seen:
        seen.append(row)
    time.sleep(0.05)  # the runs need the processor too
print(json.dumps([opened, seen]))
"""
# Opens once, and asks again and again.
ONCE = """
import json, pathlib, sys, time, duckdb
path, stop, sql = sys.argv[1:4]
seen, asked = [], 0
with duckdb.connect(path, read_only=True) as connection:
    print("open", flush=True)
    while not pathlib.Path(stop).exists():
        row = connection.execute(sql).fetchone()
        asked += 1
        if row not in seen:
            seen.append(row)
        time.sleep(0.05)
print(json.dumps([asked, seen]))
"""


def _publish(home: Home, run_day: Runner, number: int) -> None:
    day = DAY + timedelta(days=number)
    deliver(home, reviews(0, REVIEWS), day)
    assert run_day(day)["problem"] is None


def _reader(code: str, path: Path, stop: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", code, str(path), str(stop), WHOLE]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.campaign
@pytest.mark.timeout(600)
def test_readers_and_runs_do_not_disturb_each_other(
    home: Home, tmp_path: Path, run_day: Runner
) -> None:
    """Runs publish while one analyst opens the file all the time and one keeps it open."""
    path, stop = home.published / "analytics.duckdb", tmp_path / "stop"
    _publish(home, run_day, 0)
    with _reader(ONCE, path, stop) as once, _reader(AGAIN, path, stop) as again:
        try:
            assert once.stdout is not None
            assert once.stdout.readline() == "open\n"
            for number in range(1, RUNS + 1):
                _publish(home, run_day, number)
                assert again.poll() is None, "the reader broke"
                _ask_by_command_line(path, number)
        finally:
            stop.touch()
        kept, _ = once.communicate()
        told, _ = again.communicate()
    assert (once.returncode, again.returncode) == (0, 0)
    asked, snapshot = json.loads(kept)
    first = [DAY.isoformat(), REVIEWS, REVIEWS, True]
    assert (asked > 1, snapshot) == (True, [first])
    opened, seen = json.loads(told)
    days = [
        [(DAY + timedelta(days=number)).isoformat(), (number + 1) * REVIEWS]
        for number in range(RUNS + 1)
    ]
    assert opened > RUNS
    assert seen[-1] == [*days[-1], (RUNS + 1) * REVIEWS, True]
    assert all(row in [[*day, day[1], True] for day in days] for row in seen), seen
    assert seen == sorted(seen), "a reader was shown an older file after a newer one"


def _ask_by_command_line(path: Path, number: int) -> None:
    """The DuckDB CLI reads the same, where there is one."""
    if (command := shutil.which("duckdb")) is None:
        return
    done = subprocess.run(
        [command, "-readonly", "-json", str(path), "-c", WHOLE],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["delivered"] == row["published"] == (number + 1) * REVIEWS
