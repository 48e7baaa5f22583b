"""How much the endpoint takes in: requests and tokens a minute, and requests at once."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from review_optimizer_dagster.simulator.protocol import Failure, RefusedError

ROUNDING = 1e-6  # of sums of floats, in requests or tokens
BUSY_MS = 50  # how long a client that met too many others is told to wait


class Allowance:
    """A limit a minute that refills continuously (a token bucket)."""

    def __init__(self, name: str, per_minute: int) -> None:
        self.name = name
        self.per_minute = per_minute
        self._left = float(per_minute)
        self._seen: float | None = None

    def refill(self, now: float) -> None:
        """Bring it up to a time in seconds; time never runs backwards."""
        if self._seen is not None and now > self._seen:
            gained = (now - self._seen) * self.per_minute / 60
            self._left = min(float(self.per_minute), self._left + gained)
        self._seen = max(now, self._seen or now)

    def seconds_until(self, amount: int) -> float:
        """How long until an amount fits; infinite where it never will."""
        if amount > self.per_minute:
            return math.inf
        missing = amount - self._left
        return missing * 60 / self.per_minute if missing > ROUNDING else 0.0

    def take(self, amount: int) -> None:
        """Take an amount; what was used without having been asked for leaves a debt."""
        self._left -= amount

    def headers(self) -> dict[str, str]:
        """The headers that state the limit."""
        missing = (self.per_minute - self._left) * 60 / self.per_minute
        return {
            f"x-ratelimit-limit-{self.name}": str(self.per_minute),
            f"x-ratelimit-remaining-{self.name}": str(max(0, int(self._left))),
            f"x-ratelimit-reset-{self.name}": duration(missing),
        }


class Limits:
    """All limits of the endpoint; safe to use from many threads."""

    def __init__(
        self, requests_per_minute: int, tokens_per_minute: int, max_concurrent: int | None
    ) -> None:
        self._requests = Allowance("requests", requests_per_minute)
        self._tokens = Allowance("tokens", tokens_per_minute)
        self._max_concurrent = max_concurrent
        self._running = 0
        self._lock = threading.Lock()

    @property
    def running(self) -> int:
        """Requests that are being worked on."""
        with self._lock:
            return self._running

    @contextmanager
    def admit(self, tokens: int, now: float) -> Iterator[None]:
        """Take a request with so many tokens in, for as long as the block lasts.

        Raises RefusedError (429) where it does not fit; nothing is taken then.
        """
        with self._lock:
            if self._max_concurrent is not None and self._running >= self._max_concurrent:
                busy = _refusal("Too many requests at once.", BUSY_MS, self._headers())
                raise RefusedError(busy)
            for allowance, amount in ((self._requests, 1), (self._tokens, tokens)):
                allowance.refill(now)
                if wait := allowance.seconds_until(amount):
                    raise RefusedError(self._exceeded(allowance, amount, wait))
            self._requests.take(1)
            self._tokens.take(tokens)
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1

    def settle(self, tokens: int, now: float) -> dict[str, str]:
        """Take what a request used beyond what it was admitted with; the headers afterwards."""
        with self._lock:
            for allowance in (self._requests, self._tokens):
                allowance.refill(now)
            self._tokens.take(max(0, tokens))
            return self._headers()

    def _headers(self) -> dict[str, str]:
        return self._requests.headers() | self._tokens.headers()

    def _exceeded(self, allowance: Allowance, amount: int, wait: float) -> Failure:
        said = f"Limit {allowance.per_minute}, Requested {amount}."
        if math.isinf(wait):
            message = f"Request too large on {allowance.name} per min: {said}"
            return _refusal(message, None, self._headers(), allowance.name)
        milliseconds = math.ceil(wait * 1000)
        message = (
            f"Rate limit reached on {allowance.name} per min: {said} "
            f"Please try again in {duration(wait)}."
        )
        return _refusal(message, milliseconds, self._headers(), allowance.name)


def _refusal(
    message: str, milliseconds: int | None, headers: Mapping[str, str], kind: str = "requests"
) -> Failure:
    wait = (
        {"retry-after-ms": str(milliseconds), "retry-after": str(math.ceil(milliseconds / 1000))}
        if milliseconds is not None
        else {}
    )
    return Failure(429, kind, "rate_limit_exceeded", message, headers={**headers, **wait})


def duration(seconds: float) -> str:
    """A time span as the rate limit headers write it, rounded up to milliseconds.

    >>> duration(0.0004), duration(8.64), duration(366)
    ('1ms', '8.64s', '6m6s')
    """
    milliseconds = max(0, math.ceil(seconds * 1000))
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest / 1000:g}s"
