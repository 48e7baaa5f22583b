"""The dashboard's files: one over all days, one a day, each replaced atomically."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final

import polars as pl

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.report.columns import encode_tables
from review_optimizer_dagster.report.figures import SECTIONS
from review_optimizer_dagster.report.marks import LEVELS
from review_optimizer_dagster.report.page import cached_page, filled_page
from review_optimizer_dagster.report.verdict import INDICATORS, Reason, older_alerts, reasons
from review_optimizer_dagster.storage.report import (
    Span,
    context_days,
    known_days,
    open_analytics,
    read_span,
    read_tables,
)
from review_optimizer_dagster.storage.warehouse import Connection

OVERVIEW: Final = "operations.html"
CONTEXT_DAYS: Final = 30  # that a day's file shows before its day


@dataclass(frozen=True)
class Reports:
    """What was written, and what it says of its day."""

    day: date
    overview: Path
    of_day: Path
    bytes_written: int
    """Of both files."""
    seconds: float
    simulated: bool
    reasons: tuple[Reason, ...]

    @property
    def is_fine(self) -> bool:
        """Whether there is nothing to look at."""
        return not self.reasons


def write_reports(home: Home, day: date | None = None) -> Reports:
    """Write `reports/operations.html` and the file of a day (the newest, where none is named).

    Reads published/analytics.duckdb alone, so it never waits for a run. The same data gives the
    same bytes. Raises UserError without the extra `ui`, without data, or for a day without any.
    """
    began = time.perf_counter()
    analytics = home.published / "analytics.duckdb"
    with open_analytics(analytics) as connection:
        days = known_days(connection)
        if not days:
            raise UserError(f"{analytics} holds no day yet: run `review-optimizer run` first")
        chosen = day or days[-1]
        if chosen not in days:
            raise UserError(
                f"{analytics} has nothing of {chosen}: it holds {len(days)} days from {days[0]} "
                f"to {days[-1]}"
            )
        page = cached_page(home.reports)
        overview = _page_data(connection, "days", days[0], days[-1])
        first = max(days[0], context_days(chosen, CONTEXT_DAYS))
        of_day = _page_data(connection, "day", first, chosen)
    written = 0
    paths = home.reports / OVERVIEW, home.reports / f"{chosen}.html"
    titles = f"Operations to {days[-1]}", f"Operations of {chosen}"
    for path, title, told in zip(paths, titles, (overview, of_day), strict=True):
        written += _replace(path, filled_page(page, title, told))
    found = tuple(Reason(**each) for each in of_day["reasons"])
    seconds = time.perf_counter() - began
    return Reports(chosen, *paths, written, seconds, of_day["simulated"], found)


def _page_data(connection: Connection, kind: str, first: date, last: date) -> dict[str, Any]:
    """What a page is filled with: the days from first to last, the verdict of the last."""
    span = read_span(connection, first, last)
    tables = read_tables(connection, span, requests=kind == "day")
    return page_data(kind, span, tables)


def page_data(kind: str, span: Span, tables: Mapping[str, pl.DataFrame]) -> dict[str, Any]:
    """The JSON of a page, over tables as `storage.report.read_tables` gives them."""
    return {
        "kind": kind,
        "day": span.last.isoformat(),
        "first": (span.first - date(1970, 1, 1)).days,
        "last": (span.last - date(1970, 1, 1)).days,
        "tenants": span.tenants,
        "everyone": span.everyone,
        "simulated": span.simulated,
        "mixed": span.mixed,
        "sections": [[name, title] for name, title in SECTIONS.items()],
        "indicators": [[name, title] for name, title in INDICATORS.items()],
        "levels": LEVELS,
        "reasons": [asdict(reason) for reason in reasons(tables, span.last)],
        "older": older_alerts(tables["alerts"], span.last).rows(named=True),
        "tables": encode_tables(tables),
    }


def _replace(path: Path, text: str) -> int:
    """Put a file in place whole; one that says the same stays as it is. Returns its bytes."""
    data = text.encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_bytes() != data:
        temporary = path.with_name(f".{path.name}.new")
        temporary.write_bytes(data)
        temporary.replace(path)
    return len(data)
