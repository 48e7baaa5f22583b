"""The ten questions: each runs, and answers rightly where the answer is known."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from review_optimizer_dagster import cli
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.storage.publish import write_analytics
from review_optimizer_dagster.storage.queries import named_query, queries, run_query
from review_optimizer_dagster.storage.warehouse import Connection, Warehouse
from review_optimizer_dagster_tests.conftest import DAY

PATTERN = "pattern:v1"
WHO: Mapping[str, object] = {"tenant": "acme", "taxonomy": "reviews", "simulated": True}
REQUEST: Mapping[str, object] = {
    **WHO, "kind": "classification", "tier": "cheap", "model": "luna", "status": "ok",
    "engine": "simulator", "way": "sync", "attempt": 1, "generation": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def analytics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five weeks of a tenant, made by hand; DAY is the last."""
    folder = tmp_path_factory.mktemp("home")
    path = folder / "published" / "analytics.duckdb"
    with Warehouse(database=str(folder / "warehouse.duckdb")).open() as connection:
        _money(connection)
        _quality(connection)
        _requests(connection)
        _reviews(connection)
        _drift(connection)
        write_analytics(connection, path, 90)
    return path


@pytest.fixture(scope="module")
def nothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The analytics database of a home that has published nothing yet."""
    folder = tmp_path_factory.mktemp("empty")
    with Warehouse(database=str(folder / "warehouse.duckdb")).open() as connection:
        write_analytics(connection, folder / "analytics.duckdb", 90)
    return folder / "analytics.duckdb"


def _put(connection: Connection, table: str, *rows: Mapping[str, object]) -> None:
    connection.append(table, pl.DataFrame([dict(row) for row in rows], infer_schema_length=None))


def _money(connection: Connection) -> None:
    """Two days of March and one of February; a forecast and a budget."""
    counts = {**WHO, "deferred": 0, "reviews": 10, "hits": 4, "misses": 6, "requests": 1}
    spent = {"cost_nanos": 2_000_000, "no_cache_nanos": 4_000_000, "baseline_nanos": 15_000_000}
    days = (DAY, DAY - timedelta(days=1), date(2026, 2, 10))
    _put(connection, "cost_rollups", *({**counts, **spent, "day": day} for day in days))
    forecast = {"tenant": "acme", "simulated": True, "month": "2026-03", "lower": 30_000_000}
    _put(
        connection,
        "spend_forecasts",
        {**forecast, "day": DAY - timedelta(days=1), "expected": 1, "budget_nanos": 1},
        {**forecast, "day": DAY, "expected": 60_000_000, "budget_nanos": 40_000_000},
    )
    promise = {
        "day": DAY, "tenant": "acme", "simulated": True, "window_days": 30, "objective": 0.9,
        "budget_days": 3.0, "burn": 1.0,
    }  # fmt: skip
    _put(
        connection,
        "service_levels",
        {**promise, "indicator": "hit_rate", "target": 0.5, "value": 0.4, "met": False,
         "budget_left": 2.0},
        {**promise, "indicator": "accuracy", "target": 0.95, "value": 0.99, "met": True,
         "budget_left": 3.0},
    )  # fmt: skip


def _quality(connection: Connection) -> None:
    """A day that passed after one that failed, a weak category, rechecks of two days."""
    verdict = {**WHO, "truth": "labels", "n": 100, "correct": 97, "lower": 0.92, "upper": 0.99}
    _put(
        connection,
        "gate_verdicts",
        {**verdict, "day": DAY - timedelta(days=1), "verdict": "failed"},
        {**verdict, "day": DAY, "verdict": "inconclusive"},
    )
    cell = {**WHO, "day": DAY, "truth": "labels", "dimension": "category", "accuracy": 0.5}
    _put(
        connection,
        "accuracy_cells",
        {**cell, "name": "Lamps", "below": True},
        {**cell, "name": "Books", "below": False},
    )
    error = {**WHO, "level": "l3_exact", "class": "", "lower": 0.0, "upper": 0.2}
    _put(
        connection,
        "level_errors",
        {**error, "day": DAY - timedelta(days=1), "n": 5, "disagreements": 5},
        {**error, "day": DAY, "n": 20, "disagreements": 1},
        {**error, "day": DAY, "class": "sentiment=mixed", "n": 7, "disagreements": 7},
    )


def _requests(connection: Connection) -> None:
    """Two cheap requests, one of them slow, and one of the dear model."""
    _put(
        connection,
        "llm_requests",
        {**REQUEST, "day": DAY, "request_id": "q1", "reviews": 4, "answered": 4, "escalated": 1,
         "cost_nanos": 1_000, "latency_ms": 100.0},
        {**REQUEST, "day": DAY, "request_id": "q2", "reviews": 4, "answered": 4, "escalated": 0,
         "cost_nanos": 1_000, "latency_ms": 300.0},
        {**REQUEST, "day": DAY, "request_id": "q3", "reviews": 1, "answered": 1, "escalated": 0,
         "cost_nanos": 6_000, "latency_ms": 50.0, "tier": "dear", "model": "sol"},
    )  # fmt: skip
    answered = {"day": DAY, "tenant": "acme", "simulated": True, "degraded": False}
    _put(
        connection,
        "request_latencies",
        {**answered, "request_id": "q1", "expected_ms": 100.0, "latency_ms": 100.0, "slow": False},
        {**answered, "request_id": "q2", "expected_ms": 100.0, "latency_ms": 300.0, "slow": True},
    )


def _reviews(connection: Connection) -> None:
    """Lamps turn negative on DAY; one review of DAY is wrong, one failed, one is not verified."""
    review = {
        **WHO, "status": "labelled", "repeat": False, "verified": True, "synthetic": True,
        "cost_nanos": 0, "score": 1.0, "level": "model", "source_key": "k", "request_id": "q1",
        "category": "Lamps", "reason": None,
    }  # fmt: skip
    rows = [
        {
            **review,
            "day": DAY - timedelta(days=days),
            "review_id": f"{category}-{number}",
            "product_id": f"p{number % 2}",
            "category": category,
            "content_key": f"{category}{days}-{number}",
            "labels": '{"sentiment": "negative"}' if number < bad else '{"sentiment": "positive"}',
        }
        for days, category, bad, reviews in (
            (20, "Lamps", 1, 10),
            (20, "Books", 5, 20),
            (0, "Lamps", 6, 10),
            (0, "Books", 5, 20),
        )
        for number in range(reviews)
    ]
    odd = {**review, "day": DAY, "product_id": "p", "labels": '{"sentiment": "positive"}'}
    rows += [
        {**odd, "review_id": "source", "content_key": "same", "source_key": "same",
         "day": DAY - timedelta(days=20), "category": "Rugs"},
        {**odd, "review_id": "wrong", "content_key": "same", "source_key": "same",
         "request_id": None, "level": "l3_exact", "verified": False, "category": "Rugs"},
        {**odd, "review_id": "failed", "content_key": "f", "source_key": None, "labels": None,
         "status": "failed", "level": "none", "reason": "missing", "category": "Rugs"},
    ]  # fmt: skip
    _put(connection, "published_results", *rows)
    scored = {**WHO, "day": DAY, "truth": "labels", "level": "l3_exact", "source_key": "same",
              "category": "Rugs", "labels": '{"sentiment": "positive"}'}  # fmt: skip
    _put(
        connection,
        "scored_reviews",
        {**scored, "review_id": "wrong", "known": '{"sentiment": "mixed"}', "correct": False},
        {**scored, "review_id": "right", "known": '{"sentiment": "positive"}', "correct": True},
    )
    _put(
        connection,
        "ledger_entries",
        {**WHO, "day": DAY, "entry_id": "e", "review_id": "wrong", "kind": "hit", "level":
         "l3_exact", "cost_nanos": 0, "avoided_nanos": 9_000, "avoided_rule": "median_paid",
         "source_tenant": "acme"},
    )  # fmt: skip
    refused = {"day": DAY, "tenant": "acme", "file": "f", "reason": "empty_text"}
    _put(connection, "quarantined_reviews", {**refused, "line": 1}, {**refused, "line": 2})


def _drift(connection: Connection) -> None:
    """Two days of alarm in one signal, none in another."""
    test = {
        **WHO, "category": "", "horizon": "day", "n": 10, "distance": 0.5, "p_adjusted": 0.001,
        "baseline_from": DAY - timedelta(days=9), "baseline_to": DAY - timedelta(days=2),
    }  # fmt: skip
    _put(
        connection,
        "drift_tests",
        {**test, "day": DAY - timedelta(days=1), "signal": "language", "alarm": True},
        {**test, "day": DAY, "signal": "language", "alarm": True},
        {**test, "day": DAY, "signal": "length", "alarm": False},
    )
    mix = {**WHO, "category": "", "signal": "language"}
    _put(
        connection,
        "daily_profiles",
        {**mix, "day": DAY - timedelta(days=5), "bucket": "en", "reviews": 9},
        {**mix, "day": DAY - timedelta(days=5), "bucket": "de", "reviews": 1},
        {**mix, "day": DAY, "bucket": "en", "reviews": 2},
        {**mix, "day": DAY, "bucket": "de", "reviews": 8},
    )


def _answer(path: Path, name: str, **values: str) -> list[dict[str, Any]]:
    return run_query(path, named_query(name), values).rows(named=True)


def _picked(row: Mapping[str, Any], names: str) -> list[Any]:
    found = [row[name] for name in names.split()]
    return [round(value, 6) if isinstance(value, float) else value for value in found]


def test_there_are_ten_and_each_says_what_it_answers() -> None:
    """Who lists them must understand them."""
    known = queries()
    assert [each.name[:3] for each in known] == [f"{number:02}_" for number in range(1, 11)]
    for each in known:
        assert each.question.endswith("?")
        assert each.one_row.startswith(("a ", "an "))
        assert each.how_to_read
        assert all(name in each.parameters for name in each.names), each.name
        for name in each.names:  # as an analyst writes it, without quotes
            duckdb.execute(f"SET VARIABLE {name} = 'value'")


@pytest.mark.parametrize("query", [each.name for each in queries()])
def test_each_answers_an_empty_database_with_no_rows(nothing: Path, query: str) -> None:
    """The first day of a home is no error."""
    assert _answer(nothing, query) == []


def test_costs_of_the_newest_month_beside_its_newest_forecast(analytics: Path) -> None:
    """One row a tenant: sums of the month, shares of the sums."""
    (row,) = _answer(analytics, "costs")
    names = "month tenant days reviews hit_rate cost_usd saved_share cache_saved_share"
    saved = 1 - 0.004 / 0.03
    assert _picked(row, names) == [
        date(2026, 3, 1), "acme", 2, 20, 0.4, 0.004, round(saved, 6), 0.5,
    ]  # fmt: skip
    money = "budget_usd budget_used_share expected_usd lower_usd"
    assert _picked(row, money) == [0.04, 0.1, 0.06, 0.03]
    (february,) = _answer(analytics, "1", month="2026-02")
    assert _picked(february, "days cost_usd budget_usd") == [1, 0.002, None]


def test_quality_of_the_newest_day(analytics: Path) -> None:
    """With its interval, its verdict and its weak parts."""
    (row,) = _answer(analytics, "quality")
    names = "day verdict accuracy lower upper weak_parts"
    assert _picked(row, names) == [DAY, "inconclusive", 0.97, 0.92, 0.99, "category Lamps"]
    before = str(DAY - timedelta(days=1))
    assert [each["verdict"] for each in _answer(analytics, "quality", day=before)] == ["failed"]


def test_levels_of_the_cache_with_their_newest_error(analytics: Path) -> None:
    """Shares add up to one, and a class is not taken for the whole."""
    rows = _answer(analytics, "cache", days="7")
    names = "level reviews rechecked contradicted error_share error_upper"
    assert [_picked(row, names) for row in rows] == [
        ["l3_exact", 1, 20, 1, 0.05, 0.2],
        ["model", 30, None, None, None, None],
        ["none", 1, None, None, None, None],
    ]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert _answer(analytics, "cache", tenant="nobody") == []


def test_lamps_turn_negative_and_books_do_not(analytics: Path) -> None:
    """The largest change first, with what it was before."""
    rows = _answer(analytics, "turning_negative", least="5")
    names = "part reviews share reviews_before share_before change"
    assert [_picked(row, names) for row in rows] == [
        ["Lamps", 10, 0.6, 10, 0.1, 0.5],
        ["Books", 20, 0.25, 20, 0.25, 0.0],
    ]
    # By hand: 0.5 / sqrt(0.35 x 0.65 x (1/10 + 1/10)).
    assert rows[0]["z"] == pytest.approx(0.5 / (0.35 * 0.65 * 0.2) ** 0.5)
    assert _answer(analytics, "turning_negative") == []  # too few reviews by default
    products = _answer(analytics, "turning_negative", part="product", least="5")
    assert {row["part"] for row in products} == {"p0", "p1"}


def test_wrong_reviews_with_the_entry_that_answered(analytics: Path) -> None:
    """What differs, and how often that entry was wrong."""
    (row,) = _answer(analytics, "wrong_reviews")
    assert _picked(row, "review_id level differs source_wrong source_judged") == [
        "wrong", "l3_exact", "sentiment: positive, truly mixed", 1, 2,
    ]  # fmt: skip


def test_what_is_missing_and_not_verified(analytics: Path) -> None:
    """Each kind apart, with the reasons."""
    rows = _answer(analytics, "missing", days="2")
    names = "day not_published failed deferred not_verified quarantined why"
    assert [_picked(row, names) for row in rows] == [
        [DAY, 0, 1, 0, 1, 2, "missing, empty_text"],
        [DAY - timedelta(days=1), 10, 0, 0, 0, 0, ""],
    ]


def test_the_ladder_its_cost_and_its_worst_day(analytics: Path) -> None:
    """Dollars per 1,000 answers, quantiles, and when it was slow."""
    rows = _answer(analytics, "models")
    names = "tier requests asked escalated cost_share usd_per_1000 latency_p50_ms slow_share"
    assert [_picked(row, names) for row in rows] == [
        ["cheap", 2, 8, 1, 0.25, 0.00025, 200.0, 0.5],
        ["dear", 1, 1, 0, 0.75, 0.006, 50.0, None],
    ]
    assert _picked(rows[0], "worst_day worst_slowdown") == [DAY, 2.0]


def test_broken_promises_with_what_is_left(analytics: Path) -> None:
    """Kept ones only where they are asked for."""
    rows = _answer(analytics, "broken_promises")
    names = "indicator days_judged days_broken last_broken value_then target_then left_days"
    assert [_picked(row, names) for row in rows] == [["hit_rate", 1, 1, DAY, 0.4, 0.5, 2.0]]
    kept = _answer(analytics, "broken_promises", kept="true")
    assert [row["indicator"] for row in kept] == ["hit_rate", "accuracy"]


def test_what_changed_and_which_bucket_moved(analytics: Path) -> None:
    """One row a signal, however many days it was in alarm."""
    (row,) = _answer(analytics, "what_changed")
    names = "signal first_day last_day days_in_alarm bucket share_before share"
    assert _picked(row, names) == [
        "language", DAY - timedelta(days=1), DAY, 2, "de", 0.1, 0.8,
    ]  # fmt: skip


def test_where_a_wrong_review_comes_from(analytics: Path) -> None:
    """The answer, the entry behind it, the request that was paid for it, verdict and books."""
    rows = _answer(analytics, "where_from")
    assert [(row["step"], row["what"], row["review_id"]) for row in rows] == [
        (1, "published", "wrong"),
        (2, "answered by", "wrong"),
        (3, "source", "source"),
        (4, "request", None),
        (5, "judged wrong", "wrong"),
        (7, "booked", "wrong"),
    ]
    assert "q1" in rows[3]["detail"]
    assert rows[3]["cost_usd"] == pytest.approx(1e-6)
    own = _answer(analytics, "where_from", review_id="source", tenant="acme")
    assert [row["what"] for row in own] == ["published", "answered by", "request"]


def test_a_name_or_value_that_means_nothing_is_told(analytics: Path, tmp_path: Path) -> None:
    """What there is instead stands in the message."""
    for name in ("profit", "w", ""):
        with pytest.raises(UserError, match="there are: 01_costs"):
            named_query(name)
    with pytest.raises(UserError, match="no parameter 'region'; it has: month"):
        _answer(analytics, "costs", region="eu")
    with pytest.raises(UserError, match="cannot read month=soon"):
        _answer(analytics, "costs", month="soon")
    with pytest.raises(UserError, match="run `review-optimizer run` first"):
        _answer(tmp_path / "analytics.duckdb", "costs")
    (tmp_path / "analytics.duckdb").write_bytes(b"no database at all" * 1_000)
    with pytest.raises(UserError, match="cannot be opened"):
        _answer(tmp_path / "analytics.duckdb", "costs")


def test_a_value_is_a_value_and_never_sql(analytics: Path) -> None:
    """Quotes of a review's id must not end the statement."""
    rows = _answer(analytics, "where_from", review_id="'; DROP TABLE alerts; --")
    assert rows == []


def test_the_command_lists_answers_and_writes(
    home: Home, analytics: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a person sees it, and as a script reads it."""
    home.published.mkdir(parents=True)
    (home.published / "analytics.duckdb").write_bytes(analytics.read_bytes())

    def code(*arguments: str) -> object:
        with pytest.raises(SystemExit) as left:
            cli.main(["query", *arguments])
        return left.value.code

    assert code() == 0
    assert "10_where_from" in capsys.readouterr().out
    assert code("costs") == 0
    shown = capsys.readouterr().out
    assert "What did each tenant cost" in shown
    assert "$0.004000" in shown
    csv, rows = tmp_path / "costs.csv", tmp_path / "costs.json"
    assert code("costs", "--csv", str(csv), "--json", str(rows)) == 0
    assert capsys.readouterr().out == f"1 row in {csv}\n"
    assert pl.read_csv(csv)["tenant"].to_list() == ["acme"]
    assert pl.read_json(rows)["reviews"].to_list() == [20]
    assert code("costs", "--sql") == 0
    assert capsys.readouterr().out == named_query("costs").sql
    assert code("profit") == 2
    assert code("costs", "--csv", str(tmp_path / "no" / "x.csv")) == 2
