"""What the watch on response times reads and leaves: earlier requests, verdicts, its memory."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import polars as pl

from review_optimizer_dagster.monitors.latency import (
    Group,
    Judged,
    Watch,
    as_json,
    from_json,
    sized,
)
from review_optimizer_dagster.storage.warehouse import Connection

_MOST = 20_000  # earlier requests, the newest of the window: more say nothing new

_EPISODES = pl.Schema(
    {
        "model": pl.String(),
        "tier": pl.String(),
        "simulated": pl.Boolean(),
        "started": pl.Date(),
        "number": pl.Int64(),
        "onset_at": pl.Datetime("us", "UTC"),
        "raised_at": pl.Datetime("us", "UTC"),
        "requests": pl.Int64(),
        "slowdown": pl.Float64(),
        "tenants": pl.List(pl.String()),
        "ended_at": pl.Datetime("us", "UTC"),
        "end": pl.String(),
    }
)


def earlier_requests(connection: Connection, day: date, window_days: int) -> pl.DataFrame:
    """The requests of the days before a day, within the window: SIZED with day and degraded."""
    found = connection.frame(
        """
        SELECT r.*, coalesce(l.degraded, false) AS degraded FROM (
            SELECT * FROM llm_requests
            WHERE day < $day AND day >= $day - to_days($window::INTEGER)
                AND tier IS NOT NULL AND latency_ms IS NOT NULL
            ORDER BY day DESC, sent_at DESC LIMIT $most) r
        LEFT JOIN request_latencies l USING (day, request_id)
        """,
        {"day": day, "window": window_days, "most": _MOST},
    )
    judged = found.select("request_id", "day", "degraded")
    return sized(found).join(judged, on="request_id", how="left", maintain_order="left")


def watches_before(connection: Connection, day: date) -> dict[Group, Watch]:
    """What was remembered of each group at the end of its last day before a day."""
    rows = connection.frame(
        """
        SELECT model, tier, simulated, watch FROM latency_watches WHERE day < $day
        QUALIFY row_number() OVER (
            PARTITION BY model, tier, simulated ORDER BY latency_watches.day DESC) = 1
        ORDER BY ALL
        """,
        {"day": day},
    )
    return {Group(*group): from_json(watch) for *group, watch in rows.iter_rows()}


def replace_latencies(connection: Connection, day: date, judged: Judged) -> None:
    """Make the verdicts, episodes and memory of a day what was judged, all or nothing."""
    with connection.transaction():
        connection.replace("request_latencies", judged.latencies, day)
        connection.replace("latency_episodes", _episode_rows(judged), day)
        connection.replace("latency_watches", _watch_rows(judged.watches), day)


def _episode_rows(judged: Judged) -> pl.DataFrame:
    rows = [
        group._asdict()
        | {name: getattr(episode, name) for name in _EPISODES.names()[3:]}
        | {"tenants": list(episode.tenants)}
        for group, episodes in judged.episodes.items()
        for episode in episodes
    ]
    return pl.DataFrame(rows, schema=_EPISODES)


def _watch_rows(watches: Mapping[Group, Watch]) -> pl.DataFrame:
    rows = [group._asdict() | {"watch": as_json(watch)} for group, watch in watches.items()]
    texts = dict.fromkeys(("model", "tier", "watch"), pl.String)
    return pl.DataFrame(rows, schema=texts | {"simulated": pl.Boolean})
