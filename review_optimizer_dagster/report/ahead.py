"""Draws the page without data up beside a run, in a process of its own: it takes seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.report.page import cached_page, page_path

_MODULE = "review_optimizer_dagster.report.ahead"
_NICER = 10  # the run goes first


@contextmanager
def page_drawn_ahead(folder: Path) -> Iterator[None]:
    """Begin with the page of this version, where a folder has none; it is ended with the block.

    A thread would hold up the run, since the libraries keep the interpreter's lock meanwhile.
    """
    try:
        is_kept = page_path(folder).exists()
    except UserError:
        is_kept = True  # nothing here can draw it: the step that needs it says what to install
    if is_kept:
        yield
        return
    command = [sys.executable, "-m", _MODULE, str(folder)]
    with subprocess.Popen(  # noqa: S603 (our own arguments)
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:
        try:
            yield
        finally:
            child.terminate()


if __name__ == "__main__":
    os.nice(_NICER)
    cached_page(Path(sys.argv[1]))
