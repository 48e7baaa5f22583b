"""What starts runs and raises alerts. Schedule and sensors ship stopped."""

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import dagster as dg

from review_optimizer_dagster.alerts.rules import News
from review_optimizer_dagster.defs import gate
from review_optimizer_dagster.defs.alerting import (
    budget_alerts_due,
    deliver_alerts,
    known_tenants,
    note_alerts,
)
from review_optimizer_dagster.defs.drift import news_of
from review_optimizer_dagster.defs.partitions import DAILY
from review_optimizer_dagster.defs.patterns import RETRAIN
from review_optimizer_dagster.defs.resources import HomeFolder, budget, utc_now
from review_optimizer_dagster.defs.response_times import (
    changed_journals,
    journal_marks,
    news_so_far,
)
from review_optimizer_dagster.defs.service import stored_news
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange.batch_api import ENDED, open_job_states
from review_optimizer_dagster.money.budgets import deferrals
from review_optimizer_dagster.storage import inbox
from review_optimizer_dagster.storage.drift import newest_days
from review_optimizer_dagster.storage.gate import judged_days
from review_optimizer_dagster.storage.journal import days_with_open_jobs
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse

_SETTLE_SECONDS = 15  # a file that changed this lately may still be arriving
ENDED_OR_LOST = ENDED | {"lost", "unknown"}
_WAREHOUSE_SECONDS = 1.0  # longest that a sensor waits for it
_WATCHED_DAYS = 7  # the newest that were judged
_MOST_RUNS = 30  # a month of late deliveries in one evaluation

daily_reviews = dg.define_asset_job(
    "daily_reviews",
    selection=dg.AssetSelection.all(),
    partitions_def=DAILY,
    executor_def=dg.in_process_executor,
    description="One day of delivery, from the inbox to the published tables. Run again, it asks "
    "and pays for nothing that was paid for. Who answers is the resource `engine` of its config.",
)

retrain = dg.define_asset_job(
    RETRAIN,
    selection=dg.AssetSelection.assets("category_patterns").without_checks(),
    partitions_def=DAILY,
    executor_def=dg.in_process_executor,
    description="Trains the learned patterns of a day anew, from the archive as it stood at its "
    "end, although it has not grown enough since the last training; then certifies them anew. "
    "`tenant` of the op's config names one pattern alone.",
)


@dg.schedule(
    job=daily_reviews,
    cron_schedule="15 1 * * *",
    execution_timezone="UTC",
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Runs the day before, at 01:15 UTC.",
)
def yesterday(context: dg.ScheduleEvaluationContext) -> dg.RunRequest:
    """Ask for yesterday's partition; today's is not complete yet."""
    day = (context.scheduled_execution_time.astimezone(UTC) - timedelta(days=1)).date()
    return dg.RunRequest(run_key=day.isoformat(), partition_key=day.isoformat())


def _was_read(instance: dg.DagsterInstance, key: str, changed_at: datetime) -> bool:
    """Whether the inbox of a day was read after its last change."""
    reads = dg.AssetRecordsFilter(
        asset_key=dg.AssetKey("raw_reviews"),
        asset_partitions=[key],
        after_timestamp=changed_at.timestamp(),
    )
    return bool(instance.fetch_materializations(reads, limit=1).records)


@dg.sensor(
    job=daily_reviews,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for a run of each day whose files in the inbox are new or changed.",
)
def inbox_arrivals(
    context: dg.SensorEvaluationContext, home_folder: HomeFolder
) -> dg.SensorResult | dg.SkipReason:
    """Compare the inbox with what was seen before, a day at a time, oldest first."""
    delivered = inbox.delivered_days(home_folder.home.inbox)
    seen: dict[str, str] = json.loads(context.cursor) if context.cursor else {}
    valid = set(DAILY.get_partition_keys())
    settled_before = utc_now() - timedelta(seconds=_SETTLE_SECONDS)
    requests = []
    for day, delivery in sorted(delivered.items()):
        key = day.isoformat()
        if key not in valid or delivery.changed_at > settled_before:
            continue  # not a day yet, or a file is still arriving: the next evaluation sees it
        # Runs from the command line before the sensor was switched on count as seen.
        if seen.get(key) != delivery.digest and (
            key in seen or not _was_read(context.instance, key, delivery.changed_at)
        ):
            requests.append(dg.RunRequest(run_key=f"{key}:{delivery.digest}", partition_key=key))
        seen[key] = delivery.digest
        if len(requests) == _MOST_RUNS:
            break
    if not requests and json.dumps(seen) == context.cursor:
        return dg.SkipReason("no new files in the inbox")
    return dg.SensorResult(run_requests=requests, cursor=json.dumps(seen))


