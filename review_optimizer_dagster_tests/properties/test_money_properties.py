"""What must hold of money whatever happens: it adds up, it is never negative, order is nothing."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from threading import Barrier

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.alerts.rules import budget_alerts
from review_optimizer_dagster.alerts.store import raise_once, raised
from review_optimizer_dagster.core.classifier import REQUESTS, SHARES
from review_optimizer_dagster.core.costs import (
    BASELINE_NANOS_PER_REVIEW,
    FREE,
    LEDGER,
    Posting,
    allocate,
    hit_entries,
    paid_entries,
    rollup,
)
from review_optimizer_dagster.core.quality import RESULTS
from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.money.budgets import Budget, Spend, Version
from review_optimizer_dagster.money.prices import load_prices, request_cost, worst_case
from review_optimizer_dagster_tests.memory_state import MemoryState

DAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
PRICE = load_prices().price("gpt-6-luna", "default", DAY)

nanos = st.integers(0, 10**13)
tokens = st.integers(0, 300_000)
weights = st.lists(st.integers(0, 10**6), min_size=1, max_size=500)


@settings(deadline=None)
@given(total=nanos, weights=weights)
def test_shares_add_up_and_are_nearest_to_fair(total: int, weights: list[int]) -> None:
    """Any rounding that does not reconcile would show up in some tenant's bill."""
    shares = allocate(total, weights)
    whole = sum(weights)
    assert sum(shares) == total
    for share, weight in zip(shares, weights, strict=True):
        fair = Fraction(total * weight, whole) if whole else Fraction(total, len(weights))
        assert share >= 0
        assert abs(share - fair) < 1


@settings(deadline=None)
@given(total=nanos, weights=weights, seed=st.integers(0, 2**32))
def test_the_order_of_reviews_moves_no_share_but_a_tie(
    total: int, weights: list[int], seed: int
) -> None:
    """The same reviews in another order must not be billed differently for other reasons."""
    shuffled = random.Random(seed).sample(weights, len(weights))  # noqa: S311 (no secret)
    one = sorted(zip(weights, allocate(total, weights), strict=True))
    other = sorted(zip(shuffled, allocate(total, shuffled), strict=True))
    assert one == other


