"""One request over the wire: sent once, its raw outcome kept whole, whatever it is."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from review_optimizer_dagster.exchange.prompt import Json

ERROR_BODY_CHARS = 2_000
SHORTEST_SECRET = 8  # shorter keys are what local servers take: "none", "x"
NEVER_SENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
_KEPT_HEADERS = re.compile(r"retry-after|x-ratelimit-|x-request-id$|date$")


@dataclass(frozen=True)
class Clock:
    """Time as the engine sees it; tests hand in their own."""

    monotonic: Callable[[], float] = time.monotonic
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


def no_outcome(failure: str, error: str, maybe_sent: bool, now: datetime) -> Json:
    """The outcome of a request that brought no response; `maybe_sent`: it may be billed."""
    return {
        "http_status": None,
        "body": "",
        "headers": {},
        "failure": failure,
        "error": error,
        "maybe_sent": maybe_sent,
        "received_at": now.isoformat(),
    }


def response_outcome(
    status: int, body: str, headers: Mapping[str, str], secret: str, now: datetime
) -> Json:
    """The outcome of a request that was answered, if only with an error."""
    kept = {k.lower(): v for k, v in headers.items() if _KEPT_HEADERS.match(k.lower())}
    if not 200 <= status < 300:
        # Some endpoints repeat the key that they refuse.
        hidden = secret if len(secret) >= SHORTEST_SECRET else "\0"
        body = body.replace(hidden, "***")[:ERROR_BODY_CHARS]
    outcome: Json = {"http_status": status, "headers": kept, "body": body}
    outcome |= {"failure": None, "error": None, "maybe_sent": True}
    return outcome | {"received_at": now.isoformat()}


async def send_once(
    client: Any, body: Json, request_id: str, seconds: float, secret: str, clock: Clock
) -> Json:
    """Post a chat completion and wait so many seconds for all of the answer.

    client: an AsyncOpenAI without retries of its own; secret: the key, which must not be kept.
    """
    from openai import APIConnectionError, APIStatusError, APITimeoutError

    started = clock.monotonic()
    response = None
    try:
        async with asyncio.timeout(seconds):  # the client's own is for one read
            raw = await client.chat.completions.with_raw_response.create(
                **body, extra_headers={"X-Client-Request-Id": request_id}, timeout=seconds
            )
            response = raw.http_response
    except APIStatusError as error:
        response = error.response
    except (APITimeoutError, TimeoutError):
        outcome = no_outcome("timeout", f"no answer in {seconds:g} s", True, clock.now())
    except APIConnectionError as error:
        cause = type(error.__cause__).__name__
        outcome = no_outcome("connection", cause, cause not in NEVER_SENT, clock.now())
    if response is not None:
        text, headers = response.text, response.headers
        outcome = response_outcome(response.status_code, text, headers, secret, clock.now())
    return outcome | {"latency_ms": (clock.monotonic() - started) * 1_000}
