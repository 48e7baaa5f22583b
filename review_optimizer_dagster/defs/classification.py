"""What the cache cannot answer goes to the model, in batches, and so do rechecked hits."""

from collections.abc import Callable, Iterator, Mapping
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from review_optimizer_dagster import rechecks
from review_optimizer_dagster.alerts.rules import (
    News,
    contradicted_alert,
    distrusted_alert,
    level_recovery,
)
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.batching import plan_batches
from review_optimizer_dagster.core.classifier import ANSWERS, Readout, classify, still_asked
from review_optimizer_dagster.core.costs import REFERENCE
from review_optimizer_dagster.defs import audits, charts
from review_optimizer_dagster.defs.alerting import budget_watch, note_alerts
from review_optimizer_dagster.defs.metadata import figures, rows_of_day, table, usd
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.patterns import scopes
from review_optimizer_dagster.defs.resources import (
    Engine,
    HomeFolder,
    budget,
    listener,
    step,
    utc_now,
)
from review_optimizer_dagster.defs.response_times import SPEC, response_time_result, watch_day
from review_optimizer_dagster.defs.sampling import quality_watch, store_samples
from review_optimizer_dagster.money.budgets import Spend
from review_optimizer_dagster.storage import audits as audit_storage
from review_optimizer_dagster.storage import history, learning, partition
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.storage.rechecks import chance_sample, contradictions, judge
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.taxonomies import Taxonomy

_TEXT = ["identity", "content_key"]


