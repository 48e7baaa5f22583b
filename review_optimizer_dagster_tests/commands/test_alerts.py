"""`review-optimizer alerts`: what it lists, who acknowledged, and how its channels are tried."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.alerts.rules import budget_alerts
from review_optimizer_dagster.alerts.store import raise_once
from review_optimizer_dagster.cli import build_parser
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.money.budgets import Spend
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster_tests.alerts.receiver import SECRET, Receiver, serving

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOOK = """
[[alerts.channels]]
name = "hook"
kind = "webhook"
url_env = "HOOK_URL"
secret_env = "HOOK_SECRET"
[tenants.acme]
"""


def _command(*arguments: object) -> int:
    return cli._dispatch(build_parser().parse_args(["alerts", *map(str, arguments)]))


def _raise(home: Home, *owed: str) -> list[str]:
    """Four alerts of simulated money; their ids, in order of the thresholds."""
    alerts = budget_alerts(
        Spend("acme", True, "2026-11", 1, 100, 100, 0, 0, False), (50, 75, 90), NOW
    )
    with closing(StateStore(home.journal)) as state:
        raise_once(state, alerts, lambda _: owed)
    return [alert.alert_id for alert in alerts]


@pytest.fixture
def hooked(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with a webhook."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(HOOK)
    monkeypatch.setenv("HOOK_SECRET", SECRET)
    return home


def test_what_is_listed_is_written_too(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A home without a run has none; filters and --json agree with the table."""
    out = tmp_path / "alerts.json"
    assert _command("--json", out) == 0
    assert json.loads(out.read_text()) == []
    ids = _raise(home)
    assert _command("--json", out) == 0
    rows = json.loads(out.read_text())
    assert {row["alert_id"] for row in rows} == set(ids)
    assert {(row["state"], row["simulated"], row["event"]) for row in rows} == {
        ("raised", True, "budget.threshold_reached")
    }
    assert "no alerts: nothing was run" in capsys.readouterr().out
    for none in (("--tenant", "bolt"), ("--kind", "gate"), ("--state", "delivered")):
        assert _command(*none, "--json", out) == 0
        assert json.loads(out.read_text()) == []


def test_alerts_are_acknowledged_by_the_beginning_of_their_id(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Then they are listed with --all alone; what is not unique is refused."""
    first, *others = _raise(home)
    assert _command("ack", first[:12], "--by", "kim") == 0
    assert "acknowledged by kim" in capsys.readouterr().out
    out = tmp_path / "alerts.json"
    assert _command("--json", out) == 0
    assert {row["alert_id"] for row in json.loads(out.read_text())} == set(others)
    assert _command("--all", "--json", out) == 0
    assert len(json.loads(out.read_text())) == 4
    assert _command("ack", "zz") == 2
    assert "no alert has an id that begins with 'zz'" in capsys.readouterr().err
    assert _command("ack", "") == 2


def test_delivery_can_be_asked_for(
    hooked: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the back-off says; what fails is exit code 2 and says why."""
    _raise(hooked, "hook")
    assert _command("deliver") == 2
    assert "hook: the environment variable HOOK_URL is not set" in capsys.readouterr().err
    with serving(Receiver(failing=0)) as receiver:
        monkeypatch.setenv("HOOK_URL", receiver.url)
        assert _command("deliver") == 0
    assert len(receiver.received) == 4
    assert receiver.wrong_signatures == 0
    assert _command("--state", "delivered") == 0


@pytest.mark.usefixtures("hooked")
def test_a_test_alert_says_that_it_is_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing variable is found before anything happens."""
    assert _command("test") == 2
    assert "HOOK_URL is not set" in capsys.readouterr().err
    assert _command("test", "--channel", "hok") == 2
    assert "the names are: hook" in capsys.readouterr().err
    with serving(Receiver(failing=0)) as receiver:
        monkeypatch.setenv("HOOK_URL", receiver.url)
        assert _command("test", "--channel", "hook") == 0
    (request,) = receiver.requests
    assert request["body"]["type"] == "test.sent"
    assert "this is a test" in request["body"]["data"]["message"]
