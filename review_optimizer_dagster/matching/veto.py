"""Which changed words forbid an answer from a similar text; the lists are tables/veto.toml."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from rapidfuzz.distance import Levenshtein, Postfix, Prefix

from review_optimizer_dagster.tables import load_table

_VOCABULARY: Final = 65_536  # words that are remembered
_VOWELS: Final = frozenset("aeiou")
_AFTER_E: Final = ("ly", "ment", "ments", "able")
_NUMERAL: Final = re.compile("[ivxlcdm]+|x+[sl]")  # part viii, size xxl
_VERBAL: Final = ("ings", "ing", "ers", "er", "est", "ed", "es", "ly", "y", "s")


class _Rules(NamedTuple):
    kinds: dict[str, str]  # listed word to its list
    ranks: dict[str, int]
    confusable: frozenset[frozenset[str]]
    phrases: frozenset[tuple[str, ...]]  # of two words that are listed as one
    trailing: list[list[str]]
    tokens: re.Pattern[str]


@lru_cache(maxsize=1)
def _rules() -> _Rules:
    table = load_table("veto")
    kinds = {word: "antonym" for pair in table["antonyms"]["pairs"] for word in pair}
    for kind, listed in reversed(table["lists"].items()):
        kinds |= dict.fromkeys(listed, kind)
    signs = sorted((w for w in kinds if not w.isalnum() and " " not in w), key=len, reverse=True)
    long = "|".join(re.escape(sign) for sign in signs if len(sign) > 1)
    short = re.escape("".join(sign for sign in signs if len(sign) == 1))
    # A sign before a number belongs to it where nothing stands before: "-20", ".5", but not "a-7".
    number = r"(?:(?<![^\s(])(?:-\.?|\.))?\d+(?:[.,:/-]\d+)*"
    stars = r"(?<!\w)\*{2,}(?!\w)"
    word = r"[^\W\d_]++(?:['\u2019][^\W\d_]++)*+"
    return _Rules(
        kinds,
        {kind: rank for rank, kind in enumerate([*table["lists"], "antonym"])},
        frozenset(_inflected(table["confusable"]["pairs"], table["confusable"]["endings"])),
        frozenset(tuple(word.split()) for word in kinds if " " in word),
        sorted((phrase.split() for phrase in table["harmless"]["trailing"]), key=len, reverse=True),
        # Plain words come first, as most are, but not the first half of "so-so" or "a+".
        re.compile(
            rf"({word}(?![-+])|(?<!\w)(?:{long})(?!\w)|{number}|{stars}|{word}|[{short}])"
            r"([,.;:!?)]?)"
        ),
    )


def _inflected(pairs: Sequence[Sequence[str]], endings: Sequence[str]) -> Iterator[frozenset[str]]:
    """The pairs, and both words of each with the same ending."""
    for a, b in pairs:
        yield frozenset((a, b))
        for ending in endings:
            yield frozenset((a + ending, b + ending))
            if ending[0] in "ei":  # care, caring; plan, planning
                yield frozenset((a.removesuffix("e") + ending, b.removesuffix("e") + ending))
                yield frozenset((a + a[-1] + ending, b + b[-1] + ending))


@lru_cache(maxsize=_VOCABULARY)
def _kind(word: str) -> str | None:
    kinds = _rules().kinds
    word = word.rstrip(",")
    if word[-1].isdigit():
        return "number"
    if word[0] == "*":
        return "rating"
    return kinds.get(word) or (kinds.get(word[:-1]) if word.endswith("s") else None)


@lru_cache(maxsize=_VOCABULARY)
def _spelt(word: str) -> tuple[str, ...]:
    table = load_table("veto")
    word = word.replace("\u2019", "'")
    if known := table["spelling"].get(word):
        return tuple(known)
    for ending, full in table["endings"].items():
        if word.endswith(ending) and len(word) > len(ending):
            return (word.removesuffix(ending), *full.split())
    return (word,)


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
        if tuple(words[-2:]) in rules.phrases:  # "a few" is not "few"
            words[-2:] = [" ".join(words[-2:])]
        if stop and _kind(words[-1]) == "negation":
            words[-1] += ","  # "no, good" is not "no good"
        if stop == "?":
            words.append("?")
    while end := _trailing(words):
        del words[-end:]
    # The end of the text is a stop for every text.
    return (*words[:-1], words[-1].rstrip(",")) if words else ()


def _trailing(words: Sequence[str]) -> int:
    """How many words at the end were added by a site or a mailer; a "?" after them is theirs."""
    asked = words[-1:] == ["?"]
    said = words[:-1] if asked else words
    governed_by = load_table("veto")["harmless"]["governed_by"]
    for phrase in _rules().trailing:
        before = len(said) - len(phrase)
        if before > 0 and said[before:] == phrase and said[before - 1] not in governed_by:
            return len(phrase) + asked
    return 0


def _one_plural(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    if len(short) < 3:
        return False
    if long == short + "s":
        return not short.endswith("s")
    if long == short + "es":
        return short.endswith(("s", "x", "z", "ch", "sh", "o"))
    return short.endswith("y") and long == short[:-1] + "ies"


def _slip(a: str, b: str) -> bool:
    """Whether one is a slip of the other: swapped or doubled letters, a vowel, a letter too many.

    Only slips that hardly ever make another word; prefixes and endings carry meaning and are none.
    """
    listed = (_kind(a) is not None) + (_kind(b) is not None)
    least = min(len(a), len(b))
    # Only scripts with case are spelt by letters: in others one sign more may say "not".
    if least < 3 or listed == 2 or not (a.islower() and b.islower() and (a + b).isalpha()):
        return False
    if _NUMERAL.fullmatch(a) and _NUMERAL.fullmatch(b):
        return False
    head = Prefix.similarity(a, b)
    tail = Postfix.similarity(a[head:], b[head:])
    old, new = a[head : len(a) - tail], b[head : len(b) - tail]
    end = a[len(a) - tail :]
    if len(old) == len(new) == 2:
        return least >= 6 and head > 0 and old == new[::-1]
    if len(letter := old + new) == 1:
        if head > 0 and letter == a[head - 1]:
            return _doubled(a[:head], end, least)
        if letter == "e" and end in _AFTER_E:
            return least >= 6  # completly, judgment
        stem_end = end.removesuffix(next((e for e in _VERBAL if end.endswith(e)), ""))
        stem = least - len(end) + len(stem_end)
        return head >= 2 and len(stem_end) >= 2 and stem >= 6
    # The first vowel tells words apart (shipping, shopping); later ones are hardly heard.
    unstressed = head >= 3 and tail >= 2 and not _VOWELS.isdisjoint(a[:head])
    one_vowel = len(old) == len(new) == 1 and {old, new} <= _VOWELS
    return one_vowel and unstressed and not listed and least >= 6


def _doubled(head: str, end: str, least: int) -> bool:
    """Whether the last letter of `head` may stand twice before `end` in the same word."""
    letter = head[-1]
    if not end:  # drawn out, as in "yumm"; but "of" is not "off", and "car" not "carr"
        return letter not in ("aeoslfztr" if least < 5 else "s")
    # "hoping" is not "hopping", nor "scared" "scarred"; but "begining" is "beginning".
    short = len(head) <= 4 and letter not in _VOWELS and end in _VERBAL
    return least >= 5 and not short


def _same_word(a: str, b: str) -> bool:
    """Whether two different spellings are one word: plural, elongation, slip of the finger."""
    if a[0] != b[0] or abs(len(a) - len(b)) > 2:
        return False
    if "negation" in (_kind(a), _kind(b)) or frozenset((a, b)) in _rules().confusable:
        return False
    return _one_plural(a, b) or _slip(a, b)


def _split_matters(old: Sequence[str], new: Sequence[str]) -> bool:
    """Whether spacing decides: "use less" is not "useless", "in complete sets" not "incomplete"."""
    apart, joined = sorted((old, new), key=len, reverse=True)
    prefixed = apart[:1] == ["in"] and len(joined) == 1 and _kind(joined[0]) is not None
    return prefixed or any(_kind(word) == "negation" for word in (*old, *new))


def _unmatched(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is left of a changed stretch when spacing and other spellings are set aside."""
    if "".join(old) == "".join(new) and not _split_matters(old, new):
        return [], []
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
    compares = not {*words_a, *words_b}.isdisjoint(harmless["unless"])
    skipped = {*harmless["filler"], *(() if compares else harmless["reference"])}
    kept_a, kept_b = ([w for w in words if w not in skipped] for words in (words_a, words_b))
    old, new = _changed(kept_a, kept_b)
    if not (old or new):
        # Fillers may come and go, but not change places: "is this it" is not "this is it".
        old, new = _changed(words_a, words_b)
        if not old or sorted(old) != sorted(new):
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
