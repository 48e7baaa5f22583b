"""Shares and the ledger: what a tenant is billed by."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from review_optimizer_dagster.core.classifier import REQUESTS, SHARES
from review_optimizer_dagster.core.costs import (
    BASELINE_NANOS_PER_REVIEW,
    LEDGER,
    ManualEntry,
    Posting,
    allocate,
    hit_entries,
    manual_entries,
    paid_entries,
    rollup,
)
from review_optimizer_dagster.core.quality import RESULTS

TODAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


# --- shares -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "weights", "shares"),
    [
        (100, [1, 1, 1], [34, 33, 33]),
        (101, [1, 1, 1], [34, 34, 33]),
        (10, [1, 2, 7], [1, 2, 7]),
        (10, [0, 0, 0, 0], [3, 3, 2, 2]),
        (3, [0, 5, 0], [0, 3, 0]),
        (1, [2, 3], [0, 1]),
        (0, [4, 5], [0, 0]),
        (0, [], []),
        (2, [10**18, 10**18, 1], [1, 1, 0]),
    ],
)
def test_shares_go_by_largest_remainder(total: int, weights: list[int], shares: list[int]) -> None:
    """The parts are what reviews are billed; ties go to the earlier one, so a re-run agrees."""
    assert allocate(total, weights) == shares


@pytest.mark.parametrize(("total", "weights"), [(-1, [1]), (1, [1, -1]), (1, [])])
def test_what_cannot_be_shared_is_refused(total: int, weights: list[int]) -> None:
    """Money that nobody bears would vanish from the ledger."""
    with pytest.raises(ValueError, match=r"must not be negative|nobody"):
        allocate(total, weights)


# --- the ledger -------------------------------------------------------------------------------


def _results(*rows: Mapping[str, object]) -> pl.DataFrame:
    common = {
        "tenant": "acme",
        "taxonomy": "reviews",
        "identity": "i",
        "category": "Books",
        "status": "labelled",
        "level": "model",
        "repeat": False,
        "labels": "{}",
        "simulated": False,
        "synthetic": False,
        "truth": "{}",
    }
    return pl.DataFrame(
        [dict.fromkeys(RESULTS) | common | dict(row) for row in rows], schema=RESULTS
    )


def _requests(*rows: Mapping[str, object]) -> pl.DataFrame:
    common = {
        "generation": 0,
        "attempt": 1,
        "kind": "classification",
        "tenant": "acme",
        "taxonomy": "reviews",
        "identity": "i",
        "simulated": False,
        "model_requested": "gpt-6-luna",
        "model": "gpt-6-luna-2026-08-01",
        "sent_at": NOON,
    }
    return pl.DataFrame(
        [dict.fromkeys(REQUESTS) | common | dict(row) for row in rows], schema=REQUESTS
    )


def _shares(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(request, "i", content, "acme", cost) for request, content, cost in rows],
        schema=SHARES,
        orient="row",
    )


NOBODY = pl.DataFrame(schema=dict.fromkeys(("tenant", "review_id", "source_tenant"), pl.String))
NO_MEDIAN = pl.DataFrame(
    schema={"scope": pl.String, "taxonomy": pl.String, "simulated": pl.Boolean, "median": pl.Int64}
)
TWO = ({"review_id": "r1", "content_key": "x"}, {"review_id": "r2", "content_key": "y"})
POSTING = Posting(NOON + timedelta(hours=1), "run")


def _paid(
    shares: pl.DataFrame,
    requests: pl.DataFrame,
    results: pl.DataFrame,
    booked: pl.DataFrame | None = None,
) -> pl.DataFrame:
    booked = LEDGER.to_frame() if booked is None else booked
    return paid_entries(shares, requests, results, booked, POSTING)


def _hits(
    results: pl.DataFrame,
    shares: pl.DataFrame,
    booked: pl.DataFrame | None = None,
    *,
    sources: pl.DataFrame = NOBODY,
    earlier: pl.DataFrame = NO_MEDIAN,
    day: date = TODAY,
    at: datetime = NOON,
) -> pl.DataFrame:
    booked = LEDGER.to_frame() if booked is None else booked
    posting = Posting(at, "run")
    return hit_entries(results, shares, sources, earlier, booked, day, posting)


def test_every_attempt_is_an_entry_of_the_leading_review() -> None:
    """A review that was asked twice was paid twice, and its repeats were not paid at all."""
    results = _results(
        {"review_id": "r1", "content_key": "x", "request_id": "q2", "repeat": True},
        {"review_id": "r2", "content_key": "x", "request_id": "q2"},
        {"review_id": "r3", "content_key": "y", "status": "failed", "level": "none"},
    )
    requests = _requests(
        {"request_id": "q1", "cost_nanos": 7, "model": None},
        {"request_id": "q2", "cost_nanos": 5, "attempt": 2},
        {"request_id": "q3", "cost_nanos": 0, "status": "timeout"},
    )
    shares = _shares(("q1", "x", 4), ("q1", "y", 3), ("q2", "x", 5))
    entries = _paid(shares, requests, results)
    assert entries.schema == LEDGER
    assert entries.select("review_id", "request_id", "cost_nanos").rows() == [
        ("r2", "q1", 4),
        ("r3", "q1", 3),
        ("r2", "q2", 5),
    ]
    assert entries["model"].to_list() == ["gpt-6-luna"] * 2 + ["gpt-6-luna-2026-08-01"]
    assert entries["avoided_nanos"].sum() == 0
    assert entries["entry_id"].n_unique() == 3


def test_what_was_paid_for_a_review_that_is_gone_is_still_booked() -> None:
    """A file taken out of the inbox after the first run does not give the money back."""
    entries = _paid(
        _shares(("q1", "x", 9)), _requests({"request_id": "q1", "cost_nanos": 9}), _results()
    )
    assert entries.select("tenant", "review_id", "cost_nanos").row(0) == ("acme", None, 9)


@pytest.mark.parametrize(
    "shares", [[("q1", "x", 8)], [], [("q1", "x", 9), ("q2", "x", 0)]], ids=["short", "none", "odd"]
)
def test_shares_that_do_not_add_up_are_refused(shares: list[tuple[str, str, int]]) -> None:
    """A ledger that does not sum to the requests must never be written."""
    requests = _requests({"request_id": "q1", "cost_nanos": 9})
    with pytest.raises(ValueError, match="request q"):
        _paid(_shares(*shares), requests, _results())


def test_hits_and_repeats_cost_nothing_and_say_what_they_avoided() -> None:
    """What a hit avoids is what the model takes for a review of the same scope and policy."""
    results = _results(
        {"review_id": "r1", "content_key": "a", "request_id": "q1"},
        {"review_id": "r2", "content_key": "b", "request_id": "q1"},
        {"review_id": "r3", "content_key": "c", "request_id": "q1"},
        {"review_id": "r4", "content_key": "a", "request_id": "q1", "repeat": True},
        {"review_id": "r5", "content_key": "d", "level": "l3_near"},
        {"review_id": "r6", "content_key": "e", "level": "none", "status": "deferred"},
        {"review_id": "r7", "content_key": "e", "level": "l1", "tenant": "other", "identity": "o"},
    )
    # q0 is a first attempt that came to nothing: part of the bill, not of what an answer takes.
    failed = [("q0", content, 900) for content in "abc"]
    shares = _shares(*failed, ("q1", "a", 10), ("q1", "b", 20), ("q1", "c", 90))
    entries = _hits(results, shares)
    assert entries.schema == LEDGER
    columns = ["tenant", "review_id", "kind", "level", "cost_nanos", "avoided_nanos"]
    assert entries.select(*columns, "avoided_rule").rows() == [
        ("acme", "r4", "repeat", "model", 0, 20, "median_paid"),
        ("acme", "r5", "hit", "l3_near", 0, 20, "median_paid"),
        ("other", "r7", "hit", "l1", 0, BASELINE_NANOS_PER_REVIEW, "baseline"),
    ]


def test_a_second_run_of_a_partition_gives_the_same_entry_ids() -> None:
    """The ledger is append-only and deduplicated by entry id, so ids must not depend on the run."""
    results = _results({"review_id": "r1", "content_key": "a", "level": "l2"})
    first = _hits(results, _shares())
    later = _hits(results, _shares(), at=NOON + timedelta(hours=3))
    next_day = _hits(results, _shares(), day=TODAY + timedelta(days=1))
    assert first["entry_id"].equals(later["entry_id"])
    assert not first["entry_id"].equals(next_day["entry_id"])


def test_the_rollup_counts_every_review_once_and_keeps_simulated_money_apart() -> None:
    """A demo's dollars in a tenant's bill would be an invoice for nothing."""
    results = _results(
        {"review_id": "r1", "content_key": "a"},
        {"review_id": "r2", "content_key": "a", "repeat": True},
        {"review_id": "r3", "content_key": "b", "level": "l1"},
        {"review_id": "r4", "content_key": "c", "level": "none", "status": "failed"},
        {"review_id": "r5", "content_key": "d", "level": "none", "status": "deferred"},
    )
    real = _requests({"request_id": "q1", "cost_nanos": 900})
    simulated = _requests({"request_id": "q2", "cost_nanos": 70, "simulated": True})
    audit = _requests({"request_id": "q3", "cost_nanos": 5, "kind": "audit"})
    ledger = pl.concat(
        [
            _paid(_shares(("q1", "a", 900)), real, results),
            _paid(_shares(("q2", "a", 70)), simulated, results),
            _paid(_shares(("q3", "b", 5)), audit, results),
            _hits(results, _shares()),
        ]
    )
    billed, demo = rollup(ledger, results).rows(named=True)
    assert (billed["reviews"], billed["hits"], billed["misses"], billed["deferred"]) == (5, 2, 2, 1)
    # A rechecked hit stays a hit, and avoided what it avoided; its recheck is paid for.
    assert (billed["cost_nanos"], billed["audit_nanos"], demo["audit_nanos"]) == (905, 5, 0)
    assert billed["avoided_nanos"] == 2 * BASELINE_NANOS_PER_REVIEW
    # Of the three that have labels: what nobody answered saved nothing.
    assert billed["baseline_nanos"] == 3 * BASELINE_NANOS_PER_REVIEW
    assert billed["saving"] == pytest.approx(1 - 905 / 4_500_000)
    assert billed["cost_per_1000_nanos"] == 301_667
    assert (demo["simulated"], demo["reviews"], demo["cost_nanos"]) == (True, 0, 70)
    assert demo["saving"] is None
    assert demo["cost_per_1000_nanos"] is None


# --- corrections ------------------------------------------------------------------------------


def test_a_mended_price_is_a_correction_and_changes_no_entry() -> None:
    """Somebody was shown the first bill: what was wrong stays, and what mends it stands beside."""
    results = _results(
        {"review_id": "r1", "content_key": "x"}, {"review_id": "r2", "content_key": "y"}
    )
    first = _paid(
        _shares(("q1", "x", 4), ("q1", "y", 3)),
        _requests({"request_id": "q1", "cost_nanos": 7, "kind": "audit"}),
        results,
    )
    dearer = _shares(("q1", "x", 8), ("q1", "y", 3))
    request = _requests({"request_id": "q1", "cost_nanos": 11, "kind": "audit"})
    mended = _paid(dearer, request, results, first)
    (row,) = mended.rows(named=True)
    assert (row["kind"], row["purpose"], row["cost_nanos"]) == ("correction", "audit", 4)
    assert row["corrects"] == first.filter(content_key="x")["entry_id"].item()
    assert (row["review_id"], row["request_id"]) == ("r1", "q1")
    both = pl.concat([first, mended])
    assert _paid(dearer, request, results, both).is_empty()
    cheap = _requests({"request_id": "q1", "cost_nanos": 7, "kind": "audit"})
    back = _paid(_shares(("q1", "x", 4), ("q1", "y", 3)), cheap, results, both)
    assert back["cost_nanos"].to_list() == [-4]
    assert back["entry_id"].item() != row["entry_id"]
    assert rollup(pl.concat([both, back]), results)["audit_nanos"].sum() == 7


def test_a_request_that_the_journal_has_lost_is_not_taken_back() -> None:
    """Its money is gone all the same; the sums then say that they differ."""
    results = _results({"review_id": "r1", "content_key": "x"})
    first = _paid(
        _shares(("q1", "x", 7)), _requests({"request_id": "q1", "cost_nanos": 7}), results
    )
    assert _paid(_shares(), _requests(), results, first).is_empty()


def test_a_hit_that_is_none_any_more_takes_back_what_it_avoided() -> None:
    """A recheck contradicted it: the review was paid for, and nothing was avoided."""
    hit = _results({"review_id": "r1", "content_key": "x", "level": "l2"})
    first = _hits(hit, _shares())
    assert _hits(hit, _shares(), first).is_empty()
    paid = _results({"review_id": "r1", "content_key": "x", "request_id": "q1"})
    taken_back = _hits(paid, _shares(("q1", "x", 9)), first)
    (row,) = taken_back.rows(named=True)
    assert (row["kind"], row["purpose"]) == ("correction", "hit")
    assert row["avoided_nanos"] == -BASELINE_NANOS_PER_REVIEW
    both = pl.concat([first, taken_back])
    assert _hits(paid, _shares(("q1", "x", 9)), both).is_empty()
    again = _hits(hit, _shares(), both)
    assert again["kind"].to_list() == ["hit"]
    assert again["entry_id"].item() not in both["entry_id"].to_list()


def test_an_estimate_stays_as_it_was_booked() -> None:
    """Answers that come later move the median; a hit of before must not be rebooked for that."""
    hit = {"review_id": "r1", "content_key": "x", "level": "l2"}
    first = _hits(_results(hit), _shares())
    later = _results(hit, {"review_id": "r2", "content_key": "y", "request_id": "q1"})
    assert _hits(later, _shares(("q1", "y", 9)), first).is_empty()


def test_days_before_stand_in_where_the_model_answered_nothing() -> None:
    """The baseline's $1.50 per 1,000 would make a day of hits look a hundred times dearer."""
    hit = _results({"review_id": "r1", "content_key": "x", "level": "l2"})
    earlier = pl.DataFrame([("i", "reviews", False, 21)], NO_MEDIAN.schema, orient="row")
    sources = pl.DataFrame([("acme", "r1", "other")], NOBODY.schema, orient="row")
    row = _hits(hit, _shares(), sources=sources, earlier=earlier).row(0, named=True)
    assert (row["avoided_nanos"], row["avoided_rule"]) == (21, "median_earlier")
    assert row["source_tenant"] == "other"


