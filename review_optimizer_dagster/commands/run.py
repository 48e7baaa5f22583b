"""The command `review-optimizer run`: one day's partition, from a delivered file to its summary."""

from __future__ import annotations

import argparse
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import (
    add_date,
    add_json,
    parse_rate,
    parse_seconds,
)
from review_optimizer_dagster.commands.failures import defect_message, is_debug
from review_optimizer_dagster.commands.json_output import write_json
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

_DESCRIPTION = """Runs the daily job for one day: reads the inbox, looks up what was answered
before, asks the model about the rest, judges the day and publishes it. What is answered is never
paid for twice: running a day again goes on where it was left, and changes nothing else."""
_EXAMPLES = """
review-optimizer run                                   yesterday, from the inbox
review-optimizer run --reviews reviews.jsonl.gz --tenant acme
review-optimizer run --date 2026-11-20 --json summary.json
review-optimizer run --reviews gold.parquet --engine simulator --answers gold.parquet
review-optimizer run --fault overloaded=0.1 --latency 0.5
"""
_EXIT_CODES = {
    0: "done, and no tenant's day failed the gate",
    1: "the gate failed a tenant's day: the summary names it",
    3: "a step of the run broke: the message says which, and where its traceback is",
    130: "stopped by Ctrl-C: run again to go on",
}


def add_run(commands: Any) -> None:
    """Add the command to a parser's."""
    run = commands.add_parser(
        "run",
        help="run one day: cache, model, gate, publishing",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        exit_codes=_EXIT_CODES,
    )
    delivery = run.add_argument_group("what is delivered")
    delivery.add_argument(
        "--reviews", type=Path, metavar="FILE", help="copy this file into the inbox"
    )
    delivery.add_argument("--tenant", metavar="T", help="whose inbox --reviews goes to")
    add_date(delivery, "yesterday")
    answers = run.add_argument_group("who answers")
    answers.add_argument(
        "--engine",
        choices=["openai", "simulator", "local"],
        help="who answers (default: the engine of tenants.toml; the simulator in a demo home); "
        "local: the small model of the extra `local`",
    )
    answers.add_argument(
        "--reclassify",
        action="store_true",
        help="ask the model again about every text of the day, and pay again",
    )
    _add_simulated(run.add_argument_group("what the simulator does"))
    add_json(run.add_argument_group("result"), "the run's summary")


def _add_simulated(group: Any) -> None:
    """What the simulator of a run does."""
    group.add_argument(
        "--answers", type=Path, metavar="FILE", help="answer from these labelled texts"
    )
    group.add_argument(
        "--answer-error",
        type=float,
        default=0.0,
        metavar="RATE",
        help="share of answers that are wrong, 0 to 1",
    )
    group.add_argument(
        "--flip",
        type=parse_rate,
        action="append",
        default=[],
        metavar="CATEGORY=RATE",
        help="share of a category's answers that are wrong, as of a model that goes wrong without "
        "a word; repeatable, needs --answers",
    )
    group.add_argument(
        "--model-error",
        type=parse_rate,
        action="append",
        default=[],
        metavar="MODEL=RATE",
        help="share of one model's answers that are wrong; repeatable",
    )
    group.add_argument(
        "--latency",
        type=parse_seconds,
        default=0.05,
        metavar="S",
        help="seconds that a request takes (default 0.05)",
    )
    group.add_argument(
        "--seconds-per-token",
        type=parse_seconds,
        default=0.0,
        metavar="S",
        help="seconds of each output token on top (default 0)",
    )
    group.add_argument(
        "--sigma",
        type=parse_seconds,
        default=0.0,
        metavar="X",
        help="spread of that time, lognormal (default 0)",
    )
    group.add_argument(
        "--fault",
        type=parse_rate,
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="share of requests that meet a fault; repeatable, `review-optimizer simulator "
        "--help` lists them",
    )


def run_command(home: Home, options: argparse.Namespace) -> int:
    """Run one partition, print its table, and write its summary."""
    day = options.date or (datetime.now(UTC) - timedelta(days=1)).date()
    _check_run(home, options, day)
    home.claim()
    if options.reviews is not None:
        from review_optimizer_dagster.storage.inbox import deliver

        deliver(home, options.reviews, day, options.tenant)
    from review_optimizer_dagster.commands.terminal import RunDisplay, print_problem, print_summary
    from review_optimizer_dagster.defs.execution import run_day, summarise
    from review_optimizer_dagster.report.ahead import page_drawn_ahead

    engine = _engine_config(options)
    with page_drawn_ahead(home.reports), RunDisplay(day):
        outcome = run_day(home, day, engine)
    if outcome.problem is not None:
        if outcome.user_can_mend:
            print_problem(outcome.problem)
            return 2
        print_problem(
            defect_message(home, outcome.problem, outcome.traceback, debug=is_debug(options))
        )
        return 3
    name = home.settings.engine.name if engine["name"] == "configured" else engine["name"]
    summary = summarise(home, day, name, outcome)
    print_summary(summary)
    write_json(options.json, summary)
    if options.reviews is not None and not summary["reviews"]:
        print_problem(f"no row of {options.reviews} was accepted; the reasons are above")
        return 2
    failed = summary["accuracy"] is not None and summary["accuracy"]["gate"] == "failed"
    return 1 if failed or outcome.gate_blocked else 0


def _check_run(home: Home, options: argparse.Namespace, day: date) -> None:
    """Refuse what cannot work before anything is copied or started."""
    settings = home.settings
    if options.tenant is not None and options.reviews is None:
        raise UserError("--tenant says whose inbox --reviews goes to: give --reviews FILE too")
    if not settings.first_day <= day <= datetime.now(UTC).date():
        raise UserError(
            f"--date {day} is no partition: days go from {settings.first_day} (first_day) to today"
        )
    engine = options.engine or settings.engine.name
    if engine != "simulator" and (
        options.answers
        or options.answer_error
        or options.model_error
        or options.fault
        or options.flip
    ):
        raise UserError(
            "--answers, --answer-error, --model-error, --flip and --fault need --engine simulator"
        )
    if options.flip and options.answers is None:
        raise UserError("--flip needs --answers FILE, which has the categories")
    if engine == "openai":
        settings.engine.api_key()
    if options.answers is not None and not options.answers.is_file():
        raise UserError(f"--answers {options.answers} is no file")
    if not 0.0 <= options.answer_error <= 1.0:
        raise UserError(f"--answer-error {options.answer_error} is no share between 0 and 1")


def _engine_config(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "name": options.engine or "configured",
        "answers": str(options.answers.absolute()) if options.answers else "",
        "answer_error": options.answer_error,
        "latency_seconds": options.latency,
        "seconds_per_token": options.seconds_per_token,
        "latency_sigma": options.sigma,
        "faults": dict(options.fault),
        "flips": dict(options.flip),
        "model_errors": dict(options.model_error),
        "reclassify": options.reclassify,
    }
