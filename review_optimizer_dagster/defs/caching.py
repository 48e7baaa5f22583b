"""What the cache answers, and what it learns of the day."""

from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.cache import (
    RESOLUTION,
    ReviewCache,
    levels,
)
from review_optimizer_dagster.defs.metadata import share
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import Engine, HomeFolder, step, utc_now
from review_optimizer_dagster.storage import partition
from review_optimizer_dagster.storage.partition import WarehouseArchive
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.text import normalise


def normalised_texts(texts: pl.DataFrame) -> pl.DataFrame:
    """identity, content_key, text (normalised) of rows with a title and a text."""
    text = [
        normalise(title, body) for title, body in zip(texts["title"], texts["text"], strict=True)
    ]
    return texts.select("identity", "content_key", pl.Series("text", text, dtype=pl.String))


def resolve_new_texts(
    connection: Connection, day: date, home: Home, texts: pl.DataFrame, ask_cache: bool
) -> pl.DataFrame:
    """Ask the three levels, as they stood for the day; unasked, every text is a miss.

    texts: identity, content_key, title, text, each text once. Returns RESOLUTION.
    """
    if not ask_cache:
        missed = [pl.lit(None, dtype).alias(name) for name, dtype in RESOLUTION.items()]
        return texts.select("identity", "content_key", *missed[2:])
    settings = home.settings.cache
    archive = WarehouseArchive(connection, day, settings.window_days)
    usage = partition.cache_usage(connection, day, settings.window_days)
    used = usage.select("identity", "content_key")
    sources = usage.select("identity", content_key="source_key")
    ranked = levels(usage, archive.exact(pl.concat([used, sources]).unique()), settings)
    return ReviewCache(settings, ranked.l1, ranked.l2, archive).resolve(normalised_texts(texts))


@dg.asset(
    deps=["raw_reviews"],
    partitions_def=DAILY,
    group_name="cache",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is an accepted review and what the cache said of it: which level answered, "
    "from which source and with what score; no level is a miss.",
)
def cache_resolution(
    context: dg.AssetExecutionContext,
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
) -> dg.MaterializeResult[None]:
    """Resolve the day's new texts, each once; earlier resolutions of the day stand."""
    day = date.fromisoformat(context.partition_key)
    home = home_folder.home
    with step("cache_resolution"), warehouse.open() as connection:
        tenants = partition.tenants(connection, day)
        judge = (
            engine.judge(home, home_folder.taxonomies(tenants))
            if engine.simulated(home) and tenants
            else None
        )
        identities = engine.identities(home, tenants, judge)
        partition.drop_stale_resolution(connection, day, identities, everything=engine.reclassify)
        reviews = partition.unresolved(connection, day, identities)
        texts = reviews.filter(~pl.col("known")).unique(
            ["identity", "content_key"], keep="first", maintain_order=True
        )
        known = resolve_new_texts(connection, day, home, texts, ask_cache=not engine.reclassify)
        new = partition.store_resolution(connection, day, reviews, known, utc_now())
        counts = partition.resolution_counts(connection, day)
    hits = sum(n for level, n in counts.items() if level != "miss")
    return dg.MaterializeResult(
        metadata={
            "reviews": sum(counts.values()),
            "hit_rate": share(hits, sum(counts.values())),
            "new": new,
            **counts,
        }
    )


@dg.asset(
    deps=["published_results"],
    partitions_def=DAILY,
    group_name="archive",
    kinds={"duckdb"},
    pool="warehouse",
    description="L3 of the cache. A row is a text that the model answered itself, on a tenant-day "
    "that the gate let through; later days are answered from it.",
)
def review_archive(
    context: dg.AssetExecutionContext, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Add the model's own answers of the day; derived answers are never archived."""
    day = date.fromisoformat(context.partition_key)
    with step("review_archive"), warehouse.open() as connection:
        texts = normalised_texts(partition.model_answered_texts(connection, day))
        added = partition.archive_answers(connection, day, texts)
        total = partition.archive_size(connection)
    return dg.MaterializeResult(metadata={"added": added, "entries": total})
