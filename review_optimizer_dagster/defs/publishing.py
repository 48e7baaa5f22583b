"""What leaves the pipeline: only what the gate let through."""

from collections.abc import Mapping
from datetime import date

import dagster as dg

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import charts
from review_optimizer_dagster.defs.links import report_url
from review_optimizer_dagster.defs.metadata import figures, share, table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, step, utc_now
from review_optimizer_dagster.storage import history, inbox, partition
from review_optimizer_dagster.storage.publish import publish_day, write_files
from review_optimizer_dagster.storage.service import note_publications, published_pairs
from review_optimizer_dagster.storage.star import replace_taxonomies
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse


def publish_blocked(connection: Connection, home: Home, day: date) -> None:
    """Where the gate stops the publishing step, show analysts the verdict and the spend at least.

    Called by the steps that write the two, whichever comes last; labels stay where they are.
    """
    if partition.is_blocked(connection, day):
        write_files(connection, home.published, day, home.settings.service.analytics_days)


def accuracy(past: Mapping[str, history.Series], day: date) -> dict[str, float]:
    """A day's accuracy and its interval for a plot; past: `history.accuracies`."""
    lower = past["lower"].get(day)
    return figures(
        accuracy=past["accuracy"].get(day),
        accuracy_lower=lower,
        accuracy_upper=past["upper"].get(day),
        error_bound=None if lower is None else 1 - lower,
    )


def accuracy_chart(past: Mapping[str, history.Series], day: date) -> dg.MarkdownMetadataValue:
    """The accuracy of the last days, and how low it may be at worst."""
    names = {"accuracy": "accuracy", "lower": "lower bound", "upper": "upper bound"}
    return charts.history(day, {name: (past[key], charts.percent) for key, name in names.items()})


@dg.asset(
    deps=["review_results", "cost_rollups"],
    partitions_def=DAILY,
    group_name="publishing",
    kinds={"duckdb", "parquet"},
    pool="warehouse",
    description="A row is a review of a tenant-day that the gate did not fail; `verified` is false "
    "where it could not decide. Also `published/*.parquet` and `published/analytics.duckdb`.",
)
def published_results(
    context: dg.AssetExecutionContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Publish the day, and replace the files that analysts open."""
    day = date.fromisoformat(context.partition_key)
    home = home_folder.home
    with step("published_results"), warehouse.open() as connection:
        before = published_pairs(connection, day)
        rows = publish_day(connection, day)
        arrived = inbox.day_arrivals(home.inbox, day)
        note_publications(connection, day, arrived, before, utc_now(), context.run_id)
        taxonomies = home_folder.taxonomies(partition.tenants(connection, day))
        replace_taxonomies(connection, taxonomies.values())
        files = write_files(connection, home.published, day, home.settings.service.analytics_days)
        levels = partition.published_levels(connection, day)
        reviews = connection.count("raw_reviews", day)
        past = history.accuracies(connection, day, charts.DAYS)
    return dg.MaterializeResult(
        metadata={
            "rows": rows,
            **figures(published_share=share(rows, reviews) if reviews else None),
            **accuracy(past, day),
            "last_days": accuracy_chart(past, day),
            "dashboard": report_url(home, day),
            "analytics": dg.MetadataValue.path(str(home.published / "analytics.duckdb")),
            "files": table(
                [
                    {"file": str(path.relative_to(home.published)), "bytes": path.stat().st_size}
                    for path in files
                ]
            ),
            "levels": table(levels.rows(named=True)),
        }
    )
