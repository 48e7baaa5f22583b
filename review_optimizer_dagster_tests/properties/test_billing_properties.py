"""Whatever happens on the way, three sets of books agree: ledger, requests, the endpoint's own.

The endpoint's record is priced from the price rows alone (`benchmarks.books`).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.core.batching import Tier
from review_optimizer_dagster.core.classifier import Readout
from review_optimizer_dagster.core.costs import (
    LEDGER,
    Posting,
    hit_entries,
    paid_entries,
    rollup,
)
from review_optimizer_dagster.core.quality import RESULTS
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.benchmarks.asked import (
    DAY,
    MODEL,
    NOON,
    Asker,
    DigestJudge,
    HurriedTime,
    distinct_rows,
    endpoint_of,
    misses_of,
)
from review_optimizer_dagster_tests.benchmarks.books import (
    WatchedSimulator,
    compare,
)
from review_optimizer_dagster_tests.benchmarks.faults import wait_until_idle

TAXONOMY = load_taxonomy("reviews")
ROWS = distinct_rows(None, 36)
FAULTS = (
    "rate_limit_seconds", "overloaded", "server_error", "html_error", "cut_before_body",
    "cut_in_body", "malformed_json", "missing_usage", "missing_ids", "extra_ids",
    "duplicate_ids", "wrong_labels", "truncated", "refusal", "other_model", "other_tier",
)  # fmt: skip
# Both have a price in every service tier that a reply may name.
LADDER = (Tier("small", MODEL, 0.3, 9, "none"), Tier("large", "gpt-5.6-luna", 1.0, 9, "none"))


class Killed(BaseException):
    """Stands for the end of a process: nothing may catch it."""


class DyingJournal(DayJournal):
    """A journal whose process ends after so many of its writes."""

    left = 0

    def intend(self, request: dict[str, Any]) -> None:
        self._count()
        super().intend(request)

    def settle(self, request_id: str, outcome: dict[str, Any]) -> None:
        self._count()
        super().settle(request_id, outcome)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Killed


@dataclass(frozen=True)
class Story:
    """A day: what is asked, how, what it meets, and when its process ends."""

    texts: int
    audits: int
    batch: int
    by_batch: bool
    faults: dict[str, float]
    unsure: float
    budget: int
    deaths: tuple[int, ...]
    """Writes to the journal after which each of the first runs ends."""
    seed: int


STORIES = st.builds(
    Story,
    texts=st.integers(1, 24),
    audits=st.integers(0, 8),
    batch=st.integers(1, 9),
    by_batch=st.booleans(),
    faults=st.dictionaries(st.sampled_from(FAULTS), st.floats(0.05, 0.3), max_size=3),
    unsure=st.sampled_from([0.0, 0.2, 0.6]),
    budget=st.sampled_from([400_000, 1_000_000, 10**12]),
    deaths=st.lists(st.integers(0, 12), max_size=2).map(tuple),
    seed=st.integers(0, 1_000),
)


@pytest.mark.campaign
@pytest.mark.timeout(600)
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(STORIES)
def test_ledger_requests_and_the_endpoints_record_agree(story: Story) -> None:
    """Retries, escalations, batches, audits, hits and crashes: to the nano-dollar."""
    asked = ROWS.head(story.texts + story.audits)
    misses = misses_of(asked, TAXONOMY).with_columns(
        purpose=pl.when(pl.int_range(pl.len()) < story.texts)
        .then(pl.lit("classification"))
        .otherwise(pl.lit("audit"))
    )
    with tempfile.TemporaryDirectory() as name:
        readout, record, spend = _lived(story, misses, Path(name))
    ledger = _ledger(readout, misses)
    books = compare(readout, record, int(ledger["cost_nanos"].sum()))
    assert (books.booked, books.differing) == (books.billed, 0), books
    assert books.booked == readout.requests["cost_nanos"].sum()
    by_request = dict(
        ledger.drop_nulls("request_id")
        .group_by("request_id")
        .agg(pl.col("cost_nanos").sum())
        .iter_rows()
    )
    for request_id, cost in readout.requests.select("request_id", "cost_nanos").iter_rows():
        assert by_request.get(request_id, 0) == cost
    assert ledger.filter((pl.col("cost_nanos") < 0) | (pl.col("avoided_nanos") < 0)).is_empty()
    assert spend[0] == books.booked
    assert spend[1] >= books.held
    # What is reserved is the worst case of the model that is asked; nobody can say what an endpoint
    # that answers with another one will bill.
    if "other_model" not in story.faults:
        assert books.uncovered == 0, books
        assert spend[0] + spend[1] <= story.budget
    turned = Readout(readout.answers, readout.requests.reverse(), readout.shares.reverse())
    assert _ledger(turned, misses.reverse()).equals(ledger)


def _lived(
    story: Story, misses: pl.DataFrame, folder: Path
) -> tuple[Readout, list[Any], tuple[int, int]]:
    """Run the day, each death and the last run to its end; its journal, record and counters."""
    time_of = HurriedTime()
    simulator = WatchedSimulator(
        DigestJudge(),
        latency_seconds=0.0,
        faults=story.faults,
        unsure_rate=story.unsure,
        seed=story.seed,
        clock=time_of.since_1970,
    )
    limits = BatchSettings(min_reviews=1, max_reviews=story.batch)
    by_batch = set(misses["tenant"]) if story.by_batch else set()
    with simulator:
        endpoint = endpoint_of(simulator.base_url, "codes", ladder=LADDER, batch_wait_seconds=60.0)
        for writes in (*story.deaths, 10**9):
            with Asker(folder, TAXONOMY, story.budget) as asker:
                asker.journal.close()
                dying = DyingJournal(folder, DAY)
                dying.left = writes
                asker.journal = dying
                try:
                    asker.ask(misses, endpoint, limits, by_batch=by_batch, clock=time_of.clock())
                except Killed:
                    wait_until_idle(simulator)
                readout = asker.readout()
                state = asker.budget().state(NOON)
        wait_until_idle(simulator)
        record = simulator.record
    return readout, record, (state.spent, state.reserved)


def _ledger(readout: Readout, misses: pl.DataFrame) -> pl.DataFrame:
    """What is booked of a day whose audits are hits, each text a review with a repeat."""
    known = readout.answers.filter(pl.col("status") == "labelled")
    texts = misses.join(known, on=["identity", "content_key"], how="left", suffix="_").select(
        "tenant", "taxonomy", "identity", "content_key", "request_id", "purpose",
        labelled=pl.col("request_id").is_not_null(),
    )  # fmt: skip
    is_audit = pl.col("purpose") == "audit"
    first = texts.with_columns(
        review_id=pl.col("content_key"),
        repeat=pl.lit(False),
        status=pl.when(is_audit | pl.col("labelled"))
        .then(pl.lit("labelled"))
        .otherwise(pl.lit("deferred")),
        level=pl.when(is_audit).then(pl.lit("l3_exact")).otherwise(pl.lit("model")),
        simulated=pl.lit(True),
    )
    again = first.with_columns(
        review_id=pl.col("content_key") + "-again", repeat=pl.lit(True), level=pl.lit("l1")
    )
    missing = [pl.lit(None).alias(name) for name in RESULTS if name not in first.columns]
    results = pl.concat([first, again]).with_columns(missing)
    results = results.select(pl.col(name).cast(kind) for name, kind in RESULTS.items())
    posting = Posting(NOON + timedelta(hours=1), "run")
    texts_only = dict.fromkeys(("tenant", "review_id", "source_tenant"), pl.String)
    medians = {"scope": pl.String, "taxonomy": pl.String, "simulated": pl.Boolean}
    ledger = pl.concat(
        [
            paid_entries(readout.shares, readout.requests, results, LEDGER.to_frame(), posting),
            hit_entries(
                results,
                readout.shares,
                pl.DataFrame(schema=texts_only),
                pl.DataFrame(schema=medians | {"median": pl.Int64}),
                LEDGER.to_frame(),
                DAY,
                posting,
            ),
        ]
    )
    assert rollup(ledger, results)["cost_nanos"].sum() == ledger["cost_nanos"].sum()
    return ledger
