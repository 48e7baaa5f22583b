"""HTTP on loopback: reads requests, hands them on, and delivers the replies, or part of them."""

from __future__ import annotations

import logging
import socket
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Protocol
from urllib.parse import parse_qsl

from review_optimizer_dagster.simulator.protocol import (
    SERVER_ERROR,
    BilledRequest,
    Delivery,
    Failure,
    RefusedError,
    Reply,
    Request,
    invalid,
)

MOST_BYTES = 512 * 2**20  # of a request's body
SECONDS_A_BLANK = 0.2  # of an answer that never ends

log = logging.getLogger(__name__)


class Answering(Protocol):
    """What is behind the wire."""

    def answer(self, request: Request) -> Reply:
        """The reply to a request; a ConnectionError drops the connection."""
        ...

    def lost(self, billed: BilledRequest) -> None:
        """Told where a reply could not be written."""
        ...


class HttpServer(ThreadingHTTPServer):
    """Serves an endpoint, a thread a connection."""

    request_queue_size = 128
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], endpoint: Answering) -> None:
        self.endpoint = endpoint
        self.closing = threading.Event()
        self._open: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Bind without looking up the name of the host."""
        # HTTPServer looks the host's name up here, which can take seconds; nobody needs it.
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Remember the connection until it is closed."""
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Forget a connection that is closed."""
        self._open.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        """Close the port and every connection that is still open."""
        self.closing.set()
        super().server_close()
        # A kept-alive connection would hold its thread until the client lets go.
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, _request: Any, client_address: Any) -> None:
        """Clients may hang up at any time; anything else is a defect of the endpoint."""
        if not isinstance(sys.exception(), ConnectionError):
            log.exception("the endpoint dropped the connection to %s", client_address)


class _Handler(BaseHTTPRequestHandler):
    server: HttpServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 65_536  # headers and body in one packet

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def do_DELETE(self) -> None:
        self._answer()

    def _answer(self) -> None:
        started = time.monotonic()
        try:
            reply = self.server.endpoint.answer(self._request())
        except RefusedError as refused:
            reply = refused.failure.reply()
        except ConnectionError:
            self.close_connection = True
            return
        except Exception:
            log.exception("the endpoint could not answer %s", self.path)
            reply = SERVER_ERROR.reply()
        try:
            self._send(reply, time.monotonic() - started)
        except ConnectionError:
            if reply.billed is not None:
                self.server.endpoint.lost(reply.billed)
            raise

    def _request(self) -> Request:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        raw = self._body()
        return Request(self.command, path, dict(parse_qsl(query)), headers, raw, self._client_left)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal() or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # where the next request begins cannot be known
            raise invalid("A request needs a Content-Length that is a number.")
        if int(length) > MOST_BYTES:
            self.close_connection = True
            raise invalid(f"The body is larger than {MOST_BYTES} bytes.", status=413)
        raw = self.rfile.read(int(length))
        if len(raw) < int(length):
            raise ConnectionAbortedError
        return raw

    def _client_left(self) -> bool:
        try:
            return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def _send(self, reply: Reply, seconds: float) -> None:
        if reply.delivery is not Delivery.WHOLE:
            self.close_connection = True
        if reply.delivery is Delivery.NOTHING:
            return
        body = reply.content()
        self.send_response(reply.status)
        headers = {
            "content-type": reply.content_type,
            "x-request-id": f"req_{uuid.uuid4().hex}",
            "openai-version": "2020-10-01",
            "openai-processing-ms": str(int(seconds * 1000)),
            **reply.headers,
        }
        for name, value in headers.items():
            self.send_header(name, value)
        if reply.delivery is Delivery.ENDLESS:
            self._send_blanks()
            return
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if reply.delivery is Delivery.HALF else body)
        self.wfile.flush()

    def _send_blanks(self) -> None:
        """White space is what a JSON document may begin with, so no parser gives up on it."""
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        while not self.server.closing.wait(SECONDS_A_BLANK) and not self._client_left():
            self.wfile.write(b"1\r\n \r\n")
            self.wfile.flush()

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class answers to broken HTTP, shaped as every other error."""
        self.close_connection = True
        text = message or explain or "Bad request"
        self._send(Failure(code, "invalid_request_error", None, text).reply(), 0.0)

    def version_string(self) -> str:
        return "api"

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        """Requests are in the endpoint's record, not on stderr."""
