"""Money through the whole pipeline: the ledger over days, prices, pools, refunds and statements."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.alerting import known_tenants
from review_optimizer_dagster.defs.resources import budget, utc_now
from review_optimizer_dagster.money.budgets import Spend, deferrals
from review_optimizer_dagster.storage.journal import StateStore
from review_optimizer_dagster_tests.conftest import DAY, deliver, query, reviews

Run = Callable[..., dict[str, Any]]

NEXT = DAY + timedelta(days=1)
POOL = """
[engine]
name = "simulator"
[patterns]
enabled = false
[rechecks]
share = 1e-9
new_share = 1e-9
most_unaudited = 1.0
[tenants.one]
pool = "both"
[tenants.two]
pool = "both"
"""
DEARER = """
[[prices]]
model = "gpt-6-luna"
valid_from = 2026-01-02
input = 0.20
output = 1.00
"""


def _ledger(home: Home, columns: str, condition: str = "true") -> list[tuple[Any, ...]]:
    sql = f"SELECT {columns} FROM ledger_entries WHERE {condition}"  # noqa: S608 (our own words)
    return query(home, sql).rows()


def _sums(home: Home) -> tuple[int, int, int]:
    """What ledger, requests and daily sums come to."""
    total = "SELECT sum(cost_nanos)::BIGINT FROM "
    tables = ("ledger_entries", "llm_requests", "cost_rollups")
    sums = [query(home, total + table).item() for table in tables]
    return sums[0], sums[1], sums[2]


def _spend(home: Home, tenant: str) -> Spend:
    state = StateStore(home.journal)
    try:
        return budget(home, state, tenant, True).state(utc_now())
    finally:
        state.close()


def _command(*words: str) -> int:
    with pytest.raises(SystemExit) as left:
        cli.main(list(words))
    return int(left.value.code or 0)


def _bill(home: Home, tenant: str, *options: str) -> dict[str, Any]:
    out = home.folder / "bill.json"
    month = DAY.strftime("%Y-%m")
    code = _command("statement", "--tenant", tenant, "--month", month, "--json", str(out), *options)
    told: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    assert told["reconciles"] is (code == 0)
    return told


@pytest.mark.campaign
def test_a_ledger_over_its_life(home: Home, run_day: Run, tmp_path: Path) -> None:
    """First answers, a pool's hits, the same again, a mended price, a refund: it only ever grows.

    One story, since each run of the job takes seconds.
    """
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(POOL)
    deliver(home, reviews(0, 10), tenant="one")
    deliver(home, reviews(0, 4), tenant="two")  # the same texts: the pool's first answer is one's
    run_day()
    assert sorted(_ledger(home, "tenant, kind, source_tenant, count(*)", "true GROUP BY ALL")) == [
        ("one", "classification", None, 10),
        ("two", "repeat", "one", 4),
    ]
    deliver(home, reviews(0, 6), NEXT, tenant="two")
    run_day(NEXT)
    lent = _published(
        home,
        "SELECT tenant, own_hits, borrowed_hits, lent_hits, borrowed_usd > 0, "
        "lent_usd > 0 FROM pool_savings WHERE day = DATE '{day}' ORDER BY tenant",
        NEXT,
    )
    assert lent == [("one", 0, 0, 6, False, True), ("two", 0, 6, 0, True, False)]
    # Nothing was asked on that day, so what the hits avoided is what the day before paid.
    assert _ledger(home, "DISTINCT avoided_rule", f"day = DATE '{NEXT}'") == [("median_earlier",)]

    entries = _ledger(home, "entry_id, cost_nanos, booked_at")
    run_day()
    run_day(NEXT)
    assert sorted(_ledger(home, "entry_id, cost_nanos, booked_at")) == sorted(entries)
    paid, *others = _sums(home)
    assert others == [paid, paid]
    first_bill = _bill(home, "one")
    assert _spend(home, "one").spent == paid

    # A price that was entered wrong: the day's next run corrects, and changes no entry.
    moment = utc_now().isoformat()
    home.prices_file.write_text(DEARER)
    run_day()
    ledger, requests, rollups = _sums(home)
    assert paid < ledger == requests == rollups
    assert set(entries) < set(_ledger(home, "entry_id, cost_nanos, booked_at"))
    kinds = dict(_ledger(home, "kind, sum(cost_nanos)::BIGINT", "true GROUP BY ALL"))
    assert kinds["correction"] == ledger - paid
    assert _spend(home, "one").spent == ledger
    assert _bill(home, "one")["books"]["simulated"]["cost_usd"] == f"{ledger / 1e9:.9f}"
    then = _bill(home, "one", "--as-of", moment)
    assert then["books"] == {
        name: book | {"held_usd": "0.000000000"} for name, book in first_bill["books"].items()
    }
    _check_refund(home, ledger)
    _check_files(home, tmp_path)


def _published(home: Home, sql: str, day: date = DAY) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home.published / "analytics.duckdb"), read_only=True) as analytics:
        return analytics.execute(sql.format(day=day)).fetchall()


def _check_refund(home: Home, ledger: int) -> None:
    """Money that came back is an entry, once, and may be spent again."""
    ((request,),) = _ledger(home, "DISTINCT request_id", "kind = 'classification'")
    about = ("--tenant", "one", "--date", str(DAY), "--reference", "CN-1", "--simulated")
    for _ in range(2):
        assert (
            _command("book", "refund", *about, "--usd", "-0.000000100", "--request", request) == 0
        )
    assert _sums(home) == (ledger - 100, ledger, ledger - 100)
    assert _ledger(home, "count(*), sum(cost_nanos)::BIGINT", "kind = 'refund'") == [(10, -100)]
    assert _spend(home, "one").spent == ledger - 100
    assert _command("book", "refund", *about, "--usd", "-0.0000002") == 2
    assert _command("book", "refund", *about, "--usd", "5") == 2
    assert _command("book", "refund", *about, "--usd", "-1", "--request", "none") == 2
    corrections = _published(
        home, "SELECT kind, note, count(*) FROM ledger_corrections GROUP BY ALL"
    )
    assert sorted(corrections) == [
        ("correction", "its request has another price now", 10),
        ("refund", "CN-1", 10),
    ]


def _check_files(home: Home, folder: Path) -> None:
    """Statement, its lines, its entries and the views add up to the same."""
    lines, entries = folder / "lines.csv", folder / "entries.csv"
    bill = _bill(home, "one", "--csv", str(lines), "--entries", str(entries))
    total = bill["books"]["simulated"]["cost_usd"]
    for path in (lines, entries):
        with path.open(encoding="utf-8") as file:
            nanos = sum(int(row["cost_nanos"]) for row in csv.DictReader(file))
        assert f"{nanos / 1e9:.9f}" == total
    month = f"{DAY:%Y-%m}-01"
    for view, when in (("monthly_costs", f"month = DATE '{month}'"), ("spend", "true")):
        ((dollars,),) = _published(
            home,
            f"SELECT sum(cost_usd) FROM {view} "  # noqa: S608 (our own words)
            f"WHERE tenant = 'one' AND {when}",
        )
        assert dollars == pytest.approx(float(total), abs=1e-12)
    assert _command("statement", "--tenant", "nobody") == 2
    assert set(known_tenants(home)) == {"one", "two"}


@pytest.mark.campaign
def test_what_is_paid_again_on_purpose_and_what_a_budget_keeps_back(
    home: Home, run_day: Run
) -> None:
    """`--reclassify` shows in the books; a spent budget keeps reviews, and says which day's."""
    home.folder.mkdir(parents=True)
    home.tenants_file.write_text(POOL.replace('pool = "both"', "budget_usd = 0.01"))
    deliver(home, reviews(0, 10), tenant="one")
    first = run_day()
    again = run_day(reclassify=True)
    assert float(again["cost_usd"]) > float(first["cost_usd"])
    generations = _ledger(home, "generation, count(*)", "kind = 'classification' GROUP BY ALL")
    assert sorted(generations) == [(1, 10), (2, 10)]
    row = query(home, "SELECT cost_nanos, repaid_nanos, no_cache_nanos FROM cost_rollups").row(0)
    assert row[0] == row[1] + row[2] > row[1] > 0

    home.tenants_file.write_text(POOL.replace('pool = "both"', "budget_usd = 0.0001"))
    deliver(home, reviews(20, 30), NEXT, tenant="one")
    assert run_day(NEXT)["deferred"] == 10
    state = StateStore(home.journal)
    try:
        (kept,) = deferrals(state)
        assert (kept.tenant, kept.day, kept.reviews, kept.version) == ("one", NEXT, 10, 2)
        home.tenants_file.write_text(POOL.replace('pool = "both"', "budget_usd = 1.0"))
        assert run_day(NEXT)["labelled"] == 10
        assert deferrals(state) == []
    finally:
        state.close()
    kinds = query(
        home, "SELECT kind, severity, version FROM alerts WHERE kind = 'budget' ORDER BY raised_at"
    )
    assert kinds.filter(pl.col("severity") == "critical").height == 1
    assert kinds.row(-1)[1] == "info"  # the larger budget is a recovery
