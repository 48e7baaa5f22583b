"""What must hold for every review and every file, whatever they hold."""

from __future__ import annotations

import json
import re
import tempfile
import unicodedata
from collections.abc import Mapping
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.core.reviews import (
    Source,
    TenantRules,
    read_reviews,
)
from review_optimizer_dagster.settings import InputSettings
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster.text import content_key, normalise

PIECES = st.sampled_from(
    [
        *("<br>", "<b>", "</b>", "<", ">", "&amp;", "&lt;", "&", "amp;", "b>", "lt;", ";", "&#38;"),
        *("smalll", "iii", "...", "!?", "soooo", "AAA", "xxxl", "not"),
        *"\u2122\u00bd\u00b2\u2014\ufe0f\u200b\u0130\u03a3\ud800\0` \n\u00df\u00b4\u1fbd",
    ]
)
TEXTS = st.one_of(st.text(max_size=60), st.lists(PIECES, max_size=12).map("".join))
RULES = TenantRules(load_taxonomy("reviews"), {})


@settings(deadline=None)
@given(st.none() | TEXTS, TEXTS)
def test_normalising_twice_changes_nothing(title: str | None, text: str) -> None:
    """Archived texts are normalised ones: looking one up again must find it."""
    once = normalise(title, text)
    head, line_feed, body = once.rpartition("\n")
    assert "\n" not in head
    assert normalise(head if line_feed else None, body) == once


def test_every_character_is_stable_alone_and_inside_a_word() -> None:
    """Unicode has characters whose lower case or compatible form changes when taken twice."""
    for code in range(0x30000):
        character = chr(code)
        category = unicodedata.category(character)
        plain = category in ("Lo", "Cn", "Co") and not unicodedata.decomposition(character)
        for text in () if plain else (character, f"5{character}x"):
            once = normalise(None, text)
            assert normalise(None, once) == once, f"U+{code:04X}"


WORDS = st.lists(
    st.sampled_from(
        ["good", "not", "works", "it's", "5", "stars", "wow!", "AAA", "r\u00e9sum\u00e9"]
    ),
    min_size=1,
    max_size=8,
)


@settings(deadline=None)
@given(
    WORDS,
    st.sampled_from([" ", "  ", "\n", "\t \u00a0", "<br />", " <p>", "\u200b "]),
    st.booleans(),
)
def test_the_key_survives_harmless_edits(words: list[str], gap: str, shout: bool) -> None:
    """White space, markup, case and quotes must not make a second content of the first."""
    edited = gap.join(words).replace("'", "\u2019").replace("!", "!!!")
    edited = edited.upper() if shout and "<" not in edited else edited
    assert content_key(normalise(None, edited)) == content_key(normalise(None, " ".join(words)))


@settings(deadline=None)
@given(WORDS, WORDS)
def test_other_words_are_another_content(one: list[str], other: list[str]) -> None:
    """The key must keep apart what a reader would."""
    same = [word.lower() for word in one] == [word.lower() for word in other]
    assert (normalise(None, " ".join(one)) == normalise(None, " ".join(other))) == same


VALUES: st.SearchStrategy[object] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
    st.lists(st.integers(), max_size=2),
)
KEYS = st.sampled_from(
    [
        "review_id",
        "text",
        "title",
        "rating",
        "ts",
        "label",
        "tenant",
        "category",
        "synthetic",
        "reviewText",
        "content",
        "asin",
    ]
)
GOOD: Mapping[str, object] = {"text": "A good one."}
LINES = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=6).map(lambda row: json.dumps(row).encode()),
    st.binary(max_size=30).map(lambda data: re.sub(rb"[\r\n\x1f]", b"?", data)),
    st.sampled_from([b"[", b"{", b'{"text": "cut', b"null", b"  ", b""]),
)


def count(name: str, data: bytes) -> tuple[list[int | None], int]:
    """Lines of all rows, accepted or not, and the number of rows about the file as a whole."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        lines: list[int | None] = []
        for chunk in read_reviews(Source(path, name, "acme"), lambda _: RULES, InputSettings()):
            lines += chunk.reviews["line"].to_list() + chunk.quarantined["line"].to_list()
    return lines, lines.count(None)


@settings(deadline=None)
@given(st.lists(LINES, max_size=8))
def test_every_line_is_accepted_or_quarantined_exactly_once(lines: list[bytes]) -> None:
    """A row that is in neither is lost silently; one in both is counted and paid twice."""
    data = b"\n".join([json.dumps(GOOD).encode(), *lines]) + b"\n"
    found, of_file = count("a.jsonl", data)
    filled = [at for at, line in enumerate([b"x", *lines], 1) if line.strip()]
    assert of_file == 0
    assert sorted(at for at in found if at is not None) == filled


CELLS = st.text(alphabet=st.sampled_from('ab1,"\n \u00e9'), max_size=6)


@settings(deadline=None)
@given(st.lists(st.tuples(CELLS, CELLS), max_size=6))
def test_every_csv_record_is_accepted_or_quarantined_exactly_once(
    rows: list[tuple[str, str]],
) -> None:
    """Quoted commas, quotes and line feeds are where CSV readers lose or invent rows."""
    cells = ['"' + cell.replace('"', '""') + '"' for row in rows for cell in row]
    records = [f"{a},{b}\n" for a, b in zip(cells[::2], cells[1::2], strict=True)]
    starts = [2 + "".join(records[:at]).count("\n") for at in range(len(records))]
    found, of_file = count("a.csv", ("text,title\n" + "".join(records)).encode())
    assert of_file == 0
    assert sorted(at for at in found if at is not None) == starts
