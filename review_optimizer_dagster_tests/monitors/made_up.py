"""Requests that were never sent: batches of mixed sizes, with latencies by a known model."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import polars as pl

from review_optimizer_dagster.monitors.latency import SIZED, Group

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"

DAY: Final = date(2026, 3, 4)
START: Final = datetime(2026, 3, 4, tzinfo=UTC)
GROUP: Final = Group("gpt-6-luna", "standard", simulated=False)
FIXED_MS, FRESH_MS, WRITTEN_MS = 400.0, 0.02, 6.0  # of a request, a token in, a token out


def sizes(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
    """Reviews (10 to 500, log-uniform), fresh tokens and completion tokens of n requests."""
    import numpy as np

    reviews = np.exp(rng.uniform(np.log(10), np.log(501), n)).astype(int)
    fresh = 400 + (reviews * rng.normal(55, 4, n)).round().astype(int)
    written = 5 + (reviews * rng.normal(6, 0.5, n)).round().astype(int)
    return reviews, fresh, written


def typical_ms(fresh: Array, written: Array) -> Array:
    """The median latency of requests of these sizes."""
    typical: Array = FIXED_MS + FRESH_MS * fresh + WRITTEN_MS * written
    return typical


def noise(
    rng: np.random.Generator,
    n: int,
    sigma: float = 0.3,
    tail: float | None = None,
    correlation: float = 0.0,
) -> Array:
    """Factors with median 1: lognormal, or log-Student with so many degrees of freedom.

    correlation: of the logarithms of neighbours, an autoregression of order 1.
    """
    import numpy as np
    from scipy.signal import lfilter

    draws = rng.standard_normal(n) if tail is None else rng.standard_t(tail, n)
    if correlation:
        draws = lfilter([np.sqrt(1 - correlation**2)], [1, -correlation], draws)
    factors: Array = np.exp(sigma * draws)
    return factors


def requests(
    reviews: Array, fresh: Array, written: Array, latency_ms: Array, *, first: int = 0, **more: Any
) -> pl.DataFrame:
    """SIZED, a request a second, from the second `first` of DAY; `more`: columns and constants."""
    numbers = range(first, first + len(reviews))
    columns: dict[str, Any] = {
        "request_id": [f"r{number:07}" for number in numbers],
        "sent_at": [START + timedelta(seconds=number) for number in numbers],
        "reviews": reviews,
        "fresh_tokens": fresh,
        "completion_tokens": written,
        "latency_ms": latency_ms,
    }
    constants = {"tenant": "acme"} | GROUP._asdict() | more
    frame = pl.DataFrame(columns, schema_overrides={"sent_at": pl.Datetime("us", "UTC")})
    lit = {name: pl.lit(value) for name, value in constants.items()}
    return frame.with_columns(**lit).select(*SIZED, *(each for each in more if each not in SIZED))


def stream(seed: int, *stretches: tuple[int, float], first: int = 0, **more: Any) -> pl.DataFrame:
    """Requests of a seed in stretches of (how many, times as long as typical)."""
    import numpy as np

    rng = np.random.default_rng(seed)
    n = sum(length for length, _ in stretches)
    reviews, fresh, written = sizes(rng, n)
    factors = np.repeat([factor for _, factor in stretches], [length for length, _ in stretches])
    latency = typical_ms(fresh, written) * noise(rng, n) * factors
    return requests(reviews, fresh, written, latency, first=first, **more)


def earlier(seed: int, n: int = 500, factor: float = 1.0, day: date | None = None) -> pl.DataFrame:
    """Requests of the day before, none of them in an episode."""
    day = day or DAY - timedelta(days=1)
    return stream(seed, (n, factor), first=-100_000, day=day, degraded=False)
