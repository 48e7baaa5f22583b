"""Hashed n-grams: what makes two texts' rows alike, and that nothing else does."""

from __future__ import annotations

import pytest

from review_optimizer_dagster.learning.features import Vectoriser


def columns(text: str) -> set[int]:
    return set(Vectoriser().transform([text]).indices.tolist())


def test_a_row_does_not_depend_on_its_neighbours() -> None:
    """Texts are hashed many at a time; a run of words must not reach into the next text."""
    texts = ["so good", "", "title\nnot bad at all!", "x" * 120_000, "so good", "\u4f60\u597d"] * 30
    together = Vectoriser().transform(texts)
    assert together.shape == (len(texts), Vectoriser.columns)
    for at, text in enumerate(texts):
        assert set(together[at].indices.tolist()) == columns(text)


def test_a_row_says_what_is_there_and_not_how_often() -> None:
    """Two words: each alone, in the head and in the tail, and their pair; once, and in order."""
    row = Vectoriser().transform(["good lamp"])
    assert row.nnz == 7
    repeated = Vectoriser().transform(["good lamp good lamp good lamp"])
    assert set(row.indices.tolist()) < set(repeated.indices.tolist())
    assert set(repeated.data.tolist()) == {1.0}
    indices = repeated.indices.tolist()
    assert indices == sorted(set(indices))


@pytest.mark.parametrize(
    ("plain", "tokenised"),
    [
        ("it's great, i didn't return it!", "it 's great , i did n't return it !"),
        ("cannot (ever) stop", "can not ( ever ) stop"),
    ],
)
def test_tokenised_text_is_the_text(plain: str, tokenised: str) -> None:
    """Half of what archives hold went through a tokeniser that spaces punctuation out."""
    assert columns(plain) == columns(tokenised)


def test_words_that_differ_have_columns_that_differ() -> None:
    """Sums of letters are easily alike for anagrams and repeats; scrambling must part them."""
    words = [a + b + c for a in "abcdnos" for b in "aeiou" for c in ("", "n", "nn", "st", "ts")]
    rows = Vectoriser().transform(words)
    assert rows.nnz == 3 * len(words)
    # 175 words into 4 million columns: two alike would be a fault, not chance.
    assert len(set(rows.indices.tolist())) == 3 * len(words)


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ("not good but cheap", "good but not cheap"),
        ("great\nlamp for the desk", "great lamp for the desk"),
        ("works", "works!"),
        ("fine \u2764", "fine"),
        ("na\u0939\u093f", "na\u0939"),
    ],
)
def test_what_changes_a_row(text: str, other: str) -> None:
    """Order, a title, an exclamation mark, an emoji and a vowel sign all carry meaning."""
    assert columns(text) != columns(other)


def test_signs_without_spaces_are_words() -> None:
    """A Chinese sentence would otherwise be one word that no other text holds."""
    shared = columns("\u8fd9\u4e2a\u5f88\u597d") & columns("\u8d28\u91cf\u5f88\u597d")
    assert len(shared) >= 3  # two signs and their pair


def test_the_place_of_a_word_is_told_in_long_texts() -> None:
    """Head and tail have columns of their own: a conclusion outweighs what stands amid."""
    filler = " ".join(f"w{number}" for number in range(60))
    first, middle, last = (
        columns(text) for text in (f"awful {filler}", f"{filler} awful {filler}", f"{filler} awful")
    )
    alone = columns("awful")
    assert len(alone & first) == len(alone & last) == 2
    assert len(alone & middle) == 1
    assert alone & first != alone & last


def test_empty_and_odd_texts_are_rows_too() -> None:
    """What has no words, a NUL or half a surrogate pair must not shift the rows after it."""
    assert Vectoriser().transform([]).shape == (0, Vectoriser.columns)
    rows = Vectoriser().transform(["", "...", "a\0b", "\ud800", "good lamp"])
    assert rows[0].nnz == rows[1].nnz == 0
    assert set(rows[4].indices.tolist()) == columns("good lamp")


def test_columns_stay_where_stored_weights_expect_them() -> None:
    """A changed hash would let an old file answer nonsense: change the format number with it."""
    found = Vectoriser().transform(["it isn't a good lamp \u2764"]).indices.tolist()
    assert (len(found), found[:4]) == (32, [116055, 359712, 464940, 632161])
