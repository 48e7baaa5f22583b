"""A week of a daily feed under the gate, and then a day whose answers are poisoned.

Real reviews go through the whole pipeline. A random part of each day's is delivered with its gold
label, which is what the gate knows; the benchmark knows all of them. On the poisoned day the
simulator gives a share of one category's answers wrong; then the day is run again, and the next day
is served.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from review_optimizer_dagster_tests.benchmarks.daily_feed import (
    FIRST_DAY,
    BenchmarkHome,
    FeedPlan,
    feed_days,
    rows_and_source,
)
from review_optimizer_dagster_tests.benchmarks.labelled import shuffled
from review_optimizer_dagster_tests.benchmarks.savings import archive_and_traffic

if TYPE_CHECKING:
    from review_optimizer_dagster.storage.warehouse import Connection

REDELIVERED: Final = 0.5
_VERDICT: Final = """
    SELECT verdict, truth, n, texts, correct, accuracy, lower, upper, standing_days, standing_texts,
        standing_lower, standing_upper, standing_verdict, detail
    FROM gate_verdicts WHERE day = ?
"""
_CELLS: Final = """
    SELECT dimension, name, n, texts, correct, accuracy, lower, upper, below FROM accuracy_cells
    WHERE day = ? AND truth = 'labels' AND dimension IN ('class', 'category', 'level')
    ORDER BY dimension, name
"""
_LEVELS: Final = """
    SELECT indicator, target, value, n, met, budget_left FROM service_levels
    WHERE day = ? ORDER BY indicator
"""
_ALERTS: Final = "SELECT kind, severity, message FROM alerts WHERE period = ? ORDER BY raised_at"
_PUBLISHED: Final = """
    SELECT review_id, verified, json_extract_string(labels, '$.' || $field) AS served
    FROM published_results WHERE day = $day
"""
_SERVED: Final = """
    SELECT review_id, level, json_extract_string(labels, '$.' || $field) AS served
    FROM review_results WHERE day = $day
"""
_ARCHIVED: Final = """
    SELECT review_id, json_extract_string(labels, '$.' || $field) AS served
    FROM review_archive WHERE day = $day
