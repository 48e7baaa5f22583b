"""Errors a user can mend: each says what is wrong, where, and what to do."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pydantic import ValidationError  # start-up that help does not pay


class UserError(Exception):
    """Something the user can mend; the command prints the message alone, without a traceback."""


class ConfigError(UserError):
    """A configuration file that is not valid: names the file and the key."""

    def __init__(self, path: Path, key: str, problem: str) -> None:
        where = f"{path}: {key}" if key else str(path)
        super().__init__(f"{where} {problem}")

    @classmethod
    def of(cls, path: Path, error: ValidationError) -> ConfigError:
        """The first problem that pydantic found, and how many more there are."""
        first, *rest = error.errors(include_url=False, include_input=False)
        key = ".".join(str(part) for part in first["loc"])
        more = f" (and {len(rest)} more)" if rest else ""
        return cls(path, key, f"is not valid: {first['msg']}{more}")


_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
# As SQLite and DuckDB say it, who have no number for it.
_FULL_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")
_FORBIDDEN_WORDS = ("readonly database", "read-only file system", "permission denied")


def system_problem(error: BaseException) -> str | None:
    """What the system refused, and what to do; None where the error is of another kind.

    It may be the cause of the error, or of that one's cause.

    >>> system_problem(OSError(errno.ENOSPC, "No space left on device", "/data/journal"))
    '/data/journal: No space left on device: make room there, then go on; what was paid for is kept'
    """
    seen: BaseException | None = error
    while seen is not None:
        said = str(seen).strip()
        number = seen.errno if isinstance(seen, OSError) else None
        if isinstance(seen, OSError) and seen.strerror:
            said = f"{seen.filename}: {seen.strerror}" if seen.filename else seen.strerror
        words = said.lower()
        said = said.splitlines()[0] if said else type(seen).__name__
        if number in _FULL or any(each in words for each in _FULL_WORDS):
            return f"{said}: make room there, then go on; what was paid for is kept"
        if number in _FORBIDDEN or any(each in words for each in _FORBIDDEN_WORDS):
            return f"{said}: allow writing there, or set $REVIEW_OPTIMIZER_HOME to another folder"
        seen = seen.__cause__ or seen.__context__
    return None
