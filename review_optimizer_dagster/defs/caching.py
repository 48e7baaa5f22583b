"""What the cache answers, and what it learns of the day."""

from collections.abc import Mapping, Sequence
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster import rechecks
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.cache import (
    RESOLUTION,
    ReviewCache,
    levels,
)
from review_optimizer_dagster.defs.embedding import Maker, maker_of
from review_optimizer_dagster.defs.metadata import hit_rates
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.patterns import Held, answer_misses, patterns_held, scopes
from review_optimizer_dagster.defs.resources import Engine, HomeFolder, step, utc_now
from review_optimizer_dagster.rechecks import PATTERN
from review_optimizer_dagster.storage import gate, history, partition
from review_optimizer_dagster.storage.partition import WarehouseArchive
from review_optimizer_dagster.storage.rechecks import chance_sample, entry_history
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.text import normalise


def normalised_texts(texts: pl.DataFrame) -> pl.DataFrame:
    """identity, content_key, category, text (normalised) of rows with a title and a text."""
    text = [
        normalise(title, body) for title, body in zip(texts["title"], texts["text"], strict=True)
    ]
    normal = pl.Series("text", text, dtype=pl.String)
    return texts.select("identity", "content_key", "category", normal)


def resolve_new_texts(
    connection: Connection,
    day: date,
    home: Home,
    identities: Mapping[str, str],
    texts: pl.DataFrame,
) -> pl.DataFrame:
    """Ask the three levels, as they stood for the day.

    identities: by tenant; texts: as `normalised_texts` gives them, each text once. Returns
    RESOLUTION. A near level that rechecks show to be wrong too often is not asked.
    """
    settings = home.settings.cache
    holds = {identity: home.taxonomy(tenant).ttl_days for tenant, identity in identities.items()}
    archive = WarehouseArchive(connection, day, settings.window_days, holds)
    usage = partition.cache_usage(connection, day, settings.window_days)
    used = usage.select("identity", "content_key")
    sources = usage.select("identity", content_key="source_key")
    ranked = levels(usage, archive.exact(pl.concat([used, sources]).unique()), settings)
    sample = chance_sample(connection, day, settings.window_days)
    allowed = {scope.identity: scope.max_error for scope in scopes(home, identities)}
    wrong = rechecks.distrusted(sample, allowed)
    off = wrong.select("identity", "level").rows()
    cache = ReviewCache(settings, ranked.l1, ranked.l2, archive, off)
    return cache.resolve(texts)


def new_texts(reviews: pl.DataFrame) -> pl.DataFrame:
    """The texts that no earlier review of the day has, each once: tenant and `normalised_texts`.

    reviews: rows of `partition.unresolved`. The tenant is that of the first review with the text.
    """
    texts = reviews.filter(~pl.col("known")).unique(
        ["identity", "content_key"], keep="first", maintain_order=True
    )
    return normalised_texts(texts).with_columns(texts["tenant"])


def all_missed(texts: pl.DataFrame) -> pl.DataFrame:
    """RESOLUTION of a cache that is not asked."""
    missed = [pl.lit(None, dtype).alias(name) for name, dtype in RESOLUTION.items()]
    return texts.select("identity", "content_key", *missed[2:])


def with_patterns(
    warehouse: Warehouse,
    home: Home,
    holds: Sequence[Held],
    texts: pl.DataFrame,
    known: pl.DataFrame,
    maker: Maker | None,
) -> pl.DataFrame:
    """Let the learned patterns answer what the levels before them missed: adds bound and least.

    texts: as `new_texts` gives them; known: RESOLUTION of them; holds: what each scope's pattern
    may answer.
    """
    key = ["identity", "content_key"]
    known = known.with_columns(bound=pl.lit(None, pl.Float64), least=pl.lit(None, pl.Float64))
    missed = known.filter(pl.col("level").is_null()).select(key)
    rest = texts.join(missed, on=key, how="semi", maintain_order="left")
    answers = [
        answer_misses(warehouse, home, held, rest.filter(identity=held.scope.identity), maker)
        for held in holds
    ]
    if not answers:
        return known
    served = pl.concat(answers).with_columns(level=pl.lit(PATTERN))
    return known.update(served, on=key, how="left")