"""


def look(connection: Connection, day: date, field: str, gold: pl.DataFrame) -> dict[str, Any]:
    """What the gate, the monitors and the tables say of a day, and what is true of it; JSON.

    gold: review_id, label.
    """
    frames = {
        name: connection.frame(sql, [day])
        for name, sql in (("verdict", _VERDICT), ("cells", _CELLS), ("service", _LEVELS))
    }
    served, published, archived = (
        connection.frame(sql, {"day": day, "field": field})
        .join(gold, on="review_id")
        .with_columns(wrong=pl.col("served") != pl.col("label"))
        for sql in (_SERVED, _PUBLISHED, _ARCHIVED)
    )
    return {
        "day": day.isoformat(),
        "reviews": served.height,
        "wrong": int(served["wrong"].sum()),
        "hits": served.filter(~pl.col("level").is_in(["model", "none"])).height,
        "verdict": frames["verdict"].row(0, named=True),
        "cells": frames["cells"].rows(named=True),
        "service": frames["service"].rows(named=True),
        "published": {
            "reviews": published.height,
            "verified": int(published["verified"].sum()),
            "wrong": int(published["wrong"].sum()),
            "wrong_and_verified": published.filter("verified", "wrong").height,
        },
        "archived": {"texts": archived.height, "wrong": int(archived["wrong"].sum())},
        "alerts": connection.frame(_ALERTS, [day.isoformat()]).rows(named=True),
    }


def labelled_in_part(rows: pl.DataFrame, share: float, seed: int) -> pl.DataFrame:
    """The rows of a day, with the label of a random part of them alone."""
    chosen = shuffled(rows, seed).head(round(share * rows.height))["review_id"]
    return rows.with_columns(
        label=pl.when(pl.col("review_id").is_in(chosen.implode())).then("label")
    )


def poisoned(
    home: BenchmarkHome,
    days: Sequence[pl.DataFrame],
    gold: pl.DataFrame,
    category: str,
    rate: float,
) -> dict[str, Any]:
    """The next day with a share of a category's answers wrong; run again; and the day after.

    days: the rows of the two days, as they are delivered. Returns JSON: what `look` says after each
    run, and what the run sent.
    """
    field, found = home.taxonomy.main.name, dict[str, Any](category=category, rate=rate)
    bad_day = FIRST_DAY + timedelta(days=8)
    runs: tuple[tuple[str, date, pl.DataFrame | None, dict[str, float]], ...] = (
        ("poisoned", bad_day, days[0], {category: rate}),
        ("run_again", bad_day, None, {}),
        ("next_day", bad_day + timedelta(days=1), days[1], {}),
    )
    for name, day, rows, flips in runs:
        summary = home.run(day, rows, flips)
        with home.open() as connection:
            found[name] = look(connection, day, field, gold)
        found[name] |= {
            "requests_of_the_run": summary["this_run"]["requests"],
            "cost_usd_of_the_run": summary["this_run"]["cost_usd"],
        }
    return found


def week(
    archive: pl.DataFrame,
    traffic: pl.DataFrame,
    plan: FeedPlan,
    rates: Sequence[float],
    labelled: float,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """A quiet week and the poisoned days after it; returns JSON: `days`, `poisoned`, `setup`."""
    plan = FeedPlan(plan.archived, 9, plan.day_rows, (REDELIVERED,), plan.max_error, plan.seed)
    plan = plan.within(archive.height, traffic.height)
    rows, source = rows_and_source(archive, traffic, plan)
    gold = rows.select("review_id", "label").unique("review_id")
    days = [
        labelled_in_part(delivered, labelled, number)
        for number, delivered in enumerate(feed_days(source, plan, REDELIVERED))
    ]
    sizes = days[7]["category"].value_counts().sort("count", descending=True)
    category = str(sizes["category"][0])
    with tempfile.TemporaryDirectory() as folder:
        settings = {"tenant": {"max_error": plan.max_error}}
        home = BenchmarkHome.create(Path(folder) / "home", rows, settings)
        note(f"archiving {source.archived.height:,} reviews before day one")
        home.run(FIRST_DAY, source.archived)
        quiet = []
        for number, delivered in enumerate(days[:7], start=1):
            day = FIRST_DAY + timedelta(days=number)
            note(f"day {number}: {delivered.height:,} reviews")
            home.run(day, delivered)
            with home.open() as connection:
                quiet.append(look(connection, day, home.taxonomy.main.name, gold))
        spoiled = []
        for rate in rates:
            note(f"{rate:.0%} of the answers to {category} are wrong")
            place = Path(folder) / "copy"
            spoiled.append(poisoned(home.copied(place), days[7:9], gold, category, rate))
            shutil.rmtree(place)
    setup: dict[str, Any] = {
        "archived": source.archived.height,
        "day_rows": plan.day_rows,
        "seed": plan.seed,
    }
    setup |= {"redelivered": REDELIVERED, "labelled": labelled}
    return {"setup": setup, "days": quiet, "poisoned": spoiled}


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.2f} %"


def _interval(row: dict[str, Any]) -> str:
    ends = f"[{_percent(row['lower'])}, {_percent(row['upper'])}]"
    return f"{_percent(row['accuracy'])} {ends} of {row['n']:,}"


def print_tables(figures: dict[str, Any], console: Console) -> None:
    """The week day by day, its parts on the last day, and what became of the poisoned days."""
    columns = ("day", "reviews", "hits", "in truth right", "verdict", "accuracy, 90 % interval")
    table = Table(*columns, "all days together", "service levels broken")
    for row in figures["days"]:
        verdict = row["verdict"]
        together = {
            name: verdict[f"standing_{name}"] for name in ("verdict", "lower", "upper", "texts")
        }
        ends = f"[{_percent(together['lower'])}, {_percent(together['upper'])}]"
        table.add_row(
            row["day"],
            f"{row['reviews']:,}",
            _percent(row["hits"] / row["reviews"]),
            _percent(1 - row["wrong"] / row["reviews"]),
            verdict["verdict"],
            _interval(verdict),
            f"{together['verdict']} {ends} of {together['texts']:,} texts",
            ", ".join(each["indicator"] for each in row["service"] if each["met"] is False),
        )
    console.print(table)
    table = Table("last day: part", "name", "accuracy, 90 % interval", "below")
    for cell in figures["days"][-1]["cells"]:
        table.add_row(cell["dimension"], cell["name"], _interval(cell), str(cell["below"]))
    console.print(table)
    shown = ("poisoned", "run", "verdict", "wrong", "published", "wrong among them", "verified")
    table = Table(*shown, "archived", "wrong in the archive", "requests", "alerts")
    for each in figures["poisoned"]:
        for name in ("poisoned", "run_again", "next_day"):
            run, published = each[name], each[name]["published"]
            kinds = sorted({alert["kind"] for alert in run["alerts"]})
            table.add_row(
                f"{each['rate']:.0%} of {each['category']}",
                name,
                run["verdict"]["verdict"],
                f"{run['wrong']:,} of {run['reviews']:,}",
                f"{published['reviews']:,}",
                f"{published['wrong']:,} ({published['wrong_and_verified']:,} verified)",
                f"{published['verified']:,}",
                f"{run['archived']['texts']:,}",
                f"{run['archived']['wrong']:,}",
                f"{run['requests_of_the_run']:,}",
                ", ".join(kinds),
            )
    console.print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the week and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--reviews", type=Path, metavar="FILE", help="else the built-in sample")
    parser.add_argument("--archived", type=int, default=11_000, help="reviews before day one")
    parser.add_argument("--day-rows", type=int, default=3_000, help="reviews a day")
    parser.add_argument(
        "--labelled", type=float, default=0.1, help="share of each day that has its gold label"
    )
    parser.add_argument(
        "--rates", type=float, nargs="+", default=[0.1, 0.3], help="shares of poisoned answers"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures here")
    options = parser.parse_args(arguments)
    console = Console(width=200)
    options.archive = options.traffic = None
    archive, traffic, _ = archive_and_traffic(options)
    plan = FeedPlan(archived=options.archived, day_rows=options.day_rows, seed=options.seed)
    figures = week(archive, traffic, plan, options.rates, options.labelled, console.print)
    print_tables(figures, console)
    if options.json is not None:
        text = json.dumps(figures, indent=2, default=str)
        options.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
