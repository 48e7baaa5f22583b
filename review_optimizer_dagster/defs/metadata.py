"""Tables and money as the Dagster UI shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import dagster as dg
import polars as pl


def table(rows: Sequence[Mapping[str, Any]]) -> dg.MetadataValue[Any]:
    """Rows as a table; Dagster takes only plain values."""
    records = [dg.TableRecord({key: _plain(value) for key, value in row.items()}) for row in rows]
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


def _plain(value: object) -> str | int | float | bool:
    # Dagster wants the same keys in every record, and has no null.
    if value is None:
        return ""
    if isinstance(value, float):
        return round(value, 6)  # for reading; the exact figures are in the tables
    return value if isinstance(value, str | int) else str(value)


def _column_type(value: object) -> str:
    kinds = {bool: "bool", int: "int", float: "float"}
    return kinds.get(type(value), "string")


def usd(nanos: int) -> float:
    """Nano-dollars as dollars, for a plot; the exact figures are in the tables."""
    return nanos / 1e9


def dollars(rows: pl.DataFrame, *more: str) -> list[dict[str, Any]]:
    """Rows for a table, columns of nano-dollars (and `more` of them) as dollars."""
    names = {name: name.replace("_nanos", "") for name in rows.columns if name.endswith("_nanos")}
    names |= {name: name for name in more}
    in_dollars = [(pl.col(name) / 1e9).alias(f"{stem}_usd") for name, stem in names.items()]
    others = [name for name in rows.columns if name not in names]
    return rows.select(*others, *in_dollars).rows(named=True)


def share(part: int, whole: int) -> float:
    """A share of 0 to 1; 0 of nothing."""
    return part / whole if whole else 0.0
