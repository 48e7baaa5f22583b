"""Which language a text is in, well enough to see that the mix of languages changes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Final

from review_optimizer_dagster.tables import load_table

UNKNOWN: Final = "unknown"

LOOKED_AT: Final = 300  # characters: some fifty words, of which a third are frequent ones
_COUNTED: Final = 30  # words that are looked up; more would decide nothing
_LEAST_SHARE: Final = 0.08  # of the words; fewer may be chance, such as names
_LEAST_SCRIPT: Final = 0.3  # of the letters: product names stand in Latin letters everywhere
_WORD: Final = re.compile(r"[^\W\d_]+")
_ASCII_LETTERS: Final = bytes(code if chr(code).isalpha() else 32 for code in range(128)).ljust(256)
_LATIN_END: Final = 0x0250


def words_of(text: str) -> list[str]:
    """The words of a text's beginning, runs of letters, in lower case.

    >>> words_of("It's 5 o'clock, René!")
    ['it', 's', 'o', 'clock', 'rené']
    """
    start = text[:LOOKED_AT].lower()
    if start.isascii():  # the same, five times faster
        return start.encode().translate(_ASCII_LETTERS).decode().split()
    return _WORD.findall(start)


def language_of(text: str, words: Sequence[str] | None = None) -> str:
    """The two-letter code (ISO 639-1) of a text's language, or `unknown`.

    words: `words_of` the text, where they are known. The script decides where it is not Latin;
    else the language that has most of the words among its most frequent ones, if they are enough
    and no other language has as many. Frequent words tell languages apart even in short texts:
    Grefenstette, "Comparing two language identification schemes", JADT (1995).

    >>> language_of("Das Produkt ist sehr gut"), language_of("XJ-9000")
    ('de', 'unknown')
    """
    if not text.isascii() and (found := _by_script(text[:LOOKED_AT].lower())):
        return found
    return _by_words(words_of(text) if words is None else words)


def _by_words(words: Sequence[str]) -> str:
    words = words[:_COUNTED]
    index, votes = _word_index(), dict[str, int]()
    for names in filter(None, map(index.get, words)):
        for name in names:
            votes[name] = votes.get(name, 0) + 1
    most = max(votes.values(), default=0)
    best = [name for name, count in votes.items() if count == most]
    if most < _LEAST_SHARE * len(words) or len(best) != 1:
        return UNKNOWN
    return best[0]


def _by_script(text: str) -> str | None:
    """The language of the script of most letters; None where Latin letters are most of them."""
    scripts, letters = Counter[str](), 0
    for character in text:
        if not character.isalpha():
            continue
        letters += 1
        code = ord(character)
        if code >= _LATIN_END:
            scripts[_script(code)] += 1
    scripts.pop("", None)
    if scripts.total() < _LEAST_SCRIPT * letters or not scripts:
        return None
    # Japanese is written in both: kana among Han signs are never Chinese.
    best = "ja" if scripts["ja"] else scripts.most_common(1)[0][0]
    own: Mapping[str, str] = load_table("languages")["letters"]
    family = {"ru": ("uk",), "ar": ("ur", "fa")}.get(best, ())
    return next((name for name in family if any(sign in text for sign in own[name])), best)


@cache
def _script(code: int) -> str:
    scripts: Mapping[str, list[list[int]]] = load_table("languages")["scripts"]
    for name, ranges in scripts.items():
        if any(first <= code <= last for first, last in ranges):
            return name
    return ""


@cache
def _word_index() -> dict[str, tuple[str, ...]]:
    """A word to the languages that it is frequent in."""
    words: Mapping[str, list[str]] = load_table("languages")["words"]
    index: dict[str, tuple[str, ...]] = {}
    for name, listed in words.items():
        for word in dict.fromkeys(listed):
            index[word] = (*index.get(word, ()), name)
    return index
