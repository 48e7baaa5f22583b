"""Serves the reports folder on loopback, read-only, for as long as the process that asked lives."""

from __future__ import annotations

import argparse
import html
import os
import socket
import subprocess
import sys
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"
_MODULE = "review_optimizer_dagster.report.server"
_LOCAL_NAMES = {LOOPBACK, "localhost", "[::1]"}
_LOOK_SECONDS = 0.5  # how long this outlives its parent at most
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Reports</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>body{{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:40rem;padding:0 1rem;
color-scheme:light dark}}</style></head><body><h1>Reports</h1>
{sections}</body></html>
"""


class ReportsHandler(SimpleHTTPRequestHandler):
    """Files of one folder and an index of them: nothing hidden, nothing outside, nothing written.

    Only asked by a local name, so that no page of another site can read it by a name of its own.
    """

    server_version = "review-optimizer"

    def send_head(self) -> BytesIO | BinaryIO | None:
        """Answer GET and HEAD; returns the open file, or None where there is none."""
        host = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if host not in _LOCAL_NAMES:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "ask by 127.0.0.1 or localhost")
            return None
        path = unquote(urlsplit(self.path).path)
        if path == "/":
            self._send_index()
            return None
        if not self._is_served(path):
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def _is_served(self, path: str) -> bool:
        """Whether a path of a request is a file that stands in the folder and is not hidden."""
        parts = path.split("/")[1:]
        if any(not part or part.startswith(".") or "\\" in part or "\0" in part for part in parts):
            return False
        folder = Path(self.directory).resolve()
        wanted = folder.joinpath(*parts).resolve()  # a link may lead out of it
        return wanted.is_file() and wanted.is_relative_to(folder)

    def _send_index(self) -> None:
        body = index_page(Path(self.directory)).encode()
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def end_headers(self) -> None:
        """What every answer says: reports are written anew, and are what their type says."""
        self.send_header("Cache-Control", "no-cache")
        self.send_header("X-Content-Type-Options", "nosniff")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (of the library)
        """Say nothing: the terminal is the UI's."""


def index_page(folder: Path) -> str:
    """A page that links the dashboards, the newest day first, and the statements."""
    pages = [path.name for path in sorted(folder.glob("[!.]*.html")) if path.is_file()]
    days = sorted((name for name in pages if name[:1].isdigit()), reverse=True)
    others = [name for name in pages if not name[:1].isdigit()]
    statements = sorted(
        (f"statements/{path.name}" for path in (folder / "statements").glob("[!.]*")), reverse=True
    )
    sections = "".join(
        _section(title, names)
        for title, names in (("All days", others), ("Days", days), ("Statements", statements))
        if names
    )
    return _PAGE.format(
        sections=sections or "<p>No report yet. A run of the daily job writes the first.</p>"
    )


def _section(title: str, names: list[str]) -> str:
    links = "".join(
        f'<li><a href="{html.escape(name)}">{html.escape(_label(name))}</a></li>' for name in names
    )
    return f"<h2>{title}</h2><ul>{links}</ul>\n"


def _label(name: str) -> str:
    return name.removeprefix("statements/").removesuffix(".html")


def bound_socket(port: int) -> socket.socket:
    """A listening socket on loopback. Raises OSError where the port is taken."""
    listening = socket.create_server((LOOPBACK, port))
    listening.set_inheritable(True)
    return listening


def start_beside(folder: Path, port: int) -> str:
    """Serve a folder in a process beside this one, which ends when this one does; its address.

    The port is bound here, so that whoever has it already is found out here. It outlives an exec
    of this process, since that keeps its id. Raises OSError where the port is taken.
    """
    with bound_socket(port) as listening:
        number = listening.fileno()
        command = [sys.executable, "-m", _MODULE, str(folder), str(number), str(os.getpid())]
        subprocess.Popen(  # noqa: S603 (our own arguments)
            command, pass_fds=[number], stdin=subprocess.DEVNULL
        )
    return f"http://{LOOPBACK}:{port}/"


def serve(folder: Path, listening: socket.socket, parent: int) -> None:
    """Serve until the parent is gone, or until interrupted as it is."""
    handler = partial(ReportsHandler, directory=str(folder))
    server = ThreadingHTTPServer(listening.getsockname(), handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.daemon_threads = True
    threading.Thread(target=_end_with, args=(server, parent), daemon=True).start()
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        pass  # Ctrl-C goes to the UI and to this
    finally:
        server.server_close()


def _end_with(server: ThreadingHTTPServer, parent: int) -> None:
    """Whoever loses its parent is given another one: on every system, however it ended."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    server.shutdown()


def main() -> None:
    """Serve as `start_beside` asks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("socket", type=int, help="file descriptor of the listening socket")
    parser.add_argument("parent", type=int, help="id of the process to end with")
    options = parser.parse_args()
    serve(options.folder, socket.socket(fileno=options.socket), options.parent)


if __name__ == "__main__":
    main()
