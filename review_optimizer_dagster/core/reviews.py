"""First step of the flow: files become reviews with a content key, the unreadable is quarantined.

Files are streamed in chunks of at most 10,000 rows. Every row of a file ends either in `REVIEWS`
or, with file, line and reason, in `QUARANTINE`; a problem of the file as a whole is one row there.
Blank lines are no rows, and a file without rows is an empty delivery, not an error.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import re
import unicodedata
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from html import unescape
from html.entities import html5
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import polars as pl

from review_optimizer_dagster.config import MIXED_INBOX, TENANT_NAME, InputSettings
from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.tables import load_table
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy

NORMALISER_VERSION = "1"
INPUT_SUFFIXES: tuple[str, ...] = (
    ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz",
    ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet",
)  # fmt: skip
FIELDS = (
    "tenant", "review_id", "category", "product_id", "title", "text", "rating", "ts", "synthetic",
)  # fmt: skip
UNKNOWN_CATEGORY = "unknown"
MAX_NAME_CHARS = 256  # ids, categories and tenants

REVIEWS = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy", "review_id", "content_key", "category"), pl.String())
    | dict.fromkeys(("product_id", "title", "text"), pl.String())
    | {"rating": pl.Float64(), "ts": pl.Datetime("us", "UTC"), "truth": pl.String()}
    | {"synthetic": pl.Boolean(), "file": pl.String(), "line": pl.Int64()}
)
QUARANTINE = pl.Schema(
    {"tenant": pl.String(), "file": pl.String(), "line": pl.Int64()}
    | dict.fromkeys(("review_id", "reason", "detail", "excerpt"), pl.String())
)

_CHUNK_ROWS = 10_000
_CHUNK_BYTES = 64 * 2**20
_EXCERPT_CHARS = 200
_UNKNOWN_TRUTHS = 100  # different unknown truth values that a chunk counts one by one


# --- Content: normalisation, key, redaction -------------------------------------------------

_INLINE = "a|abbr|b|big|em|font|i|mark|small|span|strong|tt|u"
_BLOCK = (
    "blockquote|br|center|code|dd|div|dl|dt|h[1-6]|hr|img|li|ol|p|pre|sub|sup|table|tbody|td|th|tr"
    "|ul"
)
_TAG = re.compile(rf"</?(?:({_INLINE})|{_BLOCK})(?:\s[^<>]*)?/?>", re.IGNORECASE)
_ENTITY = re.compile(r"&(?:#\d{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,31});", re.IGNORECASE)
_MARKUP_ROUNDS = 4  # markup inside escaped markup; what is nested deeper loses its < and &
_PUNCTUATION_RUN = re.compile(r"([!?.,;:()~-])\1+")
_TOKEN = re.compile(r"\w{3,}")
_ELONGATED = re.compile(r"(\w)\1{2,}")
# Their length is their meaning: AAA batteries, Part III, size XXXL, model numbers.
_CODE = re.compile(r"(\w)\1*s?|[ivxlcdm]+|x+(?:s|l|small|large)|\w*\d\w*")


class _Characters(dict[int, str]):
    """Translation of code points that only look different; grows as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        folded = character
        if category == "Cc":
            folded = ""
        elif category == "Cs":
            folded = "\ufffd"
        elif category == "Pd":
            folded = "-"
        elif category == "No":
            folded = self._number(character)
        self[code] = folded
        return folded

    @staticmethod
    def _number(character: str) -> str:
        # NFKC alone would turn 10 with an exponent 2 into 102, and 2 and a half into 21/2.
        plain = unicodedata.normalize("NFKC", character).replace("\u2044", "/")
        decomposition = unicodedata.decomposition(character)
        if not decomposition or decomposition.startswith("<sub>"):
            return plain
        return f"^{plain}" if decomposition.startswith("<super>") else f" {plain} "


_CHARACTERS = _Characters(
    dict.fromkeys(b"`\xb4", "'")
    | dict.fromkeys(map(ord, "\u2018\u2019\u201a\u201b\u2032\u02bc"), "'")
    | dict.fromkeys(map(ord, "\u201c\u201d\u201e\u201f\u2033\xab\xbb"), '"')
    | {0x2212: "-"}
    # Trademark signs, soft hyphen, zero-width and direction marks, variation selectors.
    | dict.fromkeys(map(ord, "\u2122\xae\xa9\u2120\xad\u034f\u200b\u200e\u200f\ufeff"), "")
    | dict.fromkeys([*range(0x202A, 0x202F), *range(0x2060, 0x206A), *range(0xFE00, 0xFE10)], "")
)


