"""The journal as a process reads it that only looks on: never in the way of the one that writes."""

from __future__ import annotations

import io
import json
import sqlite3
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import quote

_RAW = 1  # diskcache's mode of a value that stands in the row itself
_BUSY_SECONDS = 0.2


class JournalReader:
    """Reads one of the journal's SQLite files read-only, a short transaction a question.

    In SQLite's WAL mode a reader holds up no writer. What cannot be read at this moment reads as
    empty: whoever looks on looks again. It is a `State` whose changes are refused.
    """

    def __init__(self, folder: Path) -> None:
        """folder: that of a diskcache, as `DayJournal` and `StateStore` make them."""
        self._file = folder / "cache.db"
        self._last_row = 0

    @classmethod
    def of_day(cls, journal: Path, day: date) -> JournalReader:
        """The requests of a delivery day."""
        return cls(journal / "requests" / day.isoformat())

    @classmethod
    def of_state(cls, journal: Path) -> JournalReader:
        """Counters, alerts and states that outlive a run."""
        return cls(journal / "state")

    def new_records(self, since: float) -> list[tuple[str, Any]]:
        """Key and value of what was added after the last call, and after `since` (Unix time)."""
        rows = self._rows(
            "SELECT rowid, key, mode, value FROM Cache WHERE rowid > ? AND store_time >= ? "
            "ORDER BY rowid",
            self._last_row,
            since,
        )
        found = []
        for number, key, mode, value in rows:
            self._last_row = number
            if mode == _RAW:
                found.append((key, _value(value)))
        return found

    def get(self, key: str) -> Any:
        """The value, or None."""
        for mode, value in self._rows("SELECT mode, value FROM Cache WHERE key = ?", key):
            if mode == _RAW:
                return _value(value)
        return None

    def keys(self, prefix: str) -> list[str]:
        """Every key that begins with a prefix, in order."""
        below = prefix[:-1] + chr(ord(prefix[-1]) + 1)
        sql = "SELECT key FROM Cache WHERE key >= ? AND key < ? ORDER BY key"
        return [key for (key,) in self._rows(sql, prefix, below)]

    def changed_since(self, prefix: str, since: float) -> Iterator[Any]:
        """The values under keys that begin with a prefix and were written after a Unix time."""
        sql = "SELECT key, mode, value FROM Cache WHERE store_time >= ? ORDER BY rowid"
        for key, mode, value in self._rows(sql, since):
            if key.startswith(prefix) and mode == _RAW:
                yield _value(value)

    def add(self, key: str, value: Any) -> bool:
        """Refused: raises UnsupportedOperation."""
        raise io.UnsupportedOperation(f"{self._file} is only read here: {key} = {value!r}")

    def update(self, key: str, change: Callable[[Any], Any]) -> Any:
        """Refused: raises UnsupportedOperation."""
        raise io.UnsupportedOperation(f"{self._file} is only read here: {key}, {change}")

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        if not self._file.exists():
            return []
        try:
            with self._open() as connection:
                return connection.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError:
            return []  # being made, or held by a checkpoint at this moment

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        address = f"file:{quote(str(self._file))}?mode=ro"
        opened = sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)
        with closing(opened) as connection:
            yield connection


def _value(stored: bytes) -> Mapping[str, Any] | list[Any]:
    value: Mapping[str, Any] | list[Any] = json.loads(zlib.decompress(stored))
    return value
