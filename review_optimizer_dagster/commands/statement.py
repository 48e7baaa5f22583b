"""`review-optimizer statement` and `book`: what a tenant owes, and what is booked by hand."""

from __future__ import annotations

import argparse
import calendar
import getpass
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_json, parse_day
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.money.amounts import usd
from review_optimizer_dagster.money.statement import agrees, as_json, with_dollars

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console

    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.storage.warehouse import Warehouse

_STATEMENT_EXAMPLES = """
review-optimizer statement --tenant acme --month 2026-11
review-optimizer statement --tenant acme --month 2026-11 --csv lines.csv --json bill.json
review-optimizer statement --tenant acme --month 2026-11 --as-of 2026-12-03
    the same statement as on that day, whatever was booked since
review-optimizer statement --tenant acme --month 2026-11 --entries entries.csv
"""
_STATEMENT_EXIT_CODES = {
    0: "done, and the books agree",
    1: "ledger, requests and daily sums differ",
    2: "something you can mend: no entry of that tenant, or a month that is none",
}
_BOOK_EXAMPLES = """
review-optimizer book refund --tenant acme --date 2026-11-20 --usd -0.0123 --reference CN-2026-17
review-optimizer book refund --tenant acme --date 2026-11-20 --usd -0.004 --reference CN-18 \\
    --request 2026-11-20-1f0c... --note "job of the Batch API expired"
review-optimizer book adjustment --tenant acme --date 2026-11-30 --usd 5 --reference INV-7
"""
_NANOS = Decimal(1_000_000_000)


def add_statement(commands: Any) -> None:
    """Add the command `statement` to a parser's."""
    statement = commands.add_parser(
        "statement",
        help="what a tenant owes for a month of delivery",
        description="Adds up the ledger of a tenant's days of delivery in a month, and holds it "
        "against requests and daily sums.",
        examples=_STATEMENT_EXAMPLES,
        exit_codes=_STATEMENT_EXIT_CODES,
    )
    statement.add_argument("--tenant", metavar="T", required=True, help="who is billed")
    statement.add_argument(
        "--month", type=_month, metavar="YYYY-MM", help="default: its last one with an entry"
    )
    statement.add_argument(
        "--as-of", type=_moment, metavar="MOMENT", help="leave out what was booked after it (UTC)"
    )
    statement.add_argument("--csv", type=Path, metavar="OUT", help="write the lines here")
    statement.add_argument("--entries", type=Path, metavar="OUT", help="write every entry as CSV")
    add_json(statement, "the statement")


def add_book(commands: Any) -> None:
    """Add the command `book` to a parser's."""
    book = commands.add_parser(
        "book",
        help="book a refund or an adjustment into the ledger",
        description="Adds an entry to the ledger; nothing in it is ever changed.",
        examples=_BOOK_EXAMPLES,
    )
    book.add_argument(
        "kind",
        choices=["refund", "adjustment"],
        help="a refund is money that came back; an adjustment is anything else",
    )
    book.add_argument("--tenant", metavar="T", required=True, help="whose ledger")
    book.add_argument(
        "--date",
        type=parse_day,
        metavar="D",
        required=True,
        help="UTC day of delivery that it belongs to: YYYY-MM-DD, today or yesterday",
    )
    book.add_argument(
        "--usd", type=_usd, metavar="X", required=True, help="dollars; negative: money came back"
    )
    book.add_argument(
        "--reference",
        metavar="REF",
        required=True,
        help="the provider's number for it; booked once, however often this is run",
    )
    book.add_argument("--request", metavar="ID", help="share it among this request's reviews")
    book.add_argument("--note", default="", help="why")
    book.add_argument("--by", default="", metavar="NAME", help="who books it (default: you)")
    book.add_argument("--simulated", action="store_true", help="into the books of simulated money")
    add_json(book, "what was booked")


def _month(text: str) -> date:
    try:
        return datetime.strptime(text, "%Y-%m").date()
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text} is no month such as 2026-11") from error


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text} is no moment such as 2026-12-03 or 2026-12-03T09:00:00Z"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _usd(text: str) -> int:
    """Dollars as nano-dollars."""
    try:
        nanos = Decimal(text) * _NANOS
    except InvalidOperation as error:
        raise argparse.ArgumentTypeError(f"{text} is no amount of dollars") from error
    if not nanos.is_finite() or nanos != int(nanos) or not nanos or abs(nanos) >= 2**62:
        raise argparse.ArgumentTypeError(
            f"{text} is no amount of dollars other than 0 with at most nine decimals"
        )
    return int(nanos)


