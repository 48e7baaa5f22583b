"""The README says what is there: settings, commands, links, pictures, views, benchmarks."""

from __future__ import annotations

import re
from importlib import resources
from importlib.util import find_spec
from pathlib import Path

import pytest

from review_optimizer_dagster.cli import build_parser
from review_optimizer_dagster_tests.readme import README, anchors, commands, with_reference

ROOT = README.parent
FIGURES = ROOT / "review_optimizer_dagster_tests" / "benchmarks" / "README.md"
TEXTS = {path: path.read_text(encoding="utf-8") for path in (README, FIGURES)}
TEXT = TEXTS[README]
BENCHMARKS = "review_optimizer_dagster_tests.benchmarks"


def test_the_reference_has_every_setting_as_it_is() -> None:
    """A default that is changed in the code and not here would mislead for years."""
    assert with_reference(TEXT) == TEXT, (
        "write it anew: uv run python -m review_optimizer_dagster_tests.readme"
    )


@pytest.mark.parametrize("words", commands(TEXT, "review-optimizer"), ids=" ".join)
def test_every_command_is_one(words: list[str]) -> None:
    """Options are renamed, and the README is the last to hear of it."""
    if "..." in words:
        pytest.skip("an excerpt")
    try:
        build_parser().parse_args(words)
    except SystemExit as end:
        assert end.code in (0, None), f"review-optimizer {' '.join(words)} is refused"  # noqa: PT017


@pytest.mark.parametrize("path", list(TEXTS), ids=lambda path: path.parent.name)
def test_links_and_pictures_lead_somewhere(path: Path) -> None:
    """A reader who follows one and finds nothing stops reading."""
    text = TEXTS[path]
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target} is not there"
        if anchor:
            assert anchor in anchors(there.read_text(encoding="utf-8")), (
                f"{target}: no such heading"
            )


def test_every_picture_is_shown() -> None:
    """One that no text shows is one that nobody renews."""
    for picture in (ROOT / ".images").iterdir():
        assert f".images/{picture.name}" in TEXT


def test_every_benchmark_that_is_named_is_there() -> None:
    """Every figure names the command that gives it."""
    named = {
        name for text in TEXTS.values() for name in re.findall(r"\bbenchmarks\.([a-z_]+)", text)
    }
    assert named
    missing = [name for name in named if find_spec(f"{BENCHMARKS}.{name}") is None]
    assert not missing


def test_every_view_is_told() -> None:
    """Analysts look here before they look into the database."""
    storage = resources.files("review_optimizer_dagster.storage")
    names = [
        name
        for file in ("views.sql", "star.sql")
        for name in re.findall(
            r"VIEW \{out\}\.(\w+) AS", storage.joinpath(file).read_text(encoding="utf-8")
        )
    ]
    assert names
    assert [name for name in names if f"`{name}`" not in TEXT] == []
