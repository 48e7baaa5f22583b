"""The command `review-optimizer label`: a sample for people to label, and what they made of it."""

from __future__ import annotations

import argparse
import filecmp
import json
import re
import shutil
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import (
    add_date,
    add_json,
    parse_count,
    parse_day,
)
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from review_optimizer_dagster.config import Home
    from review_optimizer_dagster.storage.labels import LabelFile
    from review_optimizer_dagster.storage.warehouse import Connection
    from review_optimizer_dagster.taxonomies import Taxonomy

_DESCRIPTION = """Without --take, writes a sample of a tenant's reviews that is worth labelling, as
a table with an empty column for each question, and a guide beside it. With --take, takes such a
table back, or any other with labels. The sample is for the tenant's own people: texts are written
as they were delivered, with nothing masked. It does not show what the system said, so that nobody
is led by it. In CSV, a category, title or text that a spreadsheet would run as a formula gets an
apostrophe in front of it."""
_EXAMPLES = """
review-optimizer label --tenant acme --date 2026-11-20 --out sample.csv
review-optimizer label --tenant acme --from 2026-11-01 --to 2026-11-20 --reviews 500
review-optimizer label --tenant acme --take sample.csv --labeller kim
review-optimizer run --date 2026-11-20      judge the day anew, asking and paying nothing, with
                                            the options that it was run with
"""
_EXIT_CODES = {
    1: "taken, but some rows mean nothing (the reasons are listed)",
    2: "something you can mend, and nothing was written or taken",
}
_SUFFIXES = (".csv", ".jsonl", ".parquet")
_LABELLER = re.compile(r"[A-Za-z0-9][\w.@+-]{0,62}")
_CONTEXT = ("category", "title", "text")
_FORMULA = r"^[=+\-@\t\r]"
_MOST_LISTED = 10


