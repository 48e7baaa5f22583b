"""Watching a run: what is read of it and shown, how it ends, and that it disturbs nothing."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from review_optimizer_dagster.alerts.rules import Alert
from review_optimizer_dagster.alerts.store import raise_once
from review_optimizer_dagster.cli import main
from review_optimizer_dagster.commands.run_state import RunFacts
from review_optimizer_dagster.commands.run_watch import Watcher
from review_optimizer_dagster.commands.watch import Screen, line, panel, watch
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.execution import HOST_TAG
from review_optimizer_dagster.defs.run_events import RunEvents
from review_optimizer_dagster.money.budgets import Budget, budget_version
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster.storage.journal_tail import JournalReader
from review_optimizer_dagster_tests.conftest import DAY

if TYPE_CHECKING:
    from dagster import DagsterInstance

NOW = datetime.now(UTC)
START = NOW - timedelta(seconds=100)
KEYS = {
    "": "at state day run_id job simulated started_at ended_at seconds step steps reviews hits "
    "texts requests memory cost_usd budgets alerts problem",
    "texts": "answered asked per_second remaining_seconds",
    "requests": "sent in_flight retries errors last_minute",
    "steps": "done total",
}


def _facts(status: str = "running", **changes: Any) -> RunFacts:
    known: dict[str, Any] = {
        "step": "batch_classifications",
        "step_started_at": START,
        "steps_done": 3,
        "steps_total": 12,
        "hits": {"l1": 60, "miss": 40},
        "planned": 40,
    }
    return RunFacts("run-1", "daily_reviews", DAY, status, START, **(known | changes))


class _Events:
    """Runs as they are told, one after the other; the last for ever."""

    def __init__(self, *facts: RunFacts | None) -> None:
        self._facts = list(facts)
        self.asked: list[str | None] = []

    def find(self, day: date | None = None, run_id: str | None = None) -> RunFacts | None:
        assert day is None
        self.asked.append(run_id)
        return self._facts.pop(0) if len(self._facts) > 1 else self._facts[0]


@pytest.fixture
def journal(home: Home) -> Iterator[DayJournal]:
    with closing(DayJournal(home.journal, DAY)) as opened:
        yield opened


def _send(journal: DayJournal, number: int, texts: int = 10, **changes: Any) -> str:
    name = f"{DAY}-{number}"
    journal.intend(
        {
            "request_id": name,
            "identity": "acme|x",
            "tenant": "acme",
            "taxonomy": "reviews",
            "kind": "classification",
            "attempt": 1,
            "engine": "simulator",
            "simulated": True,
            "model": "gpt-6-luna",
            "service_tier": "default",
            "fields": {"sentiment": ["positive", "negative"]},
            "codes": {},
            "items": [[str(n), f"key-{number}-{n}", 20] for n in range(texts)],
            "memory": None,
            "sent_at": (NOW - timedelta(seconds=20)).isoformat(),
        }
        | changes
    )
    return name


def _answer(journal: DayJournal, name: str, texts: int = 10, **changes: Any) -> None:
    answers = [{"id": str(n), "sentiment": "positive"} for n in range(texts)]
    body = {
        "model": "gpt-6-luna",
        "choices": [
            {"finish_reason": "stop", "message": {"content": json.dumps({"answers": answers})}}
        ],
        "usage": {"prompt_tokens": 1_000, "completion_tokens": 100},
    }
    outcome = {
        "http_status": 200,
        "headers": {},
        "body": json.dumps(body),
        "failure": None,
        "error": None,
        "maybe_sent": True,
        "received_at": (NOW - timedelta(seconds=10)).isoformat(),
        "latency_ms": 1_500.0,
    }
    journal.settle(name, outcome | changes)


def test_a_run_is_told_from_its_journal(home: Home, journal: DayJournal) -> None:
    """Texts, rate, time left, requests, batch sizes, response times and money, all at once."""
    watcher = Watcher(home, _Events(_facts()))
    _answer(journal, _send(journal, 1))
    first = watcher.look(NOW)
    assert first is not None
    _answer(journal, _send(journal, 2, memory={"share": 0.4, "source": "nvml"}))
    failed = _send(journal, 3, attempt=2)
    _answer(journal, failed, http_status=503, body="{}", latency_ms=100.0)
    _send(journal, 4)
    seen = watcher.look(NOW)
    assert seen is not None
    for part, keys in KEYS.items():
        assert set(keys.split()) == set(seen[part] if part else seen), part
    assert seen["texts"] == {
        "answered": 20,
        "asked": 40,
        "per_second": 1.0,
        "remaining_seconds": 20.0,
    }
    requests = seen["requests"]
    assert (requests["sent"], requests["in_flight"]) == (4, 1)
    assert (requests["retries"], requests["errors"]) == (1, 1)
    assert requests["last_minute"]["answered"] == 3
    assert requests["last_minute"]["batch_sizes"] == {"least": 10, "median": 10, "most": 10}
    assert requests["last_minute"]["latency_ms"] == {"p50": 1_500, "p95": 1_500, "most": 1_500}
    assert seen["memory"] == {"share": 0.4, "source": "nvml"}
    assert seen["simulated"] is True
    assert float(seen["cost_usd"]) == 2 * float(first["cost_usd"]) > 0
    assert seen["hits"] == {"l1": 60, "miss": 40}
    assert seen["step"]["title"] == "asking the model"


def test_what_was_sent_before_the_run_is_not_its_own(home: Home, journal: DayJournal) -> None:
    """A day that is run again has a journal already."""
    _answer(journal, _send(journal, 1))
    later = _facts(planned=None, hits={})
    after = RunFacts(**{**later.__dict__, "started_at": datetime.now(UTC) + timedelta(seconds=5)})
    seen = Watcher(home, _Events(after)).look(NOW)
    assert seen is not None
    assert seen["requests"]["sent"] == 0
    assert seen["texts"]["per_second"] is None


def test_budgets_and_alerts_are_told(home: Home, journal: DayJournal) -> None:
    """What each tenant has used, its marks, and what was raised since the run began."""
    _answer(journal, _send(journal, 1))
    with closing(StateStore(home.journal)) as state:
        version = budget_version(state, "acme", 1_000_000_000, "month", NOW)
        budget = Budget(state, "acme", version, simulated=True)
        budget.reserve("r", 800_000_000, NOW)
        budget.settle("r", 800_000_000, NOW)
        for number, at in enumerate((START - timedelta(days=1), NOW)):
            raise_once(state, [_alert(f"alert-{number}", at)])
    seen = Watcher(home, _Events(_facts())).look(NOW)
    assert seen is not None
    (told,) = seen["budgets"]
    assert (told["tenant"], told["simulated"], told["used"]) == ("acme", True, 0.8)
    assert told["marks"] == [50, 75]
    assert [each["message"] for each in seen["alerts"]] == ["told of alert-1"]


def _alert(name: str, at: datetime) -> Alert:
    return Alert(
        alert_id=name,
        kind="gate",
        tenant="acme",
        period=str(DAY),
        threshold=0,
        severity="critical",
        message=f"told of {name}",
        raised_at=at,
        value=0,
        limit=0,
    )


def test_looking_never_writes_and_never_opens_the_warehouse(
    home: Home, journal: DayJournal
) -> None:
    """The run has all of it to itself."""
    _answer(journal, _send(journal, 1))
    state = StateStore(home.journal)
    home.warehouse.write_text("no warehouse: opening it would fail")
    before = _files(home.folder)
    watcher = Watcher(home, _Events(_facts()))
    for _ in range(3):
        assert watcher.look(NOW) is not None
    assert _files(home.folder) == before
    state.close()


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".db-shm"]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in paths}


def test_a_reader_holds_up_no_writer(home: Home, journal: DayJournal) -> None:
    """And reads each record once, also while a write is under way."""
    reader = JournalReader.of_day(home.journal, DAY)
    _send(journal, 1)
    with journal._cache.transact():  # a write that has not ended
        _send(journal, 2)
        assert [key for key, _ in reader.new_records(0.0)] == [f"intent:{DAY}-1"]
    assert [key for key, _ in reader.new_records(0.0)] == [f"intent:{DAY}-2"]
    assert reader.new_records(0.0) == []
    assert reader.keys("intent:") == [f"intent:{DAY}-1", f"intent:{DAY}-2"]
    with pytest.raises(io.UnsupportedOperation):
        reader.update("x", lambda value: value)
    with pytest.raises(io.UnsupportedOperation):
        reader.add("x", 1)


def test_a_journal_that_is_not_there_reads_as_empty(home: Home) -> None:
    """Before the first request there is none, and looking must not make one."""
    reader = JournalReader.of_day(home.journal, DAY)
    assert reader.new_records(0.0) == []
    assert reader.get("x") is None
    assert not home.journal.exists()


# --- how it is shown, and how it ends ---------------------------------------------------------


def _seen(home: Home, status: str = "running", **changes: Any) -> dict[str, Any]:
    seen = Watcher(home, _Events(_facts(status, **changes))).look(NOW)
    assert seen is not None
    return seen


@pytest.mark.parametrize("width", [40, 60, 120])
def test_a_terminal_of_any_width_shows_it_all(home: Home, journal: DayJournal, width: int) -> None:
    """Narrow terminals fold; nothing is cut, and nothing is wider than they are."""
    _answer(journal, _send(journal, 1))
    console = Console(width=width, file=io.StringIO(), highlight=False)
    console.print(panel(_seen(home), width))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "\u2026" not in text
    words = " ".join(text.split())
    for said in ("running", "SIMULATED", "asking the model", "60.0 % hits", "10 of 40 texts"):
        assert said in words


def test_a_line_says_how_far_it_is(home: Home, journal: DayJournal) -> None:
    """What a log keeps of it."""
    _answer(journal, _send(journal, 1))
    _send(journal, 2)
    told = line(_seen(home))
    for said in ("asking the model", "step 4 of 12", "10 of 40 texts", "reviews/s", "1 in flight"):
        assert said in told
    assert told.endswith("(simulated)")


def test_a_dead_run_ended_with_its_last_answer(home: Home, journal: DayJournal) -> None:
    """Not at the moment that somebody looked."""
    _answer(journal, _send(journal, 1))
    _send(journal, 2)
    seen = _seen(home, "dead", ended_at=START, problem="the process is gone")
    assert seen["seconds"] == 90.0
    assert seen["requests"]["in_flight"] == 1
    assert "the process is gone" in line(seen)
    console = Console(width=100, file=io.StringIO())
    console.print(panel(seen, 100))
    assert isinstance(console.file, io.StringIO)
    assert "1 of unknown outcome" in console.file.getvalue()


class _Looks:
    def __init__(self, *seen: dict[str, Any] | None) -> None:
        self._seen = list(seen)

    def look(self, _: datetime) -> dict[str, Any] | None:
        if not self._seen:
            raise KeyboardInterrupt
        return self._seen.pop(0)


@pytest.mark.parametrize(
    ("status", "code"),
    [("succeeded", 0), ("gate_failed", 1), ("failed", 3), ("dead", 3), ("canceled", 3)],
)
def test_watching_ends_with_the_run_and_as_it_did(
    home: Home, capfd: pytest.CaptureFixture[str], status: str, code: int
) -> None:
    """So that a script may wait for a run that another process began."""
    looks = _Looks(_seen(home), _seen(home, status, ended_at=NOW, problem="told"))
    assert watch(looks, Screen(None, None), 0.0, once=False, follow=False) == code
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 2
    assert status.replace("_", " ") in lines[-1]
    alone = _Looks(_seen(home, status, ended_at=NOW))
    assert watch(alone, Screen(None, None), 0.0, once=True, follow=False) == code


def test_without_a_run_it_waits_and_says_so_once(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    """It shows how the last run ended, then the next one."""
    ended = _seen(home, "succeeded", ended_at=NOW)
    going = _seen(home) | {"run_id": "run-2"}
    over = _seen(home, "gate_failed", ended_at=NOW) | {"run_id": "run-2"}
    looks = _Looks(ended, ended, going, over)
    assert watch(looks, Screen(None, None), 0.0, once=False, follow=False) == 1
    waits, last, *rest = capfd.readouterr().out.splitlines()
    assert waits == "no run goes on; waiting for a run (Ctrl-C ends)"
    assert last.startswith("last: ")
    assert "succeeded" in last
    assert [("asking" in each, "gate failed" in each) for each in rest] == [
        (True, False),
        (False, True),
    ]


def test_a_first_run_that_was_over_at_once_is_seen(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    """A short run may begin and end between two looks."""
    looks = _Looks(None, None, _seen(home, "gate_failed", ended_at=NOW))
    assert watch(looks, Screen(None, None), 0.0, once=False, follow=False) == 1
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == "nothing was run in this home yet; waiting for a run (Ctrl-C ends)"
    assert len(lines) == 2


def test_followed_runs_come_one_after_the_other(home: Home) -> None:
    """`--follow` ends with Ctrl-C alone."""
    over = _seen(home, "failed", ended_at=NOW)
    looks = _Looks(_seen(home), over, over, _seen(home))
    with pytest.raises(KeyboardInterrupt):
        watch(looks, Screen(None, None), 0.0, once=False, follow=True)


def test_a_run_is_followed_to_its_end_though_another_begins(home: Home) -> None:
    """A queue of days must not hide how the first one ended."""
    events = _Events(_facts(), _facts("succeeded", ended_at=NOW), _facts())
    watcher = Watcher(home, events)
    for _ in range(3):
        watcher.look(NOW)
    assert events.asked == [None, "run-1", None]


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--once", "--follow"], "give one of the two"), (["--interval", "0.01"], "less than 0.2 s")],
)
def test_what_cannot_be_watched_is_said(
    capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """Exit code 2, as in every command."""
    with pytest.raises(SystemExit) as left:
        main(["watch", *arguments])
    assert left.value.code == 2
    assert said in capfd.readouterr().err


# --- what Dagster says ------------------------------------------------------------------------


def test_a_run_whose_process_is_gone_is_dead(home: Home, shared_instance: DagsterInstance) -> None:
    """Dagster would call it running for ever."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    events = RunEvents(home, shared_instance)
    started = _started(shared_instance, gone.pid)
    found = events.find(DAY)
    assert found is not None
    assert (found.run_id, found.status) == (started, "dead")
    assert f"pid {gone.pid}" in str(found.problem)
    alive = _started(shared_instance, os.getpid())
    assert (found := events.find(DAY)) is not None
    assert (found.run_id, found.status, found.is_going) == (alive, "running", True)
    elsewhere = _started(shared_instance, gone.pid, host="another-machine")
    assert (found := events.find(run_id=elsewhere)) is not None
    assert found.status == "running"


