"""The command that serves the simulator by itself."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from review_optimizer_dagster.cli import build_parser, main
from review_optimizer_dagster.simulator import server
from review_optimizer_dagster.simulator.faults import FAULTS


def made(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> server.Simulator:
    """The simulator that the command would serve."""
    found: list[server.Simulator] = []
    monkeypatch.setattr(server, "serve", lambda simulator, _announce: found.append(simulator))
    with pytest.raises(SystemExit) as left:
        main(["simulator", *arguments])
    assert left.value.code == 0
    return found[0]


def test_every_option_reaches_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """An option that is not handed on is a test that somebody believes to have run."""
    arguments = (
        "--port 9001 --latency 0.2 --seconds-per-token 0.001 --sigma 0.3 --fault slow=0.1 "
        "--fault server_error=0.1 --error-rate 0.3 --requests-per-minute 60 "
        "--tokens-per-minute 7000 --batch-seconds 30 --unsure-rate 0.05"
    )
    simulator = made(monkeypatch, *arguments.split())
    assert simulator.port == 9001
    assert simulator.latency_seconds == 0.2
    assert simulator.seconds_per_token == 0.001
    assert simulator.sigma == 0.3
    assert simulator.faults == {
        "slow": 0.1,
        "server_error": pytest.approx(0.2),
        "overloaded": pytest.approx(0.1),
        "rate_limit_ms": pytest.approx(0.1),
    }
    assert simulator.requests_per_minute == 60
    assert simulator.tokens_per_minute == 7000
    assert simulator.batch_seconds == 30.0
    assert simulator.unsure_rate == 0.05


def test_without_options_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trying it out must not need a manual."""
    simulator = made(monkeypatch)
    assert simulator.faults == {}
    assert simulator.port == 8089


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--fault", "slow"], "slow is not NAME=RATE"),
        (["--fault", "slow=often"], "slow=often is not NAME=RATE"),
        (["--fault", "slow=2"], "2 is no share between 0 and 1"),
        (["--fault", "slower=0.1"], "no fault 'slower': choose from rate_limit_seconds"),
        (["--fault", "slow=0.8", "--error-rate", "0.5"], "add up to 1.3"),
        (["--requests-per-minute", "0"], "0 is no number of 1 or more"),
    ],
)
def test_what_cannot_be_is_said(
    arguments: Sequence[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2 and what to do, as for every command."""
    with pytest.raises(SystemExit) as left:
        main(["simulator", *arguments])
    assert left.value.code == 2
    assert message in capsys.readouterr().err


def test_help_lists_the_faults(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody should have to read the source for a name."""
    with pytest.raises(SystemExit) as left:
        build_parser().parse_args(["simulator", "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    for name, fault in FAULTS.items():
        assert f"  {name}" in said
        assert fault.described in said


def test_serves_until_it_is_interrupted() -> None:
    """The whole command, as a person runs it: address, answers, Ctrl-C."""
    command = [sys.executable, "-m", "review_optimizer_dagster", "simulator", "--port", str(port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as alone:
        assert alone.stdout is not None
        said = alone.stdout.readline()
        address = said.split("http://")[1].split("/v1")[0]
        connection = http.client.HTTPConnection(address, timeout=10)
        connection.request("GET", "/v1/models", headers={"Authorization": "Bearer key"})
        answer: Any = json.loads(connection.getresponse().read())
        assert answer["data"]
        alone.send_signal(signal.SIGINT)
        assert alone.wait(10) == 0
        connection.close()


def port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
