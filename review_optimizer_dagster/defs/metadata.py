"""Tables, numbers and money as the Dagster UI shows them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import dagster as dg
import polars as pl

MOST_ROWS: Final = 50  # of what fails; the warehouse has the others


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Rows as a table, rounded for reading; Dagster takes only plain values."""
    records = [
        dg.TableRecord({key: _plain(key, value) for key, value in row.items()}) for row in rows
    ]
    if not records:
        return dg.MetadataValue.text("none")
    columns = list(dict.fromkeys(key for row in rows for key in row))
    types = {
        key: _column_type(next((r[key] for r in rows if r[key] is not None), "")) for key in columns
    }
    return dg.MetadataValue.table(
        records,
        schema=dg.TableSchema([dg.TableColumn(key, types[key]) for key in columns]),
    )


def failing(
    name: str, rows: pl.DataFrame, of: str, total: int | None = None
) -> dict[str, dg.MetadataValue[Any]]:
    """The first rows of what fails, and beside them how many there are and where the others are.

    rows: all of them, or the first of `total`; of: a FROM clause that finds them all.
    """
    number = rows.height if total is None else total
    shown = rows.head(MOST_ROWS)
    more = f"{shown.height:,} of {number:,} shown. " if number > shown.height else ""
    found = {
        name: table(shown.rows(named=True)),
        f"{name}_in_all": dg.MetadataValue.int(number),
    }
    if number:
        told = f"{more}All of them: {of}, in warehouse.duckdb"
        found[f"{name}_query"] = dg.MetadataValue.text(told)
    return found


def _plain(name: str, value: object) -> str | int | float | bool:
    # Dagster wants the same keys in every record, and has no null.
    if value is None:
        return ""
    if isinstance(value, float):
        return rounded(name, value)  # for reading; the exact figures are in the tables
    return value if isinstance(value, str | int) else str(value)


def rounded(name: str, value: float) -> float:
    """A figure as it is read: dollars to a millionth, others to four digits that matter."""
    if not math.isfinite(value):
        return value
    if "usd" in name.split("_"):
        return round(value, 6)
    digits = 3 - math.floor(math.log10(abs(value))) if value else 0
    return round(value, max(0, digits))


def figures(**values: float | None) -> dict[str, float]:
    """Numbers that the UI plots over the days, rounded; what is not known leaves a gap."""
    return {
        name: rounded(name, value) if isinstance(value, float) else value
        for name, value in values.items()
        if value is not None and math.isfinite(value)
    }


def rows_of_day(rows: int) -> dict[str, int]:
    """How many rows an asset has of its day, as Dagster knows it.

    For assets whose metadata has no name of its own for that number: each is plotted once.
    """
    return {"dagster/partition_row_count": rows}


def measured(accuracy: float | None, lower: float | None, upper: float | None) -> str:
    """An accuracy with its interval, in percent, in one cell.

    >>> measured(0.991, 0.982, 0.996)
    '99.1 % [98.2, 99.6]'
    """
    if accuracy is None:
        return "not known"
    interval = "" if lower is None or upper is None else f" [{100 * lower:.1f}, {100 * upper:.1f}]"
    return f"{100 * accuracy:.1f} %{interval}"


def hit_rates(counts: Mapping[str, int], levels: Sequence[str]) -> dict[str, float]:
    """`hit_rate` and `hit_rate_LEVEL` of the reviews that each level answered; `counts` of all.

    levels: those that have ever answered, since a plot of nothing but 0 says nothing.
    """
    total = sum(counts.values())
    answered = {level: counts.get(level, 0) for level in levels}
    return figures(
        hit_rate=share(sum(answered.values()), total),
        **{f"hit_rate_{level}": share(count, total) for level, count in answered.items()},
    )


def _column_type(value: object) -> str:
    kinds = {bool: "bool", int: "int", float: "float"}
    return kinds.get(type(value), "string")


def usd(nanos: int) -> float:
    """Nano-dollars as dollars, for a plot; the exact figures are in the tables."""
    return nanos / 1e9


def dollars(rows: pl.DataFrame, *more: str) -> list[dict[str, Any]]:
    """Rows for a table, columns of nano-dollars (and `more` of them) as dollars."""
    return rows.select(
        (pl.col(name) / 1e9).alias(f"{name.replace('_nanos', '')}_usd")
        if name.endswith("_nanos") or name in more
        else pl.col(name)
        for name in rows.columns
    ).rows(named=True)


def share(part: int, whole: int) -> float:
    """A share of 0 to 1; 0 of nothing."""
    return part / whole if whole else 0.0
