"""Which changed words forbid an answer from a similar text; the lists are tables/veto.toml."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from rapidfuzz.distance import Levenshtein, Postfix, Prefix

from review_optimizer_dagster.tables import load_table


class _Rules(NamedTuple):
    kinds: dict[str, str]  # listed word to its list
    ranks: dict[str, int]
    confusable: frozenset[frozenset[str]]
    trailing: list[list[str]]
    tokens: re.Pattern[str]


@lru_cache(maxsize=1)
def _rules() -> _Rules:
    table = load_table("veto")
    kinds = {word: "antonym" for pair in table["antonyms"]["pairs"] for word in pair}
    for kind, listed in reversed(table["lists"].items()):
        kinds |= dict.fromkeys(listed, kind)
    signs = re.escape("".join(word for word in kinds if len(word) == 1 and not word.isalnum()))
    words = rf"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[{signs}]"
    return _Rules(
        kinds,
        {kind: rank for rank, kind in enumerate([*table["lists"], "antonym"])},
        frozenset(frozenset(pair) for pair in table["confusable"]["pairs"]),
        sorted((phrase.split() for phrase in table["harmless"]["trailing"]), key=len, reverse=True),
        re.compile(rf"({words})([,.;:!?)]?)"),
    )


def _kind(word: str) -> str | None:
    kinds = _rules().kinds
    word = word.rstrip(",")
    if word[0].isdigit():
        return "number"
    return kinds.get(word) or (kinds.get(word[:-1]) if word.endswith("s") else None)


def _spelt(word: str) -> list[str]:
    table = load_table("veto")
    word = word.replace("\u2019", "'")
    if known := table["spelling"].get(word):
        return list(known)
    for ending, full in table["endings"].items():
        if word.endswith(ending) and len(word) > len(ending):
            return [word.removesuffix(ending), *full.split()]
    return [word]


@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    """The words of a normalised text in one spelling; a negation keeps the stop after it."""
    rules = _rules()
    if not text.isascii():  # without accents
        text = "".join(
            c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f"
        )
    words: list[str] = []
    for word, stop in rules.tokens.findall(text):
        words += _spelt(word)
        if stop and _kind(words[-1]) == "negation":
            words[-1] += ","  # "no, good" is not "no good"
        if stop == "?":
            words.append("?")
    while end := next(
        (p for p in rules.trailing if len(p) < len(words) and words[-len(p) :] == p), []
    ):
        del words[-len(end) :]
    # The end of the text is a stop for every text.
    return (*words[:-1], words[-1].rstrip(",")) if words else ()


def _one_plural(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    if len(short) < 3:
        return False
    if long == short + "s":
        return not short.endswith("s")
    if long == short + "es":
        return short.endswith(("s", "x", "z", "ch", "sh", "o"))
    return short.endswith("y") and long == short[:-1] + "ies"


def _one_typo(a: str, b: str) -> bool:
    """Whether one is a slip of the other: swapped or doubled letters, a vowel, a letter too many.

    Only slips that hardly ever make another word; prefixes and endings carry meaning and are none.
    """
    listed = (_kind(a) is not None) + (_kind(b) is not None)
    if min(len(a), len(b)) < 5 or listed == 2 or not (a.isalpha() and b.isalpha()):
        return False
    head = Prefix.similarity(a, b)
    tail = Postfix.similarity(a[head:], b[head:])
    old, new = a[head : len(a) - tail], b[head : len(b) - tail]
    if len(old) == len(new) == 2:
        return head > 0 and old == new[::-1]
    inside = head >= 2 and tail >= 2
    if len(letter := old + new) == 1:
        doubled = head > 0 and letter == a[head - 1] and (tail > 0 or letter != "s")
        return doubled or (inside and min(len(a), len(b)) >= 6)
    one_vowel = len(old) == len(new) == 1 and set(letter) <= set("aeiou")
    return one_vowel and inside and not listed and len(a) >= 7


def _same_word(a: str, b: str) -> bool:
    """Whether two different spellings are one word: elongation, plural, slip of the finger."""
    if re.search(r"([^\W\d_])\1\1", a + " " + b):
        return re.sub(r"(.)\1+", r"\1", a) == re.sub(r"(.)\1+", r"\1", b)
    if "negation" in (_kind(a), _kind(b)) or frozenset((a, b)) in _rules().confusable:
        return False
    return _one_plural(a, b) or _one_typo(a, b)


def _unmatched(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is left of a changed stretch when spacing and other spellings are set aside."""
    if "".join(old) == "".join(new) and all(_kind(word) != "negation" for word in (*old, *new)):
        return [], []  # but "use less" is not "useless"
    only_old: list[str] = []
    only_new: list[str] = []
    start = 0
    for word in old:
        same = (j for j in range(start, len(new)) if new[j] == word or _same_word(word, new[j]))
        if (match := next(same, None)) is None:
            only_old.append(word)
        else:
            only_new += new[start:match]
            start = match + 1
    return only_old, only_new + list(new[start:])


def _changed(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that only one of two word sequences has, in their order."""
    numbers: dict[str, int] = {}
    a, b = ([numbers.setdefault(word, len(numbers)) for word in words] for words in (old, new))
    only_old: list[str] = []
    only_new: list[str] = []
    end_old = end_new = 0
    for block in Levenshtein.opcodes(a, b).as_matching_blocks():
        gone, come = _unmatched(old[end_old : block.a], new[end_new : block.b])
        only_old += gone
        only_new += come
        end_old, end_new = block.a + block.size, block.b + block.size
    return only_old, only_new


def veto(a: str, b: str) -> str | None:
    """Why the labels of one normalised text must not answer for the other, or None.

    Symmetric. The reason is "<kind>: <word>"; the kinds are the lists of tables/veto.toml, and
    `antonym`, `order` (same words, moved), `part` (one content word for another) and `content`.

    >>> veto("it works great", "it does not work great")
    'negation: not'
    >>> veto("i recieved the lens", "i received the lenses") is None
    True
    >>> veto("the screen is dim", "the battery is dim")
    'part: battery/screen'
    """
    words_a, words_b = (_words(text) for text in sorted((a, b)))
    if not (words_a and words_b):
        return "content: no words"
    harmless = load_table("veto")["harmless"]
    compares = any(_kind(word) == "comparison" for word in (*words_a, *words_b))
    skipped = {*harmless["filler"], *(() if compares else harmless["reference"])}
    kept_a, kept_b = ([w for w in words if w not in skipped] for words in (words_a, words_b))
    old, new = _changed(kept_a, kept_b)
    if not (old or new):
        return None
    if sorted(old) == sorted(new):
        return f"order: {min(old)}"
    ranks = _rules().ranks
    if listed := [(ranks[kind], kind, word) for word in old + new if (kind := _kind(word))]:
        _, kind, word = min(listed)
        return f"{kind}: {word.rstrip(',')}"
    if old and new:
        return "part: " + "/".join(sorted((min(old), min(new))))
    return f"content: {min(old + new)}"
