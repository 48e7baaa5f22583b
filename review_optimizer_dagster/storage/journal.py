"""The journal, beside the classifier: what was sent and answered, and the live counters.

Everything is JSON in SQLite through diskcache, safe across threads and processes; nothing is
evicted, and nothing is ever unpickled. A write is on the disk when the call returns.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import date, datetime
from pathlib import Path
from typing import Any

import diskcache

from review_optimizer_dagster.errors import UserError

_SETTINGS = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    # diskcache does not flush values that it keeps in files of their own; SQLite does.
    "disk_min_file_size": 2**62,
    "sqlite_synchronous": 2,  # FULL: a commit survives a loss of power
}
_INTENT, _OUTCOME, _GENERATION, _JOB = "intent:", "outcome:", "generation", "job:"
_VOID = "void"

_OPEN_JOBS = "open_jobs"  # a folder with a mark a day: a sensor need not open every journal


class _JsonDisk(diskcache.JSONDisk):  # type: ignore[misc]  # diskcache has no types
    """Keys as plain text, values as JSON.

    JSONDisk compresses the keys too, and so would no longer find them with another zlib; and a
    row that says it is a pickle would be unpickled.
    """

    def put(self, key: str) -> tuple[str, bool]:
        return key, True

    def get(self, key: str, raw: bool) -> str:
        if not raw:
            raise ValueError("the journal holds a key that is not text: it was written by others")
        return key

    def fetch(self, mode: int, filename: str | None, value: Any, read: bool) -> Any:
        if mode != diskcache.core.MODE_RAW:
            raise ValueError("the journal holds a value that is not JSON: it was written by others")
        return super().fetch(mode, filename, value, read)


class DayJournal:
    """The requests of one delivery day, in `requests/<day>/` of the journal folder."""

    def __init__(self, folder: Path, day: date) -> None:
        self.day = day
        self._folder = folder / "requests" / day.isoformat()
        self._open_jobs = folder / _OPEN_JOBS
        self._cache = diskcache.Cache(str(self._folder), disk=_JsonDisk, **_SETTINGS)
        self._is_locked = False

    def close(self) -> None:
        """Let go of the files."""
        self._cache.close()

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The sole right to send for this day, until the block or the process ends.

        A block inside a block of the same object changes nothing. Raises UserError where another
        run has the right.
        """
        if self._is_locked:
            yield
            return
        with (self._folder / "lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UserError(
                    f"another run is classifying {self.day}: wait until it has ended; "
                    "two at a time would pay twice"
                ) from error
            self._is_locked = True
            try:
                yield
            finally:
                self._is_locked = False

    @property
    def generation(self) -> int:
        """The generation whose answers count, from 1; reclassifying raises it."""
        return int(self._cache.get(_GENERATION, {"number": 1})["number"])

    def raise_generation(self, run_id: str) -> int:
        """Begin a new generation, once a run however often it asks; returns its number."""
        with self._cache.transact():
            held = self._cache.get(_GENERATION, {"number": 1, "run_id": None})
            if held["run_id"] != run_id:
                held = {"number": held["number"] + 1, "run_id": run_id}
                self._cache.set(_GENERATION, held)
        return int(held["number"])

    def intend(self, request: dict[str, Any]) -> None:
        """Keep a request that is about to be sent. Raises ValueError where its id is taken."""
        if not self._cache.add(_INTENT + request["request_id"], request):
            raise ValueError(f"request {request['request_id']} was sent before")

    def settle(self, request_id: str, outcome: dict[str, Any]) -> None:
        """Keep the raw outcome of a request. Raises ValueError where it has one."""
        if not self._cache.add(_OUTCOME + request_id, outcome):
            raise ValueError(f"request {request_id} has an outcome already")

    def requests(self) -> Iterator[dict[str, Any]]:
        """Every intent with its `outcome` (None: unknown), by sent_at, then request_id.

        `voided` names the content keys whose answers count no longer (see `void`).
        """
        voided = self._cache.get(_VOID, {})
        names = [key.removeprefix(_INTENT) for key in self._keys(_INTENT)]
        # Only when each was sent is held for all of them: the bodies of a day may be large.
        for _, name in sorted((self._cache[_INTENT + name]["sent_at"], name) for name in names):
            record = self._cache[_INTENT + name] | {"outcome": self._cache.get(_OUTCOME + name)}
            gone = voided.get(record["identity"], {}) if voided else {}
            if gone:
                items = (content_key for _, content_key, _ in record.get("items", ()))
                record["voided"] = [k for k in items if record["sent_at"] < gone.get(k, "")]
            yield record

    def void(self, texts: Iterable[tuple[str, str]], now: datetime) -> int:
        """Let answers that were given to texts (identity, content_key) until now count no longer.

        They stay paid for; the texts are asked again. A text is voided once in its day. Returns
        how many were new.
        """
        new = 0
        with self._cache.transact():
            held = self._cache.get(_VOID, {})
            for identity, content_key in texts:
                of_identity = held.setdefault(identity, {})
                new += content_key not in of_identity
                of_identity.setdefault(content_key, now.isoformat())
            self._cache.set(_VOID, held)
        return new

    def intend_job(self, job: dict[str, Any], requests: list[dict[str, Any]]) -> None:
        """Keep a job of the Batch API and its requests, all or none of them.

        Raises ValueError where an id is taken.
        """
        self._open_jobs.mkdir(parents=True, exist_ok=True)
        (self._open_jobs / self.day.isoformat()).touch()
        with self._cache.transact():
            for request in requests:
                self.intend(request)
            if not self._cache.add(_JOB + job["job_id"], job):
                raise ValueError(f"job {job['job_id']} was made before")

    def update_job(self, job: dict[str, Any]) -> None:
        """Replace a job's state."""
        self._cache.set(_JOB + job["job_id"], job)

    def settle_job(self, job: dict[str, Any], outcomes: Mapping[str, dict[str, Any]]) -> None:
        """Keep a job's end and the raw outcomes of its requests, all or none of them."""
        with self._cache.transact():
            for request_id, outcome in outcomes.items():
                self.settle(request_id, outcome)
            self.update_job(job)
        if all(each["status"] == "ended" for each in self.jobs()):
            (self._open_jobs / self.day.isoformat()).unlink(missing_ok=True)

    def jobs(self) -> list[dict[str, Any]]:
        """Every job of the Batch API, in the order they were made."""
        jobs: list[dict[str, Any]] = [self._cache[key] for key in self._keys(_JOB)]
        return sorted(jobs, key=lambda job: (job["created_at"], job["job_id"]))

    def _keys(self, prefix: str) -> list[str]:
        return [key for key in self._cache.iterkeys() if key.startswith(prefix)]


