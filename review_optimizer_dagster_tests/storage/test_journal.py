"""The journal: what is in it is on the disk, is JSON, and is counted right across processes."""

from __future__ import annotations

import pickle
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.journal import (
    DayJournal,
    StateStore,
    changed_days,
    days_with_open_jobs,
)

DAY = date(2026, 11, 20)


def intent(request_id: str, sent_at: str = "2026-11-20T12:00:00+00:00") -> dict[str, Any]:
    return {"request_id": request_id, "sent_at": sent_at}


def test_requests_come_back_as_they_were_written(tmp_path: Path) -> None:
    """Another process reads what this one wrote, in the order of sending."""
    journal = DayJournal(tmp_path, DAY)
    journal.intend(intent("b", "2026-11-20T12:00:01+00:00"))
    journal.intend(intent("c"))
    journal.intend(intent("a"))
    journal.settle("c", {"body": "é\ud800 <html>" + "x" * 100_000})
    journal.close()
    records = list(DayJournal(tmp_path, DAY).requests())
    assert [record["request_id"] for record in records] == ["a", "c", "b"]
    assert [record["outcome"] is None for record in records] == [True, False, True]
    assert records[1]["outcome"]["body"].startswith("é\ud800 <html>xxx")
    assert list(DayJournal(tmp_path, date(2026, 11, 21)).requests()) == []


def test_nothing_paid_for_is_overwritten(tmp_path: Path) -> None:
    """A request has one intent and one outcome; a second would hide the first."""
    journal = DayJournal(tmp_path, DAY)
    journal.intend(intent("a"))
    journal.settle("a", {"body": "first"})
    with pytest.raises(ValueError, match="sent before"):
        journal.intend(intent("a"))
    with pytest.raises(ValueError, match="has an outcome"):
        journal.settle("a", {"body": "second"})
    assert next(journal.requests())["outcome"] == {"body": "first"}


def test_a_job_and_its_requests_are_kept_together(tmp_path: Path) -> None:
    """Half a job in the journal would be requests that nobody ever looks for."""
    journal = DayJournal(tmp_path, DAY)
    job = {"job_id": "j", "request_ids": ["a", "b"], "status": "intended", "created_at": "1"}
    journal.intend(intent("b"))
    with pytest.raises(ValueError, match="sent before"):
        journal.intend_job(job, [intent("a"), intent("b")])
    assert [record["request_id"] for record in journal.requests()] == ["b"]
    assert journal.jobs() == []
    journal.intend_job(job, [intent("a"), intent("c")])
    assert days_with_open_jobs(tmp_path) == [DAY]
    journal.update_job(job | {"status": "submitted"})
    journal.settle("c", {"body": "settled"})
    with pytest.raises(ValueError, match="has an outcome"):
        journal.settle_job(job | {"status": "ended"}, {"a": {"body": ""}, "c": {"body": ""}})
    assert [job["status"] for job in journal.jobs()] == ["submitted"]
    assert [r["outcome"] is None for r in journal.requests()] == [True, True, False]
    journal.settle_job(job | {"status": "ended"}, {"a": {"body": "x"}})
    assert days_with_open_jobs(tmp_path) == []
    journal.close()


def test_everything_is_in_one_flushed_database(tmp_path: Path) -> None:
    """Values in files of their own are not flushed; the default store would also evict."""
    journal = DayJournal(tmp_path, DAY)
    # Digests do not compress to a small value.
    noise = "".join(sha256(str(number).encode()).hexdigest() for number in range(3_000))
    journal.intend(intent("a") | {"items": [noise]})
    journal.close()
    folder = tmp_path / "requests" / "2026-11-20"
    assert {path.name.split("-")[0] for path in folder.rglob("*")} == {"cache.db"}
    with sqlite3.connect(folder / "cache.db") as connection:
        settings = dict(connection.execute("SELECT key, value FROM Settings").fetchall())
        (row,) = connection.execute("SELECT key FROM Cache").fetchall()
    assert settings["eviction_policy"] == "none"
    assert (settings["cull_limit"], settings["sqlite_synchronous"]) == (0, 2)
    assert row == ("intent:a",)


class _Trap:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("unpickled",)


