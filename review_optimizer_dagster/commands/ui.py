"""The command `review-optimizer ui`: Dagster's UI on the home's own instance."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from review_optimizer_dagster.commands.command_line import PROGRAM, parse_port
from review_optimizer_dagster.errors import UserError

if TYPE_CHECKING:
    from review_optimizer_dagster.config import Home

_DESCRIPTION = """Opens the Dagster UI on the instance that `run` writes to, with its schedules and
sensors, until Ctrl-C, and serves the dashboards beside it."""
_EXAMPLES = """
review-optimizer ui                     then open http://127.0.0.1:3000
review-optimizer ui --port 3010
review-optimizer ui --reports-port 0    serves no dashboards
"""


def _port_or_none(text: str) -> int:
    return 0 if text == "0" else parse_port(text)


def add_ui(commands: Any) -> None:
    """Add the command to a parser's."""
    ui = commands.add_parser(
        "ui",
        help="open the Dagster UI on the same instance",
        description=_DESCRIPTION,
        examples=_EXAMPLES,
    )
    ui.add_argument("--port", type=parse_port, default=3000, metavar="N", help="(default 3000)")
    ui.add_argument(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default 127.0.0.1: this machine alone; the UI asks for no "
        "password)",
    )

    ui.add_argument(
        "--reports-port",
        type=_port_or_none,
        default=3001,
        metavar="N",
        help="serve reports/ here, on this machine alone (default 3001; 0: not at all)",
    )


def ui_command(home: Home, options: argparse.Namespace) -> int:
    """Become `dagster dev` on the home's own instance, with its reports served beside it."""
    return ui(home, options.host, options.port, options.reports_port)


def ui(home: Home, host: str, port: int, reports_port: int = 0) -> int:
    """Become `dagster dev` on the home's own instance, with its reports served beside it."""
    import shutil
    import signal
    import socket

    from review_optimizer_dagster.config import HOME_VARIABLE
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
    if reports_port:
        _serve_reports(home, reports_port)
    command = [dagster, "dev", "-w", str(workspace), "-h", host, "-p", str(port)]
    os.execv(dagster, command)  # noqa: S606 (our own arguments)


def _serve_reports(home: Home, port: int) -> None:
    """Serve reports/ beside the UI; without them the UI is as useful as before."""
    from review_optimizer_dagster.report.server import start_beside

    home.reports.mkdir(parents=True, exist_ok=True)
    try:
        message = f"reports at {start_beside(home.reports, port)}"
    except OSError as error:
        message = (
            f"{PROGRAM}: reports are not served, since port {port} cannot be used "
            f"({error.strerror}): give another with --reports-port, or 0 for none"
        )
    sys.stderr.write(f"{message}\n")
