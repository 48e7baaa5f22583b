"""The command `review-optimizer`: which commands there are, and how each of them may end."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from review_optimizer_dagster.commands.alerts import add_alerts, alerts_command
from review_optimizer_dagster.commands.command_line import (
    EXIT_CODES,
    MENDABLE,
    PROGRAM,
    SAYS_NO,
    STOPPED,
    Command,
    Commands,
    Parser,
)
from review_optimizer_dagster.commands.explain import add_explain, explain_command
from review_optimizer_dagster.commands.failures import (
    ended_by_defect,
    ended_by_system,
    survives_closed_pipes,
)
from review_optimizer_dagster.commands.gate import add_gate, gate_command
from review_optimizer_dagster.commands.init import add_init, init_command
from review_optimizer_dagster.commands.json_output import check_target, for_programs
from review_optimizer_dagster.commands.label import add_label, label_command
from review_optimizer_dagster.commands.query import add_query, query_command
from review_optimizer_dagster.commands.report import add_report, report_command
from review_optimizer_dagster.commands.run import add_run, run_command
from review_optimizer_dagster.commands.simulator import add_simulator, simulator_command
from review_optimizer_dagster.commands.statement import add_book, add_statement, book, statement
from review_optimizer_dagster.commands.tiers import add_tiers, tiers_command
from review_optimizer_dagster.commands.ui import add_ui, ui_command
from review_optimizer_dagster.commands.watch import add_watch, watch_command
from review_optimizer_dagster.errors import UserError

RUN, LOOK, MONEY, QUALITY, SET_UP = "run", "look", "money", "quality", "set up"
COMMANDS = (
    Command("run", RUN, add_run, run_command),
    Command("watch", RUN, add_watch, watch_command),
    Command("report", LOOK, add_report, report_command),
    Command("query", LOOK, add_query, query_command),
    Command("explain", LOOK, add_explain, explain_command),
    Command("alerts", LOOK, add_alerts, alerts_command),
    Command("ui", LOOK, add_ui, ui_command),
    Command("statement", MONEY, add_statement, statement),
    Command("book", MONEY, add_book, book),
    Command("gate", QUALITY, add_gate, gate_command),
    Command("label", QUALITY, add_label, label_command),
    Command("tiers", QUALITY, add_tiers, tiers_command),
    Command("init", SET_UP, add_init, init_command),
    Command("simulator", SET_UP, add_simulator, simulator_command),
)
_DESCRIPTION = "Label every review of a day as a large language model would, for far less."
_ALL_EXIT_CODES = EXIT_CODES | {
    SAYS_NO: "a finding: the gate failed a day, books differ, labels mean nothing"
}


class _TopParser(Parser):
    """The top-level parser, whose help lists the commands by what one wants."""

    commands: Commands

    def format_usage(self) -> str:
        return f"usage: {PROGRAM} COMMAND [OPTIONS]\n"

    def format_help(self) -> str:
        lines = [self.format_usage(), _DESCRIPTION, ""]
        for group in dict.fromkeys(command.group for command in COMMANDS):
            lines.append(f"{group}:")
            for command in COMMANDS:
                if command.group == group:
                    lines.append(f"  {command.name:<11} {self.commands.summaries[command.name]}")
            lines.append("")
        lines += [
            "options:",
            "  -h, --help  show this message",
            "  --version   show the version",
            "",
            f"`{PROGRAM} COMMAND --help` has the options, examples and exit codes of a command.",
            "State lives in $REVIEW_OPTIMIZER_HOME (default: .review_optimizer/ in this folder).",
            "NO_COLOR=1 leaves colours out, FORCE_COLOR=1 keeps them in a pipe.",
            "",
            "exit codes:",
            *(f"  {code:<4} {meaning}" for code, meaning in sorted(_ALL_EXIT_CODES.items())),
        ]
        return "\n".join(lines) + "\n"


class _Version(argparse.Action):
    """Shows the version, which only this option has to look up."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"{PROGRAM} {version('review-optimizer-dagster')}\n")
        parser.exit()


def build_parser() -> _TopParser:
    """Every command and option, with its help."""
    parser = _TopParser(prog=PROGRAM, description=_DESCRIPTION)
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version")
    action = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=Parser
    )
    parser.commands = Commands(action)
    for command in COMMANDS:
        command.add(parser.commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and leave with its exit code."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with survives_closed_pipes():
        parser = build_parser()
        if not given:
            parser.print_help(sys.stderr)
            sys.exit(MENDABLE)
        options, unknown = parser.parse_known_args(given)
        if unknown:
            at = parser.commands.parsers[options.command]
            at.leave_for(unknown, options.command)
        code = _dispatch(options)
    sys.exit(code)


def _dispatch(options: argparse.Namespace) -> int:
    from review_optimizer_dagster.config import Home

    home = Home.from_environment()
    run = next(command.run for command in COMMANDS if command.name == options.command)
    target = getattr(options, "json", None)
    try:
        home.check_format()
        check_target(target)
        with for_programs(target):
            code = run(home, options)
        sys.stdout.flush()
        return code
    except UserError as error:
        sys.stderr.write(f"{PROGRAM}: {error}\n")
        return MENDABLE
    except KeyboardInterrupt:
        sys.stderr.write(f"\n{PROGRAM}: stopped; run again to go on\n")
        return STOPPED
    except OSError as error:
        return ended_by_system(error)
    except Exception as error:  # Python's own exit code would say that the gate failed
        return ended_by_defect(home, error, options)
