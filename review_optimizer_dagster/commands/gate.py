"""The command `review-optimizer gate`: a day's verdicts, what they rest on, and the suites."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import add_date, add_json
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.storage.warehouse import Connection

_DESCRIPTION = """Shows the verdict of each tenant's day with its sample size, and what it rests on:
parts, causes, and the reviews that a truth contradicts."""
_EXAMPLES = """
review-optimizer gate                         the last day: verdicts, parts, causes, wrong reviews
review-optimizer gate --date 2026-11-20 --tenant acme --json gate.json
review-optimizer gate --json | jq '.verdicts[] | {tenant, verdict}'
review-optimizer gate --export gate_suites    suites and tables for Great Expectations elsewhere
"""
_EXIT_CODES = {
    0: "no tenant's day failed",
    1: "a tenant's day failed",
    2: "something you can mend: no such day or tenant",
}
_TABLES = {
    "verdicts": "gate_verdicts",
    "accuracy": "accuracy_cells",
    "causes": "gate_causes",
}
_SHOWN = {
    "verdicts": (
        "tenant",
        "verdict",
        "truth",
        "n",
        "accuracy",
        "lower",
        "upper",
        "threshold",
        "goal",
    ),
    "accuracy": ("tenant", "truth", "dimension", "name", "n", "accuracy", "lower", "upper"),
    "causes": ("tenant", "kind", "source", "field", "label", "category", "wrong", "n"),
    "wrong": ("tenant", "review_id", "category", "level", "labels", "known"),
}
_MOST_ROWS = 20


def add_gate(commands: Any) -> None:
    """Add the command to a parser's."""
    gate = commands.add_parser(
        "gate",
        help="show a day's verdicts and what they rest on; export the suites",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    add_date(gate, "the last one that was judged")
    gate.add_argument("--tenant", metavar="T", help="of this tenant")
    gate.add_argument(
        "--export",
        type=Path,
        metavar="DIR",
        help="write the suites, their tables and a script that runs them into this folder",
    )
    add_json(gate, "every row")


def gate_command(home: Home, options: argparse.Namespace) -> int:
    """Do what the options of `add_gate` say; returns the exit code."""
    from review_optimizer_dagster.commands.consoles import working
    from review_optimizer_dagster.storage.gate import judged_days
    from review_optimizer_dagster.storage.warehouse import Warehouse

    warehouse = Warehouse(database=str(home.warehouse))
    with working("reading the gate's verdicts"), warehouse.open(read_only=True) as connection:
        days = judged_days(connection, 1)
        day = options.date or (days[-1] if days else None)
        if day is None:
            raise UserError("no day was judged yet: run `review-optimizer run` first")
        found = _rows(connection, day, options.tenant)
        if not found["verdicts"]:
            whose = f" of {options.tenant}" if options.tenant else ""
            raise UserError(f"no verdict{whose} on {day}: was that day run?")
        if options.export is not None:
            _export(connection, home, day, options.tenant, options.export)
    write_json(options.json, {"day": day, **found})
    _print(day, found)
    return int(any(row["verdict"] == "failed" for row in found["verdicts"]))


def _rows(connection: Connection, day: date, tenant: str | None) -> dict[str, list[dict[str, Any]]]:
    from review_optimizer_dagster.storage.gate import wrong_reviews
    from review_optimizer_dagster.storage.partition import of_day

    frames = {name: of_day(connection, table, day) for name, table in _TABLES.items()}
    frames["wrong"] = wrong_reviews(connection, day, limit=1_000)
    if tenant is not None:
        frames = {name: frame.filter(tenant=tenant) for name, frame in frames.items()}
    return {name: frame.rows(named=True) for name, frame in frames.items()}


def _export(
    connection: Connection, home: Home, day: date, tenant: str | None, folder: Path
) -> None:
    import polars as pl

    from review_optimizer_dagster.storage import gate
    from review_optimizer_dagster.storage.partition import accepted_counts, of_day
    from review_optimizer_dagster.suites.export import Exported, export
    from review_optimizer_dagster.taxonomies import load_taxonomy
    from review_optimizer_dagster.truth.scores import DECIDING

    results = of_day(connection, "review_results", day)
    cells = of_day(connection, "accuracy_cells", day)
    verdicts = of_day(connection, "gate_verdicts", day)
    accepted, references = accepted_counts(connection, day), gate.references(connection, day)
    tables = []
    for row in verdicts.sort("tenant").iter_rows(named=True):
        key = (row["tenant"], row["taxonomy"])
        if tenant not in (None, row["tenant"]):
            continue
        own = {"tenant": row["tenant"], "taxonomy": row["taxonomy"]}
        decides = cells.filter(pl.col("truth").is_in(DECIDING), truth=row["truth"], **own)
        tables.append(
            Exported(
                row["tenant"],
                load_taxonomy(row["taxonomy"], home.folder / "taxonomies"),
                results.filter(**own),
                references.filter(tenant=row["tenant"]),
                decides,
                accepted.get(key, 0),
                home.tenant(row["tenant"]).pool or row["tenant"],
                row["threshold"],
            )
        )
    files = export(folder, day.isoformat(), tables)
    sys.stdout.write(f"wrote {len(files)} files; run them: python {folder / 'run_gate.py'}\n")


def _print(day: date, found: dict[str, list[dict[str, Any]]]) -> None:
    from review_optimizer_dagster.commands.consoles import console

    out = console()
    out.print(f"gate of {day}")
    out.print(_table(found["verdicts"], _SHOWN["verdicts"]))
    for row in found["verdicts"]:
        told = f"{row['tenant']} {row['verdict']}: {row['detail']}"
        out.print(told, markup=False, soft_wrap=True)
    titles = {
        "accuracy": "accuracy by part, by each truth",
        "causes": "what failed days come from",
        "wrong": "reviews that a truth contradicts",
    }
    for name, title in titles.items():
        rows = found[name]
        if rows:
            out.print(f"\n{title}")
            out.print(_table(rows[:_MOST_ROWS], _SHOWN[name]))
        if len(rows) > _MOST_ROWS:
            out.print(f"and {len(rows) - _MOST_ROWS:,} more: --json has them")


def _table(rows: list[dict[str, Any]], columns: tuple[str, ...]) -> Table:
    from rich.text import Text

    from review_optimizer_dagster.commands.consoles import table

    made = table(*columns)
    for row in rows:
        # Plain text: no markup of what a name or a label holds.
        made.add_row(*(Text(_cell(row[name])) for name in columns))
    return made


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
