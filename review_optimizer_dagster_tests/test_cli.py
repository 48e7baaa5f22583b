"""The command: its exit codes, what it says where it refuses, and what it never says."""

from __future__ import annotations

import json
import socket
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.cli import build_parser, main
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.storage.journal import DayJournal, StateStore
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

MARKER = "sk-marker-3f9a51c07be24d68"
SIMULATED = '[engine]\nname = "simulator"\n'

# What users' scripts read of the summary; keys may be added, never renamed.
SUMMARY_KEYS = {
    "": "partition engine simulated reviews quarantined unique hits repeats misses labelled failed "
    "deferred audits hit_rate this_run llm cost_usd baseline_usd reduction by_tenant accuracy "
    "latency_ms seconds sla service alerts outputs",
    "hits": "l1 l2 l3_exact l3_near l3_pattern",
    "this_run": "requests cost_usd",
    "llm": "batches requests retries failed prompt_tokens cached_tokens completion_tokens",
    "accuracy": "truth n correct lower upper gate",
    "latency_ms": "p50 p95 p99",
    "seconds": "total cache classify gate",
    "sla": "target_seconds met",
}
TENANT_KEYS = {"cost_usd", "reviews", "budget_used", "accuracy"}


def _command(*arguments: object) -> int:
    return cli._dispatch(build_parser().parse_args([str(argument) for argument in arguments]))


def _run(*arguments: object) -> int:
    return _command("run", "--date", DAY, "--latency", 0, *arguments)