@dg.sensor(
    job=daily_reviews,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for a run of each day whose jobs of the Batch API have ended.",
)
def batch_results(home_folder: HomeFolder) -> dg.SensorResult | dg.SkipReason:
    """Look at the open jobs; the run that is asked for collects them."""
    home = home_folder.home
    if home.settings.engine.name != "openai":
        return dg.SkipReason("the jobs of a simulator end with the run that made them")
    requests, waiting = [], 0
    for day in days_with_open_jobs(home.journal):
        with home_folder.journal(day) as journal:
            jobs = [job for job in journal.jobs() if job["status"] != "ended"]
        try:
            states = open_job_states(
                home.settings.engine.base_url,
                home.settings.engine.api_key(),
                [job for job in jobs if job["remote_id"] is not None],
            )
        except UserError as error:
            return dg.SkipReason(str(error))
        key = day.isoformat()
        # One that was never heard of again needs a run as well: it is looked up there.
        ended = sorted(
            job["job_id"] for job in jobs if states.get(job["job_id"], "unknown") in ENDED_OR_LOST
        )
        waiting += len(jobs) - len(ended)
        if ended:
            name = hashlib.blake2b("|".join(ended).encode(), digest_size=8).hexdigest()
            # Once an hour for as long as they are open: a run that failed is asked for again.
            run_key = f"{key}:jobs:{name}:{utc_now():%Y-%m-%dT%H}"
            requests.append(dg.RunRequest(run_key=run_key, partition_key=key))
    if not requests:
        return dg.SkipReason(f"{waiting} jobs of the Batch API are under way")
    return dg.SensorResult(run_requests=requests[:_MOST_RUNS])


