"""The jobs beside the daily one, and a run that goes on where it broke off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import dagster as dg
import polars as pl
import pytest

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.costs import LEDGER
from review_optimizer_dagster.definitions import definitions_of
from review_optimizer_dagster.defs import backfill, patterns, publishing
from review_optimizer_dagster.defs.execution import open_instance
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage import ledger, publish
from review_optimizer_dagster.storage.warehouse import Warehouse
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.conftest import DAY, Runner, deliver, query, reviews

NEXT_DAY = DAY + timedelta(days=1)
SETTINGS = '[engine]\nname = "simulator"\n[tenants.acme]\n[tenants.globex]\n'


def real(home: Home) -> None:
    """A home of real tenants, answered by the simulator."""
    home.folder.mkdir(parents=True, exist_ok=True)
    home.tenants_file.write_text(SETTINGS)


def executed(
    home: Home, instance: dg.DagsterInstance, job: str, op: str, **config: Any
) -> dg.ExecuteInProcessResult:
    """A job of one op, run with this config."""
    return (
        definitions_of(Home(home.folder))
        .resolve_job_def(job)
        .execute_in_process(
            instance=instance,
            raise_on_error=False,
            run_config={"ops": {op: {"config": config}}},
        )
    )


def failure(result: dg.ExecuteInProcessResult) -> str:
    """What the op that failed says."""
    (data,) = [event.step_failure_data for event in result.all_events if event.is_step_failure]
    return (data.user_failure_data and data.user_failure_data.description) or str(data.error)


def shown(result: dg.ExecuteInProcessResult, name: str) -> list[dict[str, Any]]:
    """A table that the one op of a job shows, also where it failed."""
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.user_failure_data:
            metadata = event.step_failure_data.user_failure_data.metadata
        elif event.event_type == dg.DagsterEventType.STEP_OUTPUT:
            metadata = event.step_output_data.metadata
        else:
            continue
        value = metadata[name]
        assert isinstance(value, dg.TableMetadataValue)
        return [dict(record.data) for record in value.records]
    raise AssertionError("no table")


# -- statement ---------------------------------------------------------------------------------


def books(home: Home, paid: int, booked: int) -> None:
    """A ledger of one review of acme, and a request that was paid for."""
    row = {
        "entry_id": "e1", "tenant": "acme", "taxonomy": "reviews", "kind": "classification",
        "review_id": "r1", "request_id": "q1", "simulated": True, "cost_nanos": booked,
        "avoided_nanos": 0, "booked_at": datetime(2026, 3, 4, 12, tzinfo=UTC), "scope": "acme",
    }  # fmt: skip
    entries = pl.DataFrame([{name: row.get(name) for name in LEDGER}], schema=LEDGER)
    with Warehouse(database=str(home.warehouse)).open() as connection:
        ledger.append(connection, DAY, entries)
        for name in ("llm_requests", "cost_rollups"):
            sums = {"tenant": ["acme"], "simulated": [True], "cost_nanos": [paid]}
            connection.append(name, pl.DataFrame(sums), day=DAY)


def test_statements_are_written_and_shown(home: Home, shared_instance: dg.DagsterInstance) -> None:
    """Files that can be sent, and a table with what ledger, requests and daily sums say."""
    books(home, 1_500_000, 1_500_000)
    result = executed(home, shared_instance, "statement", "write_statements", month="2026-03")
    assert result.success
    (row,) = shown(result, "statements")
    assert (row["tenant"], row["money"], row["books_agree"]) == ("acme", "simulated", True)
    assert row["cost_usd"] == row["requests_usd"] == "0.001500000"
    folder = home.reports / "statements"
    written = json.loads((folder / "acme-2026-03.json").read_text())
    assert written["books"]["simulated"]["cost_usd"] == "0.001500000"
    assert "0.001500000" in (folder / "acme-2026-03.csv").read_text()


def test_where_the_books_differ_the_job_fails_and_shows_them(
    home: Home, shared_instance: dg.DagsterInstance
) -> None:
    """A bill that nobody can prove must not look like one; what differs is there to be read."""
    books(home, 2_000_000, 1_500_000)
    result = executed(home, shared_instance, "statement", "write_statements")  # its last month
    assert not result.success
    assert "the books differ: acme-2026-03" in failure(result)
    (row,) = shown(result, "statements")
    assert (row["ledger_usd"], row["requests_usd"]) == ("0.001500000", "0.002000000")
    assert (home.reports / "statements" / "acme-2026-03.json").exists()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"month": "March"}, "no month such as 2026-11"),
        ({"tenant": "../globex"}, "tenants that have: acme"),
    ],
)
def test_a_statement_of_nobody_or_of_no_month_is_refused(
    home: Home, shared_instance: dg.DagsterInstance, config: dict[str, str], told: str
) -> None:
    """The message says what there is; no file is written, least of all elsewhere."""
    books(home, 1, 1)
    result = executed(home, shared_instance, "statement", "write_statements", **config)
    assert told in failure(result)
    assert not home.reports.exists()


# -- retrain -----------------------------------------------------------------------------------


@pytest.mark.campaign
@pytest.mark.timeout(300)  # a run and a training
def test_retrain_trains_where_nothing_asks_for_it(
    home: Home, run_day: Runner, shared_instance: dg.DagsterInstance
) -> None:
    """From the same archive, so the same pattern; a name that is none is refused."""
    real(home)
    home.tenants_file.write_text(SETTINGS + "[patterns]\nmin_rows = 100\n\n")
    deliver(home, reviews(0, 110))
    assert run_day()["problem"] is None
    trained = (
        "SELECT split_part(identity, '|', 1) AS scope, version, trained_at "
        "FROM pattern_versions ORDER BY ALL"
    )
    before = query(home, trained)
    assert before["scope"].to_list() == ["acme"]

    def retrained(**config: Any) -> dg.ExecuteInProcessResult:
        job = definitions_of(Home(home.folder)).resolve_job_def("retrain")
        return job.execute_in_process(
            instance=shared_instance,
            partition_key=DAY.isoformat(),
            raise_on_error=False,
            run_config={"ops": {"category_patterns": {"config": config}}},
        )

    assert retrained(tenant="globex").success  # whose pattern is none of the day's
    assert query(home, trained).equals(before)
    assert retrained(tenant="acme").success
    after = query(home, trained)
    assert after.drop("trained_at").equals(before.drop("trained_at"))  # the same texts: the same
    assert after["trained_at"][0] > before["trained_at"][0]
    assert "'nobody' is no tenant" in failure(retrained(tenant="nobody"))
    assert "set train to anew" in failure(retrained(tenant="acme", train="when_due"))


def test_the_retrain_job_opens_with_what_it_is_for() -> None:
    """Launched as it stands in the Launchpad, it trains."""
    config = patterns.PatternsConfig()
    scope = patterns.Scope("acme|...", ("acme",), load_taxonomy("reviews"), 0.03)
    assert config.trains_anew(scope, "retrain")
    assert not config.trains_anew(scope, "daily_reviews")
    assert patterns.PatternsConfig(train="anew").trains_anew(scope, "daily_reviews")
    assert not patterns.PatternsConfig(tenant="globex").trains_anew(scope, "retrain")
    job = definitions_of(Home.from_environment()).resolve_job_def("retrain")
    assert job.partitions_def is not None
    assert [key.to_user_string() for key in job.asset_layer.executable_asset_keys] == [
        "category_patterns"
    ]


# -- backfill ----------------------------------------------------------------------------------


def ran(instance: dg.DagsterInstance, day: date, status: dg.DagsterRunStatus) -> str:
    """A run of a day that ended so, or goes on."""
    run = dg.DagsterRun(
        job_name="daily_reviews", status=status, tags={"dagster/partition": day.isoformat()}
    )
    return instance.add_run(run).run_id


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    """An instance that knows of nothing."""
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def test_what_is_known_of_each_day(home: Home, instance: dg.DagsterInstance) -> None:
    """By its newest run; a real day without files is left alone, for it would be emptied."""
    real(home)
    days = [DAY + timedelta(days=number) for number in range(6)]
    for day in days[:5]:
        deliver(home, reviews(0, 1), day)
    ran(instance, days[1], dg.DagsterRunStatus.SUCCESS)
    ran(instance, days[1], dg.DagsterRunStatus.FAILURE)
    ran(instance, days[2], dg.DagsterRunStatus.CANCELED)
    ran(instance, days[2], dg.DagsterRunStatus.SUCCESS)
    ran(instance, days[3], dg.DagsterRunStatus.STARTED)
    instance.report_runless_asset_event(
        dg.AssetMaterialization("service_levels", partition=days[4].isoformat())
    )
    ran(instance, days[5], dg.DagsterRunStatus.SUCCESS)
    known = [each.state for each in backfill.states(instance, home, days)]
    assert known == ["missing", "failed", "done", "running", "done", "not delivered"]
    home.tenants_file.unlink()
    assert backfill.states(instance, home, days)[5].state == "done"  # a demo makes its reviews


def test_the_days_go_from_the_first_delivery_to_yesterday(home: Home) -> None:
    """Without a word about them; what is no day, or no partition, is refused."""
    real(home)
    for day in (NEXT_DAY, DAY, date(2025, 12, 31)):  # the last is before the first partition
        deliver(home, reviews(0, 1), day)
    days = backfill.span(home, backfill.BackfillConfig(last_day="2026-03-06"))
    assert days == [date(2026, 3, 4), date(2026, 3, 5), date(2026, 3, 6)]
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    assert backfill.span(home, backfill.BackfillConfig())[-1] == yesterday
    for first, last in (("4 March", ""), ("2025-12-31", ""), ("2026-03-06", "2026-03-05")):
        with pytest.raises(UserError):
            backfill.span(home, backfill.BackfillConfig(first_day=first, last_day=last))
    with pytest.raises(UserError, match="today"):
        backfill.span(home, backfill.BackfillConfig(last_day="2999-01-01"))


def test_a_day_that_runs_already_is_not_launched(home: Home, instance: dg.DagsterInstance) -> None:
    """Two runs of a day at once would wait for each other; the table says why it was left."""
    real(home)
    deliver(home, reviews(0, 1))
    running = ran(instance, DAY, dg.DagsterRunStatus.STARTED)
    config = {"first_day": f"{DAY}", "last_day": f"{NEXT_DAY}", "days": "all"}
    result = executed(home, instance, "backfill", "run_days_in_order", **config)
    assert result.success
    first, second = shown(result, "days")
    assert (first["result"], first["run"]) == ("left: running", running)
    assert second["result"] == "left: not delivered"
    assert not home.warehouse.exists()


@pytest.mark.campaign
@pytest.mark.timeout(300)  # four runs
def test_a_backfill_runs_the_oldest_day_first_and_survives_a_failed_one(
    home: Home, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second day is answered from the first; a failed day stops the others where asked to."""
    real(home)
    for day in (NEXT_DAY, DAY):
        deliver(home, reviews(0, 12), day)
    span = {"first_day": f"{DAY}", "last_day": f"{NEXT_DAY}"}
    published = publish.publish_day

    def broken(connection: Any, day: date) -> int:
        if day == DAY:
            raise RuntimeError("the disk is full")
        return published(connection, day)

    monkeypatch.setattr(publishing, "publish_day", broken)
    stopped = executed(
        home, instance, "backfill", "run_days_in_order", **span, after_a_failure="stop"
    )
    assert not stopped.success
    assert "1 of 2 days failed: 2026-03-04" in failure(stopped)
    assert [row["result"] for row in shown(stopped, "days")] == [
        "failed", "left, since a day before it failed",
    ]  # fmt: skip
    assert "the disk is full" in shown(stopped, "days")[0]["problem"]

    monkeypatch.setattr(publishing, "publish_day", published)
    done = executed(home, instance, "backfill", "run_days_in_order", **span)
    assert done.success
    assert [(row["day"], row["before"], row["result"]) for row in shown(done, "days")] == [
        ("2026-03-04", "failed", "done"), ("2026-03-05", "missing", "done"),
    ]  # fmt: skip
    levels = query(home, "SELECT DISTINCT day, level FROM review_results ORDER BY ALL").rows()
    assert levels == [(DAY, "model"), (NEXT_DAY, "l3_exact")]
    tag = {backfill.RUN_TAG: done.run_id}
    runs = instance.get_runs(dg.RunsFilter(job_name="daily_reviews", tags=tag))
    assert [run.tags["dagster/partition"] for run in runs] == ["2026-03-05", "2026-03-04"]
    again = executed(home, instance, "backfill", "run_days_in_order", **span)
    assert [row["result"] for row in shown(again, "days")] == ["left: done", "left: done"]