def days_with_open_jobs(folder: Path) -> list[date]:
    """Delivery days that a job of the Batch API may still be open for, in order."""
    marks = folder / _OPEN_JOBS
    if not marks.is_dir():
        return []
    return sorted(date.fromisoformat(mark.name) for mark in marks.iterdir())


def changed_days(folder: Path) -> dict[date, int]:
    """When each delivery day's journal was last written to (or opened), in order of the days.

    In nanoseconds since 1970, as the file system tells.
    """
    changed: dict[date, int] = {}
    for path in sorted((folder / "requests").glob("*/cache.db*")):
        try:
            day, at = date.fromisoformat(path.parent.name), path.stat().st_mtime_ns
        except (ValueError, FileNotFoundError):
            continue  # no day; or SQLite's log, which went between the two
        changed[day] = max(at, changed.get(day, 0))
    return changed


class StateStore:
    """Counters and states that outlive a run, in `state/` of the journal folder."""

    def __init__(self, folder: Path) -> None:
        self._cache = diskcache.Cache(str(folder / "state"), disk=_JsonDisk, **_SETTINGS)

    def close(self) -> None:
        """Let go of the files."""
        self._cache.close()

    def get(self, key: str) -> Any:
        """The value, or None."""
        return self._cache.get(key)

    def add(self, key: str, value: Any) -> bool:
        """Store a value under a new key; False, and no change, where the key is there already."""
        return bool(self._cache.add(key, value))

    def update(self, key: str, change: Callable[[Any], Any]) -> Any:
        """Replace a value by `change(value)` in one atomic step, and return the new value."""
        with self._cache.transact():
            value = change(self._cache.get(key))
            self._cache.set(key, value)
        return value

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with a prefix, in order."""
        return [key for key in self._cache.iterkeys() if key.startswith(prefix)]