def _file(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def _settings(home: Home, text: str) -> None:
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(text)


def _refused(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What a command that exits with 2 says on standard error; nothing else may be printed."""
    assert _command(*arguments) == 2
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err.startswith("review-optimizer: ")
    assert "Traceback" not in said.err
    return said.err


@pytest.fixture
def taken_port() -> Iterator[int]:
    """A port on loopback on which something listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_file_from_the_command_line_ends_in_a_summary(
    home: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first thing a user tries; scripts rely on the code and on the keys of the summary."""
    file = _file(tmp_path / "mine.jsonl", [*reviews(0, 40), *reviews(0, 2, review_id=None)])
    out = tmp_path / "summary.json"
    assert _run("--reviews", file, "--tenant", "acme", "--json", out) == 0
    summary = json.loads(out.read_text())
    for part, keys in SUMMARY_KEYS.items():
        assert set(keys.split()) <= set(summary[part] if part else summary), part
    assert set(summary["by_tenant"]) == {"acme"}
    assert set(summary["by_tenant"]["acme"]) >= TENANT_KEYS
    assert (summary["partition"], summary["engine"]) == (DAY.isoformat(), "simulator")
    assert (summary["reviews"], summary["unique"], summary["repeats"]) == (42, 40, 2)
    assert summary["accuracy"]["gate"] != "failed"
    assert summary["cost_usd"].partition(".")[2].isdigit()
    assert len(summary["cost_usd"].partition(".")[2]) == 9
    for path in summary["outputs"].values():
        assert Path(path).exists()
    printed = capfd.readouterr().out
    for said in ("SIMULATED ANSWERS", "42", summary["cost_usd"], "acme", "service levels"):
        assert said in printed
    assert (home.inbox / "acme" / DAY.isoformat() / "mine.jsonl").read_bytes() == file.read_bytes()
    assert json.loads((home.folder / "home.json").read_text()) == {"kind": "demo"}


@pytest.mark.campaign
def test_a_failed_gate_is_exit_code_1_with_a_summary(
    home: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Whoever is paged needs the figures of exactly this run; the money was spent."""
    deliver(home, [row | {"label": "neutral"} for row in reviews(0, 80)])
    out = tmp_path / "summary.json"
    assert _run("--json", out) == 1
    summary = json.loads(out.read_text())
    assert summary["accuracy"]["gate"] == "failed"
    assert summary["reviews"] == summary["labelled"] == 80
    assert float(summary["cost_usd"]) > 0
    kinds = [alert["kind"] for alert in summary["alerts"]]
    assert kinds.count("gate") == 1
    assert set(kinds) == {"gate", "quality", "service"}
    assert "The gate failed" in capfd.readouterr().out


@pytest.mark.campaign
def test_init_writes_settings_that_run(
    home: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The commented file is the manual: it must be valid as it stands, and so must each key."""
    assert _command("init") == 0
    assert str(home.tenants_file) in capfd.readouterr().out.replace("\n", "")
    assert list(tomllib.loads(home.tenants_file.read_text())["tenants"]) == ["acme"]
    message = _refused(capfd, "init")
    assert f"{home.tenants_file} is there already" in message
    file = _file(tmp_path / "mine.jsonl", reviews(0, 12))
    out = tmp_path / "summary.json"
    assert _run("--reviews", file, "--engine", "simulator", "--json", out) == 0
    summary = json.loads(out.read_text())
    assert (summary["simulated"], summary["by_tenant"]["acme"]["reviews"]) == (True, 12)
    assert json.loads((home.folder / "home.json").read_text()) == {"kind": "real"}


def test_every_commented_key_of_init_is_valid_with_its_default(home: Home) -> None:
    """Removing a # must give what was in force before, not an error."""
    assert _command("init") == 0
    text = home.tenants_file.read_text()
    live = [
        line.removeprefix("# ")
        for line in text.splitlines()
        if line.startswith(("# ", "["))
        and not line.startswith("#  ")  # an example
        and ("= " in line or line.startswith("["))
    ]
    assert len(live) > 25
    home.tenants_file.write_text("\n".join(line for line in live if "(none)" not in line) + "\n")
    settings = Home(home.folder).settings
    home.tenants_file.write_text("[tenants.acme]\n")
    assert settings == Home(home.folder).settings


def test_init_refuses_a_home_that_holds_demo_data(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    """Made-up reviews must never be billed to, or published for, a real tenant."""
    home.claim()
    message = _refused(capfd, "init")
    assert "demo data" in message
    assert "REVIEW_OPTIMIZER_HOME" in message
    assert not home.tenants_file.exists()


@pytest.mark.parametrize("value", [None, "", "  "])
def test_a_missing_key_names_the_variable(
    home: Home,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    value: str | None,
) -> None:
    """Never a silent fall-back to the simulator; and no other variable's content is shown."""
    _settings(home, '[engine]\napi_key_env = "MODEL_KEY"\n[tenants.acme]\n')
    monkeypatch.setenv("OPENAI_API_KEY", MARKER)
    monkeypatch.delenv("MODEL_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MODEL_KEY", value)
    message = _refused(capfd, "run", "--date", DAY)
    assert "MODEL_KEY" in message
    assert "--engine simulator" in message
    assert MARKER not in message
    assert not home.warehouse.exists()


@pytest.mark.usefixtures("home")
def test_a_demo_home_with_a_real_engine_needs_its_key_too(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """`--engine openai` in a demo home would spend real money, so it is asked for the key."""
    assert "OPENAI_API_KEY" in _refused(capfd, "run", "--date", DAY, "--engine", "openai")


_TODAY = datetime.now(UTC).date()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tenant", "acme"], ["--tenant", "--reviews FILE"]),
        (["--date", _TODAY + timedelta(days=2)], ["is no partition", "to today"]),
        (["--date", "2025-12-31"], ["2025-12-31", "is no partition", "2026-01-01", "first_day"]),
        (["--answers", "gold.csv", "--engine", "openai"], ["--answers", "--engine simulator"]),
        (["--answer-error", 0.1, "--engine", "openai"], ["--answer-error", "--engine simulator"]),
        (["--answers", "absent.csv"], ["--answers absent.csv is no file"]),
        (["--answer-error", 1.5], ["--answer-error 1.5", "between 0 and 1"]),
        (["--answer-error", "nan"], ["--answer-error nan", "between 0 and 1"]),
        (["--reviews", "absent.jsonl"], ["absent.jsonl is no file"]),
        (["--json", "absent/summary.json"], ["absent/summary.json", "folder does not exist"]),
        (["--json", "."], ["--json .", "is a folder"]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_what_cannot_work_is_refused_before_anything_is_done(
    home: Home,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[object],
    said: list[str],
) -> None:
    """A run that ends in such an error after it has paid would be an expensive typing error."""
    monkeypatch.setenv("OPENAI_API_KEY", MARKER)
    monkeypatch.chdir(tmp_path)
    message = _refused(capfd, "run", *arguments)
    for part in said:
        assert part in message
    assert MARKER not in message
    assert not home.inbox.exists()
    assert not home.warehouse.exists()


@pytest.mark.usefixtures("home")
def test_today_is_a_partition(capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever delivers by hand does it today; only the missing file is wrong here."""
    today = datetime.now(UTC).date()
    assert "is no file" in _refused(capfd, "run", "--date", today, "--reviews", "absent.jsonl")


def test_the_first_day_is_configured(home: Home, capfd: pytest.CaptureFixture[str]) -> None:
    """A home that began later has no earlier partitions."""
    _settings(home, f"first_day = 2026-06-01\n{SIMULATED}[tenants.acme]\n")
    assert "2026-06-01 (first_day)" in _refused(capfd, "run", "--date", DAY)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[engine\n", "is not valid TOML"),
        ("[engine]\nin_flight = 99\n", "engine.in_flight"),
        ("[tenants.acme]\nbudgetusd = 1\n", "tenants.acme.budgetusd"),
        ("[tenants.acme]\nmin_accuracy = 'high'\n", "tenants.acme.min_accuracy"),
        ("[tenants.acme]\ntaxonomy = 'absent'\n", "tenants.acme.taxonomy"),
        ("[tenants.acme.columns]\nrevew_id = 'id'\n", "tenants.acme.columns.revew_id"),
        ("[engine]\nbase_url = 'https://u:p@host/v1'\n", "engine.base_url"),
    ],
)
def test_broken_settings_name_file_and_key(
    home: Home, capfd: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    """The file is long: the message must lead to the line."""
    _settings(home, text)
    message = _refused(capfd, "run", "--date", DAY)
    assert str(home.tenants_file) in message
    assert said in message
    assert "u:p" not in message


def test_an_unknown_tenant_is_refused_with_the_known_ones(
    home: Home, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Mostly a typing error, and the right name is in the message."""
    _settings(home, SIMULATED + "[tenants.acme]\n[tenants.bolt]\n")
    file = _file(tmp_path / "mine.jsonl", reviews(0, 1))
    message = _refused(capfd, "run", "--date", DAY, "--reviews", file, "--tenant", "acmee")
    assert "'acmee'" in message
    assert "acme, bolt" in message


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--date", "the day before"],
        ["run", "--engine", "magic"],
        [],
        ["run", "--latency", "-1"],
        ["ui", "--port", "x"],
        ["simulator", "--port", "70000"],
    ],
)
def test_the_command_line_itself_is_exit_code_2(
    capfd: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    """1 is kept for the gate; a script must be able to tell the two apart."""
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: review-optimizer" in capfd.readouterr().err


@pytest.mark.usefixtures("home")
def test_main_leaves_with_the_code_of_the_command() -> None:
    """The installed command is `main`; its code is what cron and CI see."""
    with pytest.raises(SystemExit) as left:
        main(["init"])
    assert left.value.code == 0
    with pytest.raises(SystemExit) as left:
        main(["init"])
    assert left.value.code == 2


@pytest.mark.usefixtures("home")
def test_a_home_that_cannot_be_made_is_exit_code_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Python's own code for an error is 1, which here would say that the gate failed."""
    (tmp_path / "home").write_text("a file, where the folder should be")
    assert str(tmp_path / "home") in _refused(capfd, "run", "--date", DAY)


def _replace(monkeypatch: pytest.MonkeyPatch, name: str, run: Any) -> None:
    commands = [
        replace(command, run=run) if command.name == name else command for command in cli.COMMANDS
    ]
    monkeypatch.setattr(cli, "COMMANDS", tuple(commands))


@pytest.mark.usefixtures("home")
def test_a_defect_is_exit_code_3(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody foresaw is no failed gate either, and is shown in full."""

    def broken(_home: Home, _options: object) -> int:
        raise ZeroDivisionError("unforeseen")

    _replace(monkeypatch, "init", broken)
    assert _command("init") == 3
    assert "ZeroDivisionError: unforeseen" in capfd.readouterr().err


@pytest.mark.usefixtures("home")
def test_an_interrupt_is_no_failed_gate(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C loses nothing, and the message says how to go on."""

    def interrupted(_home: Home, _options: object) -> int:
        raise KeyboardInterrupt

    _replace(monkeypatch, "init", interrupted)
    assert _command("init") == 130
    assert "run again to go on" in capfd.readouterr().err


@pytest.mark.parametrize("command", ["simulator", "ui"])
@pytest.mark.usefixtures("home")
def test_a_port_in_use_is_named(
    capfd: pytest.CaptureFixture[str], taken_port: int, command: str
) -> None:
    """Two UIs or simulators on one machine are common; the way out is another port."""
    message = _refused(capfd, command, "--port", taken_port)
    assert f"port {taken_port}" in message
    assert "--port" in message


@pytest.mark.usefixtures("home")
def test_a_ui_that_is_not_installed_says_what_to_install(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The webserver is an extra, so a lean installation has none."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    assert "extra `ui`" in _refused(capfd, "ui")


def _all_bytes(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def _all_rows(path: Path) -> str:
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute(
            "SELECT table_name FROM duckdb_tables() WHERE NOT internal"
        ).fetchall()
        assert tables
        return "\n".join(str(connection.execute(f"FROM {table}").fetchall()) for (table,) in tables)


def _all_records(home: Home) -> str:
    """The journal as it reads: on the disk its values are compressed."""
    journal, state = DayJournal(home.journal, DAY), StateStore(home.journal)
    try:
        requests = list(journal.requests())
        assert requests
        return json.dumps([requests, {key: state.get(key) for key in state.keys("")}])
    finally:
        journal.close()
        state.close()


@pytest.mark.campaign
@pytest.mark.parametrize("refusing", [False, True])
def test_the_key_is_written_nowhere(
    home: Home,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    refusing: bool,
) -> None:
    """Homes are backed up and event logs shown in the UI; a key in there is a leaked key."""
    monkeypatch.setenv("OPENAI_API_KEY", MARKER)
    out = tmp_path / "summary.json"
    faults = {"server_error": 1.0} if refusing else {}
    with Simulator(LexiconJudge(), latency_seconds=0.0, faults=faults) as endpoint:
        engine = f'[engine]\nbase_url = "{endpoint.base_url}"\nmax_attempts = 1\n'
        _settings(home, engine + "[tenants.acme]\n")
        file = _file(tmp_path / "mine.jsonl", reviews(0, 20))
        code = _run("--engine", "openai", "--reviews", file, "--json", out)
        assert endpoint.billed
    assert code in (0, 1)
    summary = json.loads(out.read_text())
    assert summary["simulated"] is False
    assert summary["labelled"] == (0 if refusing else 20)
    said = capfd.readouterr()
    events = b"".join(path.read_bytes() for path in home.dagster.rglob("*.db*"))
    assert b"batch_classifications" in events
    parquet = [pl.read_parquet(path) for path in home.published.rglob("*.parquet")]
    read = [said.out, said.err, out.read_text(), _all_records(home), _all_rows(home.warehouse)]
    for analytics in home.published.glob("*.duckdb"):
        read.append(_all_rows(analytics))
    for frame in parquet:
        read.append(str(frame.rows()))
    assert MARKER not in "\n".join(read)
    assert MARKER.encode() not in _all_bytes(home.folder)
    assert query(home, "SELECT DISTINCT engine FROM llm_requests").rows() == [("openai",)]


def test_a_warehouse_of_an_earlier_version_says_what_to_do(
    home: Home, capfd: pytest.CaptureFixture[str]
) -> None:
    """A statement only reads, so it cannot add the columns that are new."""
    home.claim()
    with duckdb.connect(str(home.warehouse)) as old:
        old.execute("CREATE TABLE ledger_entries (day DATE, tenant VARCHAR, cost_nanos BIGINT)")
        old.execute("INSERT INTO ledger_entries VALUES ('2026-03-04', 'acme', 1)")
    message = _refused(capfd, "statement", "--tenant", "acme")
    assert "review-optimizer run" in message
