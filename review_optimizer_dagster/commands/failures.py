"""How a command ends where it cannot go on: what it says, where the traceback is, the exit code."""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

from review_optimizer_dagster.commands.command_line import BROKEN, MENDABLE, PROGRAM
from review_optimizer_dagster.errors import system_problem

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

DEBUG_VARIABLE = "REVIEW_OPTIMIZER_DEBUG"


def ended_by_system(error: OSError) -> int:
    """Say what the system refused and what to do; returns the exit code."""
    where = f"{error.filename}: " if error.filename else ""
    said = system_problem(error) or f"{where}{error.strerror or error}"
    sys.stderr.write(f"{PROGRAM}: {said}\n")
    return MENDABLE


def ended_by_defect(home: Home, error: Exception, options: argparse.Namespace) -> int:
    """Write the traceback of what nobody foresaw, and say where it is; returns the exit code.

    What a database says of a full disk, or of one that is not ours to write, is no defect.
    """
    if (refused := system_problem(error)) is not None:
        sys.stderr.write(f"{PROGRAM}: {refused}\n")
        return MENDABLE
    text = "".join(traceback.format_exception(error))
    said = f"{type(error).__name__}: {error}".splitlines()[0]
    sys.stderr.write(f"{PROGRAM}: {defect_message(home, said, text, is_debug(options))}\n")
    return BROKEN


def defect_message(home: Home, said: str, text: str, debug: bool = False) -> str:
    """A line about a defect that says where its traceback is; with `debug`, the traceback too."""
    path = write_log(home, text)
    if debug or path is None:
        return f"{said}. This is a defect: please report it with this traceback\n{text.rstrip()}"
    return (
        f"{said}. This is a defect: please report it with {path}, which has its traceback "
        "(--debug shows it here)"
    )


def is_debug(options: argparse.Namespace | None) -> bool:
    """Whether tracebacks are to be shown at once."""
    return bool(getattr(options, "debug", False) or os.environ.get(DEBUG_VARIABLE))


def write_log(home: Home, text: str) -> Path | None:
    """Keep a traceback in `logs/` of the home, or where that cannot be written, of the system.

    A home that does not exist is not made for it. None where nothing can be written at all.
    """
    name = f"error-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}.log"
    head = (
        f"{PROGRAM}, Python {platform.python_version()}, {platform.platform()}\n"
        f"{' '.join(sys.argv[1:2])}\n\n"
    )
    folders = [home.folder / "logs"] if home.folder.is_dir() else []
    for folder in (*folders, Path(tempfile.gettempdir())):
        with suppress(OSError):
            folder.mkdir(exist_ok=True)
            path = folder / name
            path.write_text(head + text, encoding="utf-8")
            return path
    return None


class _Stream:
    """A standard stream that goes on where its reader has gone, writing nowhere.

    `review-optimizer gate | head -1` is no error, and the exit code must still be the gate's.
    """

    def __init__(self, stream: TextIO, name: str) -> None:
        self._stream, self._name = stream, name
        self.is_reader_gone = False

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._let_go(error)
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._let_go(error)

    def _let_go(self, error: OSError) -> None:
        """From now on into nothing: what is buffered would fail again when Python ends."""
        with suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        self.is_reader_gone = True
        if not isinstance(error, BrokenPipeError):
            raise OSError(error.errno, error.strerror, self._name)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def survives_closed_pipes() -> Iterator[None]:
    """Let nobody's leaving end a command: what is written to a closed pipe goes nowhere."""
    kept = sys.stdout, sys.stderr
    sys.stdout = cast("TextIO", _Stream(sys.stdout, "standard output"))
    sys.stderr = cast("TextIO", _Stream(sys.stderr, "standard error"))
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = kept


def is_reader_gone(stream: TextIO) -> bool:
    """Whether nobody reads a standard stream any more."""
    return bool(getattr(stream, "is_reader_gone", False))
