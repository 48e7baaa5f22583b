"""One run of the daily job from a terminal, on the instance that the UI shows."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import dagster as dg
from dagster import DagsterInstance

from review_optimizer_dagster.alerts.store import raised
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.quality import target_seconds
from review_optimizer_dagster.defs.links import ALL_DAYS
from review_optimizer_dagster.defs.resources import budget, listener, utc_now
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster.storage.partition import quarantine_reasons
from review_optimizer_dagster.storage.service import service_figures
from review_optimizer_dagster.storage.summary import (
    gate_details,
    partition_figures,
    tenant_figures,
)
from review_optimizer_dagster.storage.warehouse import Warehouse

PID_TAG = "review_optimizer/pid"
HOST_TAG = "review_optimizer/host"
_UNFINISHED = [
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


@dataclass(frozen=True)
class Outcome:
    """How a run of the job ended."""

    run_id: str
    started_at: datetime
    seconds: float
    step_seconds: Mapping[str, float]
    problem: str | None  # why a step broke; None where every step ended as it should
    user_can_mend: bool
    gate_blocked: bool  # a blocking check stopped what comes after it
    traceback: str = ""  # of a problem that nobody foresaw


def prepare_instance_folder(home: Home) -> Path:
    """The Dagster instance's folder in the home, with the shipped dagster.yaml unless changed."""
    home.dagster.mkdir(parents=True, exist_ok=True)
    config = home.dagster / "dagster.yaml"
    if not config.exists():
        shipped = resources.files("review_optimizer_dagster.defs") / "dagster.yaml"
        with resources.as_file(shipped) as path:
            shutil.copyfile(path, config)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "yes")
    return home.dagster


def write_workspace(home: Home) -> Path:
    """A workspace file for the UI, under the location name that plain `dagster dev` gives too.

    Dagster keeps whether a schedule or sensor is on by that name.
    """
    path = home.dagster / "workspace.yaml"
    module = {"module_name": "review_optimizer_dagster.definitions"}
    module["location_name"] = "review_optimizer_dagster"
    # JSON is YAML.
    path.write_text(json.dumps({"load_from": [{"python_module": module}]}), encoding="utf-8")
    return path


def end_dead_runs(instance: DagsterInstance) -> int:
    """Mark runs of this command whose process is gone as failed, and free their pool slots.

    Without this a killed run would count as running for ever and block the next one.
    """
    ended = 0
    runs = instance.get_runs(
        dg.RunsFilter(statuses=_UNFINISHED, tags={HOST_TAG: socket.gethostname()})
    )
    for run in runs:
        if is_alive(int(run.tags[PID_TAG])):
            continue
        instance.report_run_failed(run, "the process that ran it is gone")
        instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)
        ended += 1
    return ended


def is_alive(pid: int) -> bool:
    """Whether a process of this machine is there."""
    if pid == os.getpid():
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def run_partition(
    instance: DagsterInstance,
    job: dg.JobDefinition,
    day: date,
    engine: Mapping[str, Any],
    tags: Mapping[str, str] | None = None,
) -> Outcome:
    """Run the job for one day in this process; the engine's config as the Launchpad takes it.

    Raises KeyboardInterrupt where the run was interrupted; what was paid for is in the journal.
    """
    started_at, began = utc_now(), time.perf_counter()
    listener.get().begin(len(job.nodes))
    result = job.execute_in_process(
        partition_key=day.isoformat(),
        instance=instance,
        raise_on_error=False,
        tags={PID_TAG: str(os.getpid()), HOST_TAG: socket.gethostname(), **(tags or {})},
        run_config={
            "resources": {"engine": {"config": dict(engine)}},
            "loggers": {"console": {"config": {"log_level": "CRITICAL"}}},
        },
    )
    seconds = time.perf_counter() - began
    problem, mendable, blocked, traceback = None, False, False, ""
    for event in result.all_events:
        if not event.is_step_failure:
            continue
        error = event.step_failure_data.error
        if error is not None and error.cls_name == "DagsterAssetCheckFailedError":
            blocked = True
            continue
        if error is not None and error.cls_name == "DagsterExecutionInterruptedError":
            raise KeyboardInterrupt
        problem, mendable = _described(event)
        traceback = "" if mendable or error is None else error.to_string()
        break
    if problem is None and not result.success and not blocked:
        problem = "the run failed; its page in the UI says where"
    return Outcome(
        run_id=result.run_id,
        started_at=started_at,
        seconds=seconds,
        step_seconds=_step_seconds(result.all_events),
        problem=problem,
        user_can_mend=mendable,
        gate_blocked=blocked,
        traceback=traceback,
    )


