"""Alerts: raised once, kept in the journal, delivered, copied into the warehouse by each run."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from review_optimizer_dagster.alerts.budgets import Watch, spends
from review_optimizer_dagster.alerts.channels import Channel, channels_of, owed_to
from review_optimizer_dagster.alerts.outbox import LIMIT_SECONDS, Dispatcher, Pass, deliver_due
from review_optimizer_dagster.alerts.rules import Alert, News, budget_news
from review_optimizer_dagster.alerts.store import kept_alerts, raise_news
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.resources import HomeFolder, budget, utc_now
from review_optimizer_dagster.money.budgets import Budget, Spend, State, Version
from review_optimizer_dagster.settings import TENANT_NAME, TenantSettings
from review_optimizer_dagster.storage.alerts import replace_alerts
from review_optimizer_dagster.storage.warehouse import Connection

_RUN_LIMIT_SECONDS = 3.0  # longest that a step waits for channels; the rest is delivered later


def known_tenants(home: Home) -> list[str]:
    """Every tenant that can have spent something: configured, or any that delivered to a demo."""
    names = {path.name for path in home.inbox.glob("*") if path.is_dir()}
    folders = {name for name in names if re.match(TENANT_NAME, name)}
    return sorted(set(home.settings.tenants) | (folders if home.is_demo else set()))


def budget_alerts_due(home_folder: HomeFolder, tenants: Sequence[str]) -> list[News]:
    """What these tenants' spend says, of the current period and, since data may be late, the last.

    Simulated spend has counters and alerts of its own.
    """
    home, now = home_folder.home, utc_now()
    due: list[News] = []
    with home_folder.state() as state:
        for tenant in tenants:
            thresholds = home.tenant(tenant).alert_at
            for simulated in (False, True):
                own = budget(home, state, tenant, simulated)

                def under(version: Version, own: Budget = own) -> Budget:
                    return Budget(state, own.tenant, version, simulated=own.simulated)

                for spend in spends(state, under, own.version, tenant, now):
                    due += budget_news(spend, thresholds, now)
    return due


def note_alerts(
    log: logging.Logger,
    home_folder: HomeFolder,
    connection: Connection | None,
    news: Sequence[News],
) -> list[Alert]:
    """Raise and deliver what was not raised before, and copy every alert into the warehouse.

    A sensor has no connection: the next run copies what it raised. What a channel does not take
    at once is delivered later. Returns the new alerts.
    """
    channels = channels_of(home_folder.home.settings.alerts, log)
    with home_folder.state() as state:
        new = raise_news(state, news, lambda alert: owed_to(channels, alert))
        deliver_due(state, channels, utc_now, log, limit_seconds=_RUN_LIMIT_SECONDS)
        if connection is not None:
            replace_alerts(connection, kept_alerts(state))
    return new


def deliver_alerts(
    log: logging.Logger,
    home_folder: HomeFolder,
    *,
    force: bool = False,
    limit_seconds: float = LIMIT_SECONDS,
) -> Pass:
    """Retry what is owed to the channels of the home; force: whatever the back-off says."""
    channels = channels_of(home_folder.home.settings.alerts, log)
    with home_folder.state() as state:
        return deliver_due(state, channels, utc_now, log, force=force, limit_seconds=limit_seconds)


@contextmanager
def budget_watch(
    home_folder: HomeFolder, state: State, log: logging.Logger
) -> Iterator[Callable[[Spend], None]]:
    """What budgets are to tell their changes, while a run goes on; alerts leave in the background.

    The block's end waits a moment for what is under way, and never for more.
    """
    tenants = home_folder.home.settings.tenants

    def thresholds(tenant: str) -> Sequence[int]:
        return (tenants.get(tenant) or TenantSettings()).alert_at

    with teller(home_folder, state, log) as tell:
        yield Watch(state, thresholds, utc_now, tell)


@contextmanager
def teller(
    home_folder: HomeFolder, state: State, log: logging.Logger
) -> Iterator[Callable[[Sequence[News]], None]]:
    """What raises news while a run goes on, and has its alerts leave in the background.

    The block's end waits a moment for what is under way, and never for more.
    """
    channels: list[Channel] = channels_of(home_folder.home.settings.alerts, log)
    with Dispatcher(state, channels, utc_now, log) as dispatcher:

        def tell(news: Sequence[News]) -> None:
            if raise_news(state, news, lambda alert: owed_to(channels, alert)):
                dispatcher.wake()

        yield tell
