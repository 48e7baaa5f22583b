"""Kinds of broken input, as a table: what a file holds, what is accepted, and the reasons given."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from review_optimizer_dagster.core.reviews import (
    Chunk,
    Source,
    TenantRules,
    read_reviews,
)
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.settings import MIXED_INBOX, InputSettings
from review_optimizer_dagster.taxonomies import load_taxonomy

TENANTS = ("acme", "bolt")
LIMITS = InputSettings(max_text_chars=2_000)
GOOD = '{"review_id": "r1", "category": "Books", "text": "A fine read, twice over."}\n'
HEADER = "review_id,category,text,rating\n"


@dataclass(frozen=True)
class Case:
    """One kind of broken input: how the file is made, and what must come of it."""

    name: str
    file: str
    content: Callable[[], bytes] = field(repr=False)
    reasons: tuple[str, ...]
    accepted: int
    tenant: str | None = "acme"


def rules(tenant: str) -> TenantRules:
    if tenant not in TENANTS:
        raise UserError(f"{tenant!r} is no tenant")
    return TenantRules(load_taxonomy("reviews"), {})


def read(path: Path, tenant: str | None = "acme") -> Chunk:
    """All chunks of a file as one."""
    chunks = list(read_reviews(Source(path, path.name, tenant), rules, LIMITS))
    if not chunks:
        return Chunk(pl.DataFrame(), pl.DataFrame(), {})
    return Chunk(
        pl.concat([chunk.reviews for chunk in chunks]),
        pl.concat([chunk.quarantined for chunk in chunks]),
        chunks[0].unknown_truth,
    )


def _text(*parts: str) -> Callable[[], bytes]:
    return "".join(parts).encode


def _row(**values: object) -> str:
    return json.dumps({"review_id": "r2", "category": "Books", "text": "Good."} | values) + "\n"


def _noise(rows: int) -> str:
    return "".join(
        _row(review_id=f"n{at}", text=f"Text {at * 7_919 % 10_007}") for at in range(rows)
    )


def _cut_gzip() -> bytes:
    packed = gzip.compress(_noise(5_000).encode())
    return packed[: len(packed) // 2]


def _spoilt_gzip() -> bytes:
    packed = bytearray(gzip.compress(GOOD.encode()))
    packed[-6] ^= 0xFF  # the checksum: all rows can be read, and cannot be trusted
    return bytes(packed)


def _parquet() -> bytes:
    buffer = io.BytesIO()
    rows = [json.loads(line) for line in _noise(30_000).splitlines()]
    pl.DataFrame(rows).write_parquet(buffer, row_group_size=10_000)
    return buffer.getvalue()


def _spoilt_parquet() -> bytes:
    data = bytearray(_parquet())
    middle = len(data) // 2
    data[middle : middle + 2_000] = bytes(2_000)
    return bytes(data)


def _parquet_of(**columns: object) -> Callable[[], bytes]:
    def content() -> bytes:
        buffer = io.BytesIO()
        pl.DataFrame(columns).write_parquet(buffer)
        return buffer.getvalue()

    return content


def cases() -> list[Case]:
    """The table; another module may print it."""
    line_cap = 12 * LIMITS.max_text_chars + 2**20
    return [
        Case(
            "line that is not JSON",
            "a.jsonl",
            _text(GOOD, "not json\n", _row()),
            ("broken_json",),
            2,
        ),
        Case("single quotes", "a.jsonl", _text(GOOD, "{'text': 'x'}\n"), ("broken_json",), 1),
        Case(
            "two objects in a line",
            "a.jsonl",
            _text(GOOD, '{"text":"a"}{"text":"b"}\n'),
            ("broken_json",),
            1,
        ),
        Case(
            "number of 5,000 digits",
            "a.jsonl",
            _text(GOOD, f'{{"text": {"9" * 5_000}}}\n'),
            ("broken_json",),
            1,
        ),
        Case(
            "100,000 nested brackets",
            "a.jsonl",
            _text(GOOD, "[" * 100_000, "\n"),
            ("broken_json",),
            1,
        ),
        Case("number instead of an object", "a.jsonl", _text(GOOD, "42\n"), ("not_an_object",), 1),
        Case("list instead of an object", "a.jsonl", _text(GOOD, '["a"]\n'), ("not_an_object",), 1),
        Case(
            "JSON array in one line",
            "a.json",
            _text('[{"text": "a"}, {"text": "b"}]'),
            ("json_array",),
            0,
        ),
        Case(
            "JSON array over many lines",
            "a.json",
            _text('[\n{"text": "a"},\n{"text": "b"}\n]\n'),
            ("json_array",),
            0,
        ),
        Case("last line cut off", "a.jsonl", _text(GOOD, GOOD[:50]), ("truncated_file",), 1),
        Case("empty object", "a.jsonl", _text(GOOD, "{}\n"), ("empty_row",), 1),
        Case(
            "all values null",
            "a.jsonl",
            _text(GOOD, '{"text": null, "title": ""}\n'),
            ("empty_row",),
            1,
        ),
        Case("text missing", "a.jsonl", _text(GOOD, '{"review_id": "x"}\n'), ("empty_text",), 1),
        Case("text of blanks", "a.jsonl", _text(GOOD, _row(text=" \t\n ")), ("empty_text",), 1),
        Case(
            "text of markup alone",
            "a.jsonl",
            _text(GOOD, _row(text="<br /> &nbsp; \u200b")),
            ("empty_text",),
            1,
        ),
        Case(
            "text over the limit", "a.jsonl", _text(GOOD, _row(text="a" * 2_001)), ("over_long",), 1
        ),
        Case(
            "title and text over the limit",
            "a.jsonl",
            _text(GOOD, _row(title="t" * 1_999)),
            ("over_long",),
            1,
        ),
        Case(
            "line over a megabyte",
            "a.jsonl",
            _text(GOOD, _row(text="a" * line_cap), GOOD),
            ("over_long",),
            2,
        ),
        Case(
            "gzip bomb without a line end",
            "a.jsonl.gz",
            lambda: gzip.compress(bytes(40 * 2**20)),
            ("over_long",),
            0,
        ),
        Case(
            "id over 256 characters",
            "a.jsonl",
            _text(GOOD, _row(review_id="i" * 257)),
            ("over_long",),
            1,
        ),
        Case(
            "id that is a list", "a.jsonl", _text(GOOD, _row(review_id=["a"])), ("wrong_type",), 1
        ),
        Case(
            "id with a null byte", "a.jsonl", _text(GOOD, _row(review_id="a\0b")), ("encoding",), 1
        ),
        Case("text that is a number", "a.jsonl", _text(GOOD, _row(text=5)), ("wrong_type",), 1),
        Case(
            "title that is an object",
            "a.jsonl",
            _text(GOOD, _row(title={"a": 1})),
            ("wrong_type",),
            1,
        ),
        Case(
            "rating that is no number",
            "a.jsonl",
            _text(GOOD, _row(rating="five")),
            ("wrong_type",),
            1,
        ),
        Case("rating NaN", "a.jsonl", _text(GOOD, _row(rating=float("nan"))), ("wrong_type",), 1),
        Case("rating infinite", "a.jsonl", _text(GOOD, _row(rating="1e999")), ("wrong_type",), 1),
        Case("rating true", "a.jsonl", _text(GOOD, _row(rating=True)), ("wrong_type",), 1),
        Case(
            "ts that is no time", "a.jsonl", _text(GOOD, _row(ts="last week")), ("wrong_type",), 1
        ),
        Case(
            "ts of 31 February", "a.jsonl", _text(GOOD, _row(ts="2026-02-31")), ("wrong_type",), 1
        ),
        Case(
            "ts beyond the calendar",
            "a.jsonl",
            _text(GOOD, _row(ts=-9 * 10**13)),
            ("wrong_type",),
            1,
        ),
        Case(
            "synthetic that is no flag",
            "a.jsonl",
            _text(GOOD, _row(synthetic="perhaps")),
            ("wrong_type",),
            1,
        ),
        Case(
            "Latin-1 in JSONL",
            "a.jsonl",
            lambda: GOOD.encode() + _row(text="X").replace("X", "caf\xe9").encode("latin-1"),
            ("encoding",),
            1,
        ),
        Case(
            "Latin-1 in CSV",
            "a.csv",
            lambda: (HEADER + "a,b,caf\xe9,5\nc,d,e,4\n").encode("latin-1"),
            ("encoding",),
            1,
        ),
        Case("UTF-16 with a mark", "a.jsonl", lambda: GOOD.encode("utf-16"), ("encoding",), 0),
        Case(
            "UTF-16 without a mark",
            "a.csv",
            lambda: (HEADER + "a,b,c,5\n").encode("utf-16-le"),
            ("encoding",),
            0,
        ),
        Case("too few columns", "a.csv", _text(HEADER, "a,b,Good.,5\nc,d\n"), ("broken_csv",), 1),
        Case(
            "too many columns",
            "a.csv",
            _text(HEADER, "a,b,well, then,5\nc,d,Good.,4\n"),
            ("broken_csv",),
            1,
        ),
        Case(
            "quote never closed",
            "a.csv",
            _text(HEADER, 'a,b,"Good.,5\nc,d,Fine.,4\ne,f,Bad.,1\n'),
            ("broken_csv",),
            2,
        ),
        Case(
            "quote closed too early",
            "a.csv",
            _text(HEADER, 'a,b,"5" screen",5\nc,d,Fine.,4\n'),
            ("broken_csv",),
            1,
        ),
        Case(
            "quote closed lines later",
            "a.csv",
            _text(HEADER, 'a,b,"Good.,5\nc,d,Fine.,4\ne,f,"Bad.",1\n'),
            ("broken_csv",),
            2,
        ),
        Case("header alone broken", "a.csv", _text('review_id,"text\na,b\n'), ("broken_csv",), 0),
        Case(
            "unknown columns", "a.csv", _text("id,body\n1,Good.\n2,Bad.\n"), ("unknown_layout",), 0
        ),
        Case(
            "unknown keys",
            "a.jsonl",
            _text('{"body": "Good."}\n{"body": "Bad."}\n'),
            ("unknown_layout",),
            0,
        ),
        Case(
            "text file of another kind",
            "a.txt",
            _text("Dear all,\n\nplease find attached.\n"),
            ("unknown_layout",),
            0,
        ),
        Case(
            "SNAP block that starts in the middle",
            "a.txt",
            _text("lost its key\nreview/text: Bad.\n\nreview/text: Good.\n"),
            ("broken_block",),
            1,
        ),
        Case(
            "SNAP block without text",
            "a.txt",
            _text(
                "product/productId: p1\nreview/score: 5.0\n\n",
                "product/productId: p2\nreview/text: Good.\n",
            ),
            ("empty_text",),
            1,
        ),
        Case(
            "another tenant's row",
            "a.jsonl",
            _text(GOOD, _row(tenant="bolt")),
            ("other_tenant",),
            1,
        ),
        Case(
            "row without a tenant",
            "a.jsonl",
            _text(GOOD, _row(tenant="bolt")),
            ("no_tenant",),
            1,
            None,
        ),
        Case(
            "row of an unknown tenant",
            "a.jsonl",
            _text(_row(tenant="bolt"), _row(tenant="eve")),
            ("unknown_tenant",),
            1,
            None,
        ),
        Case(
            "tenant that is a path",
            "a.jsonl",
            _text(_row(tenant="bolt"), _row(tenant="../acme")),
            ("unknown_tenant",),
            1,
            None,
        ),
        Case(
            "folder of an unknown tenant",
            "a.jsonl",
            _text(GOOD, _row()),
            ("unknown_tenant", "unknown_tenant"),
            0,
            "eve",
        ),
        Case("gzip with a wrong checksum", "a.jsonl.gz", _spoilt_gzip, ("unreadable_file",), 1),
        Case(
            "rubbish in place of Parquet",
            "a.parquet",
            lambda: bytes(range(256)) * 9,
            ("unreadable_file",),
            0,
        ),
        Case(
            "Parquet without its end",
            "a.parquet",
            lambda: _parquet()[:-500],
            ("unreadable_file",),
            0,
        ),
        Case(
            "Parquet spoilt in the middle",
            "a.parquet",
            _spoilt_parquet,
            ("unreadable_file",),
            10_000,
        ),
        Case("Parquet of no bytes", "a.parquet", bytes, ("unreadable_file",), 0),
        Case(
            "Parquet text of numbers",
            "a.parquet",
            _parquet_of(text=[1, 2]),
            ("wrong_type", "wrong_type"),
            0,
        ),
        Case(
            "Parquet with a null text",
            "a.parquet",
            _parquet_of(text=["Good.", None], category=["a", "b"]),
            ("empty_text",),
            1,
        ),
        Case("spreadsheet", "a.xlsx", lambda: b"PK\x03\x04", ("unknown_format",), 0),
    ]


@pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
def test_broken_input_is_reported_and_the_rest_goes_on(case: Case, tmp_path: Path) -> None:
    """Each kind of damage must cost the damaged rows alone, and say what it was."""
    path = tmp_path / case.file
    path.write_bytes(case.content())
    chunk = read(path, case.tenant)
    assert tuple(chunk.quarantined["reason"]) == case.reasons
    assert chunk.reviews.height == case.accepted
    for row in chunk.quarantined.to_dicts():
        assert row["file"] == case.file
        assert row["detail"]
        assert len(row["excerpt"] or "") <= 200
        assert row["tenant"] == (case.tenant or MIXED_INBOX)


def test_a_cut_gzip_yields_its_rows_and_where_it_broke(tmp_path: Path) -> None:
    """A truncated upload must be noticed, and what arrived is still worth classifying."""
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(_cut_gzip())
    chunk = read(path)
    assert 1_000 < chunk.reviews.height < 4_000
    [row] = chunk.quarantined.to_dicts()
    assert row["reason"] == "truncated_file"
    assert row["line"] == chunk.reviews.height + 1


def test_a_missing_file_is_reported_without_its_path(tmp_path: Path) -> None:
    """A file may vanish before it is read; reports must not name the machine's folders."""
    [row] = read(tmp_path / "gone.jsonl").quarantined.to_dicts()
    assert (row["reason"], row["line"]) == ("unreadable_file", None)
    assert str(tmp_path) not in row["detail"]


