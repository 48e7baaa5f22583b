"""What the browser tests need of the machine: a Chromium, a free port, the UI as a process."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from urllib.error import URLError

import pytest

from review_optimizer_dagster.config import HOME_VARIABLE, Home

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 120.0
_STOP_SECONDS = 60.0
_POLL_SECONDS = 0.2
_TAIL_LINES = 25


def find_chromium() -> str:
    """The Chromium to drive; fails the test where there is none, since playwright brings none."""
    if named := os.environ.get("CHROMIUM"):
        found = shutil.which(named)
        if found is None:
            pytest.fail(f"$CHROMIUM is {named!r}, which cannot be run", pytrace=False)
        return found
    for name in CHROMIUM_NAMES:
        if (found := shutil.which(name)) is not None:
            return found
    pytest.fail(
        f"no browser: none of {', '.join(CHROMIUM_NAMES)} is on the PATH. Install one "
        "(apt-get install chromium), or set CHROMIUM to its path",
        pytrace=False,
    )


def free_port() -> int:
    """A port on loopback that nothing listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def _end_with_parent() -> None:
    """Have the kernel interrupt this process when the tests are killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class UiProcess:
    """`review-optimizer ui` over a home, with all that it starts, in a process group of its own."""

    def __init__(self, home: Home, log: Path) -> None:
        port, reports_port = free_port(), free_port()
        self.log, self.url = log, f"http://127.0.0.1:{port}"
        self.reports_url = f"http://127.0.0.1:{reports_port}/"
        command = [sys.executable, "-m", "review_optimizer_dagster", "ui", "--port", str(port)]
        command += ["--reports-port", str(reports_port)]
        with log.open("wb") as out:
            self._process = subprocess.Popen(
                command,
                env=os.environ | {HOME_VARIABLE: str(home.folder)},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )

    def wait_until_served(self) -> None:
        """Return once the UI answers; fails the test where it ended or takes too long."""
        for _ in range(int(_START_SECONDS / _POLL_SECONDS)):
            try:
                with urllib.request.urlopen(f"{self.url}/server_info", timeout=5):  # noqa: S310
                    return
            except (URLError, OSError):
                if self._ended_within(_POLL_SECONDS):
                    break
        pytest.fail(f"the UI did not come up; its log ends:\n{self.tail()}", pytrace=False)

    def tail(self) -> str:
        """The last lines of what it wrote."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL_LINES:])

    def stop(self) -> bool:
        """Interrupt the group as Ctrl-C does and wait; returns whether that was enough.

        Whatever still lives then is killed.
        """
        for each in (signal.SIGINT, signal.SIGKILL):
            try:
                os.killpg(self._process.pid, each)
            except ProcessLookupError:
                return True
            if self._group_ended_within(_STOP_SECONDS):
                return each == signal.SIGINT
        return False

    def _ended_within(self, seconds: float) -> bool:
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def _group_ended_within(self, seconds: float) -> bool:
        if not self._ended_within(seconds):
            return False
        # Its children are not ours to wait for: the kernel says when the last one is gone.
        for _ in range(int(seconds / _POLL_SECONDS)):
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return True
            signal.sigtimedwait([], _POLL_SECONDS)
        return False