def test_a_pickle_is_refused_and_not_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Loading a pickle runs whatever the one who wrote it wanted."""
    store = StateStore(tmp_path)
    store.add("key", 1)
    with sqlite3.connect(tmp_path / "state" / "cache.db") as connection:
        trap = pickle.dumps(_Trap())
        connection.execute("UPDATE Cache SET mode = 4, value = ?", (trap,))
    with pytest.raises(ValueError, match="not JSON"):
        store.get("key")
    with sqlite3.connect(tmp_path / "state" / "cache.db") as connection:
        connection.execute("UPDATE Cache SET raw = 0, key = ?", (trap,))
    with pytest.raises(ValueError, match="not text"):
        store.keys("")
    assert capsys.readouterr().out == ""


def test_only_one_run_has_the_right_to_send(tmp_path: Path) -> None:
    """Two runs of a day would ask, and pay, for the same reviews."""
    first, second = DayJournal(tmp_path, DAY), DayJournal(tmp_path, DAY)
    with first.lock(), first.lock():  # whoever has it may ask again
        with pytest.raises(UserError, match="another run is classifying 2026-11-20"):
            second.lock().__enter__()
        with DayJournal(tmp_path, date(2026, 11, 21)).lock():
            pass
    with second.lock():
        pass


def test_the_right_ends_with_the_process(tmp_path: Path) -> None:
    """A killed run must not keep the next one out for ever."""
    code = (
        "import os, signal, sys; from datetime import date; from pathlib import Path;"
        "from review_optimizer_dagster.storage.journal import DayJournal;"
        "DayJournal(Path(sys.argv[1]), date(2026, 11, 20)).lock().__enter__();"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -9
    assert (tmp_path / "requests" / "2026-11-20" / "lock").exists()
    with DayJournal(tmp_path, DAY).lock():
        pass


def test_a_generation_is_raised_once_a_run(tmp_path: Path) -> None:
    """A step that is tried again must not make its own answers old."""
    journal = DayJournal(tmp_path, DAY)
    assert journal.generation == 1
    assert [journal.raise_generation(run) for run in ("r1", "r1", "r2")] == [2, 2, 3]
    assert DayJournal(tmp_path, DAY).generation == 3
    assert list(journal.requests()) == []


def test_state_is_read_added_and_listed(tmp_path: Path) -> None:
    """What Budget and the alerts ask of it."""
    store = StateStore(tmp_path)
    assert store.get("a:1") is None
    assert [store.add("a:1", {"n": 1}), store.add("a:1", {"n": 2})] == [True, False]
    assert store.update("b", lambda value: [value]) == [None]
    store.add("a:2", None)
    assert store.keys("a:") == ["a:1", "a:2"]
    store.close()
    assert StateStore(tmp_path).get("a:1") == {"n": 1}


def test_a_change_that_fails_changes_nothing(tmp_path: Path) -> None:
    """An error in the middle must neither lose the value nor keep the store locked."""
    store = StateStore(tmp_path)
    store.add("n", 1)
    with pytest.raises(ZeroDivisionError):
        store.update("n", lambda value: value // 0)
    assert StateStore(tmp_path).update("n", lambda value: value + 1) == 2


_COUNT = """
import sys
from pathlib import Path
from review_optimizer_dagster.storage.journal import StateStore
store = StateStore(Path(sys.argv[1]))
for _ in range(25):
    store.update("n", lambda value: (value or 0) + 1)
"""


def test_no_change_is_lost_between_threads_and_processes(tmp_path: Path) -> None:
    """A lost update is money spent twice."""
    children = [subprocess.Popen([sys.executable, "-c", _COUNT, str(tmp_path)]) for _ in range(2)]
    store = StateStore(tmp_path)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: store.update("n", lambda n: (n or 0) + 1), range(50)))
    assert [child.wait() for child in children] == [0, 0]
    assert store.get("n") == 100


def test_which_days_were_written_to_is_told_without_opening_any(tmp_path: Path) -> None:
    """A year of journals is looked over each minute; what is no day's is none of them."""
    assert changed_days(tmp_path) == {}
    other = date(2026, 11, 21)
    for day in (other, DAY):
        DayJournal(tmp_path, day).close()
    (tmp_path / "requests" / "notes").mkdir()
    (tmp_path / "requests" / "notes" / "cache.db").touch()
    before = changed_days(tmp_path)
    assert list(before) == [DAY, other]
    journal = DayJournal(tmp_path, other)
    journal.intend(intent("a"))
    journal.close()
    after = changed_days(tmp_path)
    assert after[DAY] == before[DAY]
    assert after[other] > before[other]
    assert changed_days(tmp_path) == after


def test_a_voided_answer_counts_no_longer_and_a_later_one_does(tmp_path: Path) -> None:
    """What the gate failed is asked anew once: voiding it again would pay again."""
    journal = DayJournal(tmp_path, DAY)
    items = {"identity": "i", "items": [["1", "a", 3], ["2", "b", 3]]}
    journal.intend(intent("first", "2026-11-20T12:00:00+00:00") | items)
    at = datetime(2026, 11, 20, 13, tzinfo=UTC)
    assert journal.void([("i", "a"), ("other", "b")], at) == 2
    journal.intend(intent("second", "2026-11-20T14:00:00+00:00") | items)
    assert journal.void([("i", "a")], at + timedelta(hours=2)) == 0
    found = {each["request_id"]: each.get("voided") for each in journal.requests()}
    assert found == {"first": ["a"], "second": []}
    journal.close()
