"""What the cache saves and how wrong it is: hits against error, beside the naive ways.

python -m review_optimizer_dagster_tests.benchmarks.savings [--reviews FILE] [--archive FILE]
    [--traffic FILE] [--stream FILE] [--documents FILE ...] [--seeds N] [--only PARTS]
    [--embeddings FILE | --semantic] [--json OUT]

Gold labels stand in for the model. Without --reviews the texts are those of the built-in sample,
which are synthetic and far easier than people's own: their figures say nothing of real traffic.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import polars as pl
from rich.console import Console

from review_optimizer_dagster_tests.benchmarks.labelled import read_labelled, sample_rows
from review_optimizer_dagster_tests.benchmarks.vectors import Vectors

PARTS: Final = ("first-seen", "daily-feed", "stream", "documents")
MAX_ERRORS: Final = (0.05, 0.03, 0.02, 0.01)
SYNTHETIC: Final = "built-in sample, SYNTHETIC texts"
DEFAULT_MAX_ERROR: Final = 0.03
_SAMPLE_ARCHIVE: Final = 9_000
_SAMPLE_TRAFFIC: Final = 5_000


def read_options(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--reviews", type=Path, help="a file with the parts archive and bench")
    parser.add_argument("--archive", type=Path, help="a file that replaces the part archive")
    parser.add_argument("--traffic", type=Path, help="a file that replaces the part bench")
    parser.add_argument("--stream", type=Path, help="a duplicate-heavy file (else of the sample)")
    parser.add_argument("--documents", type=Path, nargs="*", default=[], metavar="FILE")
    parser.add_argument("--seeds", type=int, default=1_000, help="draws of the audits")
    parser.add_argument("--only", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    parser.add_argument(
        "--redelivered",
        default="0,0.3,0.5,0.7,0.9",
        help="shares of a day that come again, one arm of the daily feed each",
    )
    parser.add_argument(
        "--max-error", type=float, default=DEFAULT_MAX_ERROR, help="of the daily feed and stream"
    )
    parser.add_argument(
        "--embeddings", type=Path, help="an .npz with ids (review_id) and vectors: second stage"
    )
    parser.add_argument(
        "--semantic", action="store_true", help="second stage by the extra `semantic`"
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    options.only = options.only.split(",")
    if unknown := set(options.only) - set(PARTS):
        parser.error(f"--only knows {', '.join(PARTS)}, not {', '.join(sorted(unknown))}")
    options.redelivered = tuple(float(share) for share in options.redelivered.split(","))
    if not all(0 <= share < 1 for share in options.redelivered):
        parser.error("--redelivered takes shares of at least 0 and under 1")
    return options


def archive_and_traffic(options: argparse.Namespace) -> tuple[pl.DataFrame, pl.DataFrame, str]:
    """The two parts (ROWS), and what they are, for the titles of the tables."""
    if options.reviews is None and options.archive is None and options.traffic is None:
        archive = sample_rows(_SAMPLE_ARCHIVE)
        traffic = sample_rows(_SAMPLE_TRAFFIC, first=_SAMPLE_ARCHIVE)
        return archive, traffic, SYNTHETIC
    parts = {}
    if options.reviews is not None:
        rows = read_labelled(options.reviews)
        parts = {"archive": rows.filter(part="archive"), "traffic": rows.filter(part="bench")}
    for name in ("archive", "traffic"):
        if (file := getattr(options, name)) is not None:
            parts[name] = read_labelled(file)
    if len(parts) < 2:
        raise SystemExit("--archive and --traffic go together where --reviews is not given")
    archive, traffic = (
        parts[name].drop("part", strict=False).unique("review_id", maintain_order=True)
        for name in ("archive", "traffic")
    )
    return archive, traffic, "labelled reviews of the files given"


def main() -> None:
    """Run the parts that are asked for, print their tables, and write JSON where asked."""
    options = read_options()
    # Read when the definitions and great_expectations are imported: a user's home stays untouched.
    os.environ["DAGSTER_DISABLE_TELEMETRY"] = "yes"
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    console = Console(width=190)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["REVIEW_OPTIMIZER_HOME"] = folder
        figures = measure(options, console)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def measure(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """The figures of the parts that are asked for, each printed as soon as it is there."""
    from review_optimizer_dagster_tests.benchmarks import first_seen, savings_tables
    from review_optimizer_dagster_tests.benchmarks.daily_feed import FeedPlan, daily_feed

    began = time.perf_counter()

    def note(text: str) -> None:
        console.print(f"[dim]{time.perf_counter() - began:6.0f} s  {text}[/dim]")

    figures: dict[str, Any] = {}
    archive = traffic = pl.DataFrame()
    if {"first-seen", "daily-feed"} & set(options.only):
        archive, traffic, figures["texts"] = archive_and_traffic(options)
        note(f"{archive.height:,} archived and {traffic.height:,} traffic rows: {figures['texts']}")
    if "first-seen" in options.only:
        vectors = Vectors.from_file(options.embeddings) if options.embeddings else None
        vectors = Vectors.made_here() if options.semantic else vectors
        figures |= first_seen.first_seen(archive, traffic, MAX_ERRORS, options.seeds, vectors, note)
        savings_tables.show_first_seen(console, figures)
    if "stream" in options.only:
        figures["stream"] = stream(options, note)
        savings_tables.show_stream(console, figures["stream"])
    if "documents" in options.only:
        figures["documents"] = documents(options, note)
        savings_tables.show_documents(console, figures["documents"])
    if "daily-feed" in options.only:
        plan = FeedPlan(redelivered=options.redelivered, max_error=options.max_error)
        figures |= daily_feed(archive, traffic, plan, note)
        savings_tables.show_daily_feed(console, figures)
    if figures.get("second_stage"):
        price(figures)
        savings_tables.show_second_stage(console, figures["second_stage"])
    return figures


def stream(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """The duplicate-heavy stream of the file, or of the sample."""
    from review_optimizer_dagster_tests.benchmarks import streams

    if options.stream is None:
        rows, texts = streams.sample_stream(), SYNTHETIC
    else:
        rows, texts = read_labelled(options.stream), options.stream.stem
    found = streams.stream(rows.drop("part", strict=False), options.max_error, 0, note)
    return {"texts": texts, **found}


def documents(options: argparse.Namespace, note: Callable[[str], None]) -> dict[str, Any]:
    """The other kinds of documents, by file."""
    from review_optimizer_dagster_tests.benchmarks import documents as kinds

    if not options.documents:
        note("documents: skipped, since no --documents FILE was given")
    found = {}
    for path in options.documents:
        note(f"documents: {path.name}")
        found[path.stem] = kinds.documents(path, MAX_ERRORS, options.seeds, 0)
    return found


def price(figures: dict[str, Any]) -> None:
    """What the second stage saves, at what a review cost that the daily feed's model answered."""
    if setup := figures.get("daily_feed_setup"):
        for cell in figures["second_stage"].values():
            cell["saved_usd"] = cell["more_served"] * setup["before_usd"] / setup["archived"]


if __name__ == "__main__":
    main()