@settings(deadline=None)
@given(
    price=st.lists(st.integers(0, 10**11), min_size=4, max_size=4),
    prompt=tokens,
    completion=tokens,
    parts=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_a_cost_is_the_exact_amount_rounded_once_and_never_over_the_worst_case(
    price: list[int], prompt: int, completion: int, parts: tuple[float, float]
) -> None:
    """Checked against fractions, which do not round at all."""
    plain, cached_price, write_price, output = price
    row = replace(
        PRICE, input=plain, cached_input=cached_price, cache_write=write_price, output=output
    )
    cached = int(prompt * parts[0])
    written = int((prompt - cached) * parts[1])
    cost = request_cost(row, Usage(prompt, cached, completion, written))
    exact = Fraction(
        (prompt - cached - written) * plain
        + cached * cached_price
        + written * write_price
        + completion * output,
        1_000_000,
    )
    assert cost >= 0
    assert -Fraction(1, 2) < cost - exact <= Fraction(1, 2)
    assert cost <= worst_case(row, prompt, completion)


@st.composite
def days(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]:
    """Results, requests and shares of a random day: retries, failures, repeats, hits, lost rows."""
    results, requests, shares = [], [], []
    for tenant in ("acme", "other"):
        contents = draw(st.integers(0, 12))
        asked = []
        for number in range(contents):
            content = f"c{number}"
            status, level = draw(
                st.sampled_from(
                    [
                        ("labelled", "model"),
                        ("labelled", "l1"),
                        ("labelled", "l3_near"),
                        ("failed", "none"),
                        ("deferred", "none"),
                    ]
                )
            )
            copies = draw(st.integers(0, 3))  # none: the review has left the partition
            if level == "model" or status == "failed":
                asked.append(content)
            for copy in range(copies):
                results.append(
                    {
                        "tenant": tenant,
                        "taxonomy": "reviews",
                        "review_id": f"{content}-{copy}",
                        "identity": "i",
                        "content_key": content,
                        "status": status,
                        "level": level,
                        "repeat": copy > 0,
                        "request_id": f"{tenant}-0" if level == "model" else None,
                        "simulated": False,
                    }
                )
        for attempt in range(draw(st.integers(0, 4)) if asked else 0):
            cost = draw(nanos)
            request = f"{tenant}-{attempt}"
            items = draw(st.lists(st.sampled_from(asked), min_size=1, unique=True))
            counts = draw(st.lists(tokens, min_size=len(items), max_size=len(items)))
            requests.append(
                {
                    "request_id": request,
                    "kind": "classification",
                    "tenant": tenant,
                    "taxonomy": "reviews",
                    "identity": "i",
                    "simulated": False,
                    "model_requested": "gpt-6-luna",
                    "generation": draw(st.integers(1, 3)),
                    "cost_nanos": cost,
                    "sent_at": NOON + timedelta(seconds=attempt),
                }
            )
            for content, share in zip(items, allocate(cost, counts), strict=True):
                shares.append((request, "i", content, tenant, share))
    return (
        pl.DataFrame([dict.fromkeys(RESULTS) | row for row in results], schema=RESULTS),
        pl.DataFrame([dict.fromkeys(REQUESTS) | row for row in requests], schema=REQUESTS),
        pl.DataFrame(shares, schema=SHARES, orient="row"),
    )


@settings(max_examples=60, deadline=None)
@given(day=days(), seed=st.integers(0, 2**16))
def test_the_ledger_sums_to_the_requests_in_any_order(
    day: tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame], seed: int
) -> None:
    """The one sentence a finance team will check: ledger = requests, for each tenant."""
    results, requests, shares = day
    ledger = _booked(results, requests, shares, LEDGER.to_frame())
    for tenant in ("acme", "other"):
        mine = pl.col("tenant") == tenant
        billed = requests.filter(mine)["cost_nanos"].sum()
        assert ledger.filter(mine)["cost_nanos"].sum() == billed
    assert ledger["entry_id"].n_unique() == ledger.height
    assert ledger.filter((pl.col("cost_nanos") < 0) | (pl.col("avoided_nanos") < 0)).is_empty()
    assert ledger.filter(pl.col("kind").is_in(FREE))["cost_nanos"].sum() == 0
    totals = rollup(ledger, results)
    assert totals["cost_nanos"].sum() == requests["cost_nanos"].sum()
    parts = totals.select("audit_nanos", "embedding_nanos", "repaid_nanos", "no_cache_nanos")
    assert all(value >= 0 for row in parts.iter_rows() for value in row)
    labelled = results.filter(pl.col("status") == "labelled").height
    assert totals["baseline_nanos"].sum() == labelled * BASELINE_NANOS_PER_REVIEW
    counted = totals.select(pl.sum_horizontal("hits", "misses", "deferred")).to_series()
    assert counted.equals(totals["reviews"], check_names=False)

    def shuffled(frame: pl.DataFrame) -> pl.DataFrame:
        return frame.sample(fraction=1.0, shuffle=True, seed=seed)

    again = _booked(shuffled(results), shuffled(requests), shuffled(shares), LEDGER.to_frame())
    assert again.equals(ledger)
    assert _booked(results, requests, shares, shuffled(ledger)).is_empty()


def _booked(
    results: pl.DataFrame, requests: pl.DataFrame, shares: pl.DataFrame, booked: pl.DataFrame
) -> pl.DataFrame:
    """What the ledger lacks."""
    posting = Posting(NOON, "run")
    texts = dict.fromkeys(("tenant", "review_id", "source_tenant"), pl.String)
    medians = {"scope": pl.String, "taxonomy": pl.String, "simulated": pl.Boolean}
    nobody, nothing = (
        pl.DataFrame(schema=texts),
        pl.DataFrame(schema=medians | {"median": pl.Int64}),
    )
    return pl.concat(
        [
            paid_entries(shares, requests, results, booked, posting),
            hit_entries(results, shares, nobody, nothing, booked, DAY, posting),
        ]
    )


