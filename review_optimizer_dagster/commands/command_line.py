"""What all commands have in common: how their help is built, what their options may hold."""

from __future__ import annotations

import argparse
import difflib
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

PROGRAM = "review-optimizer"
WIDEST_HELP = 100
DONE, SAYS_NO, MENDABLE, BROKEN, STOPPED = 0, 1, 2, 3, 130
EXIT_CODES = {
    DONE: "done",
    MENDABLE: "something you can mend: the message says what",
    BROKEN: "a defect: the message says where its traceback is",
    STOPPED: "stopped by Ctrl-C",
}
JSON_METAVAR = "OUT"


@dataclass(frozen=True)
class Command:
    """A command: what the top-level help lists it under, its parser, and what it does."""

    name: str
    group: str
    add: Callable[[Any], Any]
    """Adds the parser to a `Commands`, as to what argparse's add_subparsers returns."""
    run: Callable[[Home, argparse.Namespace], int]
    """Returns the exit code."""


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of examples, and is never wider than `WIDEST_HELP`."""

    def __init__(self, prog: str) -> None:
        width = min(WIDEST_HELP, max(50, shutil.get_terminal_size().columns))
        super().__init__(prog, max_help_position=26, width=width - 2)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        """Fill a description; leave what has lines of its own, as examples do."""
        if "\n  " in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """A parser whose errors name the nearest thing that exists, and where the help is."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        settings.setdefault("formatter_class", HelpFormatter)
        super().__init__(*arguments, **settings)

    def error(self, message: str) -> NoReturn:
        """Leave with exit code 2: 1 is what a command that found something amiss says."""
        self.print_usage(sys.stderr)
        self.exit(MENDABLE, f"{PROGRAM}: {message}\n`{self.prog} --help` has examples\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        known = [str(choice) for choice in action.choices]
        raise argparse.ArgumentError(
            action, f"there is no {value!r}; {nearest(str(value), known) or listed(known)}"
        )

    def options(self) -> list[str]:
        """Every option of this parser and of the commands under it, as it is typed."""
        found = list(self._option_string_actions)
        for action in self._actions:
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    found += parser.options()
        return found

    def leave_for(self, unknown: Sequence[str], command: str | None) -> NoReturn:
        """Say which argument nothing is known of, and which option was probably meant."""
        word = next((each for each in unknown if each.startswith("-")), unknown[0])
        name = word.partition("=")[0]
        hint = nearest(name, self.options()) if name.startswith("-") else None
        what = f"`{PROGRAM} {command}` has no" if command else "there is no"
        kind = "option" if word.startswith("-") else "further argument"
        self.error(f"{what} {kind} {name!r}" + (f"; {hint}" if hint else ""))


class Commands:
    """Takes the parsers of commands, and gives each what all of them have."""

    def __init__(self, action: Any) -> None:
        self._action = action
        self.summaries: dict[str, str] = {}
        self.parsers: dict[str, Parser] = {}

    def add_parser(self, name: str, **settings: Any) -> Parser:
        """As argparse's; `help` is the line of the top-level help.

        examples: command lines; exit_codes: those that differ from `EXIT_CODES` or come on top.
        """
        parser = add_parser(self._action, name, **settings)
        self.summaries[name] = settings["help"]
        self.parsers[name] = parser
        return parser


def add_parser(
    action: Any,
    name: str,
    *,
    examples: str = "",
    exit_codes: Mapping[int, str] | None = None,
    **settings: Any,
) -> Parser:
    """A command's parser under argparse's action, its end of examples and exit codes."""
    if examples:
        settings["epilog"] = epilog(examples, exit_codes or {})
    settings.setdefault("formatter_class", HelpFormatter)
    parser: Parser = action.add_parser(name, **settings)
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show the traceback of a defect here (or set REVIEW_OPTIMIZER_DEBUG=1)",
    )
    return parser


def epilog(examples: str, exit_codes: Mapping[int, str]) -> str:
    """Examples, then the exit codes: these, and those that every command has."""
    lines = [f"  {line}" if line else "" for line in examples.strip("\n").splitlines()]
    codes = sorted((EXIT_CODES | dict(exit_codes)).items())
    meanings = [f"  {code:<4} {meaning}" for code, meaning in codes]
    return "\n".join(["examples:", *lines, "", "exit codes:", *meanings])


def nearest(word: str, known: Sequence[str]) -> str | None:
    """A question for the known word that is most like this one, if any is."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"did you mean {near[0]}?" if near else None


def listed(known: Sequence[str]) -> str:
    """What there is to choose from."""
    return f"choose from: {', '.join(known)}"


# --- what options may hold --------------------------------------------------------------------


def parse_day(text: str) -> date:
    """A UTC day: YYYY-MM-DD, `today` or `yesterday`."""
    today = datetime.now(UTC).date()
    if text in ("today", "yesterday"):
        return today - timedelta(days=text == "yesterday")
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no day: give YYYY-MM-DD (such as {today}), today or yesterday, in UTC"
        ) from error


def parse_port(text: str) -> int:
    """A TCP port."""
    number: int = _number(int, text, "port between 1 and 65535")
    if not 0 < number < 65536:
        raise argparse.ArgumentTypeError(f"{text} is no port between 1 and 65535")
    return number


def parse_seconds(text: str) -> float:
    """A time in seconds, 0 or more."""
    number: float = _number(float, text, "number of seconds, 0 or more")
    if not 0.0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds, 0 or more")
    return number


def parse_share(text: str) -> float:
    """A share from 0 to 1."""
    number: float = _number(float, text, "share between 0 and 1")
    if not 0.0 <= number <= 1.0:
        raise argparse.ArgumentTypeError(f"{text} is no share between 0 and 1")
    return number


def parse_count(text: str) -> int:
    """A number of 1 or more."""
    number: int = _number(int, text, "number of 1 or more")
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is no number of 1 or more")
    return number


def parse_rate(text: str) -> tuple[str, float]:
    """A NAME=RATE; a rate is from 0 to 1."""
    name, _, number = text.partition("=")
    try:
        return name, parse_share(number)
    except argparse.ArgumentTypeError as problem:
        message = f"{text} is not NAME=RATE, such as server_error=0.05: {problem}"
        raise argparse.ArgumentTypeError(message) from problem


def _number(kind: Callable[[str], Any], text: str, wanted: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no {wanted}") from error


def add_date(parser: Any, default: str, **settings: Any) -> None:
    """The option --date, a UTC day of delivery."""
    parser.add_argument(
        "--date",
        type=parse_day,
        metavar="D",
        help=f"UTC day of delivery: YYYY-MM-DD, today or yesterday (default: {default})",
        **settings,
    )


def add_json(parser: Any, what: str, **settings: Any) -> None:
    """The option --json, which every command with results has."""
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path("-"),
        metavar=JSON_METAVAR,
        help=f"write {what} as JSON into this file; without OUT, or with -, to standard output "
        "in place of the text",
        **settings,
    )