@dg.asset(
    deps=["cache_resolution"],
    partitions_def=DAILY,
    group_name="classification",
    kinds={"duckdb", "polars"},
    pool="warehouse",
    description="A row is a text that the model is to be asked about, and its place in a batch; "
    "`purpose` is audit where a hit is rechecked.",
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
            wanted = partition.unanswered(connection, day)
            taxonomies = home_folder.taxonomies(wanted["tenant"].unique().to_list())
            pending = unlabelled(wanted, home_folder.paid_for(journal, taxonomies))
            plan = packed(home_folder, engine, taxonomies, pending, day)
            partition.replace_plan(connection, day, plan)
    sizes = plan.group_by("batch_id").len()["len"]
    return dg.MaterializeResult(
        metadata={
            "texts": plan.height,
            "batches": len(sizes),
            "largest_batch": int(sizes.max() or 0),  # type: ignore[arg-type]  # a count
            "rechecks": plan.filter(purpose="audit").height,
            "tiers": table(
                plan.group_by("tier")
                .agg(
                    texts=pl.len(),
                    batches=pl.col("batch_id").n_unique(),
                    mean_complexity=pl.col("complexity").mean().round(3),
                )
                .sort("tier")
                .rows(named=True)
            ),
            "tokens": int(plan["tokens"].sum()),
            "answered_before": wanted.height - pending.height,
        }
    )


@dg.asset(
    deps=["batch_plan"],
    partitions_def=DAILY,
    group_name="classification",
    kinds={"openai", "duckdb"},
    check_specs=[SPEC],
    description="A row is a text that the model was asked about: labelled, failed or deferred. "
    "`llm_requests` holds a row an attempt, with what it cost; `audits` a row a hit that was "
    "rechecked, `level_errors` how often each level was contradicted, `batch_samples` a row a "
    "large batch whose labels were compared with their truth, `request_latencies` how long each "
    "request took beside what its size predicts.",
)
def batch_classifications(
    context: dg.AssetExecutionContext,
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
) -> Iterator[dg.MaterializeResult[None]]:
    """Send what has no answer yet and book every attempt; the warehouse is closed meanwhile."""
    day = date.fromisoformat(context.partition_key)
    with step("batch_classifications"), home_folder.journal(day) as journal, journal.lock():
        with warehouse.open() as connection:
            taxonomies = home_folder.taxonomies(partition.tenants(connection, day))
        before = home_folder.paid_for(journal, taxonomies)
        unsent = send_rounds(home_folder, warehouse, engine, journal, taxonomies)
        audit_by_reference(home_folder, warehouse, engine, journal, taxonomies)
        paid = home_folder.paid_for(journal, taxonomies)
        with warehouse.open() as connection:
            answers = answers_for(partition.unanswered(connection, day), paid.answers, unsent)
            with connection.transaction():
                connection.replace("batch_classifications", answers.drop("purpose"), day)
                connection.replace("llm_requests", paid.requests, day)
                samples = store_samples(
                    connection, home_folder.home, journal, paid.requests, taxonomies
                )
            due = report_rechecks(connection, home_folder.home, day)
            settings = home_folder.home.settings.latency
            judged, slow = watch_day(connection, settings, paid.requests, day)
            note_alerts(context.log, home_folder, connection, [*due, *slow])
            past = history.latencies(connection, day, charts.DAYS)
    yield dg.MaterializeResult(
        metadata=sent_figures(before, paid, answers) | samples | response_times(past, day),
        check_results=[response_time_result(judged, settings, day)],
    )


def sent_figures(before: Readout, paid: Readout, answers: pl.DataFrame) -> dict[str, Any]:
    """What the step did, as the UI shows it.

    answers: ANSWERS with purpose; before and paid: the journal before and after the step.
    """
    new = paid.requests.join(before.requests, on="request_id", how="anti")
    misses = answers.filter(purpose="classification")
    counts = dict(misses.group_by("status").len().iter_rows())
    return {
        **rows_of_day(answers.height),
        "labelled": counts.get("labelled", 0),
        "failed": counts.get("failed", 0),
        "deferred": counts.get("deferred", 0),
        "rechecks_that_agree": answers.height - misses.height,
        "requests": paid.requests.height,
        **figures(cost_usd=usd(int(paid.requests["cost_nanos"].sum()))),
        "requests_of_this_run": new.height,
        **figures(cost_usd_of_this_run=usd(int(new["cost_nanos"].sum()))),
        "tiers": table(
            paid.requests.filter(pl.col("tier").is_not_null())
            .group_by("tier", "way", model="model_requested")
            .agg(
                requests=pl.len(),
                answered=pl.col("answered").sum(),
                escalated=pl.col("escalated").sum(),
                cost_usd=pl.col("cost_nanos").sum() / 1e9,
            )
            .sort("tier", "way")
            .rows(named=True)
        ),
        "outcomes": table(
            paid.requests.group_by("status", "error")
            .agg(requests=pl.len(), reviews=pl.col("reviews").sum())
            .sort("requests", descending=True)
            .rows(named=True)
        ),
    }


def response_times(past: Mapping[str, history.Series], day: date) -> dict[str, Any]:
    """How long the day's requests took, for a plot, and those of the days before as a chart."""
    return {
        **figures(latency_p50_ms=past["p50"].get(day), latency_p95_ms=past["p95"].get(day)),
        "last_days": charts.history(
            day, {f"latency {name}": (past[name], charts.milliseconds) for name in ("p50", "p95")}
        ),
    }


def unlabelled(texts: pl.DataFrame, paid: Readout) -> pl.DataFrame:
    """The texts that no paid response has labelled yet."""
    labelled = paid.answers.filter(pl.col("status") == "labelled")
    return texts.join(labelled, on=_TEXT, how="anti", maintain_order="left")


def send_rounds(
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
    journal: DayJournal,
    taxonomies: Mapping[str, Taxonomy],
) -> pl.DataFrame:
    """Send what is planned, then what the rechecks among it took back; returns what was not sent.

    Each round is judged and stored before the next, so that a run which is killed between them is
    completed by the next one: what was taken back is a miss by then, and planned like any other.
    """
    day = journal.day

    def asked(batches: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
        """What was not sent of these (ANSWERS), and what their answers took back (MISSES)."""
        unsent = send(home_folder, warehouse, engine, journal, batches, taxonomies)
        paid = home_folder.paid_for(journal, taxonomies)
        with warehouse.open() as connection:
            taken_back = judge(connection, day, paid.answers)
            wanted = partition.unanswered(connection, day)
        return unsent, unlabelled(wanted.join(taken_back, on=_TEXT, how="semi"), paid)

    with warehouse.open() as connection:
        planned = partition.planned(connection, day)
    first, taken_back = asked(planned)
    if taken_back.is_empty():
        return first
    plan = packed(home_folder, engine, taxonomies, taken_back, day)
    with warehouse.open() as connection:
        partition.replace_plan(connection, day, plan)
        planned = partition.planned(connection, day)
    second, _ = asked(planned.join(plan, on=_TEXT, how="semi"))
    return pl.concat([first, second])


def audit_by_reference(
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
    journal: DayJournal,
    taxonomies: Mapping[str, Taxonomy],
) -> None:
    """Ask the reference model, where there is one, about its part of the day; keep what it said.

    Last, so that a short budget goes to what has no answer at all.
    """
    home, day = home_folder.home, journal.day
    reference = audits.reference_of(engine, home)
    if reference is None or not taxonomies:
        return

    def texts(connection: Connection, day: date, plan: pl.DataFrame) -> pl.DataFrame:
        return audit_storage.with_texts(connection, day, plan)

    with warehouse.open() as connection:
        drawn = audits.due_audits(connection, day, home, reference, taxonomies)
        asked = unlabelled(
            drawn.drop("identity").rename({"reference_identity": "identity"}),
            home_folder.paid_for(journal, taxonomies),
        )
        misses = texts(connection, day, asked).with_columns(purpose=pl.lit(REFERENCE))
    plan = packed(home_folder, reference, taxonomies, misses, day)
    send(home_folder, warehouse, reference, journal, plan, taxonomies, texts)
    paid = home_folder.paid_for(journal, taxonomies)
    with warehouse.open() as connection:
        audit_storage.replace_audits(connection, day, audits.answered(drawn, paid))


def report_rechecks(connection: Connection, home: Home, day: date) -> list[News]:
    """Store how wrong each level is, by the rechecks of the window; returns the alerts due."""
    window = home.settings.cache.window_days
    sample = chance_sample(connection, day, window)
    with connection.transaction():
        errors = rechecks.level_errors(sample).with_columns(window_days=pl.lit(window))
        connection.replace("level_errors", errors, day)
    due: list[News] = [
        contradicted_alert(day=day, **row)
        for row in contradictions(connection, day).rows(named=True)
    ]
    own = scopes(home, learning.identities(connection, day))
    wrong = rechecks.distrusted(sample, {scope.identity: scope.max_error for scope in own})
    for scope in own:
        of_scope = wrong.filter(identity=scope.identity).rows(named=True)
        due += [distrusted_alert(tenant, **row) for tenant in scope.tenants for row in of_scope]
        trusted = rechecks.NEAR_LEVELS - {row["level"] for row in of_scope}
        due += [
            level_recovery(tenant, scope.identity, level, day)
            for tenant in scope.tenants
            for level in sorted(trusted)
        ]
    return due


def packed(
    home_folder: HomeFolder,
    engine: Engine,
    taxonomies: Mapping[str, Taxonomy],
    misses: pl.DataFrame,
    day: date,
) -> pl.DataFrame:
    """The batches of these texts (MISSES), for the engine that answers: PLAN."""
    home = home_folder.home
    return plan_batches(
        misses,
        engine.asking(home, taxonomies),
        engine.ladder(home),
        home.settings.batches,
        day,
        home.settings.engine.in_flight,
    )


def send(
    home_folder: HomeFolder,
    warehouse: Warehouse,
    engine: Engine,
    journal: DayJournal,
    batches: pl.DataFrame,
    taxonomies: Mapping[str, Taxonomy],
    texts: Callable[[Connection, date, pl.DataFrame], pl.DataFrame] = partition.with_texts,
) -> pl.DataFrame:
    """Ask the model about these texts (PLAN); returns those that were not asked (ANSWERS).

    What was answered is in the journal; the endpoint is not started where nothing is to be sent.
    """
    home = home_folder.home
    paid = home_folder.paid_for(journal, taxonomies)
    if still_asked(batches, paid.answers).is_empty() and not open_jobs(journal):
        return pl.DataFrame(schema=ANSWERS)
    by_batch = {
        tenant
        for tenant in batches["tenant"].unique()
        if home.tenant(tenant).send == "batch" and engine.resolved(home) != "local"
    }

    def with_texts(plan: pl.DataFrame) -> pl.DataFrame:
        with warehouse.open(read_only=True) as connection:
            return texts(connection, journal.day, plan)

    judge = engine.judge(home, taxonomies) if engine.simulated(home) else None
    log, simulated = dg.get_dagster_logger(), judge is not None
    hears = listener.get()
    with (
        home_folder.state() as state,
        budget_watch(home_folder, state, log) as watch,
        quality_watch(
            home_folder, warehouse, state, journal.day, batches, taxonomies, simulated, log
        ) as quality,
        engine.endpoint(home, judge) as endpoint,
    ):

        def changed(spend: Spend) -> None:
            watch(spend)
            hears.spend(spend)

        for tenant in batches["tenant"].unique().sort():
            hears.spend(budget(home, state, tenant, simulated).state(utc_now()))
        done = classify(
            batches,
            with_texts,
            taxonomies,
            endpoint,
            journal,
            journal.generation,
            lambda tenant: budget(home, state, tenant, endpoint.simulated, changed),
            home_folder.prices(),
            by_batch=by_batch,
            quality=quality,
            redact=home.settings.input.redact,
            seed=home.settings.batches.seed,
            progress=hears.texts,
        )
    return done.unsent


def open_jobs(journal: DayJournal) -> list[dict[str, Any]]:
    """The day's jobs of the Batch API that have not ended."""
    return [job for job in journal.jobs() if job["status"] != "ended"]


def answers_for(wanted: pl.DataFrame, answered: pl.DataFrame, unsent: pl.DataFrame) -> pl.DataFrame:
    """What came of each text that was to be asked, in their order: ANSWERS and purpose.

    A recheck without an answer is left out: the hit stands, and nothing is missing.
    """
    known = pl.concat([answered, unsent]).unique(_TEXT, keep="first", maintain_order=True)
    return (
        wanted.select(*_TEXT, "purpose")
        .join(known, on=_TEXT, how="inner", maintain_order="left")
        .filter((pl.col("purpose") == "classification") | (pl.col("status") == "labelled"))
        .select(*ANSWERS, "purpose")
    )
