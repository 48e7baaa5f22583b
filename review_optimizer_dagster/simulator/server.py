"""What answers in place of a paid model: an OpenAI-compatible HTTP endpoint on loopback.

Light to import and to start, so that a run can bring its own endpoint up in a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType

from review_optimizer_dagster.simulator.connections import HttpServer
from review_optimizer_dagster.simulator.endpoint import Endpoint

SECONDS_TO_STOP = 0.2  # after an interrupt, at most


@dataclass(eq=False)
class Simulator(Endpoint):
    """The endpoint on a port: a context manager that listens while it is open.

    Port 0 takes any free one.
    """

    host: str = "127.0.0.1"
    port: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._server: HttpServer | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Simulator:
        self._closing.clear()
        self._server = HttpServer((self.host, self.port), self)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.05,), name="endpoint", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening and drop the open connections; what is still waiting is not billed."""
        self._closing.set()
        if self._server is not None and self._thread is not None:
            self._server.shutdown()
            self._server.server_close()
            self._thread.join()
            self._server = self._thread = None

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`. Raises RuntimeError while closed."""
        if self._server is None:
            raise RuntimeError("the endpoint is not open: use it as a context manager")
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/v1"


def serve(simulator: Simulator, announce: Callable[[str], object]) -> None:
    """Listen until interrupted; `announce` is given the base URL once requests are accepted."""
    # An interrupt can come as soon as the address is known, so all of it is inside.
    with suppress(KeyboardInterrupt), simulator:
        announce(simulator.base_url)
        # With polars loaded an interrupt does not end a wait, so it must be seen between two.
        while True:
            time.sleep(SECONDS_TO_STOP)