def test_csv_lines_are_physical_lines(tmp_path: Path) -> None:
    """A person looks the line up in an editor, where quoted line feeds count."""
    path = tmp_path / "a.csv"
    path.write_text(HEADER + 'a,b,"two\nlines",5\n\nc,d,Fine.,x\ne,f,Good.,4\n')
    chunk = read(path)
    assert chunk.reviews["line"].to_list() == [2, 6]
    assert chunk.reviews["text"].to_list() == ["two\nlines", "Good."]
    assert chunk.quarantined["line"].to_list() == [5]


def test_excerpts_hold_no_personal_numbers(tmp_path: Path) -> None:
    """Quarantine is read by people and published: it must be as clean as what a model sees."""
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD + "mail bob@example.org, card 4111 1111 1111 1111\n")
    [row] = read(path).quarantined.to_dicts()
    assert "[email]" in row["excerpt"]
    assert "[card]" in row["excerpt"]
    assert "4111" not in row["excerpt"]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "a.jsonl.gz"])
def test_a_file_of_no_bytes_is_an_empty_delivery(name: str, tmp_path: Path) -> None:
    """An export of a quiet day is empty; that is no fault."""
    path = tmp_path / name
    path.write_bytes(b"")
    assert list(read_reviews(Source(path, name, "acme"), rules, LIMITS)) == []


def main() -> None:
    """Print what a user sees of each kind: `python -m ...faults.test_broken_input`."""
    import tempfile

    print("| broken input | accepted | reason: what the user reads |\n| --- | --- | --- |")
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / case.file
            path.write_bytes(case.content())
            found = read(path, case.tenant)
        rows = [] if found.quarantined.is_empty() else found.quarantined.rows(named=True)
        said = "; ".join(
            f"`{row['reason']}`"
            + (f" (line {row['line']})" if row["line"] else "")
            + f": {row['detail']}"
            for row in rows[:1]
        )
        print(f"| {case.name} | {found.reviews.height} | {said} |")


if __name__ == "__main__":
    main()
