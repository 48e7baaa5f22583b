"""The command `review-optimizer`: run a day, open the UI, start a real home."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from review_optimizer_dagster.alerts_command import add_alerts, alerts_command
from review_optimizer_dagster.config import HOME_VARIABLE, Home
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.gate_command import add_gate, gate_command
from review_optimizer_dagster.label_command import add_label, label_command
from review_optimizer_dagster.report_command import add_report, report_command
from review_optimizer_dagster.statement_command import add_commands as add_money_commands
from review_optimizer_dagster.statement_command import book, statement
from review_optimizer_dagster.tiers_command import add_tiers, tiers_command

EXIT_CODES = """exit codes: 0 done; 1 the gate failed a tenant's day, or the books of a statement
differ; 2 something you can mend (the message says what); 3 the run broke"""

EXAMPLES = """examples:
  review-optimizer run                                   yesterday, from the inbox
  review-optimizer run --reviews reviews.jsonl.gz --tenant acme
  review-optimizer run --date 2026-11-20 --json summary.json
  review-optimizer run --reviews gold.parquet --engine simulator --answers gold.parquet
"""


def _port(text: str) -> int:
    port = int(text)
    if not 0 < port < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port between 1 and 65535")
    return port


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds, 0 or more")
    return seconds


def _share(text: str) -> float:
    share = float(text)
    if not 0.0 <= share <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return share


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return count


def _rate(text: str) -> tuple[str, float]:
    name, _, rate = text.partition("=")
    try:
        return name, _share(rate)
    except ValueError as problem:
        message = f"{text} is not NAME=RATE, such as server_error=0.05 (a RATE is from 0 to 1)"
        raise argparse.ArgumentTypeError(message) from problem


class _SimulatorHelp(argparse.Action):
    """Help with the table of faults, which no other command should have to load."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from review_optimizer_dagster.simulator.faults import FAULTS

        rows = "\n".join(f"  {name:<18}  {fault.described}" for name, fault in FAULTS.items())
        parser.epilog = f"faults, each at a RATE from 0 to 1, at most one a request:\n{rows}"
        parser.print_help()
        parser.exit()


