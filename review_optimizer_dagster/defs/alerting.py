"""Alerts: raised once, kept in the journal, copied into the warehouse by each run."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence

from review_optimizer_dagster.alerts.channels import deliver
from review_optimizer_dagster.alerts.rules import Alert, budget_alerts, raise_once, raised
from review_optimizer_dagster.config import TENANT_NAME, Home
from review_optimizer_dagster.defs.resources import HomeFolder, budget, utc_now
from review_optimizer_dagster.storage.partition import replace_alerts
from review_optimizer_dagster.storage.warehouse import Connection


def known_tenants(home: Home) -> list[str]:
    """Every tenant that can have spent something: configured, or any that delivered to a demo."""
    names = {path.name for path in home.inbox.glob("*") if path.is_dir()}
    folders = {name for name in names if re.match(TENANT_NAME, name)}
    return sorted(set(home.settings.tenants) | (folders if home.is_demo else set()))


def budget_alerts_due(
    home_folder: HomeFolder,
    tenants: Sequence[str],
) -> list[Alert]:
    """Every threshold that these tenants' spend of the current period has reached.

    Simulated spend has counters and alerts of its own.
    """
    home, now = home_folder.home, utc_now()
    due: list[Alert] = []
    with home_folder.state() as state:
        for tenant in tenants:
            settings = home.tenant(tenant)
            for simulated in (False, True):
                spend = budget(home, state, tenant, simulated).state(now)
                due += budget_alerts(spend, settings.alert_at)
    return due


def note_alerts(
    log: logging.Logger,
    home_folder: HomeFolder,
    connection: Connection | None,
    alerts: Sequence[Alert],
) -> list[Alert]:
    """Raise and deliver what was not raised before, and copy every alert into the warehouse.

    A sensor has no connection: the next run copies what it raised. Returns the new alerts.
    """
    with home_folder.state() as state:
        new = raise_once(state, alerts)
        deliver(new, log)
        if connection is not None:
            replace_alerts(connection, raised(state))
    return new
