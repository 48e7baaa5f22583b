"""Shared fixtures: a home in a temporary folder, small deliveries, a run of the daily job."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

# Read when dagster and great_expectations are imported: nothing may leave the machine in a test.
os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
os.environ["GX_ANALYTICS_ENABLED"] = "false"
# The definitions module reads the home at import; the developer's own must not be touched.
os.environ["REVIEW_OPTIMIZER_HOME"] = tempfile.mkdtemp(prefix="review-optimizer-tests-")
os.environ.pop("OPENAI_API_KEY", None)

import pytest

# What is heavy is imported where it is used: the process that hands out the tests loads this file
# too, before any of those that run them begins.
if TYPE_CHECKING:
    import polars as pl
    from dagster import DagsterInstance

    from review_optimizer_dagster.config import Home

DAY = date(2026, 3, 4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """An empty demo home of its own."""
    from review_optimizer_dagster.config import Home

    monkeypatch.setenv("REVIEW_OPTIMIZER_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "home" / "dagster"))
    return Home(tmp_path / "home")


@pytest.fixture(scope="session")
def empty_warehouse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new warehouse with its tables, made once: their comments alone take a quarter second."""
    from review_optimizer_dagster.storage.warehouse import Warehouse

    path = tmp_path_factory.mktemp("empty") / "warehouse.duckdb"
    with Warehouse(database=str(path)).open():
        pass
    return path


@pytest.fixture(autouse=True)
def copied_warehouses(empty_warehouse: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A warehouse that a test makes anew begins as a copy of the empty one."""
    from review_optimizer_dagster.storage.warehouse import Warehouse

    connect = Warehouse._connect

    def copied(self: Warehouse, path: Path, read_only: bool) -> Any:
        if not read_only and not path.exists():
            fresh = path.with_name(f"{path.name}.{os.getpid()}-{threading.get_ident()}")
            shutil.copyfile(empty_warehouse, fresh)
            with contextlib.suppress(FileExistsError):
                os.link(fresh, path)  # of several threads, one
            fresh.unlink()
        return connect(self, path, read_only)

    monkeypatch.setattr(Warehouse, "_connect", copied)


def reviews(start: int, stop: int, **columns: Any) -> list[dict[str, Any]]:
    """Plain rows whose label the simulator's lexicon gives back, each text different."""
    rows = []
    for number in range(start, stop):
        good = number % 2 == 0
        text = (
            f"I love this lamp number {number}, it is excellent and works great."
            if good
            else f"I hate this lamp number {number}, it is terrible and broke at once."
        )
        label = "positive" if good else "negative"
        row = {"review_id": f"r{number}", "category": "Lamps", "text": text, "label": label}
        rows.append(row | columns)
    return rows


def deliver(home: Home, rows: list[dict[str, Any]], day: date = DAY, tenant: str = "acme") -> Path:
    """Put rows into a tenant's inbox as one JSONL file."""
    folder = home.inbox / tenant / day.isoformat()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "reviews.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def query(home: Home, sql: str) -> pl.DataFrame:
    """Rows of the home's warehouse."""
    from review_optimizer_dagster.storage.warehouse import Warehouse

    with Warehouse(database=str(home.warehouse)).open() as connection:
        return connection.frame(sql)


Runner = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def shared_instance() -> Iterator[DagsterInstance]:
    """A Dagster instance in memory, made once.

    What Dagster itself keeps is not what the tests with it are about, and making its tables takes
    as long as a step.
    """
    from dagster import DagsterInstance

    with DagsterInstance.ephemeral() as instance:
        yield instance


def runner(home: Home, instance: DagsterInstance) -> Runner:
    """Runs the daily job of a home for a day and returns its summary.

    `problem` in it says what broke, if anything did.
    """
    from review_optimizer_dagster.definitions import definitions_of
    from review_optimizer_dagster.defs import execution

    job = definitions_of(home).resolve_job_def("daily_reviews")

    def run(day: date = DAY, **engine: Any) -> dict[str, Any]:
        config = {"latency_seconds": 0.0} | engine
        outcome = execution.run_partition(instance, job, day, config)
        if outcome.problem is not None:
            return {"problem": outcome.problem, "mendable": outcome.user_can_mend}
        summary = execution.summarise(type(home)(home.folder), day, "simulator", outcome)
        return summary | {"problem": None, "gate_blocked": outcome.gate_blocked}

    return run


@pytest.fixture
def run_day(home: Home, shared_instance: DagsterInstance) -> Runner:
    """Run the daily job of the test's own home."""
    return runner(home, shared_instance)


_SLOW = {"benchmarks", "defs", "faults", "properties"}  # folders


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put slow tests first, a module whole, in each of the halves that two workers begin with.

    What is left over at the end, for whoever is free, is short then.
    """
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    slow = [path for path in modules if path.parent.name in _SLOW]
    quick = [path for path in modules if path.parent.name not in _SLOW]
    halves = (slow[::2] + quick[::2], slow[1::2] + quick[1::2])
    items[:] = [item for half in halves for path in half for item in modules[path]]
