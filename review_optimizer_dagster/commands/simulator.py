"""The command `review-optimizer simulator`: the OpenAI protocol on loopback, for any client."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import (
    parse_count,
    parse_port,
    parse_rate,
    parse_seconds,
    parse_share,
)
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

_DESCRIPTION = """Serves an endpoint that speaks the OpenAI protocol, the Batch API included, on
loopback until it is stopped. It answers from a lexicon, and fails as often as it is told to."""
_EXAMPLES = """
review-optimizer simulator
review-optimizer simulator --port 8090 --latency 0.8 --sigma 0.4
review-optimizer simulator --fault overloaded=0.1 --fault missing_ids=0.05
"""


class _Help(argparse.Action):
    """Help with the table of faults, which no other command should have to load."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from review_optimizer_dagster.simulator.faults import FAULTS

        rows = "\n".join(f"  {name:<18}  {fault.described}" for name, fault in FAULTS.items())
        faults = f"faults, each at a RATE from 0 to 1, at most one a request:\n{rows}"
        parser.epilog = f"{faults}\n\n{parser.epilog}"
        parser.print_help()
        parser.exit()


def add_simulator(commands: Any) -> None:
    """Add the command to a parser's."""
    simulator = commands.add_parser(
        "simulator",
        help="serve an OpenAI-compatible simulator on loopback",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
        add_help=False,
    )
    simulator.add_argument(
        "-h", "--help", action=_Help, nargs=0, help="show this message, and the faults"
    )
    add = simulator.add_argument_group("where and how fast").add_argument
    add("--port", type=parse_port, default=8089, metavar="N", help="on loopback (default 8089)")
    add(
        "--latency",
        type=parse_seconds,
        default=0.05,
        metavar="S",
        help="seconds a request takes (default 0.05)",
    )
    add(
        "--seconds-per-token",
        type=parse_seconds,
        default=0.0,
        metavar="S",
        help="seconds of each output token on top",
    )
    add(
        "--sigma",
        type=parse_seconds,
        default=0.0,
        metavar="X",
        help="spread of the time (lognormal)",
    )
    add(
        "--batch-seconds",
        type=parse_seconds,
        default=0.0,
        metavar="S",
        help="how long a batch takes",
    )
    add = simulator.add_argument_group("limits").add_argument
    add(
        "--requests-per-minute",
        type=parse_count,
        default=10_000,
        metavar="N",
        help="more are refused with 429 (default 10,000)",
    )
    add(
        "--tokens-per-minute",
        type=parse_count,
        default=10_000_000,
        metavar="N",
        help="more are refused with 429 (default 10,000,000)",
    )
    add = simulator.add_argument_group("what goes wrong").add_argument
    add(
        "--fault",
        type=parse_rate,
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="share of requests that meet a fault; repeatable, see below",
    )
    add(
        "--error-rate",
        type=parse_share,
        default=0.0,
        metavar="RATE",
        help="share of requests that meet 500, 503 or 429 in all",
    )
    add(
        "--unsure-rate",
        type=parse_share,
        default=0.0,
        metavar="RATE",
        help="share of answers that say the model is unsure",
    )


def simulator_command(_: Home, options: argparse.Namespace) -> int:
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
