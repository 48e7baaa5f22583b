"""The questions that analysts ask first, and running one on published/analytics.duckdb."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import duckdb
import polars as pl

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.warehouse import Connection

_FOLDER = "review_optimizer_dagster.queries"
_HEADING = re.compile(r"^-- (Question|One row|Read|Parameters): (.*)$")
_PARAMETER = re.compile(r"getvariable\('(\w+)'\)")
_READ_ONLY: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
}


@dataclass(frozen=True)
class Query:
    """A question, and the SQL that answers it."""

    name: str
    """Number and name, such as 01_costs."""
    question: str
    one_row: str
    how_to_read: str
    parameters: str
    """What may be set, and the defaults, in words."""
    names: tuple[str, ...]
    """Of the parameters."""
    sql: str
    """With the header: it may be pasted as it is."""


def queries() -> tuple[Query, ...]:
    """All of them, by number."""
    files = (each for each in resources.files(_FOLDER).iterdir() if each.name.endswith(".sql"))
    return tuple(
        _read(each.name.removesuffix(".sql"), each.read_text(encoding="utf-8"))
        for each in sorted(files, key=lambda each: each.name)
    )


def _read(name: str, sql: str) -> Query:
    told: dict[str, str] = {}
    heading = ""
    for line in sql.splitlines():
        if not line.startswith("-- "):
            break
        if found := _HEADING.match(line):
            heading = found[1]
            told[heading] = found[2]
        else:
            told[heading] += " " + line.removeprefix("--").strip()
    return Query(
        name=name,
        question=told["Question"],
        one_row=told["One row"],
        how_to_read=told["Read"],
        parameters=told["Parameters"],
        names=tuple(sorted(set(_PARAMETER.findall(sql)))),
        sql=sql,
    )


def named_query(name: str) -> Query:
    """The query of a name or number, or what begins so. Raises UserError where that is not one."""
    known = queries()
    wanted = name.lower().removesuffix(".sql")
    exact = [each for each in known if wanted in (each.name, each.name[3:])]
    number = f"{int(wanted):02}_" if wanted.isdecimal() else wanted
    found = exact or [
        each for each in known if each.name.startswith(number) or each.name[3:].startswith(wanted)
    ]
    if len(found) != 1:
        names = ", ".join(each.name for each in known)
        raise UserError(f"{name!r} names {len(found) or 'no'} queries; there are: {names}")
    return found[0]


def run_query(path: Path, query: Query, values: Mapping[str, str]) -> pl.DataFrame:
    """Answer a question from an analytics database, which is only read.

    values: parameter to value, as text. Raises UserError where there is no such parameter, value
    or database.
    """
    unknown = sorted(set(values) - set(query.names))
    if unknown:
        known = ", ".join(query.names) or "none"
        raise UserError(f"{query.name} has no parameter {unknown[0]!r}; it has: {known}")
    with open_analytics(path) as raw:
        connection = Connection(raw)
        for name, value in values.items():
            escaped = value.replace("'", "''")
            connection.execute(f"SET VARIABLE {name} = '{escaped}'")
        try:
            return connection.frame(query.sql)
        except duckdb.ConversionException as error:
            told = ", ".join(f"{name}={value}" for name, value in values.items())
            raise UserError(f"{query.name} cannot read {told}: {_first_line(error)}") from error
        except duckdb.CatalogException as error:
            raise UserError(
                f"{path} is of an older version: run `review-optimizer run` first "
                f"({_first_line(error)})"
            ) from error


def open_analytics(path: Path) -> duckdb.DuckDBPyConnection:
    """Open an analytics database to read it, in UTC; what is open stays as it was when opened."""
    if not path.exists():
        raise UserError(f"{path} does not exist yet: run `review-optimizer run` first")
    try:
        raw = duckdb.connect(str(path), read_only=True, config=_READ_ONLY)
    except duckdb.Error as error:
        raise UserError(f"{path} cannot be opened: {_first_line(error)}") from error
    raw.execute("SET TimeZone = 'UTC'")
    return raw


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
