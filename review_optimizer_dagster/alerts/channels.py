"""Where alerts go once they are raised: the log."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from review_optimizer_dagster.alerts.rules import Alert

_LEVELS = {"warning": logging.WARNING, "critical": logging.CRITICAL}


def deliver(alerts: Iterable[Alert], log: logging.Logger) -> None:
    """Write each alert to a logger (Python's, or a Dagster context's) at its severity."""
    for alert in alerts:
        log.log(_LEVELS[alert.severity], "alert %s: %s", alert.alert_id, alert.message)