@pytest.mark.campaign
@settings(max_examples=60, deadline=None)
@given(states=st.lists(days(), min_size=2, max_size=5))
def test_whatever_becomes_of_a_day_its_ledger_sums_to_its_requests(
    states: list[tuple[pl.DataFrame, pl.DataFrame, pl.DataFrame]],
) -> None:
    """Prices are mended, hits are taken back and come again, reviews leave: all of it appends.

    A request that was booked once stays in the journal, as real ones do.
    """
    ledger = LEDGER.to_frame()
    known: dict[str, tuple[pl.DataFrame, pl.DataFrame]] = {}
    for results, requests, shares in states:
        for request_id in requests["request_id"]:
            own = pl.col("request_id") == request_id
            split = shares.filter(own)
            # The same texts as before, or the journal would contradict itself.
            if request_id not in known or set(known[request_id][1]["content_key"]) == set(
                split["content_key"]
            ):
                known[request_id] = (requests.filter(own), split)
        costs = pl.concat([requests.clear(), *(request for request, _ in known.values())])
        parts = pl.concat([shares.clear(), *(split for _, split in known.values())])
        before = ledger
        new = _booked(results, costs, parts, before)
        ledger = pl.concat([before, new])
        assert ledger["cost_nanos"].sum() == costs["cost_nanos"].sum()
        assert ledger["entry_id"].n_unique() == ledger.height
        hits = results.filter(
            (pl.col("status") == "labelled") & (pl.col("repeat") | (pl.col("level") != "model"))
        )
        signs = pl.when(pl.col("kind") == "correction").then(-1).otherwise(1)
        standing = ledger.filter(pl.col("purpose").is_in(FREE)).select(signs.sum()).item()
        assert standing == hits.height
        by_review = ledger.group_by("tenant", "review_id").agg(pl.col("avoided_nanos").sum())
        assert by_review.filter(pl.col("avoided_nanos") < 0).is_empty()
        assert _booked(results, costs, parts, ledger).is_empty()


@settings(max_examples=40, deadline=None)
@given(
    amount=st.integers(0, 1_000),
    wishes=st.lists(st.tuples(st.integers(0, 200), st.floats(0, 1)), max_size=40),
)
def test_requests_at_the_same_time_never_overspend_a_budget(
    amount: int, wishes: list[tuple[int, float]]
) -> None:
    """Eight in flight see the same money left; only one of them may take the last of it."""
    state = MemoryState()
    start = Barrier(8)

    def worker(number: int) -> int:
        budget = Budget(state, "acme", Version(1, amount, "month"))
        start.wait()
        paid = 0
        for position, (worst, part) in enumerate(wishes[number::8]):
            request = f"{number}-{position}"
            if budget.reserve(request, worst, NOON):
                spend = budget.state(NOON)
                assert spend.spent + spend.reserved <= amount
                cost = int(worst * part)
                budget.settle(request, cost, NOON)
                budget.settle(request, cost, NOON)
                paid += cost
        return paid

    with ThreadPoolExecutor(8) as pool:
        paid = sum(pool.map(worker, range(8)))
    spend = Budget(state, "acme", Version(1, amount, "month")).state(NOON)
    assert spend.spent == paid <= amount
    assert spend.reserved == 0


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.integers(0, 40), max_size=30),
    thresholds=st.lists(st.integers(1, 99), unique=True, max_size=4).map(sorted),
)
def test_each_threshold_is_raised_exactly_once(steps: list[int], thresholds: list[int]) -> None:
    """Every look recomputes every alert, as a run, a restart and a sensor do."""
    state, spent, news = MemoryState(), 0, []
    for step in steps:
        spent += step
        for _ in range(2):
            spend = Spend("acme", False, "2026-11", 1, 100, spent, 0, 0, False)
            alerts = budget_alerts(spend, thresholds)
            news += raise_once(state, alerts)
    expected = [threshold for threshold in (*thresholds, 100) if spent >= threshold]
    assert [alert.threshold for alert in news] == expected
    assert sorted(alert.threshold for alert in raised(state)) == expected
