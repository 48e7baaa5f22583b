"""A `State` in memory, for tests that need no process but their own."""

from __future__ import annotations

import json
from collections.abc import Callable
from threading import Lock

from review_optimizer_dagster.money.budgets import JSON


class MemoryState:
    """Keeps JSON text, so that a value which would not survive a real store fails here too."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._lock = Lock()

    def get(self, key: str) -> JSON | None:
        with self._lock:
            return self._read(key)

    def add(self, key: str, value: JSON) -> bool:
        with self._lock:
            if key in self._values:
                return False
            self._values[key] = json.dumps(value)
            return True

    def update(self, key: str, change: Callable[[JSON | None], JSON]) -> JSON:
        with self._lock:
            self._values[key] = json.dumps(change(self._read(key)))
            return self._read(key)

    def keys(self, prefix: str) -> list[str]:
        with self._lock:
            return sorted(key for key in self._values if key.startswith(prefix))

    def _read(self, key: str) -> JSON | None:
        text = self._values.get(key)
        return None if text is None else json.loads(text)
