from __future__ import annotations

import re
import tomllib
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from rapidfuzz import fuzz

from review_optimizer_dagster.core.cache import CONTENTS, ENTRIES, ReviewCache
from review_optimizer_dagster.matching.veto import veto
from review_optimizer_dagster.settings import CacheSettings
from review_optimizer_dagster.text import content_key, normalise
from review_optimizer_dagster_tests.core.test_cache import EMPTY, FrameArchive

Pairs = dict[str, tuple[str, str]]


def read_pairs(part: str) -> Pairs:
    """Line of the fixture to its two sides, normalised as they reach the cache."""
    file = Path(__file__).parent / "fixtures" / "near_pairs.toml"
    lines = [
        line
        for kind in tomllib.loads(file.read_text(encoding="utf-8"))[part].values()
        for line in kind
    ]
    pairs: Pairs = {}
    for line in lines:
        one, other = (
            normalise(None, re.sub(r"\{([^{}|]*)\|([^{}|]*)\}", rf"\{side}", line))
            for side in (1, 2)
        )
        pairs[line] = (one, other)
    assert len(pairs) == len(lines), "a line stands twice in the fixture"
    return pairs


FLIPS = read_pairs("flips")
HARMLESS = read_pairs("harmless")


def served(pairs: Pairs) -> set[str]:
    """Lines of which one side was answered with the labels of the other, in either direction."""
    held, asked = [], []
    for line, sides in pairs.items():
        for turn, (own, other) in enumerate((sides, sides[::-1])):
            # Each pair is an identity of its own, so that only its other side can answer.
            identity, key = f"{turn}{line}", content_key(own)
            held.append((identity, key, key, own, "labels", 1.0, date(2026, 3, 1)))
            asked.append((identity, content_key(other), other))
    archive = FrameArchive(pl.DataFrame(held, ENTRIES, orient="row"))
    cache = ReviewCache(CacheSettings(), EMPTY, EMPTY, archive)
    found = cache.resolve(pl.DataFrame(asked, CONTENTS, orient="row"))
    return {identity[1:] for identity in found.drop_nulls("level")["identity"]}


def test_the_pairs_are_many_and_alike() -> None:
    """A pair that similarity alone would not match proves nothing about the veto."""
    assert len(FLIPS) >= 320
    assert len(HARMLESS) >= 220
    unlike = [
        line for line, sides in (FLIPS | HARMLESS).items() if not 85 <= fuzz.ratio(*sides) <= 100
    ]
    assert unlike == []
    assert [line for line, (one, other) in FLIPS.items() if one == other] == []


def test_a_changed_meaning_is_never_served() -> None:
    """A wrong label is the one thing that a cache must not save money on."""
    assert served(FLIPS) == set()


def test_harmless_variants_are_served() -> None:
    """A veto that refuses everything is safe and useless: at least 95 % must pass."""
    assert len(served(HARMLESS)) >= 0.95 * len(HARMLESS)


def test_the_veto_is_symmetric() -> None:
    """Which of two texts came first must not decide whether one answers for the other."""
    for one, other in (FLIPS | HARMLESS).values():
        assert veto(one, other) == veto(other, one)


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        ("it works, but slowly", "it works slowly", "contrast: but"),
        ("i give it 5 stars", "i give it 4 stars", "number: 4"),
        ("down to -5 degrees", "down to 5 degrees", "number: -5"),
        ("it was great", "it was good", "sentiment: good"),
        ("great service :)", "great service :(", "sentiment: :("),
        ("an a+ from me", "an a- from me", "rating: a+"),
        ("few pages are torn", "a few pages are torn", "negation: a few"),
        ("the lid is wide", "the lid is narrow", "antonym: narrow"),
        ("red beats blue", "blue beats red", "order: blue"),
        ("is this the small one", "this is the small one", "order: this"),
        ("the strap tore", "the zipper tore", "part: strap/zipper"),
        ("a desk for the hall", "a desk lamp for the hall", "content: lamp"),
        ("i want to read more", "i want to read less", "negation: less"),
        ("!!!", "???", "content: no words"),
    ],
)
def test_a_veto_names_its_reason(a: str, b: str, reason: str) -> None:
    """The reason is stored beside the miss and shown to people."""
    assert veto(a, b) == reason


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("shipping", "shopping"),  # the first vowel
        ("hoping", "hopping"),  # a consonant doubled before an ending
        ("steaming", "streaming"),  # a letter in a short stem
        ("confirmed", "conformed"),  # an ending of a listed pair
        ("trials", "trails"),
        ("of", "off"),
        ("iii", "ii"),
        ("非常喜欢", "非常不喜欢"),  # one sign that negates
    ],
)
def test_another_word_is_no_slip(a: str, b: str) -> None:
    """A letter makes another word as easily as it makes a slip."""
    assert veto(f"we like the {a} here", f"we like the {b} here") is not None