def _unify(word: str) -> str:
    word = unicodedata.normalize("NFKC", word.translate(_CHARACTERS)).lower()
    return unicodedata.normalize("NFKC", word).translate(_CHARACTERS)


def _has_triple(text: str) -> bool:
    """Whether a character stands three times in a row; says so too of a few others."""
    # A byte equals the next where their exclusive or is zero: ten times faster than a pattern.
    data = text.encode()
    number = int.from_bytes(data, "little")
    return b"\0\0" in (number ^ number >> 8).to_bytes(len(data), "little") or not text.isascii()


def _shorten(token: re.Match[str]) -> str:
    if _CODE.fullmatch(token[0]):
        return token[0]
    # Only scripts with case elongate by repeating; in others a repeated sign may be a numeral.
    return _ELONGATED.sub(lambda run: run[1] * 2 if run[1].upper() != run[1] else run[0], token[0])


def _fold_words(text: str) -> str:
    words = text.lower().split()
    if text.isascii():
        text = " ".join(words).translate(_CHARACTERS)
    else:
        words = [w.translate(_CHARACTERS) if w.isascii() else _unify(w) for w in words]
        text = " ".join(words)
    text = _PUNCTUATION_RUN.sub(r"\1", text)
    if _has_triple(text):
        words = [_TOKEN.sub(_shorten, w) if _ELONGATED.search(w) else w for w in text.split()]
        text = " ".join(words)
    return " ".join(text.split()) if "  " in f" {text} " else text


def _entity(entity: re.Match[str]) -> str:
    name = entity[0]
    return unescape(name) if name[1] == "#" else html5.get(name[1:], name)


def _fold(text: str) -> str:
    for _ in range(_MARKUP_ROUNDS):
        if "<" in text or "&" in text:
            text = _ENTITY.sub(_entity, _TAG.sub(lambda tag: "" if tag[1] else " ", text))
        text = _fold_words(text)
        if not ("<" in text or "&" in text) or not (_TAG.search(text) or _ENTITY.search(text)):
            return text
    return _fold_words(text.replace("<", " ").replace("&", " "))


def normalise(title: str | None, text: str) -> str:
    """The content of a review in one spelling: `title`, a line feed and `text`, or `text` alone.

    Equal for texts that differ in case, Unicode form, HTML, white space, runs of punctuation,
    style of quotes and dashes, invisible characters, trademark signs or elongated letters; digits,
    negations and kinds of punctuation stay. Case is lower case, not case folding, which would
    merge German words of different meaning. Applying it to its own result changes nothing.
    """
    head = _fold(title) if title else ""
    return f"{head}\n{_fold(text)}" if head else _fold(text)


def content_key(normalised: str) -> str:
    """The key of a normalised content: 32 hexadecimal digits of a 16-byte BLAKE2b."""
    return hashlib.blake2b(normalised.encode(), digest_size=16).hexdigest()


_EMAIL = re.compile(r"[\w.%+-]{1,64}@[\w-]+(?:\.[\w-]+)*\.\w{2,}")
_MANY_DIGITS = re.compile(r"\d(?:[ .()-]{0,3}\d){6}")  # what a card or phone number has at least
_CARD_RUN = re.compile(r"(?<!\w)(?<!\d\.)(?:\d[ -]?){12,}\d(?!\w)")
_CARD = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})|(?:5[1-5]|2[2-7])\d{14}|3[47]\d{13}|3(?:0[0-5]|[689])\d{12}"
    r"|35\d{14}|6\d{15,18}"
)
_PHONE = re.compile(
    r"""
    (?<![\w$€£.\-/])
    (?: \+(?=(?:[ .()-]{0,3}\d){9})\d{1,3}(?:[ .-]?\(?\d{1,4}\)?){2,6}        # international
      | (?:1[ .-]?)?(?:\([2-9]\d\d\)[ .-]?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4}  # North America
      | 0\d(?:[ .-]\d\d){4}                                                  # in pairs
      | \(?0\d{2,4}\)?[ -]\d{3,4}[ -]?\d{3,4}                                # with a trunk zero
      | 0\d{10}
    )
    (?!\w|[.-]\d)
    """,
    re.VERBOSE,
)
_CALLED = re.compile(
    r"\b((?:call|phone|telephone|tel|mobile|cell|fax|whatsapp|txt|sms)[ :.#]{1,3}"
    r"(?:(?:me|us|at|on|number|no)[ :.#]{1,3}){0,2})\d(?:[ -]?\d){6,13}(?!\w|[.-]\d)",
    re.IGNORECASE,
)


