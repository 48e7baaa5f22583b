"""The reports folder as it is served beside the UI."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path

import pytest

from review_optimizer_dagster.commands import ui
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.report import server


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Reports of two days, a statement, something hidden, and a secret beside the folder."""
    reports = tmp_path / "home" / "reports"
    (reports / "statements").mkdir(parents=True)
    for name in ("2026-03-04.html", "2026-03-05.html", "operations.html"):
        (reports / name).write_text(f"<p>{name}</p>")
    (reports / "statements" / "acme-2026-03.csv").write_text("day\n")
    (reports / ".new.html").write_text("half written")
    (tmp_path / "home" / "secret.txt").write_text("secret")
    (reports / "link.html").symlink_to(tmp_path / "home" / "secret.txt")
    return reports


@pytest.fixture
def port(folder: Path) -> Iterator[int]:
    """The port that the folder is served on."""

    def handler(*arguments: object) -> server.ReportsHandler:
        return server.ReportsHandler(*arguments, directory=str(folder))  # type: ignore[arg-type]

    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield httpd.server_address[1]
        httpd.shutdown()


def ask(
    port: int, path: str, method: str = "GET", host: str | None = None
) -> tuple[int, str, str | None]:
    """Status, body and type of an answer; the path is sent as it is."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path, headers={"Host": host} if host else {})
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, body, answer.getheader("Content-Type")


def test_the_first_page_links_the_newest_day_first(port: int) -> None:
    """Whoever opens the address wants today's dashboard."""
    status, page, kind = ask(port, "/")
    assert (status, kind) == (200, "text/html; charset=utf-8")
    links = ["operations.html", "2026-03-05.html", "2026-03-04.html", "statements/acme-2026-03.csv"]
    places = [page.index(f'href="{link}"') for link in links]
    assert places == sorted(places)
    assert "new.html" not in page
    assert ask(port, "/2026-03-05.html")[:2] == (200, "<p>2026-03-05.html</p>")
    assert ask(port, "/statements/acme-2026-03.csv?x=1")[0] == 200
    assert ask(port, "/", "HEAD")[:2] == (200, "")


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt", "/%2e%2e/secret.txt", "/statements/../../secret.txt", "//etc/passwd",
        "/..%5csecret.txt", "/.new.html", "/%2enew.html", "/link.html", "/statements/",
        "/statements", "/none.html", "/2026-03-04.html/", "/%00",
    ],
)  # fmt: skip
def test_nothing_outside_hidden_or_listed_is_given_away(port: int, path: str) -> None:
    """The home holds every review; the folder beside it is all that is to be read."""
    status, body, _ = ask(port, path)
    assert status == 404
    assert "secret" not in body.replace("secret.txt", "")


def test_it_is_read_only_and_answers_to_local_names_alone(port: int, folder: Path) -> None:
    """A page of another site may point a name of its own at this machine."""
    for method in ("PUT", "POST", "DELETE"):
        assert ask(port, "/2026-03-04.html", method)[0] == 501
    assert (folder / "2026-03-04.html").exists()
    assert ask(port, "/", host="evil.example:3001")[0] == 421
    assert ask(port, "/", host=f"localhost:{port}")[0] == 200


def test_an_empty_folder_says_what_makes_a_report(tmp_path: Path) -> None:
    """A blank page would look broken."""
    assert "No report yet" in server.index_page(tmp_path)


def test_a_port_that_is_taken_does_not_stop_the_ui(
    home: Home, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reports are an extra: the UI says so and goes on."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ui._serve_reports(home, port)
    told = capsys.readouterr().err
    assert f"port {port} cannot be used" in told
    assert "--reports-port" in told


_PARENT = """
import sys
from pathlib import Path
from review_optimizer_dagster.report.server import start_beside
print(start_beside(Path(sys.argv[1]), int(sys.argv[2])), flush=True)
import os
os.execv(sys.executable, [sys.executable, "-c", "input()"])
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_it_outlives_the_exec_of_the_ui_and_ends_with_it(folder: Path, how: signal.Signals) -> None:
    """No orphan keeps the port, however the UI ended."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(folder), str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == f"http://127.0.0.1:{port}/\n"
        assert ask(port, "/operations.html")[0] == 200  # accepted by the kernel until it is up
        os.kill(parent.pid, how)
        parent.stdout.read()  # ends when the last process that has it open has ended
    with pytest.raises(ConnectionRefusedError):
        ask(port, "/")
