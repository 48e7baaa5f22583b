"""The Batch API: the same answers and books as single requests, at half the price."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.exchange import batch_api
from review_optimizer_dagster.exchange.batch_api import BatchJobs
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.simulator.judge import LexiconJudge
from review_optimizer_dagster.simulator.server import Simulator
from review_optimizer_dagster.storage.journal import days_with_open_jobs
from review_optimizer_dagster_tests.scripted_endpoint import (
    DAY,
    NOON,
    Bench,
    FakeTime,
    batches,
    misses,
)

PLAN = batches(misses(60), BatchSettings(min_reviews=12, max_reviews=12))


@contextmanager
def bench(folder: Path, **options: Any) -> Iterator[tuple[Bench, Simulator]]:
    """An engine against a simulator with these options, both by one clock."""
    time = FakeTime()
    options |= {"latency_seconds": 0.0, "clock": lambda: NOON.timestamp() + time.seconds}
    with Simulator(LexiconJudge(), **options) as simulator:
        made = Bench(folder, simulator.base_url)
        made.time = time
        try:
            yield made, simulator
        finally:
            made.close()


def billed_nanos(simulator: Simulator) -> int:
    """What the simulator's own record of a batch comes to, at gpt-6-luna's batch prices."""
    rows = [row for row in simulator.billed if row.http_status == 200]
    assert {row.way for row in rows} <= {"batch"}
    return sum(
        (row.prompt_tokens - row.cached_tokens) * 50
        + row.cached_tokens * 5
        + row.completion_tokens * 250
        for row in rows
    )


def test_both_ways_give_the_same_answers(tmp_path: Path) -> None:
    """A tenant may change its mind about speed and price, and must see no other labels."""
    readouts = {}
    for way in ("sync", "batch"):
        with bench(tmp_path / way) as (made, simulator):
            made.ask(PLAN, by_batch=["acme"] if way == "batch" else [])
            readouts[way] = made.readout()
            assert made.spend().reserved == 0
            if way == "batch":
                requests = readouts[way].requests
                assert requests["cost_nanos"].sum() == billed_nanos(simulator)
                assert set(requests["service_tier"]) == set(requests["way"]) == {"batch"}
                assert made.spend().spent == requests["cost_nanos"].sum()
    told = ["content_key", "status", "labels", "tier"]
    sync, batch = readouts["sync"], readouts["batch"]
    assert batch.answers.select(told).equals(sync.answers.select(told))
    cost = {way: made.requests["cost_nanos"].sum() for way, made in readouts.items()}
    assert cost["batch"] == pytest.approx(cost["sync"] / 2, abs=batch.requests.height)


def test_a_run_does_not_wait_for_ever_and_the_next_one_collects(tmp_path: Path) -> None:
    """A job may take a day; until then its reviews are put off, and nothing is asked twice."""
    with bench(tmp_path, batch_seconds=7_200.0) as (made, simulator):
        ran = made.ask(PLAN, by_batch=["acme"], batch_wait_seconds=0.0)
        assert ran.unsent.select("status", "reason").unique().rows() == [("deferred", "batch")]
        assert ran.unsent.height == 60
        assert days_with_open_jobs(tmp_path) == [DAY]
        assert made.spend().reserved > 0
        again = made.ask(PLAN, by_batch=["acme"], batch_wait_seconds=0.0)
        assert again.unsent.height == 60
        done = made.ask(PLAN, by_batch=["acme"], batch_wait_seconds=86_400.0)
        assert done.unsent.is_empty()
        readout = made.readout()
        assert readout.answers["status"].to_list() == ["labelled"] * 60
        assert readout.requests.height == 5
        assert days_with_open_jobs(tmp_path) == []
        assert made.spend().reserved == 0
        assert len(simulator.billed) == 5


@pytest.mark.parametrize(
    ("fate", "status"), [("expired", "expired"), ("cancelled", "cancelled"), ("failed", "rejected")]
)
def test_what_a_job_leaves_open_is_asked_again(tmp_path: Path, fate: str, status: str) -> None:
    """What it finished is paid for and used; the rest was not charged, and goes into a new job."""
    with bench(tmp_path, batch_fate=fate, batch_done_share=0.4) as (made, simulator):
        made.ask(PLAN, by_batch=["acme"], max_attempts=2)
        readout = made.readout()
        counts = dict(readout.requests.group_by("status").len().iter_rows())
        assert counts[status] > 0
        finished = readout.requests.filter(pl.col("status") == "ok")
        assert readout.answers.filter(status="labelled").height == finished["answered"].sum()
        assert readout.answers.height == 60
        assert readout.requests["cost_nanos"].sum() == billed_nanos(simulator)
        assert readout.requests["held_nanos"].sum() == made.spend().reserved == 0


def test_a_job_whose_creation_got_no_answer_is_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between submitting and noting the job's id: paid for, and not submitted twice."""
    with bench(tmp_path) as (made, simulator):

        def dies(_self: BatchJobs, _job: Any, **_changes: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(BatchJobs, "_note", dies)
            with pytest.raises(KeyboardInterrupt):
                made.ask(PLAN, by_batch=["acme"])
        (job,) = made.journal.jobs()
        assert (job["status"], job["remote_id"]) == ("intended", None)
        made.ask(PLAN, by_batch=["acme"])
        readout = made.readout()
        assert readout.requests["status"].to_list() == ["ok"] * 5
        assert readout.answers["status"].to_list() == ["labelled"] * 60
        assert readout.requests["cost_nanos"].sum() == billed_nanos(simulator)


def test_a_job_that_was_never_made_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before submitting: the endpoint knows nothing of it, so nothing is held for it."""
    with bench(tmp_path) as (made, _):

        async def dies(_self: BatchJobs, records: Any, _lines: Any, model: str) -> None:
            job: dict[str, Any] = {"job_id": "j"}
            job["request_ids"] = [record["request_id"] for record in records]
            job |= {"model": model, "remote_id": None, "status": "intended", "created_at": ""}
            made.journal.intend_job(job, records)
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(BatchJobs, "_submit", dies)
            with pytest.raises(KeyboardInterrupt):
                made.ask(PLAN, by_batch=["acme"])
        made.ask(PLAN, by_batch=["acme"])
        readout = made.readout()
        assert dict(readout.requests.group_by("status").len().iter_rows()) == {"ok": 5, "lost": 5}
        assert readout.requests["held_nanos"].sum() == made.spend().reserved == 0
        assert readout.answers["status"].to_list() == ["labelled"] * 60


def test_a_job_that_the_endpoint_lost_is_held_and_asked_again(tmp_path: Path) -> None:
    """It may have been charged: its worst case stays reserved, and shown."""
    with bench(tmp_path, batch_seconds=3_600.0) as (made, _):
        made.ask(PLAN, by_batch=["acme"], batch_wait_seconds=0.0)
    with bench(tmp_path) as (made, _):  # another simulator: it has never heard of the job
        made.ask(PLAN, by_batch=["acme"])
        readout = made.readout()
        assert dict(readout.requests.group_by("status").len().iter_rows()) == {"ok": 5, "lost": 5}
        assert readout.requests["held_nanos"].sum() == made.spend().reserved > 0
        assert readout.answers["status"].to_list() == ["labelled"] * 60


def test_an_endpoint_without_a_batch_api_says_what_to_do(tmp_path: Path) -> None:
    """Local servers have none; every run would fail the same way."""
    with bench(tmp_path) as (made, simulator):
        made.base_url = simulator.base_url.removesuffix("/v1") + "/other"
        with pytest.raises(UserError, match='set send = "sync"'):
            made.ask(PLAN, by_batch=["acme"])
        assert made.readout().answers.is_empty()


def test_a_stopped_run_leaves_its_jobs_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while a job is under way: it is not lost, and not paid for again."""
    with bench(tmp_path, batch_seconds=300.0) as (made, simulator):

        async def interrupted(_self: BatchJobs) -> None:
            raise asyncio.CancelledError

        with monkeypatch.context() as patch:
            patch.setattr(BatchJobs, "finish", interrupted)
            with pytest.raises(asyncio.CancelledError):
                made.ask(PLAN, by_batch=["acme"])
        made.ask(PLAN, by_batch=["acme"])
        assert made.readout().answers["status"].to_list() == ["labelled"] * 60
        assert len(simulator.billed) == 5


@pytest.mark.parametrize(
    "fault",
    [
        "rate_limit_ms",
        "server_error",
        "overloaded",
        "html_error",
        "cut_before_body",
        "cut_in_body",
        "malformed_json",
        "empty_body",
        "not_json",
    ],
)
def test_faults_of_the_calls_about_jobs_break_nothing(tmp_path: Path, fault: str) -> None:
    """One 429 while a file is fetched must not cost a day its run, nor a review its answer."""
    with bench(tmp_path, batch_call_faults={fault: 0.4}) as (made, simulator):
        for _ in range(4):  # a submission that got no answer is looked up, and made again
            made.ask(PLAN, by_batch=["acme"], batch_wait_seconds=3_600.0)
        readout = made.readout()
        assert readout.answers["status"].to_list() == ["labelled"] * 60
        paid = readout.requests.filter(status="ok")
        assert paid["answered"].sum() == 60
        booked, held = int(paid["cost_nanos"].sum()), int(readout.requests["held_nanos"].sum())
        assert made.spend().reserved == held
        assert booked <= billed_nanos(simulator) <= booked + held


def test_a_call_that_never_ends_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that keep dripping satisfy every time-out but one for the whole call."""
    monkeypatch.setattr(BatchJobs._call, "__defaults__", (0.3,))
    monkeypatch.setattr(batch_api, "UPLOAD_SECONDS", 0.3)
    with bench(tmp_path, batch_call_faults={"never_ending": 1.0}) as (made, _):
        ran = made.ask(PLAN, by_batch=["acme"], batch_wait_seconds=1.0)
        assert ran.unsent["reason"].unique().to_list() == ["batch"]
        assert ran.unsent.height == 60
