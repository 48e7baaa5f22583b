"""The catalogue: which columns every table of the warehouse has, read from our own schema.sql.

Running the schema in DuckDB to ask for them takes longer than loading all definitions may.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Final, NamedTuple

_WORD: Final = r'"(?:[^"]|"")+"|\w+'
_TEXT: Final = r"'(?:[^']|'')*'"
# In this order: a text may hold a semicolon or two dashes, and a comment a quote.
_PARTS: Final = re.compile(rf"({_TEXT})|(--[^\n]*)|(;)")
_CREATE: Final = re.compile(rf"CREATE TABLE IF NOT EXISTS ({_WORD}) \((.*)\)", re.DOTALL)
_ADD: Final = re.compile(rf"ALTER TABLE ({_WORD}) ADD COLUMN IF NOT EXISTS ({_WORD}) (.+)")
_DROP: Final = re.compile(rf"ALTER TABLE ({_WORD}) DROP COLUMN IF EXISTS ({_WORD})")
_TABLE_COMMENT: Final = re.compile(rf"COMMENT ON TABLE ({_WORD}) IS ({_TEXT})")
_COLUMN_COMMENT: Final = re.compile(rf"COMMENT ON COLUMN ({_WORD})\.({_WORD}) IS ({_TEXT})")
_COLUMN: Final = re.compile(rf"({_WORD}) ([\w ]+(?:\(.*\))?(?:\[\])*)", re.DOTALL)
_TYPES: Final = {"TIMESTAMPTZ": "TIMESTAMP WITH TIME ZONE"}  # as DuckDB spells what we write short


class Column(NamedTuple):
    """A column as DuckDB would describe it."""

    name: str
    type: str
    comment: str | None


@dataclass
class Table:
    """A table, its comment and its columns in their order."""

    name: str
    comment: str | None = None
    _columns: dict[str, Column] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The columns in their order."""
        return tuple(self._columns.values())

    def _add(self, name: str, kind: str) -> None:
        kind = kind.strip().replace(", ", ",")
        self._columns.setdefault(name, Column(name, _TYPES.get(kind, kind), None))


@cache
def tables() -> Mapping[str, Table]:
    """Every table of the warehouse, by name."""
    return read_schema(
        resources.files(__package__).joinpath("schema.sql").read_text(encoding="utf-8")
    )


def read_schema(sql: str) -> dict[str, Table]:
    """The tables of a script of CREATE TABLE, ALTER TABLE and COMMENT ON statements.

    Raises ValueError at a statement of another kind: what is not understood must not be left out.
    """
    found: dict[str, Table] = {}
    for statement in _statements(sql):
        if parts := _CREATE.fullmatch(statement):
            table = found.setdefault(_name(parts[1]), Table(_name(parts[1])))
            for written in _split(parts[2]):
                column = _COLUMN.fullmatch(written)
                if column is None:
                    raise ValueError(f"no column of {table.name}: {written}")
                table._add(_name(column[1]), column[2])
        elif parts := _ADD.fullmatch(statement):
            found[_name(parts[1])]._add(_name(parts[2]), parts[3])
        elif parts := _DROP.fullmatch(statement):
            found[_name(parts[1])]._columns.pop(_name(parts[2]), None)
        elif parts := _TABLE_COMMENT.fullmatch(statement):
            found[_name(parts[1])].comment = _text(parts[2])
        elif parts := _COLUMN_COMMENT.fullmatch(statement):
            columns, name = found[_name(parts[1])]._columns, _name(parts[2])
            columns[name] = columns[name]._replace(comment=_text(parts[3]))
        else:
            raise ValueError(f"no statement that this reads: {statement}")
    return found


def _statements(sql: str) -> list[str]:
    """The statements, without SQL comments, with one blank where several stood."""
    written = [""]
    rest = 0
    for part in _PARTS.finditer(sql):
        written[-1] += sql[rest : part.start()]
        rest = part.end()
        if part[1]:
            written[-1] += part[1]
        elif part[3]:
            written.append("")
    written[-1] += sql[rest:]
    return [text for each in written if (text := _single_blanks(each))]


def _single_blanks(statement: str) -> str:
    """One blank in place of several, but inside of texts."""
    pieces = re.split(f"({_TEXT})", statement)
    return "".join(
        piece if number % 2 else re.sub(r"\s+", " ", piece) for number, piece in enumerate(pieces)
    ).strip()


def _split(columns: str) -> list[str]:
    """Split at commas that stand in no parentheses."""
    return [each.strip() for each in re.split(r",(?![^(]*\))", columns)]


def _name(written: str) -> str:
    return written[1:-1].replace('""', '"') if written.startswith('"') else written


def _text(written: str) -> str:
    return written[1:-1].replace("''", "'")
