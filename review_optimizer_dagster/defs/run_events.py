"""What Dagster's instance says of the home's runs, for whoever looks on from another process."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import dagster as dg
from dagster import DagsterInstance

from review_optimizer_dagster.commands.run_state import RunFacts
from review_optimizer_dagster.defs.execution import HOST_TAG, is_alive

if TYPE_CHECKING:
    from dagster import DagsterEvent, DagsterRun, EventLogEntry

    from review_optimizer_dagster.config import Home

_PARTITION_TAG = "dagster/partition"
_LEVELS = ("l1", "l2", "l3_exact", "l3_near", "l3_pattern", "miss")
_PID = re.compile(r"\(pid: (\d+)\)")
_EVENTS_AT_ONCE = 500
_LATEST = 10  # runs that are looked at for the newest with a day
_WAITS = {dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED, dg.DagsterRunStatus.STARTING}
_GOES = {dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING}
_GATE = "quality_gate"


@dataclass
class _Fold:
    """A run's events so far."""

    cursor: str | None = None
    pid: int | None = None
    planned: set[str] = field(default_factory=set)
    done: set[str] = field(default_factory=set)
    step: str | None = None
    step_at: datetime | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    gate_failed: bool = False
    problem: str | None = None
    last_at: datetime | None = None

    def add(self, entry: EventLogEntry) -> None:
        event, self.last_at = entry.dagster_event, datetime.fromtimestamp(entry.timestamp, UTC)
        if event is None:
            return
        kind, step = event.event_type_value, event.step_key
        if kind in ("ASSET_MATERIALIZATION_PLANNED", "ASSET_CHECK_EVALUATION_PLANNED") and step:
            self.planned.add(step)
        elif kind == "ENGINE_EVENT" and (found := _PID.search(event.message or "")):
            self.pid = int(found[1])
        elif kind == "STEP_START":
            self.step, self.step_at = step, self.last_at
        elif kind in ("STEP_SUCCESS", "STEP_SKIPPED") and step:
            self.done.add(step)
        elif kind == "STEP_FAILURE":
            self._broke(event)
        elif kind == "ASSET_MATERIALIZATION" and step in ("cache_resolution", "batch_plan"):
            found_here = event.step_materialization_data.materialization.metadata
            self.metadata |= {name: value.value for name, value in found_here.items()}
        elif kind == "ASSET_CHECK_EVALUATION":
            check = event.asset_check_evaluation_data
            self.gate_failed |= check.check_name == _GATE and not check.passed
        elif kind == "PIPELINE_FAILURE" and self.problem is None and not self.gate_failed:
            self.problem = (event.message or "the run failed").splitlines()[0]

    def _broke(self, event: DagsterEvent) -> None:
        data = event.step_failure_data
        error = data.error
        if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
            self.gate_failed = True
            return
        told = data.user_failure_data.description if data.user_failure_data else None
        while error is not None and error.cause is not None:
            error = error.cause
        said = told or (error.message.strip() if error is not None else "no reason given")
        self.problem = f"step {event.step_key}: {said.splitlines()[0]}"


class RunEvents:
    """Reads runs and their events; what was read of a run is not read again."""

    def __init__(self, home: Home, instance: DagsterInstance | None = None) -> None:
        """instance: default: that of the home, once there is one; it is closed with this."""
        self._folder = home.dagster
        self._instance = instance
        self._folds: dict[str, _Fold] = {}

    def close(self) -> None:
        """Let go of the instance."""
        if self._instance is not None:
            self._instance.dispose()

    def find(self, day: date | None = None, run_id: str | None = None) -> RunFacts | None:
        """A run by its id; else the newest that goes on, else the newest, of a day or of any.

        None where there is none.
        """
        instance = self._opened()
        if instance is None:
            return None
        if run_id is not None:
            records = instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))
        else:
            tags = {} if day is None else {_PARTITION_TAG: day.isoformat()}
            records = instance.get_run_records(dg.RunsFilter(tags=tags), limit=_LATEST)
        found = [each for each in records if _day(each.dagster_run) is not None]
        facts = [self._facts(instance, each) for each in found if _goes_on(each) or run_id]
        going = next((each for each in facts if each.is_going), None)
        if going is not None or not found:
            return going
        return self._facts(instance, found[0])

    def _opened(self) -> DagsterInstance | None:
        """The instance, once a run has made it: looking must not make a home."""
        if self._instance is None and (self._folder / "history").is_dir():
            os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
            self._instance = DagsterInstance.from_config(str(self._folder))
        return self._instance

    def _facts(self, instance: DagsterInstance, record: dg.RunRecord) -> RunFacts:
        run = record.dagster_run
        fold = self._folds.setdefault(run.run_id, _Fold())
        more = True
        while more:
            events = instance.get_records_for_run(
                run.run_id, cursor=fold.cursor, limit=_EVENTS_AT_ONCE
            )
            for each in events.records:
                fold.add(each.event_log_entry)
            more, fold.cursor = events.has_more, events.cursor
        facts = RunFacts(
            run_id=run.run_id,
            job=run.job_name,
            day=_day(run) or date.min,
            status=_status(run, fold),
            started_at=_moment(record.start_time),
            ended_at=_moment(record.end_time),
            step=fold.step,
            step_started_at=fold.step_at,
            steps_done=len(fold.done),
            steps_total=len(fold.planned),
            reviews=fold.metadata.get("reviews"),
            hits={name: fold.metadata[name] for name in _LEVELS if name in fold.metadata},
            planned=fold.metadata.get("texts"),
            problem=fold.problem,
        )
        if facts.status == "dead":
            gone = f"the process that ran it (pid {fold.pid}) is gone; run the day again to go on"
            return replace(facts, problem=gone, ended_at=fold.last_at)
        return facts


def _status(run: DagsterRun, fold: _Fold) -> str:
    if run.status in _WAITS and run.status != dg.DagsterRunStatus.STARTING:
        return "queued"
    if run.status in _WAITS | _GOES:
        is_ours = run.tags.get(HOST_TAG, socket.gethostname()) == socket.gethostname()
        is_dead = is_ours and fold.pid is not None and not is_alive(fold.pid)
        return "dead" if is_dead else "running"
    if run.status == dg.DagsterRunStatus.CANCELED:
        return "canceled"
    if fold.gate_failed and fold.problem is None:
        return "gate_failed"
    return "succeeded" if run.status == dg.DagsterRunStatus.SUCCESS else "failed"


def _goes_on(record: dg.RunRecord) -> bool:
    return record.dagster_run.status in _WAITS | _GOES


def _day(run: DagsterRun) -> date | None:
    try:
        return date.fromisoformat(run.tags.get(_PARTITION_TAG, ""))
    except ValueError:
        return None


def _moment(time: float | None) -> datetime | None:
    return None if time is None else datetime.fromtimestamp(time, UTC)
