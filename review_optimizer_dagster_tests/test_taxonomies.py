"""What a taxonomy file may say, and how its labels are scored against a truth."""

from __future__ import annotations

from pathlib import Path

import pytest

from review_optimizer_dagster.errors import ConfigError
from review_optimizer_dagster.taxonomies import load_taxonomy, read_taxonomy

SENTIMENT = load_taxonomy("reviews").main
FILE = """
name = "notes"
version = 1
document = "note"
instructions = "Label each note."

[[fields]]
name = "tone"
question = "How does it sound?"
labels = ["warm", "cold", "both"]
"""


@pytest.mark.parametrize(
    ("answer", "truth", "right"),
    [
        ("mixed", "negative", True),
        ("neutral", "negative", True),
        ("mixed", "positive", False),
        ("positive", "negative", False),
        ("positive", "positive", True),
    ],
)
def test_a_truth_of_two_classes_is_scored_by_the_mapping(
    answer: str, truth: str, right: bool
) -> None:
    """Gold labels that only say positive or negative cannot call `mixed` wrong by themselves."""
    assert SENTIMENT.agrees(answer, truth, frozenset({"positive", "negative"})) is right


def test_a_truth_of_other_classes_is_taken_as_it_is() -> None:
    """A day whose truth is all neutral is no day of two classes: its wrong answers were excused."""
    assert not SENTIMENT.agrees("negative", "neutral", frozenset({"neutral"}))
    every = frozenset(SENTIMENT.labels)
    assert not SENTIMENT.agrees("mixed", "negative", every)
    assert SENTIMENT.agrees("mixed", "mixed", every)


def test_identities_follow_labels_and_words(tmp_path: Path) -> None:
    """A changed label set or prompt must never serve an old label."""
    path = tmp_path / "notes.toml"
    path.write_text(FILE)
    before = read_taxonomy(path)
    path.write_text(FILE.replace('"both"', '"both", "none"'))
    more_labels = read_taxonomy(path)
    path.write_text(FILE.replace("Label each note.", "Label every note."))
    other_words = read_taxonomy(path)
    assert before.identity != more_labels.identity
    assert before.identity == other_words.identity
    assert before.prompt_identity != other_words.prompt_identity


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (('"cold", "both"', '"cold", "warm"'), "a label stands twice"),
        (('name = "tone"', 'name = "id"'), "must not be named id"),
        (('labels = ["warm", "cold", "both"]', 'labels = ["warm"]'), "fields.0.labels"),
        (("version = 1", "version = 0"), "version"),
        (("version = 1", "version = 1\ncolour = 2"), "colour"),
        (('"both"]', '"both"]\ncoarse = { warm = "hot" }'), "coarse names unknown labels"),
    ],
)
def test_a_file_that_is_not_valid_names_file_and_key(
    tmp_path: Path, change: tuple[str, str], key: str
) -> None:
    """Somebody wrote it by hand, and has to find the mistake."""
    path = tmp_path / "notes.toml"
    path.write_text(FILE.replace(*change))
    with pytest.raises(ConfigError) as caught:
        read_taxonomy(path)
    assert str(path) in str(caught.value)
    assert key in str(caught.value)


def test_an_unknown_name_lists_those_that_exist(tmp_path: Path) -> None:
    """A typing mistake in tenants.toml."""
    with pytest.raises(ConfigError, match="complaints, reviews"):
        load_taxonomy("revews", tmp_path)
