"""What `--json` does, the same in every command: a file beside the text, or standard output."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TextIO

from review_optimizer_dagster.errors import UserError

STANDARD_OUTPUT = Path("-")
_output: ContextVar[TextIO | None] = ContextVar("json_output", default=None)


class _Nowhere(io.TextIOBase):
    """Takes the text for people where standard output is for a program."""

    def write(self, text: str) -> int:
        return len(text)


@contextmanager
def for_programs(target: Path | None) -> Iterator[None]:
    """Keep standard output for JSON alone, where `--json` asks for that.

    Whatever else writes there meanwhile, a library's message too, is left out: a program that
    reads it must find one JSON value and nothing else.
    """
    if target != STANDARD_OUTPUT:
        yield
        return
    token = _output.set(sys.stdout)
    try:
        with redirect_stdout(_Nowhere()):
            yield
    finally:
        _output.reset(token)


def check_target(target: Path | None) -> None:
    """Raise UserError where a result could not be written, before anything is done."""
    if target is None or target == STANDARD_OUTPUT:
        return
    if not target.absolute().parent.is_dir():
        raise UserError(f"--json {target}: its folder does not exist; make it, or give another")
    if target.is_dir():
        raise UserError(f"--json {target} is a folder: give the path of a file")


def write_json(target: Path | None, value: Any) -> None:
    """Write a command's result where `--json` says; nothing without it."""
    if target is None:
        return
    text = json.dumps(value, indent=2, default=str, ensure_ascii=False) + "\n"
    if target == STANDARD_OUTPUT:
        standard_output().write(text)
    else:
        target.write_text(text, encoding="utf-8")


def write_line(target: Path, value: Any) -> None:
    """Write one JSON object as a line, and let whoever reads have it at once."""
    line = json.dumps(value, default=str, ensure_ascii=False) + "\n"
    if target == STANDARD_OUTPUT:
        stream = standard_output()
        stream.write(line)
        stream.flush()
        return
    with target.open("a", encoding="utf-8") as file:
        file.write(line)


def standard_output() -> TextIO:
    """Where a program reads, also while the text for people goes nowhere."""
    return _output.get() or sys.stdout
