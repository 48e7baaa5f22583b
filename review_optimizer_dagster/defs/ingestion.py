"""From the inbox to the accepted reviews of a day."""

from collections.abc import Iterator
from datetime import date
from itertools import chain

import dagster as dg

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.reviews import TenantRules, read_reviews
from review_optimizer_dagster.defs.metadata import figures, share, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, step
from review_optimizer_dagster.storage import inbox, partition
from review_optimizer_dagster.storage.intake import replace_deliveries
from review_optimizer_dagster.storage.warehouse import Warehouse


def fill_from_sample(home: Home, day: date) -> None:
    """In a demo home, give a day without files the built-in sample; nowhere else."""
    if home.is_demo and not inbox.day_files(home.inbox, day):
        from review_optimizer_dagster.simulator.sample import write_sample

        write_sample(home.inbox, day, home.settings.first_day)


@dg.multi_asset(
    specs=[
        dg.AssetSpec(
            "raw_reviews",
            description="A row is an accepted review of one day of delivery, as it was delivered.",
            kinds={"duckdb", "polars"},
        ),
        dg.AssetSpec(
            "quarantined_reviews",
            description="A row is a row of input that was not accepted: file, line and reason.",
            kinds={"duckdb"},
        ),
    ],
    partitions_def=DAILY,
    group_name="ingestion",
    pool="warehouse",
)
def deliveries(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> Iterator[dg.MaterializeResult[None]]:
    """Read the day's files; bad rows go to quarantine, the rest goes on."""
    day = date.fromisoformat(context.partition_key)
    home = home_folder.home
    with step("deliveries"):
        home.claim()
        fill_from_sample(home, day)
        sources = inbox.day_files(home.inbox, day)

        def rules(tenant: str) -> TenantRules:
            return TenantRules(home.taxonomy(tenant), home.tenant(tenant).columns)

        chunks = chain.from_iterable(
            read_reviews(source, rules, home.settings.input) for source in sources
        )
        with warehouse.open() as connection:
            intake = replace_deliveries(connection, day, chunks, [s.file for s in sources])
            tenants = partition.delivered(connection, day)
            reasons = partition.quarantine_reasons(connection, day)
    if intake.unknown_truth:
        context.log.warning("labels outside the taxonomy were ignored: %s", intake.unknown_truth)
    yield dg.MaterializeResult(
        asset_key="raw_reviews",
        metadata={
            "reviews": intake.accepted,
            **figures(accepted_share=share(intake.accepted, intake.accepted + intake.quarantined)),
            "files": intake.files,
            "tenants": table(tenants.rows(named=True)),
            "unknown_truth": dg.MetadataValue.json(intake.unknown_truth),
        },
    )
    yield dg.MaterializeResult(
        asset_key="quarantined_reviews",
        metadata={
            "rows": intake.quarantined,
            "reasons": table(reasons.rows(named=True)),
        },
    )
