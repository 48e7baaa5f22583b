"""The arithmetic of the benchmark `mission`: parts that add up, books that must agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.money.prices import load_prices, request_cost
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.benchmarks import mission, mission_costs, mission_tables
from review_optimizer_dagster_tests.benchmarks.labelled import benchmark_taxonomy, sample_rows
from review_optimizer_dagster_tests.benchmarks.mission_costs import (
    BooksDiffer,
    DayMoney,
    Needed,
    fixed_tokens,
    mean_interval,
    parted,
    purpose_of,
)

DAY = date(2026, 11, 20)
NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)
PRICES = load_prices()
MODEL = "gpt-6-luna"
BENCHMARK = benchmark_taxonomy(["good", "bad"])


def request(name: str, **values: Any) -> dict[str, Any]:
    """A row of llm_requests, at what its tokens cost."""
    row: dict[str, Any] = {
        "day": DAY, "request_id": name, "kind": "classification", "batch_id": f"b-{name}",
        "attempt": 1, "tier": "standard", "model_requested": MODEL, "model": MODEL,
        "service_tier": "default", "reviews": 10, "answered": 10, "prompt_tokens": 1_617,
        "cached_tokens": 0, "cache_write_tokens": 0, "completion_tokens": 53, "sent_at": NOON,
    } | values  # fmt: skip
    usage = Usage(row["prompt_tokens"], row["cached_tokens"], row["completion_tokens"])
    price = PRICES.price(MODEL, row["service_tier"], NOON.date(), usage.prompt_tokens)
    return {"cost_nanos": request_cost(price, usage)} | row


def entry(name: str, cost: int, **values: Any) -> dict[str, Any]:
    """A row of the ledger."""
    row = {"day": DAY, "entry_id": name, "kind": "classification", "cost_nanos": cost}
    return row | {"avoided_nanos": 0, "level": "model"} | values


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[Connection]:
    """An empty warehouse."""
    with Warehouse(database=str(tmp_path / "warehouse.duckdb")).open() as opened:
        yield opened


def store(connection: Connection, table: str, *rows: dict[str, Any]) -> None:
    """Insert rows by the names of their columns."""
    with connection.view("new_rows", pl.DataFrame(rows)):
        connection.raw.execute(f"INSERT INTO {table} BY NAME SELECT * FROM new_rows")  # noqa: S608


def test_the_parts_of_a_request_add_up_to_the_nano_dollar() -> None:
    """Each part rounded by itself would leave a difference that hides a mistake."""
    price = replace(
        PRICES.price(MODEL, "default", DAY),
        input=333_333,
        cached_input=77_777,
        cache_write=999_999,
        output=1_234_567,
    )
    for prompt, cached, written in ((1_617, 0, 0), (2_000, 1_024, 0), (2_000, 0, 1_024), (9, 9, 0)):
        usage = Usage(prompt, cached, 53, written)
        parts = parted(usage, price, 1_100)
        assert sum(parts.values()) == request_cost(price, usage)
    by_hand = parted(Usage(2_000, 1_024, 10), replace(price, input=10**6, output=10**6), 1_100)
    assert by_hand[mission_costs.PREFIX] == 76  # what the cache did not hold of it
    assert by_hand[mission_costs.TEXTS] == 900
    assert by_hand[mission_costs.OUTPUT] == 10


def test_each_request_has_one_purpose() -> None:
    """A request that stands in two parts would be paid for twice in the table."""
    row = {"kind": "classification", "cost_nanos": 5, "answered": 3, "attempt": 1}
    row |= {"tier": "standard", "began": "standard"}
    assert purpose_of(row) == mission_costs.FIRST
    assert purpose_of(row | {"attempt": 2}) == mission_costs.RETRIES
    assert purpose_of(row | {"attempt": 2, "tier": "large"}) == mission_costs.ESCALATIONS
    assert purpose_of(row | {"kind": "audit", "attempt": 2}) == mission_costs.RECHECKS
    assert purpose_of(row | {"kind": "audit", "answered": 0}) == mission_costs.NOTHING
    assert purpose_of(row | {"answered": 0, "cost_nanos": 0}) == mission_costs.FIRST
    assert purpose_of(row | {"kind": "embedding", "answered": 0}) == mission_costs.EMBEDDINGS


def test_the_fixed_prefix_is_in_every_request_and_smaller_with_fewer_fields() -> None:
    """The share of the instructions would else be taken for that of the texts."""
    assert 0 < fixed_tokens(BENCHMARK) < fixed_tokens(load_taxonomy("reviews")) < 1_024


def test_the_interval_of_days_by_hand() -> None:
    """Three days: t of 2 degrees of freedom is 4.303, the standard error 1 / sqrt(3)."""
    low, high = mean_interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert low == pytest.approx(2 - 2.484, abs=0.001)
    assert high == pytest.approx(4.484, abs=0.001)
    assert mean_interval([1.0]) is None


def test_the_hit_rate_needed_costs_the_target() -> None:
    """The figure must hold when it is put in again, and not exist where rechecks cost too much."""
    needs = Needed(80e6, 6e6)
    assert needs.rate is not None
    assert (1 - needs.rate) * 80e6 + needs.rate * 6e6 == pytest.approx(mission_costs.TARGET_NANOS)
    assert needs.rate_without_rechecks == pytest.approx(1 - 15 / 80)
    assert Needed(80e6, 16e6).rate is None
    assert Needed(10e6, 0.0).rate == 0.0


def test_nothing_is_told_where_the_books_differ(connection: Connection) -> None:
    """A table whose total is not the ledger's would be believed all the same."""
    good = request("a")
    store(connection, "llm_requests", good)
    with pytest.raises(BooksDiffer, match="the ledger says 0"):
        DayMoney.read(connection, DAY, PRICES)
    store(connection, "ledger_entries", entry("a", good["cost_nanos"]))
    assert DayMoney.read(connection, DAY, PRICES).cost_nanos == good["cost_nanos"]
    store(connection, "llm_requests", request("b", cost_nanos=7))
    store(connection, "ledger_entries", entry("b", 7))
    with pytest.raises(BooksDiffer, match="request b was booked at 7"):
        DayMoney.read(connection, DAY, PRICES)


