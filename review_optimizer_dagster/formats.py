"""Before the first step of the flow: the bytes of a file become raw rows, or say why they cannot.

Each reader yields `Record`s: line or row number, bytes it took, and the row or its refusal. Files
are streamed, and a line or record that reaches a cap is refused, so that none can fill the memory.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import polars as pl

from review_optimizer_dagster.settings import InputSettings

INPUT_SUFFIXES: tuple[str, ...] = (
    ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".json", ".json.gz",
    ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".txt", ".txt.gz", ".parquet",
)  # fmt: skip
MAX_NAME_CHARS = 256  # ids, categories and tenants
CHUNK_ROWS = 10_000


class InputError(Exception):
    """Why a row, or where it leaves a reader a whole file, goes to quarantine."""

    def __init__(self, reason: str, detail: str, excerpt: str | None = None) -> None:
        super().__init__(reason, detail)
        self.reason, self.detail, self.excerpt = reason, detail, excerpt


Row: TypeAlias = dict[str, Any]
Record: TypeAlias = tuple[int | None, int, Row | InputError]


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
            raise InputError("over_long", f"the line has {self.cap:,} bytes or more", _shown(line))
        return line


def _shown(line: bytes) -> str:
    return line[:2_000].decode("utf-8", "replace")


def _utf8(line: bytes) -> str:
    try:
        return line.decode("utf-8")
    except UnicodeDecodeError as error:
        detail = f"byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
        raise InputError("encoding", detail, _shown(line)) from None


_JSON = json.JSONDecoder(strict=False)  # a raw tab inside a string harms nobody


def _json_rows(lines: _Lines) -> Iterator[Record]:
    first = True
    for line in lines:
        if line.strip():
            try:
                row: Row | InputError = _json_row(lines.usable(line), first)
            except InputError as refused:
                if refused.reason == "json_array":
                    raise
                row = refused
            yield lines.number, len(line), row
            first = False


def _json_row(line: bytes, first: bool) -> Row:
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
            raise InputError("truncated_file", detail, text) from None
        else:
            raise InputError("broken_json", f"not valid JSON: {error}", text) from None
    if type(row) is dict:
        return row
    if first and isinstance(row, list):
        raise InputError("json_array", "the file is a JSON array; write one object a line", text)
    raise InputError("not_an_object", f"a JSON {type(row).__name__}, not an object", text)


def _is_cut(error: Exception, text: str) -> bool:
    return isinstance(error, json.JSONDecodeError) and (
        error.pos >= len(text) or error.msg.startswith("Unterminated")
    )


def _csv_rows(lines: _Lines) -> Iterator[Record]:
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
                raise InputError("broken_csv", detail, _shown(start[1]))
        except InputError as refused:
            if not header:
                raise InputError(refused.reason, f"in the header: {refused.detail}") from None
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
            raise InputError("broken_csv", f"not valid CSV: {problem}", _shown(start[1]))


_SNAP_KEY = re.compile(r"((?:product|review)/\w+): ?(.*)", re.DOTALL)


def _snap_rows(lines: _Lines) -> Iterator[Record]:
    for number, (start, size, block) in enumerate(_snap_blocks(lines)):
        if number == 0 and not any(map(_SNAP_KEY.match, block)):
            detail = (
                "a text file, but not of blocks with `product/productId: ...`, as SNAP has them"
            )
            raise InputError("unknown_layout", detail, block[0])
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


def _snap_row(block: list[str], size: int, cap: int) -> Row | InputError:
    if size >= cap:
        return InputError("over_long", f"the block has {cap:,} bytes or more", block[0])
    row: Row = {}
    key = None
    for text in block:
        if found := _SNAP_KEY.fullmatch(text):
            key = found[1]
            row[key] = found[2]
        elif key is None:
            return InputError("broken_block", "a line before the first `product/...` key", text)
        else:
            row[key] += f"\n{text}"
    return row


def _parquet_rows(
    path: Path, columns: Callable[[Sequence[str]], list[str]], max_chars: int
) -> Iterator[Record]:
    # Slices, because collect_batches reads many row groups ahead and so holds most of the file.
    scan = pl.scan_parquet(path, glob=False)
    scan = scan.select(columns(scan.collect_schema().names()))
    scan = scan.with_columns(pl.col(pl.String).str.head(max_chars))
    offset = 0
    while (frame := scan.slice(offset, CHUNK_ROWS).collect()).height:
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
        raise InputError("encoding", "the file is UTF-16 or UTF-32; save it as UTF-8")
    if head.startswith(b"\xef\xbb\xbf"):
        stream.read(3)
    return stream


_READERS: Mapping[str, Callable[[_Lines], Iterator[Record]]] = {
    ".jsonl": _json_rows,
    ".ndjson": _json_rows,
    ".json": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".txt": _snap_rows,
}


def read_records(
    path: Path, columns: Callable[[Sequence[str]], list[str]], limits: InputSettings
) -> Iterator[Record]:
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
            raise InputError("unknown_format", f"{suffix or 'no suffix'} is none of {known}")
    except InputError as refused:
        yield None, 0, refused
    except EOFError:
        detail = f"the file ends inside its gzip stream after line {reached}; deliver it again"
        yield reached + 1 if reached else None, 0, InputError("truncated_file", detail)
    except (OSError, zlib.error, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        detail = f"cannot be read after line {reached}: {_first_line(error)}"
        yield reached + 1 if reached else None, 0, InputError("unreadable_file", detail)


def _first_line(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # the whole message would name the machine's path
    return str(error).partition("\n")[0][:200]
