"""From episodes of slow response times to alerts and recoveries; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

import polars as pl

from review_optimizer_dagster.alerts.rules import (
    Alert,
    News,
    Recovery,
    alert_id,
    condition_recovery,
)
from review_optimizer_dagster.monitors.latency import Episode, Group, Judged


def latency_news(judged: Judged, day: date, now: datetime) -> list[News]:
    """The alerts of a day's episodes, a tenant that sent requests in them; and what is over.

    An episode's alert has the same id however often, and by whomever, the day is judged. A tenant's
    alert that no episode stands for any more, since the day was run again, is over as well.
    """
    news: list[News] = []
    for group in judged.watches:
        seen = judged.episodes.get(group, ())
        rows = _of(judged.latencies, group)
        tenants = {name for episode in seen for name in episode.tenants}
        for tenant in sorted(tenants | set(rows["tenant"].unique().to_list())):
            own = rows.filter(pl.col("degraded"), pl.col("tenant") == tenant)
            for episode in seen:
                if tenant in episode.tenants:
                    news += _news_of(group, tenant, episode, own, now)
            news.append(_sweep(group, tenant, seen, day, now))
    return news


def _of(latencies: pl.DataFrame, group: Group) -> pl.DataFrame:
    return latencies.filter(
        pl.col("model") == group.model,
        pl.col("tier") == group.tier,
        pl.col("simulated") == group.simulated,
    )


def _news_of(
    group: Group, tenant: str, episode: Episode, rows: pl.DataFrame, now: datetime
) -> list[News]:
    alert = latency_alert(group, tenant, episode, rows, now)
    if episode.end is None:
        return [alert]
    return [alert, _recovery(group, tenant, episode, [alert.alert_id], now)]


def latency_alert(
    group: Group, tenant: str, episode: Episode, rows: pl.DataFrame, now: datetime
) -> Alert:
    """The alert that a tenant is answered slowly in an episode.

    rows: REQUEST_LATENCIES of the tenant inside episodes of the day. value and limit of the alert:
    median response time and expected time of the tenant's requests in the episode, milliseconds.
    """
    own = rows.filter(pl.col("sent_at") >= episode.onset_at, pl.col("expected_ms").is_not_null())
    if episode.ended_at is not None:
        own = own.filter(pl.col("sent_at") < episode.ended_at)
    took, expected = (_median(own, name) for name in ("latency_ms", "expected_ms"))
    slower = round(100 * (episode.slowdown - 1))
    return Alert(
        alert_id=_alert_id(group, tenant, episode),
        kind="latency",
        tenant=tenant,
        period=episode.started.isoformat(),
        threshold=slower,
        severity="warning",
        message=(
            f"{_name(group)} answers {tenant} slowly since {episode.onset_at:%Y-%m-%d %H:%M} UTC: "
            f"requests take {slower} % longer than their size predicts (median of {own.height:,} "
            f"requests of the tenant {took:,.0f} ms, expected {expected:,.0f} ms)"
        ),
        raised_at=now,
        value=round(took),
        limit=round(expected),
        simulated=group.simulated,
        episode=_episode(group, tenant),
    )


def _recovery(
    group: Group, tenant: str, episode: Episode, names: Sequence[str], now: datetime
) -> Recovery:
    """That these alerts of an episode are over."""
    if episode.end == "new normal":
        message = (
            f"{_name(group)} has answered {tenant} {100 * (episode.slowdown - 1):.0f} % more slowly"
            f" since {episode.started}: that is the new normal, and what is expected from now on"
        )
    else:
        message = (
            f"{_name(group)} answers {tenant} as fast as the size of requests predicts again: "
            f"{episode.requests:,} requests since {episode.onset_at:%Y-%m-%d %H:%M} UTC took "
            f"{100 * (episode.slowdown - 1):.0f} % longer"
        )
    plain = condition_recovery(_episode(group, tenant), message, now)

    def over(alerts: Sequence[Alert]) -> Sequence[Alert]:
        return [each for each in alerts if each.alert_id in names]

    return Recovery(plain.episode, over, plain.alert)


def _sweep(
    group: Group, tenant: str, seen: Sequence[Episode], day: date, now: datetime
) -> Recovery:
    """That alerts of this day or before are over which no episode that goes on stands for."""
    open_now = {_alert_id(group, tenant, each) for each in seen if each.end is None}
    message = f"{_name(group)} answers {tenant} as fast as the size of requests predicts"
    plain = condition_recovery(_episode(group, tenant), message, now)

    def over(alerts: Sequence[Alert]) -> Sequence[Alert]:
        return [
            each
            for each in alerts
            if each.alert_id not in open_now and each.period <= day.isoformat()
        ]

    return Recovery(plain.episode, over, plain.alert)


def _alert_id(group: Group, tenant: str, episode: Episode) -> str:
    return alert_id("latency", tenant, *group, episode.started, episode.number)


def _episode(group: Group, tenant: str) -> str:
    kind = "simulated" if group.simulated else "real"
    return f"latency:{kind}:{group.model}:{group.tier}:{tenant}"


def _name(group: Group) -> str:
    return f"{group.model} (tier {group.tier}{', simulated' if group.simulated else ''})"


def _median(rows: pl.DataFrame, column: str) -> float:
    value = rows[column].median()
    return float(value) if isinstance(value, int | float) else 0.0
