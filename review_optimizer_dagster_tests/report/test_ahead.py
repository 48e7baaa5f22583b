"""The page that is drawn up beside a run."""

from __future__ import annotations

import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from review_optimizer_dagster.report import ahead
from review_optimizer_dagster.report.page import page_path


class _Child:
    """Stands for the process that draws."""

    def __init__(self, command: list[str], **_: Any) -> None:
        self.command, self.ended = command, False
        _CHILDREN.append(self)

    def __enter__(self) -> _Child:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.ended

    def terminate(self) -> None:
        self.ended = True


_CHILDREN: list[_Child] = []


@pytest.fixture(autouse=True)
def children(monkeypatch: pytest.MonkeyPatch) -> list[_Child]:
    """Every process that is begun, none of them real."""
    _CHILDREN.clear()
    monkeypatch.setattr(subprocess, "Popen", _Child)
    return _CHILDREN


def _fails(folder: Path) -> None:
    with ahead.page_drawn_ahead(folder):
        raise ValueError("the run broke")


def test_it_ends_with_the_run_however_that_ends(tmp_path: Path, children: list[_Child]) -> None:
    """A run that breaks must leave no process behind."""
    with pytest.raises(ValueError, match="the run broke"):
        _fails(tmp_path)
    assert [child.ended for child in children] == [True]
    assert children[0].command[-1] == str(tmp_path)


def test_a_page_that_is_kept_is_not_drawn_again(tmp_path: Path, children: list[_Child]) -> None:
    """Seconds of a processor each day, for nothing."""
    page_path(tmp_path).write_text("", encoding="utf-8")
    with ahead.page_drawn_ahead(tmp_path):
        pass
    assert not children


def test_without_the_extra_nothing_is_begun(
    tmp_path: Path, children: list[_Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run goes on; its last step says what to install."""

    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    with ahead.page_drawn_ahead(tmp_path):
        pass
    assert not children