def with_rechecks(
    connection: Connection, day: date, home: Home, reviews: pl.DataFrame, known: pl.DataFrame
) -> pl.DataFrame:
    """Draw the hits that are asked of the model all the same: adds asked, draw and audit.

    reviews: rows of `partition.unresolved`; known: RESOLUTION of their texts, with `bound` and
    `least` (see `rechecks.drawn`).
    """
    settings = home.settings.rechecks
    history = entry_history(connection, day, reviews, known)
    draw = rechecks.draw(history["content_key"], day, settings.seed)
    drawn = rechecks.drawn(history.with_columns(draw=draw), settings)
    return drawn.select(*RESOLUTION, "bound", "asked", "draw", "audit")


def identities_of(
    connection: Connection, day: date, home_folder: HomeFolder, engine: Engine
) -> dict[str, str]:
    """The identity that each of the day's tenants has its answers under."""
    home, tenants = home_folder.home, partition.tenants(connection, day)
    is_simulated = engine.simulated(home) and bool(tenants)
    judge = engine.judge(home, home_folder.taxonomies(tenants)) if is_simulated else None
    return engine.identities(home, tenants, judge)


@dg.asset(
    deps=["raw_reviews"],
    partitions_def=DAILY,
    group_name="cache",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is an accepted review and what the cache said of it: which level answered, "
    "from which source and with what score; no level is a miss. `audit` marks a hit that is asked "
    "of the model all the same.",
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
    # Nobody else may resolve this day while the warehouse is closed in between.
    with step("cache_resolution"), home_folder.journal(day) as journal, journal.lock():
        maker = maker_of(home_folder, engine, journal)
        with warehouse.open() as connection:
            identities = identities_of(connection, day, home_folder, engine)
            # Void first: what is marked as done must be so in both places.
            journal.void(gate.due_anew(connection, day).iter_rows(), utc_now())
            gate.take_back(connection, day, utc_now())
            partition.drop_stale_resolution(
                connection, day, identities, everything=engine.reclassify
            )
            reviews = partition.unresolved(connection, day, identities)
            texts, holds = new_texts(reviews), []
            if engine.reclassify:
                known = all_missed(texts)
            else:
                known = resolve_new_texts(connection, day, home, identities, texts)
                holds = patterns_held(connection, day, home, identities)
        known = with_patterns(warehouse, home, holds, texts, known, maker)
        with warehouse.open() as connection:
            known = with_rechecks(connection, day, home, reviews, known)
            new = partition.store_resolution(connection, day, reviews, known, utc_now())
            counts = partition.resolution_counts(connection, day)
            seen = history.levels_seen(connection, day)
    return dg.MaterializeResult(
        metadata={
            "reviews": sum(counts.values()),
            **hit_rates(counts, seen),
            "new": new,
            "new_rechecks": int(known["audit"].sum()),
            **counts,
        }
    )


@dg.asset(
    deps=["published_results"],
    partitions_def=DAILY,
    group_name="archive",
    kinds={"duckdb"},
    pool="warehouse",
    description="A row is a text that the model answered itself, on a tenant-day that the gate "
    "let through; later days are answered from it. It is L3 of the cache.",
)
def review_archive(
    context: dg.AssetExecutionContext, warehouse: Warehouse
) -> dg.MaterializeResult[None]:
    """Add the model's own answers of the day, to rechecks too; derived ones are never archived."""
    day = date.fromisoformat(context.partition_key)
    with step("review_archive"), warehouse.open() as connection:
        texts = normalised_texts(partition.model_answered_texts(connection, day))
        added = partition.archive_answers(connection, day, texts)
        total = partition.archive_size(connection)
    return dg.MaterializeResult(metadata={"added": added, "entries": total})