def test_an_arm_adds_up_and_is_printed(connection: Connection) -> None:
    """All parts together: purposes, kinds of token, levels and models, against the ledger."""
    sent = [
        request("a"),
        request("again", batch_id="b-a", attempt=2, reviews=1, answered=1, prompt_tokens=700),
        request("audit", kind="audit", reviews=3, answered=3, prompt_tokens=901),
        request("lost", answered=0, completion_tokens=9),
        request("down", answered=0, prompt_tokens=0, completion_tokens=0, service_tier="default"),
    ]
    store(connection, "llm_requests", *sent)
    hit = {"kind": "hit", "level": "l3_pattern", "avoided_rule": "median_paid"}
    paid = [entry(row["request_id"], row["cost_nanos"]) for row in sent]
    store(connection, "ledger_entries", *paid)
    store(connection, "ledger_entries", entry("hit", 0, **hit | {"avoided_nanos": 20_000}))
    money = DayMoney.read(connection, DAY, PRICES)
    days = [
        {"day": 3, "n": 20, "hits": 8, "labelled": 20, "wrong": 1, "seconds": 1.0, "money": money}
    ] * 2
    arm = mission.arm_figures(mission.Arm(BENCHMARK, 0.5, "sync"), days, PRICES)
    by_kind = [part["nanos"] for part in arm["parts"].values()]
    assert sum(sum(nanos.values()) for nanos in by_kind) == arm["cost_nanos"]
    assert arm["cost_nanos"] == 2 * sum(row["cost_nanos"] for row in sent)
    assert [part["requests"] for part in arm["parts"].values()] == [4, 2, 0, 2, 0, 2]
    assert arm["avoided"] == {"l3_pattern": {"hits": 2, "nanos": 40_000}}
    (luna,) = [r for r in arm["models"] if (r["model"], r["service_tier"]) == (MODEL, "default")]
    assert luna["usd_per_5000"] == arm["usd_per_5000"]
    (half,) = [r for r in arm["models"] if (r["model"], r["service_tier"]) == (MODEL, "batch")]
    assert half["usd_per_5000"] == pytest.approx(arm["usd_per_5000"] / 2, rel=1e-4)
    assert arm["verdict"].startswith("MISSED: $0.1419 is 9.46 times")
    setup = {"archived": 10, "days": 4, "day_rows": 20, "max_error": 0.03, "priced_on": "today"}
    arm["no_cache_usd_per_5000"] = 0.1
    cell = {"taxonomy": "benchmark", "model": MODEL, "reviews": 20, "requests": 1}
    cell |= {"counter": "o200k_base", "prefix_tokens": 500}
    cell |= {"usd_per_5000": {"sync": 0.1, "batch": 0.05}}
    figures = {"texts": "SYNTHETIC", "arms": [arm], "no_cache": [cell], "setup": setup}
    console = Console(width=190, record=True, quiet=True)
    mission_tables.show(console, figures)


def test_no_cache_asks_every_review_of_the_days() -> None:
    """A text that comes twice would be asked twice; half the price is the Batch API's."""
    rows = sample_rows(60).unique("content_key", maintain_order=True)
    once = mission.every_review_asked([rows], load_taxonomy("reviews"))
    twice = mission.every_review_asked([pl.concat([rows, rows])], load_taxonomy("reviews"))
    assert once["sync"] > 0
    assert twice == once
    assert once["batch"] == pytest.approx(once["sync"] / 2, rel=1e-4)
    (row, *_) = mission.no_cache(rows, [load_taxonomy("reviews")])
    assert row["usd_per_5000"]["sync"] == pytest.approx(once["sync"], rel=0.05)


def test_options_leave_days_that_are_measured() -> None:
    """Two days settle a feed: of two days nothing would be left."""
    assert mission.read_options(["--redelivered", "0,0.5"]).redelivered == (0.0, 0.5)
    for wrong in (["--days", "2"], ["--redelivered", "1"]):
        with pytest.raises(SystemExit):
            mission.read_options(wrong)


def test_the_shipped_taxonomy_is_measured_where_the_labels_are_its_own() -> None:
    """Gold of another kind cannot stand in for a sentiment."""
    shipped = load_taxonomy(mission.SHIPPED)
    assert mission.fits(shipped, pl.Series(["positive", "negative"]))
    assert not mission.fits(shipped, pl.Series(["spam", "ham"]))
    groups = mission.arms_of((0.0, 0.5), BENCHMARK, shipped)
    assert [(arm.taxonomy.name, arm.way) for group in groups for arm in group] == [
        ("benchmark", "sync"), ("benchmark", "batch"), ("benchmark", "sync"),
        ("benchmark", "batch"), ("reviews", "sync"), ("reviews", "sync"),
    ]  # fmt: skip
