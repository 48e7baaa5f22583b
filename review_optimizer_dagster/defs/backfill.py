"""The job `backfill`: several days of delivery, the oldest first, one at a time."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Literal

import dagster as dg
from pydantic import Field

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import execution
from review_optimizer_dagster.defs.metadata import rounded, table
from review_optimizer_dagster.defs.resources import Engine, HomeFolder, step, utc_now
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage import inbox

JOB = "daily_reviews"
RUN_TAG = "review_optimizer/backfill"  # on each day's run: the run of the job that asked for it
_LAST_STEP = dg.AssetKey("service_levels")
_UNDER_WAY = {
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
}
State = Literal["missing", "failed", "done", "running", "not delivered"]


class BackfillConfig(dg.Config):
    """Which days to run, and what a day that fails means for those after it."""

    first_day: str = Field(
        default="",
        description="First UTC day of delivery, YYYY-MM-DD. Empty: the oldest day that the inbox "
        "has files of, or yesterday where it has none.",
    )
    last_day: str = Field(
        default="", description="Last UTC day of delivery, YYYY-MM-DD. Empty: yesterday."
    )
    days: Literal["missing", "failed", "missing_and_failed", "all"] = Field(
        default="missing_and_failed",
        description="`missing`: days that were never run to their end; `failed`: days whose newest "
        "run failed, was cancelled, or was stopped by the gate; `all`: also days that are done, "
        "which asks and pays for nothing that was paid for. Days that nothing was delivered for "
        "are left alone, except in a demo home.",
    )
    after_a_failure: Literal["go_on", "stop"] = Field(
        default="go_on",
        description="`go_on` runs the days after a failed one all the same; `stop` leaves them.",
    )


@dataclass(frozen=True)
class Day:
    """A day of a backfill, and what is known of it before."""

    day: date
    state: State
    run_id: str | None = None


def wanted(state: State, days: str) -> bool:
    """Whether a day in this state is run; one that is running already never is.

    >>> [wanted("failed", days) for days in ("missing", "failed", "missing_and_failed", "all")]
    [False, True, True, True]
    >>> wanted("running", "all"), wanted("not delivered", "all")
    (False, False)
    """
    if days == "all":
        return state in {"missing", "failed", "done"}
    return state in days.split("_and_")


def span(home: Home, config: BackfillConfig) -> list[date]:
    """The days between the two of the config, the oldest first.

    Raises UserError where one is no day, or they are no partitions in this order.
    """
    today = utc_now().date()
    yesterday = today - timedelta(days=1)
    start = home.settings.first_day
    last = _day(config.last_day, "last_day") or yesterday
    delivered = [day for day in inbox.delivered_days(home.inbox) if start <= day <= last]
    first = _day(config.first_day, "first_day") or min(delivered, default=last)
    if not start <= first <= last <= today:
        raise UserError(
            f"first_day {first} and last_day {last}: days go from {start} (first_day of "
            f"tenants.toml) to today, {today}, and the first is no later than the last"
        )
    return [first + timedelta(days=number) for number in range((last - first).days + 1)]


def _day(text: str, name: str) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{name} {text!r} is no day such as 2026-11-20") from error


def states(instance: dg.DagsterInstance, home: Home, days: list[date]) -> list[Day]:
    """What is known of each day: its newest run, whether it was ever completed, its files."""
    complete = instance.get_materialized_partitions(_LAST_STEP)
    delivered = inbox.delivered_days(home.inbox)
    return [_state(instance, home, day, complete, delivered) for day in days]


def _state(
    instance: dg.DagsterInstance,
    home: Home,
    day: date,
    complete: set[str],
    delivered: Mapping[date, object],
) -> Day:
    filters = dg.RunsFilter(job_name=JOB, tags={"dagster/partition": day.isoformat()})
    newest = next(iter(instance.get_runs(filters, limit=1)), None)
    if newest is not None and newest.status in _UNDER_WAY:
        return Day(day, "running", newest.run_id)
    if not home.is_demo and day not in delivered:
        return Day(day, "not delivered")  # run, it would take back what was delivered before
    if newest is not None and newest.status != dg.DagsterRunStatus.SUCCESS:
        return Day(day, "failed", newest.run_id)
    is_complete = newest is not None or day.isoformat() in complete
    return Day(day, "done" if is_complete else "missing", newest.run_id if newest else None)


def run_days(
    instance: dg.DagsterInstance,
    home: Home,
    config: BackfillConfig,
    engine: Mapping[str, Any],
    tags: Mapping[str, str],
) -> Iterator[dict[str, Any]]:
    """Run what is wanted, a day after the other in this process; yields a row a day as it ends.

    `result` is `done`, `failed`, `gate failed` or why the day was left alone. In this process,
    since a run that waits in the queue for its own backfill to end would wait for ever.
    """
    from review_optimizer_dagster.definitions import definitions_of  # which has this job too

    job = definitions_of(home).resolve_job_def(JOB)
    stopped = False
    for day in span(home, config):
        execution.end_dead_runs(instance)
        # Looked at when its turn comes: somebody else may have begun it meanwhile.
        (known,) = states(instance, home, [day])
        row: dict[str, Any] = {"day": day.isoformat(), "before": known.state}
        if stopped or not wanted(known.state, config.days):
            why = "left, since a day before it failed" if stopped else f"left: {known.state}"
            yield row | {"result": why, "seconds": None, "run": known.run_id, "problem": None}
            continue
        outcome = execution.run_partition(instance, job, day, engine, tags)
        failed = outcome.problem is not None or outcome.gate_blocked
        stopped = failed and config.after_a_failure == "stop"
        result = "failed" if outcome.problem else "gate failed" if failed else "done"
        yield row | {
            "result": result,
            "seconds": rounded("seconds", outcome.seconds),
            "run": outcome.run_id,
            "problem": outcome.problem,
        }


@dg.op(
    description="Runs each day that is wanted, the oldest first, one at a time, as runs of "
    "daily_reviews of their own; its table says how each day ended. It fails at the end where a "
    "day failed.",
    out=dg.Out(dg.Nothing),
)
def run_days_in_order(
    context: dg.OpExecutionContext,
    config: BackfillConfig,
    home_folder: HomeFolder,
    engine: Engine,
) -> None:
    """Run the days; a table of what came of each, also where one failed."""
    rows: list[dict[str, Any]] = []
    with step("backfill"):
        settings = {name: getattr(engine, name) for name in Engine.model_fields}
        tags = {RUN_TAG: context.run_id}
        for row in run_days(context.instance, home_folder.home, config, settings, tags):
            rows.append(row)
            context.log.info("%s: %s %s", row["day"], row["result"], row["problem"] or "")
    failed = [row for row in rows if row["result"] in {"failed", "gate failed"}]
    metadata: dict[str, Any] = {
        "days": table(rows),
        "run": sum(row["result"] == "done" for row in rows) + len(failed),
        "failed": len(failed),
    }
    if failed:
        names = ", ".join(row["day"] for row in failed)
        raise dg.Failure(
            f"{len(failed)} of {len(rows)} days failed: {names}. Run the job again with days = "
            "failed once what they say is mended.",
            metadata=metadata,
            allow_retries=False,
        )
    context.add_output_metadata(metadata)


@dg.job(
    executor_def=dg.in_process_executor,
    description="Runs several days, the oldest first, one at a time, so that each day is answered "
    "from the days before it and never from later ones. A day that is running already is left "
    "alone. Which days: first_day, last_day and days of the op's config. Each day is a run of "
    f"daily_reviews, tagged {RUN_TAG}.",
)
def backfill() -> None:
    """Several days of delivery."""
    run_days_in_order()
