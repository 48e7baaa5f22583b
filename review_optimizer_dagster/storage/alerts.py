"""The alerts table: what the journal holds, as of the last run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict

import polars as pl

from review_optimizer_dagster.alerts.store import Delivery, Kept
from review_optimizer_dagster.storage.warehouse import Connection

_COLUMNS: pl.Schema = pl.Schema(
    {
        "alert_id": pl.String(),
        "kind": pl.String(),
        "tenant": pl.String(),
        "period": pl.String(),
        "threshold": pl.Int64(),
        "severity": pl.String(),
        "message": pl.String(),
        "raised_at": pl.Datetime("us", "UTC"),
        "value": pl.Int64(),
        "limit": pl.Int64(),
        "version": pl.Int64(),
        "simulated": pl.Boolean(),
        "recovers": pl.String(),
        "state": pl.String(),
        "delivered_at": pl.Datetime("us", "UTC"),
        "acknowledged_at": pl.Datetime("us", "UTC"),
        "acknowledged_by": pl.String(),
        "deliveries": pl.String(),
    }
)


def replace_alerts(connection: Connection, alerts: Sequence[Kept]) -> None:
    """Make the alerts table what the journal holds."""
    frame = pl.DataFrame([_row(kept) for kept in alerts], schema=_COLUMNS)
    with connection.transaction():
        connection.execute("DELETE FROM alerts")
        connection.append("alerts", frame)


def _row(kept: Kept) -> dict[str, object]:
    row: dict[str, object] = asdict(kept.alert) | {
        "state": kept.state,
        "delivered_at": kept.delivered_at,
        "acknowledged_at": kept.acknowledged_at,
        "acknowledged_by": kept.acknowledged_by,
        "deliveries": json.dumps({name: _told(each) for name, each in kept.deliveries.items()}),
    }
    return {name: row[name] for name in _COLUMNS}


def _told(delivery: Delivery) -> Mapping[str, object]:
    times = {"next_attempt_at": delivery.next_attempt_at, "delivered_at": delivery.delivered_at}
    if delivery.delivered_at is not None:
        times["next_attempt_at"] = None
    return {"attempts": delivery.attempts, "error": delivery.error} | {
        name: None if time is None else time.isoformat() for name, time in times.items()
    }