def test_what_was_paid_again_on_purpose_shows_as_such() -> None:
    """`--reclassify` asks about every text once more; the first bill is not the second's."""
    results = _results(
        {"review_id": "r1", "content_key": "x"}, {"review_id": "r2", "content_key": "y"}
    )
    requests = _requests(
        {"request_id": "q1", "cost_nanos": 7, "generation": 1},
        {"request_id": "q2", "cost_nanos": 12, "generation": 2},
    )
    ledger = _paid(_shares(("q1", "x", 7), ("q2", "x", 7), ("q2", "y", 5)), requests, results)
    row = rollup(ledger, results).row(0, named=True)
    assert (row["cost_nanos"], row["repaid_nanos"]) == (19, 7)


def test_saving_is_measured_against_no_cache_too() -> None:
    """Rechecks exist only for the cache's sake: without one they would cost nothing."""
    results = _results(
        {"review_id": "r1", "content_key": "x", "request_id": "q1"},
        {"review_id": "r2", "content_key": "y", "level": "l2"},
    )
    requests = _requests(
        {"request_id": "q1", "cost_nanos": 10},
        {"request_id": "q2", "cost_nanos": 4, "kind": "audit"},
    )
    shares = _shares(("q1", "x", 10), ("q2", "y", 4))
    ledger = pl.concat([_paid(shares, requests, results), _hits(results, shares)])
    row = rollup(ledger, results).row(0, named=True)
    assert (row["cost_nanos"], row["avoided_nanos"], row["no_cache_nanos"]) == (14, 10, 20)
    assert row["saving_no_cache"] == pytest.approx(0.3)