def redact(text: str) -> str:
    """The text with e-mail addresses, card and phone numbers as [email], [card] and [phone].

    Cards are runs of 13 to 19 digits of an issuer's range that pass the Luhn check. Digits that
    are not grouped like a phone number are masked only after a word such as `call`.
    """
    if "@" in text:
        text = _EMAIL.sub("[email]", text)
    if not _MANY_DIGITS.search(text):
        return text
    text = _CARD_RUN.sub(_mask_cards, text)
    return _CALLED.sub(r"\1[phone]", _PHONE.sub("[phone]", text))


def _mask_cards(match: re.Match[str]) -> str:
    run = match[0]
    at = 0
    masked = ""
    while at < len(run):
        end = _card_end(run, at)
        masked += "[card]" if end else run[at]
        at = end or at + 1
    return masked


def _card_end(run: str, start: int) -> int | None:
    """Where a card number that starts there ends; both ends lie between groups of digits."""
    if not run[start].isdigit() or (start and run[start - 1].isdigit()):
        return None
    digits = ""
    for at in range(start, len(run)):
        if run[at].isdigit():
            digits += run[at]
            ends = at + 1 == len(run) or not run[at + 1].isdigit()
            if ends and _CARD.fullmatch(digits) and _passes_luhn(digits):
                return at + 1
            if len(digits) > 19:
                break
    return None


def _passes_luhn(digits: str) -> bool:
    doubled = [int(d) * (1 + at % 2) for at, d in enumerate(reversed(digits))]
    return sum(value - 9 if value > 9 else value for value in doubled) % 10 == 0


# --- Files to rows: each reader yields (line, bytes, row or refusal) ------------------------


