"""Frames as compact JSON that a browser reads back exactly: column by column, repeats left out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate, chain
from typing import Any, TypeAlias

import polars as pl

Encoded: TypeAlias = list[Any] | dict[str, Any]


def encode_tables(tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """Every table as its number of rows and its columns.

    Days are days since 1970-01-01, moments milliseconds (UTC), booleans 0 or 1. Dollars keep nine
    decimals, which is every nano-dollar; milliseconds one; other fractions six.
    """
    return {
        name: {
            "rows": frame.height,
            "columns": {column.name: encode(_plain(column)) for column in frame},
        }
        for name, frame in tables.items()
    }


def _plain(column: pl.Series) -> pl.Series:
    kind = column.dtype
    if kind == pl.Date:
        return column.cast(pl.Int32)
    if isinstance(kind, pl.Datetime):
        return column.dt.epoch("ms")
    if kind == pl.Boolean:
        return column.cast(pl.Int8)
    if kind.is_float():
        digits = 9 if column.name.endswith("_usd") else 1 if column.name.endswith("_ms") else 6
        finite = column.set(~column.is_finite(), None)  # JSON has no word for the others
        return finite.round(digits)
    return column


def encode(column: pl.Series) -> Encoded:
    """The shortest of: the values; runs of them; runs of differences; a dictionary and its keys.

    >>> encode(pl.Series(["a"] * 9))
    {'s': ['a'], 'i': {'r': [0, 9]}}
    >>> encode(pl.Series([20000, 20001, 20002, 20003]))
    {'d': [20000, 1, 3]}
    >>> encode(pl.Series([0.25, None, 3.0]))
    [0.25, None, 3]
    """
    if column.dtype == pl.String and not column.null_count():
        words = column.unique().sort()
        if 2 * words.len() < column.len():
            keys = column.replace_strict(words, pl.Series(range(words.len())))
            return {"s": words.to_list(), "i": encode(keys)}
    runs = column.rle().struct
    lengths = runs.field("len")
    sizes = {"values": column.len(), "runs": 2 * lengths.len()}
    if column.dtype.is_integer() and not column.null_count() and column.len() > 1:
        steps = column.cast(pl.Int64).diff().slice(1).rle().struct
        sizes["differences"] = 1 + 2 * steps.field("len").len()
        if sizes["differences"] < min(sizes["values"], sizes["runs"]):
            return {"d": [column[0], *_alternating(steps.field("value"), steps.field("len"))]}
    if sizes["runs"] < sizes["values"]:
        return {"r": _alternating(runs.field("value"), lengths)}
    return _numbers(column)


def _alternating(values: pl.Series, lengths: pl.Series) -> list[Any]:
    return list(chain.from_iterable(zip(_numbers(values), lengths, strict=True)))


def _numbers(column: pl.Series) -> list[Any]:
    """Values as JSON takes them: 3.0 as 3."""
    if not column.dtype.is_float():
        return column.to_list()
    return [int(x) if x is not None and x.is_integer() else x for x in column.to_list()]


def decode(encoded: Encoded) -> list[Any]:
    """What was encoded; the page does the same."""
    if isinstance(encoded, list):
        return encoded
    if "s" in encoded:
        return [encoded["s"][key] for key in decode(encoded["i"])]
    runs = encoded["r"] if "r" in encoded else encoded["d"][1:]
    pairs = zip(runs[::2], runs[1::2], strict=True)
    values = [value for value, times in pairs for _ in range(times)]
    return values if "r" in encoded else list(accumulate(values, initial=encoded["d"][0]))
