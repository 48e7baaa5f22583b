"""Consoles: colour where there is a terminal, all of it in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

PIPED_WIDTH = 200  # a pipe has no width of its own, and rich would cut at 80


def console(*, stderr: bool = False) -> Console:
    """A console on standard output or error.

    In a pipe it is wide, and without colour unless FORCE_COLOR asks for it; NO_COLOR and TERM=dumb
    do without in a terminal too.
    """
    from rich.console import Console

    width = None if is_terminal(stderr=stderr) or "COLUMNS" in os.environ else PIPED_WIDTH
    return Console(stderr=stderr, highlight=False, width=width)


def is_terminal(*, stderr: bool = False) -> bool:
    """Whether lines may be drawn anew: a real terminal that can move its cursor.

    FORCE_COLOR is about colour, and makes no terminal of a pipe.
    """
    stream = sys.stderr if stderr else sys.stdout
    return stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


@contextmanager
def working(what: str) -> Iterator[None]:
    """Say what goes on meanwhile, in a terminal alone: it is gone when the block ends."""
    if not (is_terminal() and is_terminal(stderr=True)):
        yield
        return
    with console(stderr=True).status(what):
        yield


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """A table whose cells fold where they are too long, so that nothing of them is lost."""
    from rich.table import Table

    made = Table(title=title, title_justify="left")
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made