class _InputError(Exception):
    """Why a row, or where it leaves a reader a whole file, goes to quarantine."""

    def __init__(self, reason: str, detail: str, excerpt: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.excerpt = reason, detail, excerpt


_Row: TypeAlias = dict[str, Any]
_Record: TypeAlias = tuple[int | None, int, _Row | _InputError]


class _Lines:
    """The physical lines of a file; one of `cap` bytes or more is cut there, its rest skipped."""

    def __init__(self, stream: io.BufferedReader | gzip.GzipFile, cap: int) -> None:
        self._stream = stream
        self.cap = cap
        self.number = 0

    def __iter__(self) -> Iterator[bytes]:
        while line := self._stream.readline(self.cap):
            self.number += 1
            rest = line
            while len(rest) == self.cap and not rest.endswith(b"\n"):
                rest = self._stream.readline(self.cap)
            yield line

    def usable(self, line: bytes) -> bytes:
        if len(line) >= self.cap:
            raise _InputError("over_long", f"the line has {self.cap:,} bytes or more", _shown(line))
        return line


def _shown(line: bytes) -> str:
    return line[:2_000].decode("utf-8", "replace")


def _utf8(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
        raise _InputError("encoding", detail, _shown(line)) from None


_JSON = json.JSONDecoder(strict=False)  # a raw tab inside a string harms nobody


def _json_rows(lines: _Lines) -> Iterator[_Record]:
    first = True
    for line in lines:
        if line.strip():
            try:
                row: _Row | _InputError = _json_row(lines.usable(line), first)
            except _InputError as refused:
                if refused.reason == "json_array":
                    raise
                row = refused
            yield lines.number, len(line), row
            first = False


def _json_row(line: bytes, first: bool) -> _Row:
    text = _utf8(line).strip()
    try:
        row, end = _JSON.raw_decode(text)
        if end != len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except (ValueError, RecursionError) as error:
        if first and text.startswith("["):
            row = []
        elif not line.endswith(b"\n") and _is_cut(error, text):
            detail = "the last line ends in the middle of its JSON; deliver the file again"
            raise _InputError("truncated_file", detail, text) from None
        else:
            raise _InputError("broken_json", f"not valid JSON: {error}", text) from None
    if type(row) is dict:
        return row
    if first and isinstance(row, list):
        raise _InputError("json_array", "the file is a JSON array; write one object a line", text)
    raise _InputError("not_an_object", f"a JSON {type(row).__name__}, not an object", text)


def _is_cut(error: Exception, text: str) -> bool:
    return isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(text) or error.msg.startswith("Unterminated")
    )


def _csv_rows(lines: _Lines) -> Iterator[_Record]:
    csv.field_size_limit(max(csv.field_size_limit(), lines.cap))
    numbered = ((lines.number, line) for line in lines)
    ahead: deque[tuple[int, bytes]] = deque()
    header: list[str] = []
    delimiter = ","
    while start := ahead.popleft() if ahead else next(numbered, None):
        if not header:
            delimiter = max(",;\t", key=_shown(start[1]).count)
        try:
            values = _csv_record(start, ahead, numbered, lines, delimiter)
            if header and values and len(values) != len(header):
                detail = f"{len(values)} columns, where the header has {len(header)}"
                raise _InputError("broken_csv", detail, _shown(start[1]))
        except _InputError as refused:
            if not header:
                raise _InputError(refused.reason, f"in the header: {refused.detail}") from None
            yield start[0], len(start[1]), refused
        else:
            if header and values:
                yield start[0], sum(map(len, values)), dict(zip(header, values, strict=True))
            header = header or [name.strip() for name in values]


def _csv_record(
    start: tuple[int, bytes],
    ahead: deque[tuple[int, bytes]],
    numbered: Iterator[tuple[int, bytes]],
    lines: _Lines,
    delimiter: str,
) -> list[str]:
    """The values of the record that starts there; lines it turns out not to own go back `ahead`."""
    record = [start]
    size = len(start[1])
    quoted = start[1].count(b'"') % 2
    lines.usable(start[1])
    while True:
        if len(record) == 1 or not quoted:
            text = (line.decode("utf-8", "replace") for _, line in record)
            try:
                values = next(csv.reader(text, delimiter=delimiter, strict=True))
            except csv.Error as error:
                problem = str(error)
            else:
                for _, line in record:
                    _utf8(line)
                return values
        following = ahead.popleft() if ahead else next(numbered, None)
        if following:
            size += len(following[1])
            quoted = (quoted + following[1].count(b'"')) % 2
            record.append(following)
        if problem != "unexpected end of data" or not following or size >= lines.cap:
            ahead.extendleft(reversed(record[1:]))
            problem = problem.replace("unexpected end of data", "a quote is never closed")
            raise _InputError("broken_csv", f"not valid CSV: {problem}", _shown(start[1]))


_SNAP_KEY = re.compile(r"((?:product|review)/\w+): ?(.*)", re.DOTALL)


def _snap_rows(lines: _Lines) -> Iterator[_Record]:
    for number, (start, size, block) in enumerate(_snap_blocks(lines)):
        if number == 0 and not any(map(_SNAP_KEY.match, block)):
            detail = (
                "a text file, but not of blocks with `product/productId: ...`, as SNAP has them"
            )
            raise _InputError("unknown_layout", detail, block[0])
        yield start, size, _snap_row(block, size, lines.cap)


def _snap_blocks(lines: _Lines) -> Iterator[tuple[int, int, list[str]]]:
    """First line, bytes and lines of each block; a block over the cap is cut there."""
    block: list[str] = []
    start = size = 0
    for line in lines:
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError:
            text = line.decode("iso-8859-1")  # as part of the published files is
        text = text.rstrip("\r\n")
        if block and (not text.strip() or text.startswith("product/productId:")):
            yield start, size, block
            block = []
        if text.strip():
            if not block:
                start, size = lines.number, 0
            size += len(line)
            if not block or size < lines.cap:
                block.append(text)
    if block:
        yield start, size, block


def _snap_row(block: list[str], size: int, cap: int) -> _Row | _InputError:
    if size >= cap:
        return _InputError("over_long", f"the block has {cap:,} bytes or more", block[0])
    row: _Row = {}
    key = None
    for text in block:
        if found := _SNAP_KEY.fullmatch(text):
            key = found[1]
            row[key] = found[2]
        elif key is None:
            return _InputError("broken_block", "a line before the first `product/...` key", text)
        else:
            row[key] += f"\n{text}"
    return row


def _parquet_rows(
    path: Path, columns: Callable[[Sequence[str]], list[str]], max_chars: int
) -> Iterator[_Record]:
    # Slices, because collect_batches reads many row groups ahead and so holds most of the file.
    scan = pl.scan_parquet(path, glob=False)
    scan = scan.select(columns(scan.collect_schema().names()))
    scan = scan.with_columns(pl.col(pl.String).str.head(max_chars))
    offset = 0
    while (frame := scan.slice(offset, _CHUNK_ROWS).collect()).height:
        for line, row in enumerate(frame.iter_rows(named=True), offset + 1):
            yield line, 0, row
        offset += frame.height


def _open(path: Path) -> io.BufferedReader | gzip.GzipFile:
    """The file's bytes after a byte order mark, unpacked where it is gzip, whatever its name."""
    stream: io.BufferedReader | gzip.GzipFile = path.open("rb")
    if stream.peek(2)[:2] == b"\x1f\x8b":
        stream.close()
        stream = gzip.GzipFile(path)
    head = stream.peek(4)[:4]
    two_bytes = (head[1::2] == b"\0\0") != (head[::2] == b"\0\0")  # a letter and a null each
    if two_bytes or head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        stream.close()
        raise _InputError("encoding", "the file is UTF-16 or UTF-32; save it as UTF-8")
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    return stream


_READERS: Mapping[str, Callable[[_Lines], Iterator[_Record]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".txt": _snap_rows,
}


def _records(
    path: Path, columns: Callable[[Sequence[str]], list[str]], limits: InputSettings
) -> Iterator[_Record]:
    """All rows of a file, and at its end or where it breaks a refusal of what is left."""
    name = path.name.lower()
    suffix = Path(name.removesuffix(".gz")).suffix
    reached = 0
    try:
        if name.endswith(".parquet"):
            for record in _parquet_rows(
                path, columns, max(limits.max_text_chars, MAX_NAME_CHARS) + 1
            ):
                reached = record[0] or 0
                yield record
        elif suffix in _READERS:
            with _open(path) as stream:
                lines = _Lines(stream, 12 * limits.max_text_chars + 2**20)
                for record in _READERS[suffix](lines):
                    reached = lines.number
                    yield record
        else:
            known = ", ".join(INPUT_SUFFIXES)
            raise _InputError("unknown_format", f"{suffix or 'no suffix'} is none of {known}")
    except _InputError as refused:
        yield None, 0, refused
    except EOFError:
        detail = f"the file ends inside its gzip stream after line {reached}; deliver it again"
        yield reached + 1 if reached else None, 0, _InputError("truncated_file", detail)
    except (OSError, zlib.error, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        detail = f"cannot be read after line {reached}: {_first_line(error)}"
        yield reached + 1 if reached else None, 0, _InputError("unreadable_file", detail)


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the whole message would name the machine's path
    return str(error).partition("\n")[0][:200]


# --- Rows to reviews ------------------------------------------------------------------------


@dataclass(frozen=True)
class Source:
    """A file to read; `tenant` is None where each row names its own in a column `tenant`."""

    path: Path
    file: str
    tenant: str | None


@dataclass(frozen=True)
class TenantRules:
    """What a tenant's rows are read by; `columns` maps our column names to the input's."""

    taxonomy: Taxonomy
    columns: Mapping[str, str]


class Chunk(NamedTuple):
    """Up to 10,000 rows of a file; `unknown_truth`: `field=value` to rows kept without it."""

    reviews: pl.DataFrame
    quarantined: pl.DataFrame
    unknown_truth: dict[str, int]


class _Layout(NamedTuple):
    name: str
    recognised_by: tuple[frozenset[str], ...]
    columns: Mapping[str, Sequence[str]]
    integer_labels: str | None


class _Plan(NamedTuple):
    """Where the values of a row stand, for one tenant and one set of columns."""

    layout: _Layout
    taxonomy: str
    places: tuple[str | None, ...]  # of FIELDS, in their order
    truths: tuple[tuple[str, LabelField], ...]


@lru_cache(maxsize=1)
def _layouts() -> tuple[_Layout, ...]:
    return tuple(
        _Layout(
            layout["name"],
            tuple(map(frozenset, layout["recognised_by"])),
            layout["columns"],
            layout.get("integer_labels"),
        )
        for layout in load_table("sources")["layouts"]
    )


_MAPPED = _Layout("column map", (), {}, None)


def _plan(keys: Sequence[str], rules: TenantRules, default: _Layout | None) -> _Plan | None:
    """How a row of these columns is read; None where no layout, map or default fits."""
    present = frozenset(keys)
    mapped = {ours: theirs for ours, theirs in rules.columns.items() if theirs in present}
    fits = (known for known in _layouts() if any(map(present.issuperset, known.recognised_by)))
    layout = next(fits, default or (_MAPPED if "text" in mapped else None))
    if layout is None:
        return None
    truths = rules.taxonomy.truth_columns()
    found: dict[str, str | None] = {}
    for ours in (*FIELDS, *truths):
        places = [mapped[ours]] if ours in mapped else layout.columns.get(ours, [ours])
        found[ours] = next((place for place in places if place in present), None)
    return _Plan(
        layout,
        rules.taxonomy.name,
        tuple(found[ours] for ours in FIELDS),
        tuple((place, field) for ours, field in truths.items() if (place := found[ours])),
    )


_UNCLEAN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_YEARS_1_TO_9999 = range(-62_135_596_800_000_000, 253_402_300_800_000_000)
_FORM = re.compile(r"(\d+(?:/\d+)+):\d+")
_TRUE_FALSE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _clean(text: str) -> str:
    """The text without control characters; half a surrogate pair becomes U+FFFD."""
    text = text.strip()
    if text.isprintable():
        return text
    return _UNCLEAN.sub(lambda found: "\ufffd" if found[0] >= "\ud800" else "", text).strip()


def _words(field: str, value: object) -> str | None:
    if value is None or type(value) is str:
        return (value and _clean(value)) or None
    raise _InputError("wrong_type", f"{field} is a {type(value).__name__}, not a text")


def _spelled(value: object) -> str | None:
    """A scalar as text, 1.0 as "1"; None where nothing is there."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def _name(field: str, value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _InputError("wrong_type", f"{field} is a {type(value).__name__}, not a text")
    if not (name := _spelled(value)):
        return None
    if len(name) > MAX_NAME_CHARS:
        raise _InputError("over_long", f"{field} is longer than {MAX_NAME_CHARS} characters")
    if not name.isprintable() and _UNCLEAN.search(name):
        raise _InputError("encoding", f"{field} holds a control character or half a character")
    return name


def _rating(value: object) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        rating = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # else TypeError
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    if not math.isfinite(rating):
        raise _InputError("wrong_type", f"rating {str(value)[:50]!r} is not a number")
    return rating


def _micros(value: object) -> int | None:
    """Microseconds since 1970 UTC of seconds, milliseconds, ISO text, date or datetime."""
    if value is None:
        return None
    spelled = _spelled(value) if isinstance(value, str | int | float) else None
    if spelled is None and isinstance(value, str):
        return None
    try:
        micros = _moment(value, spelled)
    except (ArithmeticError, TypeError, ValueError):
        micros = None
    if micros is None or micros not in _YEARS_1_TO_9999:
        raise _InputError(
            "wrong_type", f"ts {str(value)[:50]!r} is no time; use ISO 8601 or seconds"
        )
    return micros


def _moment(value: object, spelled: str | None) -> int:
    if isinstance(value, bool):
        raise TypeError
    if spelled is None:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime.combine(value, time())
        else:
            raise TypeError
    elif re.fullmatch(r"-?\d+(?:\.\d+)?", spelled) and not re.fullmatch(
        r"(?:19|20|21)\d\d(?:0\d|1[0-2])[0-3]\d", spelled
    ):
        number = int(spelled) if spelled.lstrip("-").isdigit() else float(spelled)
        # Seconds reach 1e11 in the year 5138, and milliseconds have passed it since 1973.
        unit = next(
            (unit for limit, unit in ((1e11, 10**6), (1e14, 1_000)) if abs(number) < limit), 1
        )
        return round(number * unit)
    else:
        moment = datetime.fromisoformat(spelled.removesuffix(" UTC"))
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - _EPOCH) // _MICROSECOND


def _flag(value: object) -> bool:
    if value is None:
        return False
    spelled = _spelled(value)
    flag = _TRUE_FALSE.get(spelled.lower()) if spelled else False
    if flag is None:
        raise _InputError("wrong_type", f"synthetic {str(value)[:50]!r} is neither true nor false")
    return flag


class _Interpreter:
    """Turns the rows of one file into reviews; what it learns of the file is its only state."""

    def __init__(
        self, source: Source, rules: Callable[[str], TenantRules], limits: InputSettings
    ) -> None:
        self._source, self._ask, self._limits = source, rules, limits
        self._known: dict[str, TenantRules] = {}
        self._plans: dict[tuple[str, tuple[str, ...]], _Plan | None] = {}
        self._default: _Layout | None = None
        self._forms: dict[tuple[str, str], str | None] = {}
        self._unknown: Counter[str] = Counter()
        self._truths: dict[tuple[object, ...], tuple[str, tuple[tuple[str, str], ...]]] = {}

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a Parquet file that are needed; all, where each row may need others."""
        own = self._source.tenant
        try:
            plan = _plan(names, self._rules(own), None) if own else None
        except _InputError:
            plan = None
        if plan is None:
            return list(names)
        wanted = {*plan.places, *(column for column, _ in plan.truths)}
        return [name for name in names if name in wanted]

    def learn(self, records: list[_Record]) -> _InputError | None:
        """Learn layout and digit labels from the first chunk; a refusal where no row is known."""
        seen: dict[tuple[str, str], set[str]] = {}
        fields: dict[tuple[str, str], tuple[LabelField, str | None]] = {}
        strange: tuple[str, ...] = ()
        for _, _, row in records:
            if isinstance(row, _InputError) or not row:
                continue
            try:
                tenant = self._tenant(row)
                plan = self._plan(tenant, row)
            except _InputError as refused:
                strange = strange or (tuple(row) if refused.reason == "unknown_layout" else ())
                continue
            self._default = self._default or plan.layout
            for column, field in plan.truths:
                value = row[column]
                if (spelled := _spelled(value)) and spelled.isdecimal():
                    seen.setdefault((tenant, field.name), set()).add(spelled)
                    usual = None if isinstance(value, str) else plan.layout.integer_labels
                    fields[tenant, field.name] = field, usual
        self._plans.clear()  # from here on the file's own layout reads rows of none
        self._forms = {key: _form(*fields[key], digits) for key, digits in seen.items()}
        if self._default or not strange:
            return None
        columns = ", ".join(map(repr, strange))[:500]
        return _InputError(
            "unknown_layout",
            f"no known layout has the columns {columns}; say which is which in tenants.toml, "
            'for instance [tenants.NAME.columns] text = "..."',
        )

    def chunk(self, records: Iterable[_Record]) -> Chunk:
        """The rows as frames; each row is in exactly one of them."""
        self._unknown = Counter()
        reviews = []
        quarantined = []
        for line, _, row in records:
            if isinstance(row, _InputError):
                quarantined.append(self._refuse(line, {}, row))
                continue
            try:
                reviews.append(self._review(line, row))
            except _InputError as refused:
                quarantined.append(self._refuse(line, row, refused))
        return Chunk(_frame(reviews, REVIEWS), _frame(quarantined, QUARANTINE), dict(self._unknown))

    def _tenant(self, row: _Row) -> str:
        own = self._source.tenant
        column = self._rules(own).columns.get("tenant", "tenant") if own else "tenant"
        named = _name("tenant", row.get(column))
        if own is None:
            if named is None:
                raise _InputError("no_tenant", "the row has no tenant; name it in `tenant`")
            return named
        if named is not None and named != own:
            raise _InputError("other_tenant", f"the row is of {named!r}, its folder of {own!r}")
        return own

    def _rules(self, tenant: str) -> TenantRules:
        if (known := self._known.get(tenant)) is None:
            try:
                if not re.match(TENANT_NAME, tenant):
                    raise UserError(f"{tenant!r} cannot be the name of a tenant")
                known = self._known[tenant] = self._ask(tenant)
            except ConfigError:
                raise
            except UserError as error:
                raise _InputError("unknown_tenant", str(error)) from None
        return known

    def _plan(self, tenant: str, row: _Row) -> _Plan:
        key = tenant, tuple(row)
        if key not in self._plans:
            if len(self._plans) > 1_000:
                self._plans.clear()
            self._plans[key] = _plan(key[1], self._rules(tenant), self._default)
        if (plan := self._plans[key]) is None:
            raise _InputError("unknown_layout", f"no known layout has the columns {key[1]}"[:500])
        return plan

    def _review(self, line: int | None, row: _Row) -> tuple[object, ...]:
        if not row:
            raise _InputError("empty_row", "the row holds nothing")
        tenant = self._tenant(row)
        plan = self._plan(tenant, row)
        at = [row[place] if place else None for place in plan.places]
        _, review_id, category, product_id, title, text, rating, ts, synthetic = at
        title, text = _words("title", title), _words("text", text)
        if text is None:
            if all(value in (None, "") for value in row.values()):
                raise _InputError("empty_row", "the row holds nothing")
            raise _InputError("empty_text", f"no text, by the layout {plan.layout.name}")
        if len(text) + len(title or "") > self._limits.max_text_chars:
            limit = f"{self._limits.max_text_chars:,} characters"
            raise _InputError("over_long", f"title and text have more than {limit}")
        normalised = normalise(title, text)
        if not normalised or normalised.endswith("\n"):
            raise _InputError("empty_text", "nothing but markup or invisible characters")
        return (
            tenant,
            plan.taxonomy,
            _name("review_id", review_id),
            content_key(normalised),
            _name("category", category) or UNKNOWN_CATEGORY,
            _name("product_id", product_id),
            title,
            text,
            _rating(rating),
            _micros(ts),
            self._truth(tenant, plan, row),
            _flag(synthetic),
            self._source.file,
            line,
        )

    def _truth(self, tenant: str, plan: _Plan, row: _Row) -> str:
        key = tenant, *[(field.name, _spelled(row[column])) for column, field in plan.truths]
        if key not in self._truths:
            if len(self._truths) > 10_000:
                self._truths.clear()
            self._truths[key] = self._labels(tenant, plan, row)
        truth, unknown = self._truths[key]
        for name, spelled in unknown:
            counted = f"{name}={spelled[:60]}"
            full = len(self._unknown) >= _UNKNOWN_TRUTHS and counted not in self._unknown
            self._unknown[f"{name}=(others)" if full else counted] += 1
        return truth

    def _labels(
        self, tenant: str, plan: _Plan, row: _Row
    ) -> tuple[str, tuple[tuple[str, str], ...]]:
        truth = {}
        unknown = []
        for column, field in plan.truths:
            if (spelled := _spelled(row[column])) is None:
                continue
            value = spelled
            if spelled.isdecimal() and spelled not in field.labels and _forms(field):
                value = f"{self._forms.get((tenant, field.name))}:{spelled}"
            if label := field.parse_truth(value):
                truth[field.name] = label
            else:
                unknown.append((field.name, spelled))
        return json.dumps(truth, ensure_ascii=False), tuple(unknown)

    def _refuse(self, line: int | None, row: _Row, refused: _InputError) -> tuple[object, ...]:
        named = row.get("tenant")
        known = named if isinstance(named, str) and named in self._known else MIXED_INBOX
        text = next((v for v in row.values() if isinstance(v, str) and len(v) > 20), None)
        excerpt = refused.excerpt or text or (json.dumps(row, default=str) if row else None)
        review_id = row.get("review_id")
        return (
            self._source.tenant or known,
            self._source.file,
            line,
            _clean(str(review_id))[:MAX_NAME_CHARS] if review_id is not None else None,
            refused.reason,
            _clean(redact(refused.detail)),
            _clean(redact(excerpt[:2_000]))[:_EXCERPT_CHARS] if excerpt else None,
        )


def _forms(field: LabelField) -> dict[str, set[str]]:
    """The ways of numbering in a field's aliases: "0/1:1" is the 1 of a file of 0 and 1."""
    forms = {found[1] for alias in field.truth_aliases if (found := _FORM.fullmatch(alias))}
    return {form: set(form.split("/")) for form in sorted(forms)}


def _form(field: LabelField, usual: str | None, digits: set[str]) -> str | None:
    """The one numbering that holds all digits seen, else the layout's usual one, else None."""
    fitting = [form for form, numbers in _forms(field).items() if digits <= numbers]
    return fitting[0] if len(fitting) == 1 else usual if usual in fitting else None


def _frame(rows: list[tuple[object, ...]], schema: pl.Schema) -> pl.DataFrame:
    values = list(zip(*rows, strict=True)) or [()] * len(schema)
    raw = {**schema, "ts": pl.Int64()} if "ts" in schema else dict(schema)
    frame = pl.DataFrame(dict(zip(raw, values, strict=True)), schema=raw)
    if "ts" in schema:
        frame = frame.with_columns(pl.from_epoch("ts", "us").dt.replace_time_zone("UTC"))
    return frame


def read_reviews(
    source: Source, rules: Callable[[str], TenantRules], limits: InputSettings
) -> Iterator[Chunk]:
    """Read a file in chunks of at most 10,000 rows; never raises for what the file holds.

    The layout, and what digit labels mean (0/1 or 1/2), are decided by the first chunk, so that
    one pass is enough. Digits that fit several ways of numbering, or none, give no truth.
    Raises ConfigError where a tenant's own configuration cannot be used.
    """
    interpreter = _Interpreter(source, rules, limits)
    for number, records in enumerate(_chunks(_records(source.path, interpreter.columns, limits))):
        if number == 0 and (unknown := interpreter.learn(records)):
            broken = [record for record in records if isinstance(record[2], _InputError)]
            yield interpreter.chunk([*broken, (None, 0, unknown)])
            return
        yield interpreter.chunk(records)


def _chunks(records: Iterable[_Record]) -> Iterator[list[_Record]]:
    chunk: list[_Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record[1]
        if len(chunk) >= _CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
