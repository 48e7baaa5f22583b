"""`review-optimizer query`: the questions that analysts ask first, answered from published/."""

from __future__ import annotations

import argparse
import sys
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_json
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    import polars as pl
    from rich.console import Console
    from rich.table import Table

    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.storage.queries import Query

_DESCRIPTION = """Answers a question from published/analytics.duckdb, which is only read: while a
run goes on too."""
_EXAMPLES = """
review-optimizer query                                  list the questions
review-optimizer query costs                            or 01_costs, or 1
review-optimizer query costs --set month=2026-11
review-optimizer query turning_negative --set part=product --csv negative.csv
review-optimizer query where_from --set review_id=r-17 --set tenant=acme
review-optimizer query quality --sql                    print its SQL, to change it
"""
_MOST_ROWS = 50  # that a terminal is shown
_PIPE_WIDTH = 1_000  # where nobody looks at once: a table is not folded to be searched
_SHARES = (  # that are not called so
    *("share_before", "change", "hit_rate", "accuracy", "lower", "upper", "threshold"),
    *("standing_lower", "standing_upper", "error_lower", "error_upper", "distance"),
)


def add_query(commands: Any) -> None:
    """Add the command to a parser's."""
    query = commands.add_parser(
        "query",
        help="answer one of the questions that analysts ask first",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    query.add_argument("name", nargs="?", help="name or number (default: list the questions)")
    query.add_argument(
        "--set",
        action="append",
        default=[],
        type=_assignment,
        metavar="NAME=VALUE",
        help="a parameter of the question; may be given again",
    )
    query.add_argument("--sql", action="store_true", help="print the SQL instead of running it")
    query.add_argument("--csv", type=Path, metavar="OUT", help="write the rows here as CSV")
    add_json(query, "the rows (or the list of questions)")


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text} is not NAME=VALUE, such as tenant=acme")
    return name, value


def query_command(home: Home, options: argparse.Namespace) -> int:
    """List the questions, or answer one. Returns the exit code."""
    from review_optimizer_dagster.commands.consoles import console
    from review_optimizer_dagster.storage.queries import named_query, queries, run_query

    if options.name is None:
        write_json(
            options.json,
            [{"name": q.name, "question": q.question, "parameters": q.names} for q in queries()],
        )
        _show_list(console(), queries())
        return 0
    query = named_query(options.name)
    if options.sql:
        sys.stdout.write(query.sql)
        return 0
    if options.csv is not None and not options.csv.absolute().parent.is_dir():
        raise UserError(f"--csv {options.csv}: its folder does not exist; make it, or give another")
    rows = run_query(home.published / "analytics.duckdb", query, dict(options.set))
    if options.csv is not None:
        rows.write_csv(options.csv)
        written = f"{rows.height:,} {'row' if rows.height == 1 else 'rows'} in {options.csv}"
        console().print(written, soft_wrap=True, markup=False)
    write_json(options.json, rows.rows(named=True))
    if options.csv is None and options.json is None:
        _show(console(), query, rows)
    return 0


def _show_list(console: Console, known: tuple[Query, ...]) -> None:
    from rich.table import Table

    table = Table(title="questions", title_justify="left")
    for name in ("name", "question", "parameters"):
        table.add_column(name, overflow="fold")
    for query in known:
        table.add_row(query.name, query.question, ", ".join(query.names))
    console.print(table)
    console.print("review-optimizer query NAME answers one; --sql prints its SQL", markup=False)


def _show(console: Console, query: Query, rows: pl.DataFrame) -> None:
    console.print(query.question, style="bold", markup=False)
    console.print(f"One row: {query.one_row}", markup=False)
    console.print(f"Read: {query.how_to_read}", markup=False)
    console.print(f"Parameters: {query.parameters}", markup=False)
    if rows.is_empty():
        console.print("no rows")
        return
    table = _table(rows)
    wide = console.options.update(max_width=_PIPE_WIDTH)
    fits = console.measure(table, options=wide).maximum <= console.width
    console.print(table if fits else _records(rows))
    if rows.height > _MOST_ROWS:
        console.print(f"{_MOST_ROWS} of {rows.height:,} rows; --csv or --json writes them all")


def _table(rows: pl.DataFrame) -> Table:
    from rich.table import Table

    table = Table()
    for name, dtype in rows.schema.items():
        table.add_column(name, justify="right" if dtype.is_numeric() else "left", overflow="fold")
    for row in rows.head(_MOST_ROWS).iter_rows():
        table.add_row(*(_text(name, value) for name, value in zip(rows.columns, row, strict=True)))
    return table


def _records(rows: pl.DataFrame) -> Table:
    """A line a value, where a row is too wide for the terminal."""
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for row in rows.head(_MOST_ROWS).iter_rows(named=True):
        for name, value in row.items():
            if value is not None:
                table.add_row(name, _text(name, value))
        table.add_section()
    return table


def _text(name: str, value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _amount(name, value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, (date, datetime)):
        return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
    return str(value).replace("[", "\\[")


def _amount(name: str, value: float) -> str:
    """A figure as people read it: dollars to the millionth, shares in per cent."""
    if name.endswith("_usd") or name == "usd_per_1000":
        return f"${value:,.6f}"
    if name in _SHARES or name == "share" or name.endswith("_share"):
        return f"{100 * value:.2f} %"
    return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
