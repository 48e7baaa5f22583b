"""What is read on a terminal or in a pipe: help, exit codes, colours, progress, errors."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.cli import COMMANDS, build_parser, main
from review_optimizer_dagster.commands import gate
from review_optimizer_dagster.commands.command_line import PROGRAM, WIDEST_HELP, Parser, parse_day
from review_optimizer_dagster.commands.consoles import console, table
from review_optimizer_dagster.commands.terminal import RunDisplay, RunProgress
from review_optimizer_dagster.config import HOME_VARIABLE, Home
from review_optimizer_dagster.errors import system_problem
from review_optimizer_dagster.money.budgets import Spend
from review_optimizer_dagster_tests.conftest import DAY, deliver, reviews

_ESCAPE = "\x1b"
PACKAGE = "review_optimizer_dagster"


def _parsers(parser: Parser) -> Iterator[Parser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for each in action.choices.values():
                yield each
                yield from _parsers(each)


ALL = list(_parsers(build_parser()))
every_command = pytest.mark.parametrize("parser", ALL, ids=lambda parser: parser.prog)


def _examples(parser: Parser) -> list[str]:
    """The command lines of an epilog's examples, without the remarks beside them."""
    lines = str(parser.epilog).partition("examples:\n")[2].partition("\n\nexit codes")[0]
    joined = lines.replace("\\\n", " ")
    return [
        re.split(r"\s{3,}(?!-)", line.strip())[0] for line in joined.splitlines() if PROGRAM in line
    ]


@every_command
def test_every_option_says_what_it_does(parser: Parser) -> None:
    """An option without a help text is one that nobody finds."""
    for action in parser._actions:
        if not isinstance(action, argparse._SubParsersAction):
            assert action.help, f"{parser.prog} {action.dest}"


@every_command
def test_every_command_has_a_description_examples_and_exit_codes(parser: Parser) -> None:
    """What a reader of `--help` needs to begin, and a script to go on."""
    assert parser.description
    assert len(_examples(parser)) >= 2
    codes = str(parser.epilog).partition("exit codes:\n")[2]
    found = {int(line.split()[0]) for line in codes.splitlines()}
    assert {0, 2, 3, 130} <= found <= {0, 1, 2, 3, 130}