def _started(instance: DagsterInstance, pid: int, host: str | None = None) -> str:
    import dagster as dg

    @dg.op
    def first() -> None:
        """Does nothing."""

    @dg.job
    def small() -> None:
        first()

    tags = {"dagster/partition": DAY.isoformat()} | ({HOST_TAG: host} if host else {})
    run = instance.create_run_for_job(small, tags=tags, status=dg.DagsterRunStatus.STARTED)
    instance.report_engine_event(f"Executing steps in process (pid: {pid})", run)
    return run.run_id


def test_a_run_that_was_never_made_is_none(home: Home) -> None:
    """Looking must not make Dagster's folder."""
    with closing(RunEvents(home)) as events:
        assert events.find() is None
    assert not home.folder.exists()


@pytest.mark.parametrize(("breaks", "status"), [(False, "succeeded"), (True, "failed")])
def test_a_run_ends_as_its_events_say(
    home: Home, shared_instance: DagsterInstance, breaks: bool, status: str
) -> None:
    """The step that broke is named with its reason, in one line."""
    import dagster as dg

    @dg.op
    def reads() -> None:
        if breaks:
            raise ValueError("line one\nline two")

    @dg.job
    def small() -> None:
        reads()

    done = small.execute_in_process(
        instance=shared_instance,
        raise_on_error=False,
        tags={"dagster/partition": "2026-03-05"},
        run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
    )
    found = RunEvents(home, shared_instance).find(run_id=done.run_id)
    assert found is not None
    assert (found.status, found.day) == (status, date(2026, 3, 5))
    assert found.problem == ("step reads: ValueError: line one" if breaks else None)
    assert found.ended_at is not None
