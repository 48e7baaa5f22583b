"""What the cache cannot answer goes to the model, in batches."""

from collections.abc import Mapping
from datetime import date

import dagster as dg
import polars as pl

from review_optimizer_dagster.core.batching import plan_batches
from review_optimizer_dagster.core.classifier import ANSWERS, Readout, classify, read_requests
from review_optimizer_dagster.defs.metadata import table, usd
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.resources import (
    Engine,
    HomeFolder,
    budget,
    listener,
    step,
    utc_now,
)
from review_optimizer_dagster.storage import partition
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster.taxonomies import Taxonomy


def paid_for(
    home_folder: HomeFolder, journal: DayJournal, taxonomies: Mapping[str, Taxonomy]
) -> Readout:
    """What the day's requests came to, read from the journal alone."""
    return read_requests(journal.requests(), taxonomies, home_folder.prices(), journal.generation)


@dg.asset(
    deps=["cache_resolution"],
    partitions_def=DAILY,
    group_name="classification",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is a text that the model is to be asked about, and its place in a batch.",
)
def batch_plan(
    context: dg.AssetExecutionContext,
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
) -> dg.MaterializeResult[None]:
    """Pack what has no answer yet into batches; what was paid for is not asked again."""
    day = date.fromisoformat(context.partition_key)
    with step("batch_plan"), home_folder.journal(day) as journal:
        if engine.reclassify:
            journal.raise_generation(context.run_id)
        with warehouse.open() as connection:
            misses = partition.unanswered(connection, day)
            taxonomies = home_folder.taxonomies(misses["tenant"].unique().to_list())
            pending = unlabelled(misses, paid_for(home_folder, journal, taxonomies))
            plan = plan_batches(pending, taxonomies, home_folder.home.settings.batches, day)
            partition.replace_plan(connection, day, plan)
    sizes = plan.group_by("batch_id").len()["len"]
    return dg.MaterializeResult(
        metadata={
            "texts": plan.height,
            "batches": len(sizes),
            "largest_batch": int(sizes.max() or 0),  # type: ignore[arg-type]  # a count
            "tokens": int(plan["tokens"].sum()),
            "answered_before": misses.height - pending.height,
        }
    )


@dg.asset(
    deps=["batch_plan"],
    partitions_def=DAILY,
    group_name="classification",
    kinds={"openai", "duckdb"},
    description="A row is a text that the model was asked about: labelled, failed or deferred. "
    "`llm_requests` holds a row an attempt, with what it cost.",
)
def batch_classifications(
    context: dg.AssetExecutionContext,
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
) -> dg.MaterializeResult[None]:
    """Send what has no answer yet and book every attempt; the warehouse is closed meanwhile."""
    day = date.fromisoformat(context.partition_key)
    with step("batch_classifications"), home_folder.journal(day) as journal, journal.lock():
        with warehouse.open() as connection:
            taxonomies = home_folder.taxonomies(partition.tenants(connection, day))
            planned = partition.planned(connection, day)
            wanted = partition.unanswered(connection, day)
        before = paid_for(home_folder, journal, taxonomies)
        deferred = send(home_folder, engine, journal, unlabelled(planned, before), taxonomies)
        paid = paid_for(home_folder, journal, taxonomies)
        answers = answers_for(wanted, paid.answers, deferred)
        with warehouse.open() as connection, connection.transaction():
            connection.replace("batch_classifications", answers, day)
            connection.replace("llm_requests", paid.requests, day)
    new = paid.requests.join(before.requests, on="request_id", how="anti")
    counts = dict(answers.group_by("status").len().iter_rows())
    return dg.MaterializeResult(
        metadata={
            "labelled": counts.get("labelled", 0),
            "failed": counts.get("failed", 0),
            "deferred": counts.get("deferred", 0),
            "requests": paid.requests.height,
            "cost_usd": usd(int(paid.requests["cost_nanos"].sum())),
            "requests_of_this_run": new.height,
            "cost_usd_of_this_run": usd(int(new["cost_nanos"].sum())),
            "outcomes": table(
                paid.requests.group_by("status", "error")
                .agg(requests=pl.len(), reviews=pl.col("reviews").sum())
                .sort("requests", descending=True)
                .rows(named=True)
            ),
        }
    )


def unlabelled(texts: pl.DataFrame, paid: Readout) -> pl.DataFrame:
    """The texts that no paid response has labelled yet."""
    labelled = paid.answers.filter(pl.col("status") == "labelled")
    return texts.join(labelled, on=["identity", "content_key"], how="anti")


def send(
    home_folder: HomeFolder,
    engine: Engine,
    journal: DayJournal,
    batches: pl.DataFrame,
    taxonomies: Mapping[str, Taxonomy],
) -> pl.DataFrame:
    """Ask the model about these texts; returns those that a budget kept back (ANSWERS).

    What was answered is in the journal; the endpoint is not started where nothing is to be sent.
    """
    if batches.is_empty():
        return pl.DataFrame(schema=ANSWERS)
    home = home_folder.home
    judge = engine.judge(home, taxonomies) if engine.simulated(home) else None
    with home_folder.state() as state, engine.endpoint(home, judge) as endpoint:
        done = classify(
            batches,
            taxonomies,
            endpoint,
            journal,
            journal.generation,
            lambda tenant: budget(home, state, tenant, endpoint.simulated, utc_now()),
            home_folder.prices(),
            redact=home.settings.input.redact,
            seed=home.settings.batches.seed,
            progress=listener.get().texts,
        )
    return done.deferred


def answers_for(
    wanted: pl.DataFrame, answered: pl.DataFrame, deferred: pl.DataFrame
) -> pl.DataFrame:
    """What came of each text that the cache missed, in the order of the texts (ANSWERS)."""
    key = ["identity", "content_key"]
    known = pl.concat([answered, deferred]).unique(key, keep="first", maintain_order=True)
    return wanted.select(*key).join(known, on=key, how="inner").select(list(ANSWERS))
