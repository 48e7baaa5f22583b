"""Large batches, sampled as they come in: what a run is handed, and what it leaves."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date
from typing import Any

import polars as pl

from review_optimizer_dagster.alerts.tiers import (
    below_reason,
    quality_alert,
    quality_recovery,
)
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.alerting import teller
from review_optimizer_dagster.defs.resources import HomeFolder, utc_now
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.batch_quality import (
    BatchSample,
    BatchWatch,
    Goals,
    Sampler,
    SampleRules,
    TruthSource,
)
from review_optimizer_dagster.exchange.tier_pauses import (
    OUTLIVED,
    all_pauses,
    lift,
    note_pause,
    outlived,
)
from review_optimizer_dagster.money.budgets import State
from review_optimizer_dagster.settings import TenantSettings
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.storage.samples import known_truths
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.taxonomies import Taxonomy


def goals_of(home: Home, tenant: str) -> Goals:
    """What a tenant asks for; one that is gone has the defaults."""
    try:
        settings = home.tenant(tenant)
    except UserError:
        settings = TenantSettings()
    return Goals(settings.min_accuracy, settings.goal)


def sampler(home: Home, taxonomies: Mapping[str, Taxonomy], truth: TruthSource) -> Sampler:
    """Samples by the settings of a home."""
    batches = home.settings.batches
    rules = SampleRules(batches.sample_above, batches.sample_reviews)
    return Sampler(rules, taxonomies, truth, lambda tenant: goals_of(home, tenant))


@contextmanager
def quality_watch(
    home_folder: HomeFolder,
    warehouse: Warehouse,
    state: State,
    day: date,
    plan: pl.DataFrame,
    taxonomies: Mapping[str, Taxonomy],
    simulated: bool,
    log: logging.Logger,
) -> Iterator[BatchWatch]:
    """What a run tells of its replies; a batch that is below raises an alert at once.

    plan: PLAN. It begins with what earlier runs paused; what another identity has outlived is
    resumed first.
    """

    def truth(tenant: str, taxonomy: str) -> list[tuple[str, str]]:
        with warehouse.open(read_only=True) as connection:
            return known_truths(connection, day, tenant, taxonomy)

    with teller(home_folder, state, log) as tell:
        keys = plan.select("tenant", "taxonomy", "identity").unique().iter_rows()
        identities = {(tenant, taxonomy): identity for tenant, taxonomy, identity in keys}
        for pause in outlived(all_pauses(state), identities, simulated):
            tell([quality_recovery(pause, OUTLIVED, utc_now())])
            lift(state, pause.scope, OUTLIVED, utc_now())
        known = all_pauses(state)
        paused = {pause.scope for pause in known if pause.is_paused}

        def below(sample: BatchSample) -> None:
            # The alert first: a run that is killed in between judges the batch again.
            if sample.scope not in paused:
                tell([quality_alert(sample, day, utc_now())])
            note_pause(state, sample, below_reason(sample), utc_now())
            paused.add(sample.scope)

        yield BatchWatch(
            sampler(home_folder.home, taxonomies, truth),
            paused=paused,
            judged=[name for pause in known for name in pause.requests],
            tell=below,
        )


def store_samples(
    connection: Connection,
    home: Home,
    journal: DayJournal,
    requests: pl.DataFrame,
    taxonomies: Mapping[str, Taxonomy],
) -> dict[str, Any]:
    """Store the samples of a day's batches, by its journal and truth alone; what the UI shows.

    requests: REQUESTS of the journal; where none is large, it is not read again.
    """
    day = journal.day
    is_large = (requests["reviews"] > home.settings.batches.sample_above).any()

    def truth(tenant: str, taxonomy: str) -> list[tuple[str, str]]:
        return known_truths(connection, day, tenant, taxonomy)

    samples = sampler(home, taxonomies, truth).table(journal.requests() if is_large else ())
    connection.replace("batch_samples", samples, day)
    counts = dict(samples.group_by("verdict").len().iter_rows())
    return {
        "batches_sampled": samples.height - counts.get("unsampled", 0),
        "batches_without_truth": counts.get("unsampled", 0),
        "batches_below": counts.get("below", 0),
    }