# -- re-execution ------------------------------------------------------------------------------


def daily_job() -> dg.JobDefinition:
    """The job as Dagster builds it anew to execute it again."""
    return definitions_of(Home.from_environment()).resolve_job_def("daily_reviews")


@pytest.mark.campaign
@pytest.mark.timeout(180)
def test_a_run_that_broke_goes_on_from_there_and_pays_nothing_again(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`Re-execute from failure` of the UI: steps that ended are skipped, the rest ends right."""
    deliver(home, reviews(0, 30))
    published = publish.publish_day

    def broken(*_: object) -> int:
        raise RuntimeError("the disk is full")

    config = {"resources": {"engine": {"config": {"latency_seconds": 0.0}}}}
    tags = {"dagster/partition": DAY.isoformat()}
    job = dg.reconstructable(daily_job)
    with open_instance(home) as kept:
        monkeypatch.setattr(publishing, "publish_day", broken)
        first = dg.execute_job(
            job, instance=kept, run_config=config, tags=tags, raise_on_error=False
        )
        assert not first.success
        paid = query(home, "FROM llm_requests ORDER BY ALL")
        booked = query(home, "FROM ledger_entries ORDER BY ALL")
        assert paid.height > 0
        assert query(home, "FROM published_results").is_empty()

        monkeypatch.setattr(publishing, "publish_day", published)
        options = dg.ReexecutionOptions.from_failure(first.run_id, kept)
        again = dg.execute_job(
            job, instance=kept, run_config=config, tags=tags, reexecution_options=options
        )
    assert again.success
    steps = [event.step_key for event in again.all_events if event.is_step_success]
    assert steps == [
        "published_results", "review_archive", "category_patterns", "service_levels",
        "operations_dashboard",
    ]  # fmt: skip
    assert query(home, "FROM llm_requests ORDER BY ALL").equals(paid)
    assert query(home, "FROM ledger_entries ORDER BY ALL").equals(booked)
    assert query(home, "FROM published_results").height == 30
    plots = {
        key: value
        for event in again.all_events
        if event.is_step_materialization
        for key, value in event.step_materialization_data.materialization.metadata.items()
        if isinstance(value, dg.FloatMetadataValue | dg.IntMetadataValue)
    }
    assert {"accuracy", "accuracy_lower", "accuracy_upper", "error_bound"} <= set(plots)
