"""Frames as compact JSON that a browser reads back exactly: column by column, repeats left out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import groupby, pairwise
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


def _plain(column: pl.Series) -> list[Any]:
    kind = column.dtype
    if kind == pl.Date:
        return column.cast(pl.Int32).to_list()
    if isinstance(kind, pl.Datetime):
        return column.dt.epoch("ms").to_list()
    if kind == pl.Boolean:
        return column.cast(pl.Int8).to_list()
    if kind.is_float():
        digits = 9 if column.name.endswith("_usd") else 1 if column.name.endswith("_ms") else 6
        return [_short(value) for value in column.round(digits).to_list()]
    return column.to_list()


def _short(value: float | None) -> float | int | None:
    """3.0 as 3; what is no number is left out, since JSON has no word for it."""
    if value is None or value != value or value in (float("inf"), float("-inf")):
        return None
    return int(value) if value == int(value) and abs(value) < 2**53 else value


def encode(values: Sequence[Any]) -> Encoded:
    """The shortest of: the values; runs of them; runs of differences; a dictionary and its keys.

    >>> encode(["a"] * 9)
    {'s': ['a'], 'i': {'r': [0, 9]}}
    >>> encode([20000, 20001, 20002, 20003])
    {'d': [20000, 1, 3]}
    >>> encode([0.25, None, 0.5])
    [0.25, None, 0.5]
    """
    if values and all(isinstance(value, str) for value in values):
        words = sorted(set(values))
        place = {word: number for number, word in enumerate(words)}
        keyed: Encoded = {"s": words, "i": encode([place[value] for value in values])}
        return min(keyed, list(values), key=_length)
    found: list[Encoded] = [list(values), {"r": _runs(values)}]
    if len(values) > 1 and all(type(value) is int for value in values):
        steps = [after - before for before, after in pairwise(values)]
        found.append({"d": [values[0], *_runs(steps)]})
    return min(found, key=_length)


def _runs(values: Sequence[Any]) -> list[Any]:
    return [each for value, run in groupby(values) for each in (value, sum(1 for _ in run))]


def _length(encoded: Encoded) -> int:
    return len(json.dumps(encoded, separators=(",", ":")))


def decode(encoded: Encoded) -> list[Any]:
    """What was encoded; the page does the same."""
    if isinstance(encoded, list):
        return encoded
    if "s" in encoded:
        return [encoded["s"][key] for key in decode(encoded["i"])]
    runs = encoded["r"] if "r" in encoded else encoded["d"][1:]
    values = [
        value for value, times in zip(runs[::2], runs[1::2], strict=True) for _ in range(times)
    ]
    if "r" in encoded:
        return values
    found = [encoded["d"][0]]
    for step in values:
        found.append(found[-1] + step)
    return found
