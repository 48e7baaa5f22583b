"""Prices, budgets and the ledger: what a tenant is billed by."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.core.classifier import REQUESTS, SHARES
from review_optimizer_dagster.core.costs import (
    BASELINE_NANOS_PER_REVIEW,
    LEDGER,
    allocate,
    hit_entries,
    paid_entries,
    rollup,
)
from review_optimizer_dagster.core.quality import RESULTS
from review_optimizer_dagster.errors import ConfigError
from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.money.budgets import (
    Budget,
    Deferral,
    Period,
    Spend,
    State,
    budget_version,
    deferrals,
    note_deferral,
    period_key,
)
from review_optimizer_dagster.money.prices import (
    ModelEnded,
    PriceTable,
    UnknownPrice,
    load_prices,
    request_cost,
    worst_case,
)
from review_optimizer_dagster_tests.memory_state import MemoryState

TODAY = date(2026, 11, 22)
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def _home(folder: Path, text: str) -> Path:
    path = folder / "prices.toml"
    path.write_text(text, encoding="utf-8")
    return path


# --- prices -----------------------------------------------------------------------------------

ROW = """
[[prices]]
model = "{model}"
valid_from = {valid_from}
input = {input}
output = 2.00
{more}
"""


@pytest.mark.parametrize(
    ("model", "tier", "usage", "dollars"),
    [
        ("gpt-6-luna", "default", Usage(1_000_000, 0, 0), "0.10"),
        ("gpt-6-luna", "default", Usage(1_000_000, 1_000_000, 0), "0.01"),
        ("gpt-6-luna", "default", Usage(1_000_000, 0, 0, 1_000_000), "0.125"),
        ("gpt-6-luna", "default", Usage(0, 0, 1_000_000), "0.50"),
        ("gpt-6-luna", "batch", Usage(1_000_000, 0, 1_000_000), "0.30"),
        ("gpt-6-luna", "flex", Usage(1_000_000, 0, 1_000_000), "0.30"),
        ("gpt-5.6-luna", "default", Usage(1_000_000, 500_000, 1_000_000), "1.31"),
        ("gpt-5.4-nano", "default", Usage(1_000_000, 0, 1_000_000), "1.45"),
        ("gpt-5.4-mini", "default", Usage(1_000_000, 1_000_000, 0), "0.075"),
        ("gpt-4o-mini", "default", Usage(2_000_000, 1_000_000, 1_000_000), "0.825"),
        ("gpt-4o", "default", Usage(1_000_000, 0, 1_000_000), "12.5"),
    ],
)
def test_the_shipped_prices_bill_what_the_price_page_says(
    model: str, tier: str, usage: Usage, dollars: str
) -> None:
    """The page is in dollars a million tokens; a slip of a factor would bill every tenant wrong."""
    cost = request_cost(load_prices().price(model, tier, TODAY), usage)
    assert cost == round(float(dollars) * 1e9)


def test_a_request_is_rounded_once_half_up(tmp_path: Path) -> None:
    """Rounding each part by itself would give 0 or 2 here; a token costs half a nano-dollar."""
    home = _home(tmp_path, ROW.format(model="m", valid_from="2026-01-01", input="0.0005", more=""))
    price = load_prices(home).price("m", "default", TODAY)
    assert [request_cost(price, Usage(tokens, 0, 0)) for tokens in (0, 1, 2, 3)] == [0, 1, 1, 2]


def test_the_worst_case_assumes_that_all_input_is_written_to_the_cache() -> None:
    """A cache write is dearer than plain input; a reservation without it could be overspent."""
    price = load_prices().price("gpt-6-luna", "default", TODAY)
    assert worst_case(price, 1_000, 100) == request_cost(price, Usage(1_000, 0, 100, 1_000))
    assert worst_case(price, 1, 0) == 125


def test_a_dated_model_goes_by_the_price_of_its_name() -> None:
    """Responses name the snapshot that answered, not the alias that was asked."""
    prices = load_prices()
    assert prices.price("gpt-6-luna-2026-08-01", "default", TODAY) == prices.price(
        "gpt-6-luna", "default", TODAY
    )
    assert prices.price("gpt-4o-mini-2024-07-18", "default", TODAY).model == "gpt-4o-mini"


@pytest.mark.parametrize(
    ("model", "tier", "day"),
    [
        ("gpt-9", "default", TODAY),
        ("gpt-4o-audio-preview", "default", TODAY),  # another model, not a date of gpt-4o
        ("gpt-6-luna", "scale", TODAY),
        ("gpt-6-luna", "default", date(2025, 12, 31)),
    ],
)
def test_what_has_no_price_is_refused_by_name(model: str, tier: str, day: date) -> None:
    """Guessing a price from a similar name would book a wrong amount without a word."""
    home = Path("/home/somebody/prices.toml")
    with pytest.raises(UnknownPrice) as refused:
        load_prices(home).price(model, tier, day)
    for part in (model, tier, str(day), str(home)):
        assert part in str(refused.value)


def test_a_model_is_refused_after_its_last_day_but_its_old_requests_keep_their_price() -> None:
    """Asking an ended model fails request by request; what it was paid must still be booked."""
    prices = load_prices()
    assert prices.check_model("gpt-4.1-nano", date(2026, 10, 23)).ends == date(2026, 10, 23)
    with pytest.raises(ModelEnded, match=r"'gpt-4\.1-nano' ended on 2026-10-23"):
        prices.check_model("gpt-4.1-nano", date(2026, 10, 24))
    assert prices.price("gpt-4.1-nano", "default", date(2026, 10, 24)).output == 400_000_000


def test_a_home_adds_models_and_closes_a_shipped_row_from_its_day_on(tmp_path: Path) -> None:
    """Providers change prices between two releases of this project."""
    home = _home(
        tmp_path,
        ROW.format(model="mine", valid_from="2026-01-01", input="0", more="")
        + ROW.format(model="gpt-6-luna", valid_from="2026-12-01", input="0.08", more=""),
    )
    prices = load_prices(home)
    assert prices.price("mine", "default", TODAY).cached_input == 0
    assert prices.price("gpt-6-luna", "default", date(2026, 11, 30)).input == 100_000_000
    assert prices.price("gpt-6-luna", "default", date(2026, 12, 1)).input == 80_000_000
    assert prices.price("gpt-6-luna", "batch", date(2026, 12, 1)).input == 50_000_000


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            ROW.format(model="m", valid_from="2026-01-01", input="1", more="")
            + ROW.format(model="m", valid_from="2026-06-01", input="2", more=""),
            "prices row 2 has the same model 'm'.* as row 1 of prices.toml",
        ),
        (
            ROW.format(model="m", valid_from="2026-06-01", input="1", more="valid_to = 2026-06-30")
            + ROW.format(
                model="m", valid_from="2026-01-01", input="2", more="valid_to = 2026-06-01"
            ),
            "prices row 2 has the same model",
        ),
        (
            ROW.format(model="gpt-4o", valid_from="2026-01-01", input="1", more=""),
            r"prices row 1 has the same model 'gpt-4o'.* as row \d+ of prices.toml",
        ),
        (
            ROW.format(model="m", valid_from="2026-02-01", input="1", more="valid_to=2026-01-01"),
            "prices row 1 is not valid: .*valid_to is before valid_from",
        ),
        (
            ROW.format(model="m", valid_from="2026-02-01", input="-1", more=""),
            "prices row 1.input is not valid",
        ),
        (
            ROW.format(model="m", valid_from="2026-02-01", input="1", more="price = 3"),
            "prices row 1.price is not valid",
        ),
        ("[[price]]\nmodel = 'm'\n", r"must hold \[\[prices\]\] rows"),
        ("prices = 3\n", r"must hold \[\[prices\]\] rows"),
        ("[[prices]\n", "is not valid TOML"),
    ],
)
def test_a_wrong_price_file_is_refused_with_file_and_row(
    tmp_path: Path, text: str, problem: str
) -> None:
    """Two prices for one day would make the bill depend on the order of rows."""
    home = _home(tmp_path, text)
    with pytest.raises(ConfigError, match=problem) as refused:
        load_prices(home)
    assert str(home) in str(refused.value)


def test_prices_that_follow_each_other_are_not_an_overlap(tmp_path: Path) -> None:
    """valid_to is the last day, inside."""
    home = _home(
        tmp_path,
        ROW.format(model="m", valid_from="2026-01-01", input="1", more="valid_to = 2026-05-31")
        + ROW.format(model="m", valid_from="2026-06-01", input="2", more=""),
    )
    prices: PriceTable = load_prices(home)
    assert prices.price("m", "default", date(2026, 5, 31)).input == 1_000_000_000
    assert prices.price("m", "default", date(2026, 6, 1)).input == 2_000_000_000


@pytest.mark.parametrize("counts", [(-1, 0, 0, 0), (10, 11, 0, 0), (10, 6, 0, 5), (10, 0, -1, 0)])
def test_token_counts_that_cannot_be_are_refused(counts: tuple[int, int, int, int]) -> None:
    """More cached tokens than the prompt has would bill a negative amount."""
    with pytest.raises(ValueError, match="token"):
        Usage(*counts)


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


# --- budgets ----------------------------------------------------------------------------------


def _budget(state: State | None = None, tenant: str = "acme", **options: Any) -> Budget:
    """A hundred nano-dollars a month."""
    state = state or MemoryState()
    return Budget(state, tenant, budget_version(state, tenant, 100, "month"), **options)


def test_a_budget_reserves_up_to_its_amount_and_frees_what_was_not_needed() -> None:
    """The worst case is set aside, the real cost stays, and the rest may be spent again."""
    budget = _budget()
    assert budget.reserve("a", 60, NOON)
    assert not budget.reserve("b", 41, NOON)
    assert budget.reserve("b", 40, NOON)
    budget.settle("a", 10, NOON)
    spend = budget.state(NOON)
    assert (spend.spent, spend.reserved, spend.left) == (10, 40, 50)
    assert budget.reserve("c", 50, NOON)
    assert not budget.reserve("d", 1, NOON)


def test_settling_twice_or_without_a_reservation_books_nothing() -> None:
    """A run that was killed settles again what it may have settled before."""
    budget = _budget()
    budget.reserve("a", 60, NOON)
    for _ in range(2):
        budget.settle("a", 30, NOON)
    budget.settle("never reserved", 30, NOON)
    assert (budget.state(NOON).spent, budget.state(NOON).reserved) == (30, 0)


def test_reserving_twice_sets_money_aside_once() -> None:
    """A request that is taken up after a crash has its reservation already."""
    budget = _budget()
    assert budget.reserve("a", 30, NOON)
    assert budget.reserve("a", 40, NOON)
    assert budget.state(NOON).reserved == 30


def test_tenants_and_periods_have_counters_of_their_own() -> None:
    """One tenant's spend must not use up another's money, nor last month's this month's."""
    state = MemoryState()
    _budget(state).reserve("a", 100, NOON)
    assert _budget(state).reserve("b", 100, NOON + timedelta(days=31))
    assert _budget(state, "other").reserve("c", 100, NOON)
    assert _budget(state, simulated=True).reserve("d", 100, NOON)
    assert _budget(state).state(NOON).reserved == 100  # another object, same money


def test_a_request_belongs_to_the_period_it_was_sent_in() -> None:
    """An answer that comes after midnight was paid for out of the day before."""
    state = MemoryState()
    budget = Budget(state, "acme", budget_version(state, "acme", 100, "day"))
    late, after = datetime(2026, 11, 30, 23, 59, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)
    assert budget.reserve("a", 90, late)
    assert budget.reserve("b", 90, after)
    budget.settle("a", 70, late)
    assert (budget.state(late).spent, budget.state(after).spent) == (70, 0)
    assert (budget.state(late).reserved, budget.state(after).reserved) == (0, 90)


def test_a_month_is_the_sum_of_its_days_whatever_the_budget_was_for() -> None:
    """A budget that becomes one a day must not forget what the day has cost."""
    state = MemoryState()
    budget = _budget(state)
    for number, day in enumerate((NOON, NOON - timedelta(days=1))):
        budget.reserve(str(number), 40, day)
        budget.settle(str(number), 40, day)
    daily = Budget(state, "acme", budget_version(state, "acme", 50, "day"))
    assert daily.state(NOON).spent == 40
    assert not daily.reserve("c", 11, NOON)
    assert budget.state(NOON).spent == 80


def test_what_is_held_for_an_unknown_outcome_is_free_again_in_the_end() -> None:
    """Else a day of time-outs would block a month; a late answer is booked all the same."""
    budget = _budget(hold=timedelta(hours=30))
    budget.reserve("a", 100, NOON)
    before, after = NOON + timedelta(hours=29), NOON + timedelta(hours=30)
    assert not budget.reserve("b", 1, before)
    assert budget.state(after).reserved == 0
    assert budget.reserve("b", 60, after)
    budget.settle("a", 30, NOON)
    assert budget.state(after).spent == 30


def test_each_change_of_a_budget_is_a_version() -> None:
    """Back to the old amount is news as well: its thresholds are to be told anew."""
    state = MemoryState()
    changes: list[tuple[int, Period]] = [(100, "month"), (100, "month"), (200, "month")]
    changes += [(200, "day"), (100, "month")]
    numbers = [budget_version(state, "acme", *change).number for change in changes]
    assert numbers == [1, 1, 2, 3, 4]
    assert budget_version(state, "other", 100, "month").number == 1


def test_a_refusal_is_of_a_period_and_version() -> None:
    """More money, or another month, makes a spent budget an open one."""
    state = MemoryState()
    _budget(state).refuse(NOON)
    assert _budget(state).state(NOON).refused
    assert not _budget(state).state(NOON + timedelta(days=31)).refused
    more = Budget(state, "acme", budget_version(state, "acme", 200, "month"))
    assert not more.state(NOON).refused


def test_a_correction_counts_once() -> None:
    """Money that comes back may be spent again; a second run of the day must not give it twice."""
    budget = _budget()
    budget.reserve("a", 100, NOON)
    budget.settle("a", 100, NOON)
    for _ in range(2):
        budget.correct("refund", -40, NOON)
    assert budget.state(NOON).spent == 60


def test_every_change_is_told() -> None:
    """The alerts of a run that is going on hang on it."""
    told: list[Spend] = []
    budget = _budget(watch=told.append)
    budget.reserve("a", 100, NOON)
    budget.settle("a", 70, NOON)
    budget.refuse(NOON)
    assert [(spend.spent, spend.refused) for spend in told] == [(70, False), (70, True)]


def test_what_a_budget_keeps_back_is_known_until_it_is_taken_up() -> None:
    """A sensor asks for the day again once there is money."""
    state = MemoryState()
    spend = _budget(state).state(NOON)
    note_deferral(state, spend, TODAY, 7)
    assert deferrals(state) == [Deferral("acme", TODAY, 7, False, "2026-11", 1)]
    note_deferral(state, spend, TODAY, 0)
    assert deferrals(state) == []


def test_negative_money_is_refused() -> None:
    """A negative reservation would let the next request overspend."""
    budget = _budget()
    with pytest.raises(ValueError, match="negative"):
        budget.reserve("a", -1, NOON)
    with pytest.raises(ValueError, match="negative"):
        budget.settle("a", -1, NOON)


def test_a_period_is_one_of_utc() -> None:
    """Half past midnight in Berlin on the first is still last month in UTC."""
    berlin = datetime(2026, 12, 1, 0, 30, tzinfo=timezone(timedelta(hours=1)))
    assert period_key("month", berlin) == "2026-11"
    assert period_key("day", berlin) == "2026-11-30"
    with pytest.raises(ValueError, match="time zone"):
        period_key("day", datetime(2026, 12, 1))


# --- the ledger -------------------------------------------------------------------------------


def _results(*rows: dict[str, object]) -> pl.DataFrame:
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
    return pl.DataFrame([dict.fromkeys(RESULTS) | common | row for row in rows], schema=RESULTS)


def _requests(*rows: dict[str, object]) -> pl.DataFrame:
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
    return pl.DataFrame([dict.fromkeys(REQUESTS) | common | row for row in rows], schema=REQUESTS)


def _shares(*rows: tuple[str, str, int]) -> pl.DataFrame:
    return pl.DataFrame(
        [(request, "i", content, "acme", cost) for request, content, cost in rows],
        schema=SHARES,
        orient="row",
    )


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
    entries = paid_entries(shares, requests, results)
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
    entries = paid_entries(
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
        paid_entries(_shares(*shares), requests, _results())


def test_hits_and_repeats_cost_nothing_and_say_what_they_avoided() -> None:
    """What a hit avoids is what the model takes for a review of the same tenant and policy."""
    results = _results(
        {"review_id": "r1", "content_key": "a", "request_id": "q1"},
        {"review_id": "r2", "content_key": "b", "request_id": "q1"},
        {"review_id": "r3", "content_key": "c", "request_id": "q1"},
        {"review_id": "r4", "content_key": "a", "request_id": "q1", "repeat": True},
        {"review_id": "r5", "content_key": "d", "level": "l3_near"},
        {"review_id": "r6", "content_key": "e", "level": "none", "status": "deferred"},
        {"review_id": "r7", "content_key": "e", "level": "l1", "tenant": "other"},
    )
    # q0 is a first attempt that came to nothing: part of the bill, not of what an answer takes.
    failed = [("q0", content, 900) for content in "abc"]
    shares = _shares(*failed, ("q1", "a", 10), ("q1", "b", 20), ("q1", "c", 90))
    entries = hit_entries(results, shares, TODAY, NOON)
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
    first = hit_entries(results, _shares(), TODAY, NOON)
    later = hit_entries(results, _shares(), TODAY, NOON + timedelta(hours=3))
    next_day = hit_entries(results, _shares(), TODAY + timedelta(days=1), NOON)
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
            paid_entries(_shares(("q1", "a", 900)), real, results),
            paid_entries(_shares(("q2", "a", 70)), simulated, results),
            paid_entries(_shares(("q3", "b", 5)), audit, results),
            hit_entries(results, _shares(), TODAY, NOON),
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