@dg.sensor(
    job=daily_reviews,
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Asks for a run of each day whose reviews a spent budget kept back, once there is "
    "money: a new period, or a larger budget.",
)
def deferred_reviews(home_folder: HomeFolder) -> dg.SensorResult | dg.SkipReason:
    """Look at what the budgets keep back, oldest first; a period and version is asked for once."""
    home, requests, kept = home_folder.home, [], 0
    with home_folder.state() as state:
        for one in deferrals(state):
            # A rehearsal with the simulator is not the run that this sensor asks for.
            if one.simulated != (home.settings.engine.name == "simulator"):
                continue
            try:
                spend = budget(home, state, one.tenant, one.simulated).state(utc_now())
            except UserError:
                continue  # a tenant that is gone keeps its reviews as they are
            kept += one.reviews
            if (spend.period, spend.version) != (one.period, one.version) and spend.left:
                key = one.day.isoformat()
                name = f"{key}:deferred:{one.tenant}:{spend.period}:{spend.version}"
                requests.append(dg.RunRequest(run_key=name, partition_key=key))
    if not requests:
        return dg.SkipReason(f"{kept:,} reviews wait for a new period or a larger budget")
    return dg.SensorResult(run_requests=requests[:_MOST_RUNS])


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    jobs=[daily_reviews],
    description="Raises an alert when a tenant's spend reaches 50, 75, 90 or 100 % of its budget.",
)
def budget_alerts(context: dg.SensorEvaluationContext, home_folder: HomeFolder) -> dg.SkipReason:
    """Read the live counters in the journal, which a run that is going on keeps up to date."""
    due = budget_alerts_due(home_folder, known_tenants(home_folder.home))
    new = note_alerts(context.log, home_folder, None, due)
    reached = ", ".join(
        f"{alert.tenant} {'recovered' if alert.recovers else f'{alert.threshold} %'}"
        for alert in new
    )
    return dg.SkipReason(f"raised: {reached}" if reached else "no new threshold was reached")


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    jobs=[daily_reviews],
    description="Raises an alert when a promise to a tenant is broken, and when files in the inbox "
    "wait too long for their publication while nothing runs.",
)
def service_alerts(context: dg.SensorEvaluationContext, home_folder: HomeFolder) -> dg.SkipReason:
    """Read what runs have stored, and the inbox; a run in between tells the same by itself."""
    try:
        due = stored_news(home_folder.home)
    except UserError as error:
        return dg.SkipReason(str(error))
    new = note_alerts(context.log, home_folder, None, due)
    told = "; ".join(alert.message for alert in new)
    return dg.SkipReason(told or "no promise is newly broken or kept again")


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    jobs=[daily_reviews],
    description="Delivers alerts that a channel has not taken yet, each when its back-off is over.",
)
def alert_delivery(context: dg.SensorEvaluationContext, home_folder: HomeFolder) -> dg.SkipReason:
    """Go on where runs left off: they deliver too, but wait for no channel for long."""
    done = deliver_alerts(context.log, home_folder)
    return dg.SkipReason(
        f"delivered {done.delivered}, failed {done.failed}, still owed {done.waiting}"
    )


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    jobs=[daily_reviews],
    description="Raises an alert when a model answers more slowly than the size of the requests "
    "predicts, while a run goes on; the run itself raises it at its end.",
)
def latency_alerts(
    context: dg.SensorEvaluationContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.SensorResult | dg.SkipReason:
    """Judge what the journals hold so far of the days that requests are sent for."""
    if not home_folder.home.settings.latency.enabled:
        return dg.SkipReason("response times are not judged: latency.enabled is false")
    seen: dict[str, int] = json.loads(context.cursor) if context.cursor else {}
    days = changed_journals(home_folder, seen)
    if not days:
        return dg.SkipReason("no request was sent lately")
    try:
        due = news_so_far(home_folder, warehouse, days)
    except UserError as error:
        return dg.SkipReason(str(error))
    new = note_alerts(context.log, home_folder, None, due)
    told = ", ".join(
        f"{alert.tenant} {'recovered' if alert.recovers else f'{alert.threshold} % slower'}"
        for alert in new
    )
    cursor = json.dumps(journal_marks(home_folder, days))
    message = f"raised: {told}" if told else "response times are as their sizes predict, or known"
    return dg.SensorResult(skip_reason=dg.SkipReason(message), cursor=cursor)


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    jobs=[daily_reviews],
    description="Raises an alert when a tenant's reviews begin to differ from those of the days "
    "before, and says when they no longer do.",
)
def drift_alerts(
    context: dg.SensorEvaluationContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.SkipReason:
    """Read what runs stored, and tell what a run that broke off did not."""
    settings = home_folder.home.settings.drift
    if not settings.enabled:
        return dg.SkipReason("switched off in [drift]")

    def due(connection: Connection) -> list[News]:
        days = newest_days(connection, _WATCHED_DAYS)
        return [news for day in days for news in news_of(connection, settings, day)]

    return _told(context, home_folder, warehouse, due, "no news of drift")


@dg.sensor(
    minimum_interval_seconds=60,
    default_status=dg.DefaultSensorStatus.STOPPED,
    jobs=[daily_reviews],
    description="Raises an alert when the gate failed a tenant's day, when a part of it or all "
    "days together are below the accuracy that is asked for, and says when they no longer are.",
)
def quality_alerts(
    context: dg.SensorEvaluationContext, home_folder: HomeFolder, warehouse: Warehouse
) -> dg.SkipReason:
    """Read the stored verdicts, and tell what a run that broke off did not."""

    def due(connection: Connection) -> list[News]:
        days = judged_days(connection, _WATCHED_DAYS)
        return [news for day in days for news in gate.stored_news(connection, day)]

    return _told(context, home_folder, warehouse, due, "no news of quality")


def _told(
    context: dg.SensorEvaluationContext,
    home_folder: HomeFolder,
    warehouse: Warehouse,
    due: Callable[[Connection], list[News]],
    nothing: str,
) -> dg.SkipReason:
    """Raise what the warehouse says is due; a run has it open for seconds, so nobody waits long."""
    impatient = warehouse.model_copy(update={"wait_seconds": _WAREHOUSE_SECONDS})
    try:
        with impatient.open(read_only=True) as connection:
            news = due(connection)
    except UserError as error:
        return dg.SkipReason(str(error))
    told = ", ".join(
        f"{alert.tenant} {'recovered' if alert.recovers else alert.period}"
        for alert in note_alerts(context.log, home_folder, None, news)
    )
    return dg.SkipReason(f"raised: {told}" if told else nothing)