def _described(event: dg.DagsterEvent) -> tuple[str, bool]:
    """What a step's failure says, and whether it is one that the user can mend."""
    data = event.step_failure_data
    if data.user_failure_data is not None and data.user_failure_data.description:
        return data.user_failure_data.description, True
    error = data.error
    while error is not None and error.cause is not None:
        error = error.cause
    text = error.message.strip() if error is not None else "no reason given"
    return f"step {event.step_key} broke: {text}", False


def _step_seconds(events: Sequence[dg.DagsterEvent]) -> dict[str, float]:
    """Seconds that each step took, as its own success event says."""
    return {
        str(event.step_key): event.step_success_data.duration_ms / 1000
        for event in events
        if event.is_step_success
    }


@contextmanager
def open_instance(home: Home) -> Iterator[DagsterInstance]:
    """The home's Dagster instance, its databases made by one process at a time.

    Two first commands at once would both migrate an empty database, which spoils it.
    """
    folder = prepare_instance_folder(home)
    with (folder / ".setup").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        instance = DagsterInstance.get()
        instance.get_runs(limit=1)
        instance.all_instigator_state()
        instance.get_asset_keys(limit=1)
    with instance:
        yield instance


def run_day(home: Home, day: date, engine: Mapping[str, Any]) -> Outcome:
    """Run the daily job for one day on the home's own instance."""
    from review_optimizer_dagster.definitions import definitions_of

    job = definitions_of(home).resolve_job_def("daily_reviews")
    with open_instance(home) as instance:
        end_dead_runs(instance)
        return run_partition(instance, job, day, engine)


def summarise(home: Home, day: date, engine: str, outcome: Outcome) -> dict[str, Any]:
    """The run's summary, as `--json` writes it."""
    steps = outcome.step_seconds
    with Warehouse(database=str(home.warehouse)).open() as connection:
        figures = partition_figures(connection, day, outcome.started_at)
        tenants = tenant_figures(connection, day)
        details = gate_details(connection, day)
        refused = quarantine_reasons(connection, day).rows(named=True)
        service = service_figures(connection, day)
    store = StateStore(home.journal)
    try:
        alerts = [
            alert
            for alert in raised(store)
            if alert.tenant in tenants and alert.raised_at >= outcome.started_at
        ]
        for tenant, row in tenants.items():
            spend = budget(home, store, tenant, figures["simulated"]).state(utc_now())
            row["budget_used"] = round(spend.spent / spend.amount, 6)
    finally:
        store.close()
    target = target_seconds(figures["reviews"], home.settings.service)
    return {
        "partition": figures.pop("partition"),
        "engine": engine,
        **figures,
        "by_tenant": tenants,
        "seconds": {
            "total": round(outcome.seconds, 3),
            "cache": round(steps.get("cache_resolution", 0.0), 3),
            "classify": round(steps.get("batch_classifications", 0.0), 3),
            "gate": round(steps.get("gate", 0.0), 3),
        },
        "sla": {"target_seconds": target, "met": outcome.seconds <= target},
        "service": service,
        "gate_details": details,
        "quarantine": refused,
        "alerts": [
            {
                "kind": alert.kind,
                "tenant": alert.tenant,
                "period": alert.period,
                "threshold": alert.threshold,
                "severity": alert.severity,
                "message": alert.message,
                "raised_at": alert.raised_at.isoformat(),
            }
            for alert in alerts
        ],
        "run_id": outcome.run_id,
        "outputs": {
            "analytics": str(home.published / "analytics.duckdb"),
            "published": str(home.published),
            "dashboard": str(home.reports / ALL_DAYS),
            "warehouse": str(home.warehouse),
        },
    }