def statement(home: Home, options: argparse.Namespace) -> int:
    """Print a tenant's statement, and write it where asked. Returns the exit code."""
    from review_optimizer_dagster.commands.consoles import console, working
    from review_optimizer_dagster.storage import statement as stored

    for name, path in (("--csv", options.csv), ("--entries", options.entries)):
        if path is not None and not path.absolute().parent.is_dir():
            raise UserError(f"{name} {path}: its folder does not exist; make it first")
    tenant, at = options.tenant, options.as_of or datetime.now(UTC)
    with (
        working("adding up the ledger"),
        _warehouse(home).open(read_only=True) as connection,
        _of_this_version(home),
    ):
        month = options.month or stored.last_day(connection, tenant)
        if month is None:
            known = ", ".join(stored.billed_tenants(connection)) or "none"
            raise UserError(f"{tenant!r} has no entry in the ledger; tenants that have: {known}")
        first = month.replace(day=1)
        last = month.replace(day=calendar.monthrange(month.year, month.month)[1])
        found = stored.read_statement(connection, tenant, first, last, at)
        if options.entries is not None:
            entries = stored.read_entries(connection, tenant, first, last, at)
            with_dollars(entries).write_csv(options.entries)
    told = as_json(tenant, first, options.as_of, found)
    show(console(), told, found)
    if options.csv is not None:
        with_dollars(found["lines"]).write_csv(options.csv)
    write_json(options.json, told)
    return 0 if told["reconciles"] else 1


@contextmanager
def _of_this_version(home: Home) -> Iterator[None]:
    """Say what to do where a warehouse that is only read lacks a column of today's."""
    import duckdb

    try:
        yield
    except (duckdb.BinderException, duckdb.CatalogException) as error:
        raise UserError(
            f"{home.warehouse} was written by an earlier version: run `review-optimizer run` once"
        ) from error


def _warehouse(home: Home) -> Warehouse:
    from review_optimizer_dagster.storage.warehouse import Warehouse

    return Warehouse(database=str(home.warehouse))


def _bookings(changes: pl.DataFrame) -> list[dict[str, Any]]:
    """What changed the cost, all entries of one booking together."""
    import polars as pl

    return (
        changes.group_by("booked_at", "day", "kind", "note", maintain_order=True)
        .agg(pl.col("cost_nanos").sum(), entries=pl.len())
        .filter(pl.col("cost_nanos") != 0)
        .rows(named=True)
    )


def show(console: Console, told: Mapping[str, Any], found: Mapping[str, pl.DataFrame]) -> None:
    """The statement as tables."""
    from review_optimizer_dagster.commands.consoles import table

    as_of = f", as of {told['as_of']}" if told["as_of"] else ""
    console.print(f"[bold]{told['tenant']}  {told['month']}{as_of}[/]")
    if not told["books"]:
        console.print("no entry in that month")
    for name, book in told["books"].items():
        mark = "  [yellow]SIMULATED: no money was spent[/]" if name == "simulated" else ""
        right = ("entries", "cost", "avoided")
        made = table("purpose, then day", *right, title=f"{name} money{mark}", right=right)
        for by in ("purpose", "day"):
            for row in book[f"by_{by}"]:
                dollars = f"${row['cost_usd']}", f"${row['avoided_usd']}"
                made.add_row(str(row[by]), f"{row['entries']:,}", *dollars)
            made.add_section()
        dollars = f"${book['cost_usd']}", f"${book['avoided_usd']}"
        made.add_row("total", f"{book['entries']:,}", *dollars, style="bold")
        console.print(made)
        if Decimal(book["held_usd"]):
            console.print(f"held for requests of unknown outcome, not billed: ${book['held_usd']}")
    for row in _bookings(found["changes"]):
        console.print(
            f"{row['booked_at']:%Y-%m-%d %H:%M} {row['kind']} of ${usd(row['cost_nanos'])} "
            f"to {row['day']}, {row['entries']:,} entries: {row['note']}",
            markup=False,
            soft_wrap=True,
        )
    if told["reconciles"]:
        console.print("ledger, requests and daily sums agree to the nano-dollar")
        return
    for check in filter(lambda row: not agrees(row), found["checks"].rows(named=True)):
        console.print(
            f"[red]THE BOOKS DIFFER[/]: ledger ${usd(check['ledger_nanos'])}, of it by hand "
            f"${usd(check['by_hand_nanos'])}; requests ${usd(check['requests_nanos'])}; daily sums "
            f"${usd(check['rollups_nanos'])}: run the month's days again"
        )


def book(home: Home, options: argparse.Namespace) -> int:
    """Book a refund or an adjustment. Returns the exit code."""
    import logging

    from review_optimizer_dagster.core.costs import ManualEntry
    from review_optimizer_dagster.defs.money import book_by_hand
    from review_optimizer_dagster.defs.resources import HomeFolder

    settings = home.tenant(options.tenant)
    if options.kind == "refund" and options.usd > 0:
        raise UserError("a refund is money that came back: give --usd a negative amount")
    entry = ManualEntry(
        options.kind,
        options.tenant,
        settings.taxonomy,
        options.simulated or home.is_demo,
        options.usd,
        options.reference,
        options.note,
    )
    by = options.by or getpass.getuser()
    with _warehouse(home).open() as connection:
        new = book_by_hand(
            logging.getLogger(__name__),
            HomeFolder(folder=str(home.folder)),
            connection,
            options.date,
            entry,
            options.request,
            by,
        )
    entries = f"{new:,} {'entry' if new == 1 else 'entries'}"
    done = f"booked as {entries}" if new else "was booked before: nothing is booked twice"
    sys.stdout.write(f"{options.kind} {options.reference} of ${usd(options.usd)}: {done}\n")
    write_json(
        options.json,
        {
            "kind": options.kind,
            "tenant": options.tenant,
            "day": options.date,
            "reference": options.reference,
            "usd": usd(options.usd),
            "simulated": entry.simulated,
            "entries": new,
        },
    )
    return 0
