"""A webhook receiver on loopback that fails half the time, and checks every signature itself."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

SECRET = "whsec_" + base64.b64encode(b"a key of twenty-four by.").decode()
How = Literal["error", "hang up", "no answer", "error after all"]
WAYS: tuple[How, ...] = ("error", "hang up", "no answer", "error after all")


@dataclass
class Receiver:
    """Counts what it was sent. `error after all` keeps the alert and answers 500."""

    failing: float = 0.5
    seed: int = 0
    ways: tuple[How, ...] = WAYS
    status: int = 200
    requests: list[dict[str, Any]] = field(default_factory=list)
    """Every request: id, body, headers, and whether its signature is right."""
    received: dict[str, int] = field(default_factory=dict)
    """By id, how often it was taken."""
    url: str = ""

    def __post_init__(self) -> None:
        self.free = threading.Event()
        self._random = random.Random(self.seed)  # noqa: S311 (no secret)
        self._lock = threading.Lock()

    @property
    def wrong_signatures(self) -> int:
        """Requests whose signature is not the specification's."""
        return sum(1 for request in self.requests if not request["signed"])

    @property
    def wrong_ids(self) -> int:
        """Requests whose webhook-id is not the id of the alert in the body."""
        return sum(1 for each in self.requests if each["id"] != each["body"]["data"]["alert_id"])

    def take(self, handler: BaseHTTPRequestHandler) -> How | None:
        """Note a request; returns how it is to fail, None where it is to be answered."""
        body = handler.rfile.read(int(handler.headers["content-length"]))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        with self._lock:
            fails = self._random.random() < self.failing
            how = self._random.choice(self.ways) if fails else None
            name = headers.get("webhook-id", "")
            self.requests.append(
                {
                    "id": name,
                    "path": handler.path,
                    "body": json.loads(body),
                    "headers": headers,
                    "signed": is_signed(headers, body),
                }
            )
            if how in (None, "error after all") and self.status < 300:
                self.received[name] = self.received.get(name, 0) + 1
        return how


def is_signed(headers: dict[str, str], body: bytes) -> bool:
    """By the text of the specification, from the secret."""
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    told = [headers.get("webhook-id", ""), headers.get("webhook-timestamp", ""), body.decode()]
    digest = hmac.new(key, ".".join(told).encode(), hashlib.sha256).digest()
    expected = "v1," + base64.b64encode(digest).decode()
    return hmac.compare_digest(headers.get("webhook-signature", ""), expected)


@contextmanager
def serving(receiver: Receiver) -> Iterator[Receiver]:
    """Serve a receiver on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            how = receiver.take(self)
            if how == "hang up":
                self.close_connection = True
                return
            if how == "no answer":
                receiver.free.wait(10)
                self.close_connection = True
                return
            self.send_response(500 if how else receiver.status)
            if receiver.status in (301, 302, 307, 308):
                self.send_header("location", f"{receiver.url}/elsewhere")
            if receiver.status == 429:
                self.send_header("retry-after", "600")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    receiver.url = f"http://127.0.0.1:{server.server_address[1]}/hook"
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield receiver
    finally:
        receiver.free.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