def add_label(commands: Any) -> None:
    """Add the command to a parser's."""
    label = commands.add_parser(
        "label",
        help="draw a sample for people to label, and take it back",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    label.add_argument("--tenant", metavar="T", required=True, help="whose reviews")
    sample = label.add_argument_group("draw a sample")
    add_date(sample, "the last with results")
    sample.add_argument(
        "--from", dest="first", type=parse_day, metavar="D", help="or from this UTC day"
    )
    sample.add_argument("--to", dest="last", type=parse_day, metavar="D", help="up to this one")
    sample.add_argument(
        "--reviews", type=parse_count, default=200, metavar="N", help="texts in all (default 200)"
    )
    sample.add_argument(
        "--out", type=Path, metavar="FILE", help=f"new file, of {', '.join(_SUFFIXES)}"
    )
    sample.add_argument(
        "--redraw",
        action="store_true",
        help="draw anew where a day has a sample; without it, that one is written again",
    )
    sample.add_argument(
        "--show-answers", action="store_true", help="add what the system said: people follow it"
    )
    take = label.add_argument_group("take it back")
    take.add_argument("--take", type=Path, metavar="FILE", help="take this table with labels")
    take.add_argument(
        "--labeller", metavar="NAME", help="whose labels, where no row says so (the file's name)"
    )
    add_json(label.add_argument_group("result"), "what was done")


def label_command(home: Home, options: argparse.Namespace) -> int:
    """Do what the options of `add_label` say; returns the exit code."""
    _check(home, options)
    from review_optimizer_dagster.commands.consoles import working

    taking = options.take is not None
    with working("taking the labels" if taking else "drawing the sample"):
        done = _take(home, options) if taking else _draw(home, options)
    write_json(options.json, done)
    return 1 if done.get("quarantined") else 0


def _check(home: Home, options: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is written."""
    home.tenant(options.tenant)
    if not home.warehouse.exists():
        raise UserError("no day was run in this home yet: `review-optimizer run` comes first")
    drawing = [options.date, options.first, options.last, options.out]
    if options.take is not None and (any(drawing) or options.redraw or options.show_answers):
        raise UserError("--take goes with --tenant, --labeller and --json alone")
    if options.take is None and options.labeller is not None:
        raise UserError("--labeller says whose labels --take takes: give --take FILE too")
    if (options.first is None) != (options.last is None) or (options.date and options.first):
        raise UserError("give one day with --date, or a span of days with both --from and --to")
    if options.first is not None and options.first > options.last:
        raise UserError(f"--from {options.first} is after --to {options.last}")


def _open(home: Home) -> Any:
    from review_optimizer_dagster.storage.warehouse import Warehouse

    return Warehouse(database=str(home.warehouse)).open()


def _draw(home: Home, options: argparse.Namespace) -> dict[str, Any]:
    """Write a sample, drawn now where the days have none yet."""
    from review_optimizer_dagster.storage import label_samples

    tenant, taxonomy = options.tenant, home.taxonomy(options.tenant)
    with _open(home) as connection:
        newest = label_samples.last_day(connection, tenant, taxonomy.name)
        first: date | None = options.first or options.date or newest
        if first is None:
            raise UserError(f"no day has results of {tenant} yet: run one first")
        last: date = options.last or first
        out = options.out or Path(f"label-{tenant}-{first}.csv")
        _check_out(out)
        span = (tenant, taxonomy.name, first, last)
        drawn = _drawn_days(connection, span, taxonomy, options)
        asked = label_samples.questions(connection, *span)
        strata = label_samples.strata(connection, *span)
    if asked.is_empty():
        raise UserError(f"no labelled review of {tenant} was delivered from {first} to {last}")
    columns = _field_columns(home, tenant)
    _write(_table(asked, columns, options.show_answers, out.suffix == ".csv"), out)
    guide = out.with_name(f"{out.name}.guide.md")
    guide.write_text(_guide(taxonomy, columns, tenant, out), encoding="utf-8")
    written = sorted(set(asked["day"]))
    sys.stdout.write(
        f"{asked.height:,} texts of {strata.height} strata in {out}; {guide.name} says what to "
        f"fill in\n"
    )
    if kept := [day for day in written if day not in drawn]:
        days = ", ".join(map(str, kept))
        sys.stdout.write(f"drawn before, and written again: {days} (--redraw draws anew)\n")
    return {
        "tenant": tenant,
        "file": str(out),
        "guide": str(guide),
        "days": written,
        "drawn_now": drawn,
        "texts": asked.height,
        "strata": strata.to_dicts(),
    }


def _drawn_days(
    connection: Connection,
    span: tuple[str, str, date, date],
    taxonomy: Taxonomy,
    options: argparse.Namespace,
) -> list[date]:
    """Draw the days of the span that have no sample, as far as --reviews goes; returns them."""
    from review_optimizer_dagster.storage import label_samples
    from review_optimizer_dagster.truth.sample import drawn, sample_id

    standing = {} if options.redraw else label_samples.sampled_days(connection, *span)
    results = label_samples.labelled_results(connection, *span)
    results = results.remove(results["day"].is_in(list(standing)))
    wanted = options.reviews - sum(standing.values())
    if results.is_empty() or wanted < 1:
        return []
    sample = drawn(results, taxonomy.main.name, wanted)
    days = sorted(set(results["day"]))
    name, moment = sample_id(span[0], sample), datetime.now(UTC)
    label_samples.keep_sample(connection, *span[:2], days, sample, name, moment)
    return days


def _check_out(out: Path) -> None:
    if out.suffix not in _SUFFIXES:
        raise UserError(f"--out {out} is none of {', '.join(_SUFFIXES)}")
    if out.exists():
        raise UserError(f"{out} exists, and may hold labels: give --out another name")
    if not out.absolute().parent.is_dir():
        raise UserError(f"--out {out}: its folder does not exist")


def _field_columns(home: Home, tenant: str) -> dict[str, str]:
    """Field to its column in the written table: its name, or its truth column if that is taken."""
    from review_optimizer_dagster.truth.labels import label_columns

    places = label_columns(home.taxonomy(tenant), home.tenant(tenant).columns)
    return {field: columns[-1] for field, columns in places.items()}


def _table(
    asked: pl.DataFrame, columns: Mapping[str, str], answers: bool, is_csv: bool
) -> pl.DataFrame:
    """What people get: who and what, and an empty column a field."""
    import polars as pl

    context = [name for name in _CONTEXT if name not in columns.values()]
    table = asked.select("review_id", "day", *context)
    if is_csv:
        # A stranger wrote these, and a spreadsheet would run them.
        table = table.with_columns(
            pl.when(pl.col(name).str.contains(_FORMULA))
            .then(pl.lit("'") + pl.col(name))
            .otherwise(pl.col(name))
            .alias(name)
            for name in context
        )
    empty = pl.lit(None, dtype=pl.String)
    table = table.with_columns(empty.alias(column) for column in columns.values())
    if answers:
        told = [json.loads(labels or "{}") for labels in asked["labels"]]
        table = table.with_columns(
            pl.Series(f"answer_{field}", [each.get(field) for each in told], dtype=pl.String)
            for field in columns
        )
    return table


def _write(table: pl.DataFrame, out: Path) -> None:
    if out.suffix == ".csv":
        table.write_csv(out, include_bom=True)  # for spreadsheets that would not see UTF-8
    elif out.suffix == ".jsonl":
        table.write_ndjson(out)
    else:
        table.write_parquet(out)


def _guide(taxonomy: Taxonomy, columns: Mapping[str, str], tenant: str, out: Path) -> str:
    """What each column asks, with its labels and what they mean."""
    parts = [f"# Labelling {taxonomy.document}s: {out.name}\n", taxonomy.instructions.strip()]
    for field in taxonomy.fields:
        parts.append(f"\n## Column `{columns[field.name]}`\n\n{field.question}\n")
        for label in field.labels:
            meaning = field.definitions.get(label)
            parts.append(f"- `{label}`" + (f": {meaning}" if meaning else ""))
    parts.append(
        "\n## Filling it in\n\nWrite one of these labels into each cell; leave empty what you "
        "cannot tell. Change neither `review_id` nor `day`. A second person fills in a copy of the "
        f"file. Then:\n\n    review-optimizer label --tenant {tenant} --take {out.name} "
        "--labeller NAME\n"
    )
    return "\n".join(parts)


def _take(home: Home, options: argparse.Namespace) -> dict[str, Any]:
    """Copy a table with labels to where they are read from, and say what it comes to."""
    from review_optimizer_dagster.storage import label_samples
    from review_optimizer_dagster.storage.labels import concerned_days, read_labels

    tenant, taxonomy = options.tenant, home.taxonomy(options.tenant).name
    source = _source(home, options)
    _check_rows(home, source, options.take)
    replaced = _copy(options.take, source, options.labeller)
    with _open(home) as connection:
        read_labels(connection, home, [])
        days = concerned_days(connection, source.file)
        read_labels(connection, home, days)
        judgements, reviews = label_samples.judgements_of(connection, source.file)
        refused = label_samples.refusals(connection, tenant, source.file).to_dicts()
        disputed = label_samples.disputes(connection, tenant, days).to_dicts()
        progress = label_samples.progress(connection, tenant, taxonomy).to_dicts()
    done = {
        "tenant": tenant,
        "file": source.file,
        "replaced": replaced,
        "judgements": judgements,
        "reviews": reviews,
        "days": days,
        "quarantined": refused,
        "disputed": disputed,
        "samples": progress,
    }
    _print_taken(done)
    return done


def _source(home: Home, options: argparse.Namespace) -> LabelFile:
    from review_optimizer_dagster.storage.inbox import unfinished
    from review_optimizer_dagster.storage.labels import LABEL_SUFFIXES, label_file

    file: Path = options.take
    if not file.is_file():
        raise UserError(f"{file} is no file: give --take the path of a file that can be read")
    if unfinished(file) or not file.name.lower().endswith(LABEL_SUFFIXES):
        known = ", ".join(LABEL_SUFFIXES)
        raise UserError(f"{file} has a name that would not be read; it must end in one of {known}")
    labeller = options.labeller
    if labeller is not None and not _LABELLER.fullmatch(labeller):
        raise UserError(f"--labeller {labeller!r}: letters, digits and . _ @ + -, please")
    parts = (options.tenant, *([labeller] if labeller else []), file.name)
    return label_file(home.labels.joinpath(*parts), parts)


def _check_rows(home: Home, source: LabelFile, file: Path) -> None:
    """Raise UserError, with the reasons, where the file holds no label at all."""
    from dataclasses import replace

    from review_optimizer_dagster.core.reviews import TenantRules
    from review_optimizer_dagster.formats import InputError
    from review_optimizer_dagster.storage.labels import read_file

    rules = TenantRules(home.taxonomy(source.tenant), home.tenant(source.tenant).columns)
    reasons: Counter[str] = Counter()
    details: dict[str, str] = {}
    try:
        for batch in read_file(replace(source, path=file), rules, home.settings.input):
            if batch.judgements.height:
                return
            for reason, detail in batch.refusals.select("reason", "detail").iter_rows():
                reasons[reason] += 1
                details.setdefault(reason, detail)
    except InputError as refused:
        raise UserError(f"{file}: {refused.detail}") from None
    why = "; ".join(f"{name} ({n:,} rows): {details[name]}" for name, n in reasons.most_common(3))
    raise UserError(f"{file} holds no label{': ' + why if why else '; its cells are empty'}")


def _copy(file: Path, source: LabelFile, labeller: str | None) -> bool:
    """Copy the file whole or not at all; whether it took the place of another."""
    target = source.path
    if target.exists():
        if filecmp.cmp(file, target, shallow=False):
            return False
        if labeller is None:
            # It may be somebody else's.
            raise UserError(
                f"{target} is another file of that name: say whose labels these are with "
                "--labeller NAME, or give the file a name of its own"
            )
    replaced = target.exists()
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f".{target.name}.part")
    shutil.copy2(file, partial)  # with its time of change: that is when it was labelled
    partial.replace(target)
    return replaced


def _print_taken(done: dict[str, Any]) -> None:
    write = sys.stdout.write
    again = " in the place of what it held before" if done["replaced"] else ""
    write(
        f"{done['judgements']:,} judgements of {done['reviews']:,} reviews taken into "
        f"labels/{done['file']}{again}\n"
    )
    refused, disputed = done["quarantined"], done["disputed"]
    if refused:
        write(f"rows or cells that mean nothing: {len(refused):,}\n")
        for each in refused[:_MOST_LISTED]:
            where = f"line {each['line']}" if each["line"] is not None else "the file"
            write(f"  {where}, {each['review_id'] or '(no review)'}: {each['detail']}\n")
        if len(refused) > _MOST_LISTED:
            write(f"  and {len(refused) - _MOST_LISTED:,} more: table quarantined_labels\n")
    if disputed:
        write(f"disputed, and so no truth: {len(disputed):,}\n")
        for each in disputed[:_MOST_LISTED]:
            write(f"  {each['day']} {each['review_id']}: {each['field']}\n")
        if len(disputed) > _MOST_LISTED:
            write(f"  and {len(disputed) - _MOST_LISTED:,} more: view disputed_labels\n")
    for each in done["samples"]:
        write(f"sample of {each['day']}: {each['labelled']:,} of {each['texts']:,} texts labelled")
        write(f", {each['missing']:,} missing\n")
    for day in done["days"]:
        write(f"review-optimizer run --date {day}   judges the day anew, asking nothing\n")
    if done["days"]:
        write("(with the options that the day was run with; a later run takes them in as well)\n")
