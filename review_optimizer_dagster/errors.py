"""Errors a user can mend: each says what is wrong, where, and what to do."""

from __future__ import annotations

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