@every_command
def test_every_example_parses(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    """An example that does not work is worse than none."""
    monkeypatch.setattr(Parser, "error", _not_parsed)
    for example in _examples(parser):
        words = shlex.split(re.split(r"\s[|>]\s", example)[0])
        after = words[words.index(PROGRAM) + 1 :]
        assert build_parser().parse_args(after).command == after[0], example


def _not_parsed(self: Parser, message: str) -> None:
    raise AssertionError(f"{self.prog}: {message}")


@every_command
def test_help_fits_a_terminal(parser: Parser, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wider lines break in the middle of a word."""
    monkeypatch.setenv("COLUMNS", "240")
    assert max(map(len, parser.format_help().splitlines())) <= WIDEST_HELP
    assert _ESCAPE not in parser.format_help()


def test_the_top_level_help_lists_every_command_under_what_one_wants() -> None:
    """Whoever comes first sees where to begin."""
    text = build_parser().format_help()
    for command in COMMANDS:
        assert re.search(rf"^{command.group}:$", text, re.MULTILINE)
        assert re.search(rf"^  {command.name} +\w", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= WIDEST_HELP
    assert HOME_VARIABLE in text


def test_help_needs_neither_dagster_nor_polars() -> None:
    """Help that takes seconds is not read."""
    code = (
        "import sys\nfrom review_optimizer_dagster.cli import build_parser\n"
        "build_parser().format_help()\n"
        "heavy = {'dagster', 'polars', 'duckdb', 'pydantic', 'rich', 'openai', 'diskcache'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_a_command_the_help_is_shown_and_the_exit_code_is_2(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A script that forgot the command must not go on."""
    with pytest.raises(SystemExit) as left:
        main([])
    assert left.value.code == 2
    assert "exit codes:" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["gaet"], "did you mean gate?"),
        (["nothinglike"], "choose from: run, watch"),
        (["run", "--tennant", "acme"], "did you mean --tenant?"),
        (["run", "--engine", "simulater"], "did you mean simulator?"),
        (["alerts", "akc"], "did you mean ack?"),
        (["run", "extra"], "has no further argument 'extra'"),
        (["run", "--date", "20th"], "'20th' is no day: give YYYY-MM-DD"),
        (["run", "--date", "2026-02-30"], "'2026-02-30' is no day"),
        (["label", "--tenant", "acme", "--from", "x"], "'x' is no day"),
        (["ui", "--port", "http"], "'http' is no port"),
        (["watch", "--interval", "soon"], "'soon' is no number of seconds"),
        (["run", "--fault", "overloaded"], "overloaded is not NAME=RATE"),
        (["label", "--tenant", "acme", "--reviews", "0"], "0 is no number of 1 or more"),
    ],
)
def test_a_typing_error_says_what_was_meant(
    capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    """The message is all that most people read."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    err = capfd.readouterr().err
    assert said in err
    assert "--help` has examples" in err


def test_days_may_be_named() -> None:
    """Most days that are asked for are the last two."""
    today = datetime.now(UTC).date()
    assert parse_day("today") - parse_day("yesterday") == timedelta(days=1)
    assert abs(parse_day("today") - today) <= timedelta(days=1)
    assert parse_day("2026-03-04") == date(2026, 3, 4)


# --- JSON -------------------------------------------------------------------------------------


def test_every_command_with_results_has_json() -> None:
    """One convention: a file, or standard output in place of the text."""
    without = {
        parser.prog.removeprefix(f"{PROGRAM} ")
        for parser in ALL
        if "--json" not in parser.options()
    }
    assert without == {"ui", "simulator"}
    for parser in ALL:
        for action in parser._actions:
            if action.dest == "json":
                assert (action.nargs, action.const) == ("?", Path("-"))


@pytest.mark.parametrize("form", [["--json"], ["--json", "-"]])
@pytest.mark.parametrize("command", [["alerts"], ["tiers"], ["watch", "--once"], ["init"]])
def test_json_on_standard_output_is_all_there_is(
    home: Home, capfd: pytest.CaptureFixture[str], command: list[str], form: list[str]
) -> None:
    """`| jq` must not meet a word for people."""
    with pytest.raises(SystemExit) as left:
        main([*command, *form])
    said = capfd.readouterr()
    assert left.value.code == 0
    assert said.err == ""
    value = json.loads(said.out)
    if command == ["init"]:
        assert value["tenants_file"] == str(home.tenants_file)


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", [["gate"], ["explain", "r1"], ["statement", "--tenant", "a"]])
def test_an_error_is_no_json(capfd: pytest.CaptureFixture[str], command: list[str]) -> None:
    """Standard output stays empty, so that no script takes an error for a result."""
    with pytest.raises(SystemExit) as left:
        main([*command, "--json"])
    said = capfd.readouterr()
    assert left.value.code == 2
    assert said.out == ""
    assert said.err.startswith(f"{PROGRAM}: ")
    assert said.err.count("\n") == 1


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", [["alerts"], ["tiers"], ["watch", "--once"], ["gate"]])
def test_a_result_that_cannot_be_written_is_refused_first(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """The same words in every command."""
    with pytest.raises(SystemExit) as left:
        main([*command, "--json", str(tmp_path / "absent" / "out.json")])
    assert left.value.code == 2
    assert "its folder does not exist" in capfd.readouterr().err


# --- how a command ends -----------------------------------------------------------------------


def _fails(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(_home: Home, _options: object) -> int:
        raise error

    commands = [replace(each, run=fail) if each.name == "init" else each for each in COMMANDS]
    monkeypatch.setattr(cli, "COMMANDS", tuple(commands))


def _exit_code(*arguments: str) -> Any:
    with pytest.raises(SystemExit) as left:
        main(arguments)
    return left.value.code


def test_a_defect_says_where_its_traceback_is(
    home: Home, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line, and a file that can be sent to whoever mends it."""
    home.claim()
    _fails(monkeypatch, ZeroDivisionError("unforeseen"))
    assert _exit_code("init") == 3
    err = capfd.readouterr().err
    (log,) = (home.folder / "logs").iterdir()
    assert err.count("\n") == 1
    assert "ZeroDivisionError: unforeseen" in err
    assert str(log) in err
    assert "Traceback" in log.read_text()
    assert "ZeroDivisionError: unforeseen" in log.read_text()


@pytest.mark.parametrize("way", ["option", "variable"])
def test_a_traceback_is_shown_where_it_is_asked_for(
    home: Home, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """Whoever develops wants it at once."""
    home.claim()
    _fails(monkeypatch, ZeroDivisionError("unforeseen"))
    if way == "variable":
        monkeypatch.setenv("REVIEW_OPTIMIZER_DEBUG", "1")
    assert _exit_code("init", *(["--debug"] if way == "option" else [])) == 3
    assert "Traceback (most recent call last)" in capfd.readouterr().err


def test_a_defect_makes_no_home(
    home: Home,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A home that was never used stays an empty folder, or none."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    _fails(monkeypatch, ZeroDivisionError("unforeseen"))
    assert _exit_code("init") == 3
    assert not home.folder.exists()
    (log,) = tmp_path.glob("error-*.log")
    assert str(log) in capfd.readouterr().err


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OSError(28, "No space left on device", "/data/x"), "/data/x: No space left on device"),
        (PermissionError(13, "Permission denied", "/data/x"), "allow writing there"),
        (RuntimeError("(sqlite3.OperationalError) database or disk is full"), "make room"),
        (RuntimeError("attempt to write a readonly database"), "allow writing there"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_what_the_system_refuses_can_be_mended(
    home: Home,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    said: str,
) -> None:
    """A full disk is no defect, whichever library tells of it."""
    home.claim()
    _fails(monkeypatch, error)
    assert _exit_code("init") == 2
    assert said in capfd.readouterr().err
    assert not (home.folder / "logs").exists()


def test_a_refusal_is_found_below_what_wrapped_it() -> None:
    """Dagster and SQLAlchemy wrap what a database says."""
    wrapped = RuntimeError("the step failed")
    wrapped.__cause__ = OSError(28, "No space left on device")
    assert "make room" in str(system_problem(wrapped))
    assert system_problem(ValueError("something else")) is None


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="a folder that root cannot write either")
@pytest.mark.parametrize("command", [["run"], ["ui"]])
def test_a_home_that_cannot_be_made_says_what_to_do(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: list[str]
) -> None:
    """Mostly the variable points to the wrong place."""
    monkeypatch.setenv(HOME_VARIABLE, "/proc/nowhere")
    assert _exit_code(*command) == 2
    err = capfd.readouterr().err
    assert "/proc/nowhere cannot be made" in err
    assert HOME_VARIABLE in err


@pytest.mark.parametrize("command", [["run"], ["gate"], ["alerts"], ["watch", "--once"]])
def test_a_home_of_a_newer_version_is_left_alone(
    home: Home, capfd: pytest.CaptureFixture[str], command: list[str]
) -> None:
    """An older version that writes to it would spoil it."""
    home.folder.mkdir(parents=True)
    (home.folder / "home.json").write_text('{"kind": "demo", "format": 99}')
    assert _exit_code(*command) == 2
    err = capfd.readouterr().err
    assert "format 99" in err
    assert "upgrade" in err
    assert [path.name for path in home.folder.iterdir()] == ["home.json"]


def test_a_spoiled_home_file_is_named(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    """Not a traceback of the JSON parser."""
    home.folder.mkdir(parents=True)
    (home.folder / "home.json").write_text("{")
    assert _exit_code("run") == 2
    assert str(home.folder / "home.json") in capfd.readouterr().err


def test_ctrl_c_is_130(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    """As a shell counts it."""
    home.claim()
    _fails(monkeypatch, KeyboardInterrupt())
    assert _exit_code("init") == 130
    assert "Traceback" not in capfd.readouterr().err


# --- pipes, colours and progress --------------------------------------------------------------


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _spend(tenant: str, spent: int) -> Spend:
    return Spend(tenant, True, "2026-03", 1, 1_000_000_000, spent, 0, 0, False)


def test_progress_tells_rate_time_left_and_money() -> None:
    """In plain words: the step, what is answered, how fast, for how long, for how much."""
    clock = _Clock()
    run = RunProgress(clock)
    run.begin(12)
    run.step("batch_classifications")
    run.spend(_spend("acme", 500_000_000))
    clock.now = 2.0
    run.texts(100, 400)
    run.spend(_spend("acme", 512_000_000))
    line = run.line()
    assert "step 1 of 12: asking the model" in line
    assert "100 of 400 texts, 50.0 reviews/s, 6 s left" in line
    assert "$0.012000; acme has used 51.2 % of its budget" in line


def test_the_rate_is_that_of_the_last_minute() -> None:
    """A model that has become slow takes longer than it did at first."""
    clock = _Clock()
    run = RunProgress(clock)
    run.step("batch_classifications")
    for clock.now, done in ((1.0, 1_000), (70.0, 1_010), (130.0, 1_020), (140.0, 1_030)):
        run.texts(done, 2_000)
    assert run.rate is not None
    assert run.rate < 2
    run.texts(5, 10)  # a second round counts from its own beginning
    assert (run.done, run.total) == (5, 10)


def test_progress_in_a_pipe_is_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    """A log file must not hold what moves a cursor, nor a line for every answer."""
    with RunDisplay(DAY) as display:
        display.begin(12)
        display.step("deliveries")
        for done in range(500):
            display.texts(done, 500)
        display.say()
        display.say()
    said = capfd.readouterr()
    assert said.out == ""
    assert _ESCAPE not in said.err
    assert "\r" not in said.err
    lines = said.err.splitlines()
    assert len(lines) == 2
    assert lines[-1].startswith(f"{DAY}: step 1 of 12: reading the inbox, 499 of 500 texts")


LONG = "a " * 300 + "end"


@pytest.mark.parametrize(
    ("variables", "coloured"),
    [({}, False), ({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False)],
    ids=str,
)
def test_a_table_in_a_pipe_loses_nothing(
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str],
    coloured: bool,
) -> None:
    """A pipe has no width: rich would take 80 columns and cut."""
    for name in ("COLUMNS", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    made = table(*(f"column {number}" for number in range(12)))
    made.add_row(*(f"cell-{number}-{'x' * 30}" for number in range(12)))
    out = console()
    out.print(made)
    out.print("[red]red[/]")
    text = capfd.readouterr().out
    assert ("\x1b[31m" in text) == coloured
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert "\u2026" not in plain
    assert plain.count("x") == 12 * 30


def test_a_verdict_of_many_words_is_whole_in_a_pipe(capfd: pytest.CaptureFixture[str]) -> None:
    """What the gate says of a day is one line, however long."""
    verdict = dict.fromkeys(gate._SHOWN["verdicts"], "x") | {"detail": f"[red] {LONG}"}
    gate._print(DAY, {"verdicts": [verdict], "accuracy": [], "causes": [], "wrong": []})
    assert f"x x: [red] {LONG}\n" in capfd.readouterr().out


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("command", ["alerts", "tiers"])
def test_a_closed_pipe_is_no_error(command: str) -> None:
    """`| head -1` is common, and the exit code must still be the command's."""
    reads, writes = os.pipe()
    os.close(reads)
    try:
        done = subprocess.run(
            [sys.executable, "-m", PACKAGE, command],
            stdout=writes,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writes)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a disk that is always full")
def test_a_full_disk_behind_standard_output_is_said(home: Home) -> None:
    """Half a result must not look like a whole one."""
    home.folder.mkdir(parents=True)
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", PACKAGE, "alerts"],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.startswith("review-optimizer: standard output: No space left on device")
    assert done.stderr.count("\n") == 1


@pytest.mark.campaign
@pytest.mark.timeout(600)  # seven processes, one after the other
def test_no_command_writes_escape_sequences_into_a_pipe(home: Home, tmp_path: Path) -> None:
    """A real run, and what is looked at after it, each as a process of its own."""
    deliver(home, reviews(0, 60))
    environment = {k: v for k, v in os.environ.items() if k not in ("FORCE_COLOR", "COLUMNS")}
    environment["TERM"] = "xterm-256color"
    summary = tmp_path / "summary.json"
    for arguments in (
        ["run", "--date", str(DAY), "--latency", "0", "--json", str(summary)],
        ["gate"],
        ["alerts", "--all"],
        ["tiers"],
        ["statement", "--tenant", "acme"],
        ["explain", "r1"],
        ["watch", "--once"],
    ):
        done = subprocess.run(
            [sys.executable, "-m", PACKAGE, *arguments],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout
        assert _ESCAPE not in done.stdout + done.stderr, arguments
        assert "\u2026" not in done.stdout, arguments
    assert json.loads(summary.read_text())["reviews"] == 60