def build_parser() -> argparse.ArgumentParser:
    """Every command and option, with its help."""
    parser = argparse.ArgumentParser(
        prog="review-optimizer",
        description="Label every review of a day as a large language model would, for far less.",
        epilog=f"State lives in ${HOME_VARIABLE} (default .review_optimizer/ here). {EXIT_CODES}",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    _add_run(commands)
    _add_explain(commands)
    add_gate(commands)
    add_alerts(commands)
    add_label(commands)
    add_tiers(commands)
    add_report(commands)
    ui = commands.add_parser("ui", help="open the Dagster UI on the same instance")
    ui.add_argument("--port", type=_port, default=3000)
    ui.add_argument("--host", default="127.0.0.1")

    commands.add_parser("init", help="write a commented tenants.toml and make a real home")

    add_money_commands(commands)
    _add_simulator(commands)
    return parser


def _add_run(commands: Any) -> None:
    run = commands.add_parser(
        "run",
        help="run one day's partition",
        epilog=EXAMPLES + "\n" + EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--reviews", type=Path, metavar="FILE", help="copy this file into the inbox")
    run.add_argument("--tenant", metavar="T", help="whose inbox --reviews goes to")
    run.add_argument(
        "--date",
        type=date.fromisoformat,
        metavar="D",
        help="UTC day of delivery, YYYY-MM-DD (default: yesterday)",
    )
    run.add_argument(
        "--engine",
        choices=["openai", "simulator", "local"],
        help="who answers (default: the engine of tenants.toml; the simulator in a demo home); "
        "local: the small model of the extra `local`",
    )
    _add_simulated(run)
    run.add_argument(
        "--reclassify",
        action="store_true",
        help="ask the model again about every text of the day, and pay again",
    )
    run.add_argument("--json", type=Path, metavar="OUT", help="write the run's summary here")


def _add_simulated(run: argparse.ArgumentParser) -> None:
    """What the simulator of a run does."""
    run.add_argument(
        "--answers", type=Path, metavar="FILE", help="simulator: answer from these labelled texts"
    )
    run.add_argument(
        "--answer-error",
        type=float,
        default=0.0,
        metavar="RATE",
        help="simulator: share of answers that are wrong, 0 to 1",
    )
    run.add_argument(
        "--flip",
        type=_rate,
        action="append",
        default=[],
        metavar="CATEGORY=RATE",
        help="simulator: share of a category's answers that are wrong, as of a model that goes "
        "wrong without a word; repeatable, needs --answers",
    )
    run.add_argument(
        "--model-error",
        type=_rate,
        action="append",
        default=[],
        metavar="MODEL=RATE",
        help="simulator: share of one model's answers that are wrong; repeatable",
    )
    run.add_argument(
        "--latency",
        type=_seconds,
        default=0.05,
        metavar="S",
        help="simulator: seconds that a request takes (default 0.05)",
    )
    run.add_argument(
        "--seconds-per-token",
        type=_seconds,
        default=0.0,
        metavar="S",
        help="simulator: seconds of each output token on top (default 0)",
    )
    run.add_argument(
        "--sigma",
        type=_seconds,
        default=0.0,
        help="simulator: spread of that time, lognormal (default 0)",
    )
    run.add_argument(
        "--fault",
        type=_rate,
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="simulator: share of requests that meet a fault; repeatable, "
        "`review-optimizer simulator --help` lists them",
    )


def _add_explain(commands: Any) -> None:
    explain = commands.add_parser(
        "explain",
        help="say where a review's labels came from",
        epilog="example:\n  review-optimizer explain r-1017 --tenant acme --date 2026-11-20",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    explain.add_argument("review_id", metavar="REVIEW_ID")
    explain.add_argument("--tenant", metavar="T", help="whose review, where several have the id")
    explain.add_argument(
        "--date",
        type=date.fromisoformat,
        metavar="D",
        help="UTC day of delivery (default: the last one that has it)",
    )
    explain.add_argument("--json", type=Path, metavar="OUT", help="write every fact here")


def _add_simulator(commands: Any) -> None:
    simulator = commands.add_parser(
        "simulator",
        help="serve the OpenAI-compatible simulator on loopback",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    add = simulator.add_argument
    add("-h", "--help", action=_SimulatorHelp, nargs=0, help="show this message, and the faults")
    add("--port", type=_port, default=8089)
    add("--latency", type=_seconds, default=0.05, metavar="S", help="seconds a request takes")
    add("--seconds-per-token", type=_seconds, default=0.0, metavar="S", help="seconds on top")
    add("--sigma", type=_seconds, default=0.0, help="spread of the latency (lognormal)")
    add("--fault", type=_rate, action="append", default=[], metavar="NAME=RATE", help="see below")
    add(
        "--error-rate",
        type=_share,
        default=0.0,
        metavar="RATE",
        help="of 500, 503 and 429 in all",
    )
    add("--requests-per-minute", type=_count, default=10_000, metavar="N")
    add("--tokens-per-minute", type=_count, default=10_000_000, metavar="N")
    add("--batch-seconds", type=_seconds, default=0.0, metavar="S", help="how long a batch takes")
    add(
        "--unsure-rate",
        type=_share,
        default=0.0,
        metavar="RATE",
        help="share of unsure answers",
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    sys.exit(_dispatch(build_parser().parse_args(arguments)))


def _dispatch(options: argparse.Namespace) -> int:
    home = Home.from_environment()
    try:
        if options.command == "run":
            return run(home, options)
        if options.command == "explain":
            return explain_review(home, options)
        if options.command == "gate":
            return gate_command(home, options)
        if options.command == "statement":
            return statement(home, options)
        if options.command == "book":
            return book(home, options)
        if options.command == "alerts":
            return alerts_command(home, options)
        if options.command == "label":
            return label_command(home, options)
        if options.command == "tiers":
            return tiers_command(home, options)
        if options.command == "report":
            return report_command(home, options)
        if options.command == "ui":
            return ui(home, options.host, options.port)
        if options.command == "simulator":
            return serve_simulator(options)
        return init(home)
    except UserError as error:
        sys.stderr.write(f"review-optimizer: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("\nreview-optimizer: stopped; run again to go on\n")
        return 130
    except OSError as error:  # a folder that cannot be written, a full disk: names the file
        sys.stderr.write(f"review-optimizer: {error}\n")
        return 2
    except Exception:
        traceback.print_exc()  # Python's own exit code would say that the gate failed
        return 3


def run(home: Home, options: argparse.Namespace) -> int:
    """Run one partition, print its table, and write its summary."""
    day = options.date or (datetime.now(UTC) - timedelta(days=1)).date()
    _check_run(home, options, day)
    home.claim()
    if options.reviews is not None:
        from review_optimizer_dagster.storage.inbox import deliver

        deliver(home, options.reviews, day, options.tenant)
    from review_optimizer_dagster.defs.execution import run_day, summarise
    from review_optimizer_dagster.terminal import RunDisplay, print_problem, print_summary

    engine = _engine_config(options)
    with RunDisplay(day):
        outcome = run_day(home, day, engine)
    if outcome.problem is not None:
        print_problem(outcome.problem)
        return 2 if outcome.user_can_mend else 3
    name = home.settings.engine.name if engine["name"] == "configured" else engine["name"]
    summary = summarise(home, day, name, outcome)
    print_summary(summary)
    if options.json is not None:
        options.json.write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
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
    if options.json is not None:
        if not options.json.absolute().parent.is_dir():
            raise UserError(f"--json {options.json}: its folder does not exist")
        if options.json.is_dir():
            raise UserError(f"--json {options.json} is a folder: give the path of a file")


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


def explain_review(home: Home, options: argparse.Namespace) -> int:
    """Print where a review's labels came from, down to the answer that they go back to."""
    from review_optimizer_dagster.explanation import explanation
    from review_optimizer_dagster.storage.explain import explain
    from review_optimizer_dagster.storage.warehouse import Warehouse

    warehouse = Warehouse(database=str(home.warehouse))
    with warehouse.open(read_only=True) as connection:
        facts = explain(connection, options.review_id, options.tenant, options.date)
    scores = _pattern_scores(home, facts)
    sys.stdout.write(explanation(facts, scores) + "\n")
    if options.json is not None:
        told = facts | {"pattern_scores": scores}
        options.json.write_text(json.dumps(told, indent=2, default=str) + "\n", encoding="utf-8")
    return 0


def _pattern_scores(home: Home, facts: dict[str, Any]) -> dict[str, tuple[str, float]]:
    """What the pattern that answered says of each field; empty where none did."""
    path = home.pattern_file(facts["pattern"][0]["version"]) if facts["pattern"] else None
    if path is None or not path.exists():
        return {}
    from review_optimizer_dagster.learning.stack import StackedClassifier, load_pattern
    from review_optimizer_dagster.text import normalise

    pattern, texts = load_pattern(path), [normalise(facts["title"], facts["text"])]
    if isinstance(pattern, StackedClassifier):
        from review_optimizer_dagster.defs.embedding import kept_only

        vectors = kept_only(home, pattern.embedder_name, facts["content_key"])
        judged = pattern.judge(texts, lambda _: vectors)
    else:
        judged = pattern.judge(texts)
    return {name: (each.labels[0], float(each.scores[0])) for name, each in judged.items()}


def ui(home: Home, host: str, port: int) -> int:
    """Become `dagster dev` on the home's own instance."""
    import shutil
    import signal
    import socket

    from review_optimizer_dagster.defs.execution import open_instance, write_workspace

    home.claim()
    dagster = shutil.which("dagster", path=f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}")
    if dagster is None or shutil.which("dagster-webserver", path=Path(dagster).parent) is None:
        raise UserError("the UI is not installed: install the extra `ui` of this package")
    with socket.socket() as probe:
        # dagster dev would start a second time on a port in use without a word.
        if probe.connect_ex((host, port)) == 0:
            raise UserError(f"port {port} is in use: give another with --port, or stop what has it")
    with open_instance(home):
        pass  # its databases are there before several processes of the UI look for them
    os.environ[HOME_VARIABLE] = str(home.folder)
    # A shell that starts this in the background has SIGINT ignored, and dagster would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    workspace = write_workspace(home)
    command = [dagster, "dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    os.execv(dagster, command)  # noqa: S606 (our own arguments)


def serve_simulator(options: argparse.Namespace) -> int:
    """Serve the simulator until interrupted."""
    from review_optimizer_dagster.simulator.faults import common_errors
    from review_optimizer_dagster.simulator.judge import LexiconJudge
    from review_optimizer_dagster.simulator.server import Simulator, serve

    faults = common_errors(options.error_rate)
    for name, rate in options.fault:
        faults[name] = faults.get(name, 0.0) + rate
    simulator = Simulator(
        LexiconJudge(),
        latency_seconds=options.latency,
        seconds_per_token=options.seconds_per_token,
        sigma=options.sigma,
        requests_per_minute=options.requests_per_minute,
        tokens_per_minute=options.tokens_per_minute,
        faults=faults,
        batch_seconds=options.batch_seconds,
        unsure_rate=options.unsure_rate,
        port=options.port,
    )

    def announce(url: str) -> None:
        sys.stdout.write(f"simulator at {url}; any key will do\n")
        sys.stdout.flush()  # a pipe would keep it back for as long as this serves

    try:
        serve(simulator, announce)
    except OSError as error:
        raise UserError(
            f"port {options.port} cannot be used ({error.strerror}): give another with --port"
        ) from error
    return 0


def init(home: Home) -> int:
    """Write a commented tenants.toml."""
    from rich.console import Console

    from review_optimizer_dagster.template import commented_settings

    if not home.is_demo:
        raise UserError(f"{home.tenants_file} is there already; edit it")
    if (home.folder / "home.json").exists():
        raise UserError(
            f"{home.folder} holds demo data, which must not be mixed with real tenants: set "
            f"{HOME_VARIABLE} to another, empty folder"
        )
    home.folder.mkdir(parents=True, exist_ok=True)
    home.tenants_file.write_text(commented_settings(), encoding="utf-8")
    Console(soft_wrap=True).print(
        f"wrote {home.tenants_file}\nNext: name your tenants there, put files into "
        f"{home.inbox}/TENANT/YYYY-MM-DD/, export the key, and run `review-optimizer run`.",
        markup=False,
        highlight=False,
    )
    return 0
