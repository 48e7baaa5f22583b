"""A ledger of millions of entries: size, a day's append, a monthly statement, publishing.

python -m review_optimizer_dagster_tests.benchmarks.ledger [--entries 10000000] [--day-entries 5000]
    [--window 90] [--naive] [--json OUT]

The entries are made up: two tenants, days of `--day-entries`, a tenth of them hits, ids as long as
real ones. `--naive` also keeps the same entries under a key index, as one would at first.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster.core.costs import LEDGER
from review_optimizer_dagster.storage import ledger, publish, statement
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

FIRST_DAY: Final = date(2020, 1, 1)
REPEATS: Final = 5
CHUNK_DAYS: Final = 100  # inserted at a time
_MADE: Final = """
INSERT INTO ledger_entries BY NAME
SELECT d AS day, md5(d::VARCHAR || n::VARCHAR) AS entry_id,
    CASE WHEN n % 5 < 3 THEN 'acme' ELSE 'globex' END AS tenant, tenant AS scope,
    'reviews' AS taxonomy, 'category-' || (n % 24) AS category, 'r-' || d || '-' || n AS review_id,
    md5('text' || d || n) AS content_key,
    CASE WHEN n % 10 = 0 THEN 'hit' WHEN n % 50 = 1 THEN 'audit' ELSE 'classification' END AS kind,
    kind AS purpose,
    CASE WHEN n % 10 > 0 THEN d || '-' || substr(md5(d::VARCHAR || n // 70), 1, 24) END
        AS request_id,
    CASE WHEN n % 10 > 0 THEN 1 END AS generation,
    CASE WHEN n % 10 = 0 THEN 'l3_exact' ELSE 'model' END AS level,
    CASE WHEN n % 10 > 0 THEN 'standard' END AS tier,
    CASE WHEN n % 10 > 0 THEN 'default' END AS service_tier,
    'gpt-6-luna' AS model, false AS simulated,
    CASE WHEN n % 10 > 0 THEN 10000 + hash(d, n) % 9000 ELSE 0 END AS cost_nanos,
    CASE WHEN n % 10 = 0 THEN 13000 ELSE 0 END AS avoided_nanos,
    CASE WHEN n % 10 = 0 THEN 'median_paid' END AS avoided_rule,
    d::TIMESTAMP + INTERVAL 25 HOUR AS incurred_at, incurred_at AS booked_at, 'made up' AS booked_by
FROM (SELECT unnest(generate_series($first::DATE, $last::DATE, INTERVAL 1 DAY))::DATE AS d),
    range($entries) AS numbers(n)
ORDER BY d, n
"""


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--day-entries", type=int, default=5_000)
    parser.add_argument("--window", type=int, default=90, help="days that analytics.duckdb holds")
    parser.add_argument("--naive", action="store_true", help="with a key index beside it")
    parser.add_argument("--json", type=Path)
    return parser.parse_args(arguments)


def filled(connection: Connection, days: int, entries: int) -> float:
    """Fill the ledger, day by day in order; returns seconds."""
    began = time.perf_counter()
    for number in range(0, days, CHUNK_DAYS):
        first = FIRST_DAY + timedelta(days=number)
        last = FIRST_DAY + timedelta(days=min(number + CHUNK_DAYS, days) - 1)
        connection.execute(_MADE, {"first": first, "last": last, "entries": entries})
    connection.execute("CHECKPOINT")
    return time.perf_counter() - began


def one_day(entries: int) -> pl.DataFrame:
    """A day's entries that no ledger has yet: LEDGER."""
    moment = datetime.now(UTC)
    number = pl.int_range(entries).cast(pl.String)
    columns = {
        "entry_id": pl.lit("new-") + number,
        "review_id": pl.lit("review-") + number,
        "content_key": pl.lit("text-") + number,
        "request_id": pl.lit("request-") + (pl.int_range(entries) // 70).cast(pl.String),
        "cost_nanos": pl.lit(13_000),
        "avoided_nanos": pl.lit(0),
        "simulated": pl.lit(False),
        "incurred_at": pl.lit(moment),
        "booked_at": pl.lit(moment),
    }
    texts = {"tenant": "acme", "scope": "acme", "taxonomy": "reviews", "category": "Books"}
    texts |= {"kind": "classification", "purpose": "classification", "level": "model"}
    columns |= {name: pl.lit(value) for name, value in texts.items()}
    frame = pl.DataFrame({"at": range(entries)}).select(**columns)
    missing = [pl.lit(None).alias(name) for name in LEDGER if name not in columns]
    return frame.with_columns(missing).select(pl.col(n).cast(t) for n, t in LEDGER.items())


def timed(work: Callable[[], object], times: int = REPEATS) -> dict[str, float]:
    """Seconds of a piece of work, over so many runs."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return {
        "median": sorted(seconds)[len(seconds) // 2],
        "least": min(seconds),
        "most": max(seconds),
    }


def measure_at(folder: Path, days: int, options: argparse.Namespace) -> dict[str, Any]:
    """A ledger of so many days: its size, and what a day, a statement and publishing take."""
    file, published = folder / "warehouse.duckdb", folder / "published"
    warehouse = Warehouse(database=str(file), memory_limit="600MB")
    last = FIRST_DAY + timedelta(days=days - 1)
    new = one_day(options.day_entries)
    with warehouse.open() as connection:
        fill_seconds = filled(connection, days, options.day_entries)
    size = file.stat().st_size
    number = iter(range(1, 10_000))

    def append() -> None:
        """A whole step: open, read the day, append what is new, close."""
        day = last + timedelta(days=next(number))
        with warehouse.open() as connection:
            ledger.booked(connection, day)
            if ledger.append(connection, day, new) != new.height:
                raise RuntimeError("a new day's entries must all be new")

    def append_again() -> None:
        with warehouse.open() as connection:
            if ledger.append(connection, last + timedelta(days=1), new):
                raise RuntimeError("the same entries must not be booked twice")

    def state() -> None:
        first = (last.replace(day=1) - timedelta(days=1)).replace(day=1)
        until = last.replace(day=1) - timedelta(days=1)
        with warehouse.open(read_only=True) as connection:
            statement.read_statement(connection, "acme", first, until, datetime.now(UTC))

    def look_at_all() -> None:
        with warehouse.open() as connection, connection.view("entries", new):
            connection.frame(
                "SELECT entry_id FROM ledger_entries SEMI JOIN entries USING (entry_id)"
            )

    def publish_all() -> None:
        with warehouse.open() as connection:
            publish.write_files(connection, published, last, options.window)

    figures: dict[str, Any] = {
        "entries": days * options.day_entries,
        "days": days,
        "fill_seconds": fill_seconds,
        "bytes": size,
        "append": timed(append),
        "append_again": timed(append_again),
        "against_all": timed(look_at_all),
        "statement": timed(state),
    }
    with warehouse.open() as connection:
        # The history's Parquet files are there already in a home that has run every day.
        for made in range(days + REPEATS + 1):
            path = published / "ledger_entries" / f"{FIRST_DAY + timedelta(days=made)}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
    figures["publish"] = timed(publish_all, 3)
    figures["analytics_bytes"] = (published / "analytics.duckdb").stat().st_size
    return figures


def with_key(folder: Path, days: int, options: argparse.Namespace) -> dict[str, Any]:
    """The naive way: the same entries under a primary key."""
    warehouse = Warehouse(database=str(folder / "keyed.duckdb"), memory_limit="2GB")
    new = one_day(options.day_entries)
    number = iter(range(10_000))
    with warehouse.open() as connection:
        connection.execute("ALTER TABLE ledger_entries ALTER COLUMN entry_id SET NOT NULL")
        connection.execute("ALTER TABLE ledger_entries ADD PRIMARY KEY (entry_id)")
        fill_seconds = filled(connection, days, options.day_entries)

    def append() -> None:
        run = next(number)
        entries = new.with_columns(pl.col("entry_id") + f"-{run}")
        with warehouse.open() as connection:
            connection.append("ledger_entries", entries, day=FIRST_DAY + timedelta(days=days + run))

    return {
        "entries": days * options.day_entries,
        "fill_seconds": fill_seconds,
        "bytes": (folder / "keyed.duckdb").stat().st_size,
        "append": timed(append),
    }


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """A tenth of the entries, all of them, and the naive way where asked."""
    days = max(options.window + 31, options.entries // options.day_entries)
    figures: dict[str, Any] = {"window_days": options.window, "day_entries": options.day_entries}
    sizes = []
    for count in sorted({max(options.window + 31, days // 10), days}):
        folder = Path(tempfile.mkdtemp())
        sizes.append(measure_at(folder, count, options))
        shutil.rmtree(folder)
    figures["sizes"] = sizes
    if options.naive:
        folder = Path(tempfile.mkdtemp())
        figures["with_key"] = with_key(folder, days, options)
        shutil.rmtree(folder)
    return figures


def show(console: Console, figures: dict[str, Any]) -> None:
    """The figures as a table."""
    table = Table(
        title=f"days of {figures['day_entries']:,} entries, {REPEATS} runs: median (least to most)",
        title_justify="left",
    )
    table.add_column("")
    for size in figures["sizes"]:
        table.add_column(f"{size['entries']:,} entries, {size['days']:,} days", justify="right")
    rows = {
        "a day's append, whole step": "append",
        "the same day again": "append_again",
        "naive: looked up in the whole ledger": "against_all",
        "a month's statement": "statement",
        f"publishing, {figures['window_days']} days of analytics.duckdb": "publish",
    }
    megabytes = [f"{size['bytes'] / 1e6:,.0f} MB" for size in figures["sizes"]]
    table.add_row("size of the warehouse", *megabytes)
    for name, key in rows.items():
        cells = [size[key] for size in figures["sizes"]]
        told = [f"{c['median']:.2f} s ({c['least']:.2f} to {c['most']:.2f})" for c in cells]
        table.add_row(name, *told)
    megabytes = [f"{size['analytics_bytes'] / 1e6:,.0f} MB" for size in figures["sizes"]]
    table.add_row("size of analytics.duckdb", *megabytes)
    console.print(table)
    if keyed := figures.get("with_key"):
        console.print(
            f"naive, with a primary key, {keyed['entries']:,} entries: "
            f"{keyed['bytes'] / 1e6:,.0f} MB, filled in {keyed['fill_seconds']:.0f} s, "
            f"a day's append {keyed['append']['median']:.2f} s"
        )


def main() -> None:
    """Measure, print the table, and write JSON where asked."""
    options = read_options()
    figures = measure(options)
    show(Console(width=120), figures)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
