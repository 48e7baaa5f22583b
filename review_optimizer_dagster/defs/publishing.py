"""What leaves the pipeline: only what the gate let through."""

from datetime import date

import dagster as dg

from review_optimizer_dagster.defs.metadata import table
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import HomeFolder, step
from review_optimizer_dagster.storage import partition
from review_optimizer_dagster.storage.publish import publish_day, write_analytics, write_parquet
from review_optimizer_dagster.storage.warehouse import Warehouse


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
        rows = publish_day(connection, day)
        files = write_parquet(connection, home.published, day)
        analytics = home.published / "analytics.duckdb"
        write_analytics(connection, analytics, home.settings.service.analytics_days)
        levels = partition.published_levels(connection, day)
    return dg.MaterializeResult(
        metadata={
            "rows": rows,
            "analytics": dg.MetadataValue.path(str(analytics)),
            "files": table([{"file": str(path.relative_to(home.published))} for path in files]),
            "levels": table(levels.rows(named=True)),
        }
    )