def test_a_refund_is_shared_by_the_reviews_of_its_request() -> None:
    """It adds up to what came back, and stands under the provider's number."""
    results = _results(
        {"review_id": "r1", "content_key": "x"}, {"review_id": "r2", "content_key": "y"}
    )
    request = _requests({"request_id": "q1", "cost_nanos": 9})
    ledger = _paid(_shares(("q1", "x", 6), ("q1", "y", 3)), request, results)
    refund = ManualEntry("refund", "acme", "reviews", False, -5, "CN-7", "job expired")
    booked = manual_entries(refund, ledger, POSTING)
    assert booked.schema == LEDGER
    assert sorted(booked.select("review_id", "cost_nanos").rows()) == [("r1", -3), ("r2", -2)]
    assert set(booked["note"]) == {"CN-7: job expired"}
    assert manual_entries(refund, ledger, POSTING)["entry_id"].equals(booked["entry_id"])
    row = rollup(pl.concat([ledger, booked]), results).row(0, named=True)
    assert (row["cost_nanos"], row["manual_nanos"]) == (4, -5)


def test_a_fee_without_a_request_is_the_tenants() -> None:
    """A monthly minimum is about no review."""
    fee = ManualEntry("adjustment", "acme", "reviews", False, 100, "INV-1")
    (row,) = manual_entries(fee, LEDGER.to_frame(), POSTING).rows(named=True)
    assert (row["tenant"], row["review_id"], row["cost_nanos"]) == ("acme", None, 100)
