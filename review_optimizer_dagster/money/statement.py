"""What a statement says, as programs read it: exact dollars, real and simulated money apart."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.money.amounts import usd

if TYPE_CHECKING:
    import polars as pl


def with_dollars(rows: pl.DataFrame) -> pl.DataFrame:
    """Each column of nano-dollars followed by one of exact dollars, as text."""
    import polars as pl  # start-up that other commands do not pay

    columns: list[pl.Expr | pl.Series] = []
    for name in rows.columns:
        columns.append(pl.col(name))
        if name.endswith("_nanos"):
            dollars = [usd(nanos) for nanos in rows[name]]
            columns.append(pl.Series(name.replace("_nanos", "_usd"), dollars, dtype=pl.String))
    return rows.select(columns)


def as_json(
    tenant: str, month: date, as_of: datetime | None, found: Mapping[str, pl.DataFrame]
) -> dict[str, Any]:
    """The statement as JSON: real and simulated money apart.

    `reconciles`: whether ledger, requests and daily sums say the same now.
    """
    books = {}
    for row in found["totals"].rows(named=True):
        check = found["checks"].filter(simulated=row["simulated"]).rows(named=True)[0]
        lines = found["lines"].filter(simulated=row["simulated"])
        books["simulated" if row["simulated"] else "real"] = {
            "entries": row["entries"],
            "reviews": row["reviews"],
            "cost_usd": usd(row["cost_nanos"]),
            "avoided_usd": usd(row["avoided_nanos"]),
            "held_usd": usd(check["held_nanos"]),
            "last_booked_at": row["last_booked_at"].isoformat(),
            **{
                f"by_{name}": _summed(lines, name)
                for name in ("purpose", "model", "category", "day")
            },
        }
    return {
        "tenant": tenant,
        "month": month.strftime("%Y-%m"),
        "as_of": as_of.isoformat() if as_of else None,
        "books": books,
        "changes": with_dollars(found["changes"]).rows(named=True),
        "checks": with_dollars(found["checks"]).rows(named=True),
        "reconciles": all(map(agrees, found["checks"].rows(named=True))),
    }


def agrees(check: Mapping[str, int]) -> bool:
    """Whether ledger, requests with what is booked by hand, and daily sums say the same."""
    booked = check["ledger_nanos"]
    paid = check["requests_nanos"] + check["by_hand_nanos"]
    return booked == paid == check["rollups_nanos"]


def _summed(lines: pl.DataFrame, name: str) -> list[dict[str, Any]]:
    import polars as pl

    sums = (
        lines.group_by(name)
        .agg(pl.col("entries", "cost_nanos", "avoided_nanos").sum())
        .sort("cost_nanos", "entries", name, descending=[True, True, False])
    )
    if name == "day":
        sums = sums.sort("day")
    return with_dollars(sums).drop("cost_nanos", "avoided_nanos").rows(named=True)
