"""The engine's benchmarks: that they run, and that their counting and their bounds are right."""

from __future__ import annotations

import argparse
import random
import threading
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.batch_caps import BatchCap
from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.classifier import REQUESTS, Readout
from review_optimizer_dagster.exchange.prompt import as_json
from review_optimizer_dagster.exchange.reply import Usage
from review_optimizer_dagster.money.prices import load_prices, request_cost
from review_optimizer_dagster.simulator.faults import FAULTS
from review_optimizer_dagster.simulator.protocol import BilledRequest
from review_optimizer_dagster.taxonomies import load_taxonomy
from review_optimizer_dagster_tests.benchmarks import (
    batch_size,
    books,
    engine,
    engine_costs,
    engine_day,
    faults,
    kills,
    scale,
)
from review_optimizer_dagster_tests.benchmarks.asked import (
    DAY,
    KEY,
    MODEL,
    NOON,
    DigestJudge,
    Met,
    TimedSimulator,
    distinct_rows,
    misses_of,
)
from review_optimizer_dagster_tests.benchmarks.labelled import Share

REVIEWS = load_taxonomy("reviews")


def met(seconds: float | None, tokens: int = 100, used: int = 100) -> Met:
    return Met(seconds, tokens, used, None)


# --- engine -----------------------------------------------------------------------------------


def test_the_ideal_by_latency_is_what_full_places_take() -> None:
    """Neither more places nor a better order can make one long answer shorter."""
    ample = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9}
    assert engine.ideal([met(1.0)] * 8, 4, **ample).seconds == 2.0
    long = engine.ideal([met(9.0), met(1.0)], 4, **ample)
    assert (long.seconds, long.binds) == (9.0, "latency")


def test_the_ideal_by_limits_begins_with_a_full_bucket() -> None:
    """Counting the first minute's allowance as time would flatter the engine."""
    requests = [met(0.5, tokens=1_000, used=1_000)] * 9
    found = engine.ideal(requests, 8, requests_per_minute=6, tokens_per_minute=6_000)
    # 3,000 tokens and 3 requests more than the buckets hold, at 100 and 0.1 a second.
    assert found.tokens == 30.5
    assert found.requests == 30.5
    refused = [*requests, met(None, tokens=10**9)]
    assert engine.ideal(refused, 8, 6, 6_000) == found


def test_what_answers_take_beyond_admission_counts_but_for_the_last() -> None:
    """The bound must hold for a schedule whose last answers are booked at the very end."""
    requests = [met(0.0, tokens=1_000, used=1_100)] * 10
    found = engine.ideal(requests, 2, requests_per_minute=100, tokens_per_minute=6_000)
    assert found.tokens == pytest.approx((10_000 + 800 - 6_000) / 100)


def test_the_limit_that_binds_takes_twice_as_long() -> None:
    """The limited runs must be bound by the limit, whatever texts they are given."""
    limit = engine.limit_that_binds(100_000, latency_seconds=15.0)
    assert (100_000 - limit) * 60 / limit == pytest.approx(30.0, rel=1e-3)


def test_a_refused_request_has_no_latency() -> None:
    """Waiting for a limit is the engine's affair, and no work that an ideal has to do."""
    from openai import OpenAI, RateLimitError

    simulator = TimedSimulator(DigestJudge(), latency_seconds=0.01, requests_per_minute=1)
    with (
        simulator,
        OpenAI(base_url=simulator.base_url, api_key=KEY, max_retries=0) as client,
    ):
        client.embeddings.create(model="m", input="a text", encoding_format="float")
        with pytest.raises(RateLimitError):
            client.embeddings.create(model="m", input="a text", encoding_format="float")
    assert [each.seconds for each in simulator.met] == [0.01, None]


def test_the_engine_is_measured_beside_its_ideal() -> None:
    """All parts together: a simulator of its own, every text labelled, no run beats its bound."""
    options = engine.read_options(["--latency", "0.02", "--seconds-per-token", "0"])
    misses = misses_of(distinct_rows(None, 60), REVIEWS)
    found = engine.engine_run("small", misses, REVIEWS, options, in_flight=2)
    assert found["labelled"] == 60
    assert found["refused"] == found["errors"] == 0
    assert found["to_ideal"] >= 1
    assert found["tokens_taken"] > 1_000


def test_the_second_day_is_nearly_all_of_the_first() -> None:
    """A re-delivery under the old ids, or of other texts, would measure another thing."""
    rows = distinct_rows(None, 105)
    first, second = engine_day.two_days(rows, 100)
    texts = set(first["text"])
    assert (first.height, second.height) == (100, 100)
    assert sum(text in texts for text in second["text"]) == 95
    assert not set(first["review_id"]) & set(second["review_id"])


def test_costs_by_hand() -> None:
    """A fixed part that is found in the prompt cache costs its own price after the first."""
    price = replace(
        load_prices().price(MODEL, "default", DAY),
        input=1_000_000,
        cached_input=100_000,
        cache_write=2_000_000,
        output=5_000_000,
    )
    said = engine_costs.Spoken("codes", 1_100, [2_000, 2_000], [10, 10], {})
    assert said.cacheable == 1_024
    assert engine_costs.cost_nanos(said, price, prompt_cache=False) == 2 * (2_000 + 50)
    first, second = 976 + 2 * 1_024 + 50, 976 + 102.4 + 50
    assert engine_costs.cost_nanos(said, price, prompt_cache=True) == round(first + second)
    assert replace(said, prefix=1_023).cacheable == 0


def test_a_hit_rate_that_rechecks_make_unreachable_is_none() -> None:
    """At 2 % rechecks even hits alone may cost more than the aim."""
    assert engine_costs.hit_rate_for(1_000, 15, 0.02) is None
    rate = engine_costs.hit_rate_for(500, 15, 0.02)
    assert rate is not None
    assert 500 * ((1 - rate) + 0.02 * rate) == pytest.approx(15)


def test_every_request_of_the_plan_is_counted() -> None:
    """Tokens of a form are those of the very bodies that the engine would send."""
    rows = distinct_rows(None, 40)
    said = engine_costs.spoken(rows, REVIEWS, "labels", len)
    assert len(said.prompts) == len(said.replies) >= 1
    assert sum(said.prompts) > rows["text"].str.len_chars().sum()
    assert sum(said.replies) > 40 * len(as_json({"id": "1", "sentiment": "positive"}))


# --- both sets of books -----------------------------------------------------------------------


def billed(name: str, prompt: int = 1_001, cached: int = 0, **changes: Any) -> BilledRequest:
    given = {"service_tier": "default"} | changes
    return BilledRequest(name, MODEL, prompt, cached, 7, 200, **given)


@pytest.mark.parametrize("tier", ["default", "batch", "flex"])
@pytest.mark.parametrize(("prompt", "cached", "written"), [(1_001, 0, 0), (9_999, 1_024, 129)])
def test_the_other_books_price_alike(tier: str, prompt: int, cached: int, written: int) -> None:
    """Two ways of pricing that share no code, to the nano-dollar."""
    way = {"way": "batch"} if tier == "batch" else {"service_tier": tier}
    row = billed("a", prompt, cached, cache_write_tokens=written, **way)
    price = load_prices().price(MODEL, tier, DAY)
    assert books.priced(row) == request_cost(price, Usage(prompt, cached, 7, written))


def journal_of(requests: Mapping[str, tuple[int, int, str]]) -> Readout:
    """A readout of requests: name to cost, held and status."""
    rows = [
        {"request_id": name, "cost_nanos": cost, "held_nanos": held, "status": status}
        for name, (cost, held, status) in requests.items()
    ]
    schema = {name: REQUESTS[name] for name in ("request_id", "cost_nanos", "held_nanos", "status")}
    return Readout(pl.DataFrame(), pl.DataFrame(rows, schema), pl.DataFrame())


def test_books_that_differ_by_a_nano_dollar_are_found() -> None:
    """Sums may agree where requests do not."""
    cost = books.priced(billed("a"))
    record = [books.Entry(billed(name), True) for name in ("a", "b")]
    same = books.compare(journal_of({"a": (cost, 0, "ok"), "b": (cost, 0, "ok")}), record, 2 * cost)
    assert same.agrees
    swapped = journal_of({"a": (cost - 1, 0, "ok"), "b": (cost + 1, 0, "ok")})
    found = books.compare(swapped, record, 2 * cost)
    assert (found.booked, found.billed, found.differing) == (2 * cost, 2 * cost, 2)
    assert not found.agrees
    unknown = books.compare(journal_of({"a": (cost, 0, "ok")}), record, cost)
    assert unknown.differing == 1


def test_what_was_not_read_must_be_held() -> None:
    """A request that may be billed and has nothing set aside would break a budget."""
    cost = books.priced(billed("a"))
    record = [books.Entry(billed("a"), False)]
    enough = books.compare(journal_of({"a": (0, cost, "connection")}), record, 0)
    assert enough.agrees
    assert enough.billed_unread == cost
    assert books.compare(journal_of({"a": (0, cost - 1, "connection")}), record, 0).uncovered == 1
    # What was sent to a client that died before it kept it cannot be in its ledger.
    died = books.compare(
        journal_of({"a": (0, cost, "unknown")}), [books.Entry(billed("a"), True)], 0
    )
    assert (died.agrees, died.unknown) == (True, 1)


def test_lines_of_jobs_count_as_read_once_their_file_was_fetched() -> None:
    """A job's answers lie at the endpoint until somebody takes them."""
    line = billed("a", way="batch")
    assert not books.is_readable(line, ())
    assert books.is_readable(line, {"a"})
    assert not books.is_readable(replace(line, fault="missing_usage"), {"a"})
    assert not books.is_readable(billed("a", delivered=False), ())


def asked_for(name: str, minute: int, labels: str | None) -> dict[str, Any]:
    """A request of the journal about one text, answered within a minute."""
    answers = [] if labels is None else [{"id": "1", "sentiment": labels}]
    content = as_json({"answers": answers}).decode()
    message = {"message": {"content": content}, "finish_reason": "stop"}
    sent = NOON + timedelta(minutes=minute)
    return {
        "request_id": name,
        "kind": "classification",
        "items": [["1", "text", 10]],
        "fields": {"sentiment": ["positive", "negative"]},
        "codes": {},
        "sent_at": sent.isoformat(),
        "outcome": {
            "http_status": 200,
            "headers": {},
            "body": as_json({"choices": [message]}).decode(),
            "failure": None,
            "received_at": (sent + timedelta(seconds=30)).isoformat(),
        },
    }


def test_a_text_that_is_asked_after_its_answer_is_doubled() -> None:
    """Also where the engine refused a flawless answer, and so asked again for no reason."""
    first, again = asked_for("a", 0, "positive"), asked_for("b", 1, "positive")
    missing = asked_for("a", 0, None)
    flaw = [books.Entry(billed("a", fault="missing_ids"), True)]
    assert books.doubled([first], []) == 0
    assert books.doubled([first, again], []) == 1
    assert books.doubled([first, asked_for("b", 1, None)], []) == 1
    assert books.doubled([missing, again], flaw) == 0
    assert books.doubled([missing, again], [books.Entry(billed("a"), True)]) == 1


def test_wrong_labels_are_counted_by_the_judge() -> None:
    """The engine's own checks must not be what says that its labels are right."""
    judge = DigestJudge()
    fields = {field.name: list(field.labels) for field in REVIEWS.fields}
    right = judge.judge(None, "a lamp", fields) or {}
    other = next(label for label in fields["sentiment"] if label != right["sentiment"])
    given = [(None, "a lamp", right), (None, "a lamp", right | {"sentiment": other})]
    assert books.wrong(given, judge, REVIEWS) == 1


# --- faults and kills -------------------------------------------------------------------------


def trial(name: str, way: str = "sync", rate: str = "1") -> faults.Tried:
    """The first row of a fault."""
    options = faults.read_options(["--texts", "40", "--fault", name, "--way", way, "--rates", rate])
    found: faults.Tried = faults.tried(
        next(faults.trials(options)), faults.texts_of(options), "codes", seed=1
    )
    return found


def whole(row: faults.Tried) -> bool:
    """Nothing lost or doubled, and the books agree."""
    agrees = row.first.agrees and row.both.agrees and row.budget_agrees
    return agrees and not row.lost and not row.doubled and row.broke is None


def test_a_fault_that_spoils_some_answers() -> None:
    """Every text is accounted for, in the first run and after a later one."""
    row = trial("missing_ids")
    assert whole(row)
    assert row.met > 0
    assert (row.labelled + row.failed, row.wrong, row.later_labelled) == (40, 0, 40)


def test_a_fault_that_ends_the_run_leaves_the_rest_to_a_later_one() -> None:
    """A refused key is a message for the user, and no text is lost by it."""
    row = trial("unauthorized")
    assert whole(row)
    assert (row.labelled, row.not_asked, row.later_labelled) == (0, 40, 40)
    assert row.stopped is not None


def test_a_fault_that_nobody_notices_shows_in_the_labels() -> None:
    """The table would be worth nothing if it could not see wrong labels."""
    row = trial("swapped_ids")
    assert whole(row)
    assert row.wrong > 0
    totals = faults.totals([row])
    assert totals["wrong labels accepted"]["total"] == 0


def test_money_that_nobody_can_know_is_held() -> None:
    """Half an answer is billed: it is in no ledger, but set aside."""
    row = trial("cut_in_body", rate="0.5")
    assert whole(row)
    assert row.first.held >= row.first.billed_unread > 0


def test_a_job_that_expires() -> None:
    """Half of its lines are answered and fetched; both sets of books say so."""
    row = trial("expired", way="batch")
    assert row.name == "job expired"
    assert whole(row)
    assert row.first.booked > 0
    assert row.later_labelled == 40


def test_every_fault_has_its_rows() -> None:
    """A fault that is added to the simulator is in the table by itself."""
    rows = list(faults.trials(faults.read_options([])))
    sync = {row.name for row in rows if row.way == "sync"}
    assert sync == set(FAULTS)
    assert {"job lost", "job stuck", "call: server_error"} <= {row.name for row in rows}


def test_kills_come_in_an_order_that_leaves_something_to_kill() -> None:
    """Once everything is answered no kill can hit a question any more."""
    phases = kills.phases_of(10, random.Random(3))  # noqa: S311
    assert phases[7:] == ["after"] * 3
    assert sorted(phases[:7]) == ["asking"] * 5 + ["start"] * 2


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize("way", ["sync", "batch"])
def test_a_home_survives_kills(tmp_path: Path, way: kills.Way) -> None:
    """The command, killed at three moments and completed: the benchmark finds its books whole."""
    rows, day = distinct_rows(None, 60), (datetime.now(UTC) - timedelta(days=1)).date()
    victim = kills.Victim(tmp_path, way, rows, day, kills.Pace())
    found = kills.survive(victim, 3, random.Random(5))  # noqa: S311
    assert found.exit_code == 0
    assert found.labelled == found.reviews == 60
    assert (found.lost, found.repeated, found.doubled, found.wrong) == (0, 0, 0, 0)
    assert found.books.agrees
    assert found.tables_agree


# --- scale ------------------------------------------------------------------------------------


def test_a_size_is_measured_against_the_canned_endpoint(tmp_path: Path) -> None:
    """Its answers are valid, and texts come from the file in the order of the plan."""
    path = tmp_path / "texts.duckdb"
    scale.store_texts(path, distinct_rows(None, 20), 50)
    texts = scale.all_texts(path)
    assert texts["content_key"].n_unique() == texts["text"].n_unique() == 50
    plan = texts.select("content_key").reverse()
    assert scale.stored_texts(path, plan)["content_key"].equals(plan["content_key"])
    (ours, theirs), (result, child) = Pipe(), Pipe()
    server = threading.Thread(target=scale.serve_canned, args=(theirs,), daemon=True)
    server.start()
    scale.classify_in_child(child, path, ours.recv(), "duckdb", tmp_path / "home")
    found = result.recv()
    ours.close()
    server.join(10)
    assert found["labelled"] == found["misses"] == 50
    assert found["peak_mb"] >= found["planned_mb"] >= found["started_mb"] > 10


# --- batch sizes ------------------------------------------------------------------------------


def test_a_size_is_good_only_where_the_interval_says_so() -> None:
    """Flawless agreement on too few texts proves nothing; the model's own noise excuses some."""
    none = Share(0, 400)
    assert batch_size.is_good(Share(400, 400), none, 0.02)
    assert not batch_size.is_good(Share(100, 100), none, 0.02)
    assert not batch_size.is_good(Share(380, 400), none, 0.02)
    assert batch_size.is_good(Share(380, 400), Share(30, 400), 0.05)
    least = batch_size.texts_needed(0.02)
    assert batch_size.is_good(Share(least, least), none, 0.02)
    assert not batch_size.is_good(Share(least - 1, least - 1), none, 0.02)


def test_a_text_without_an_answer_agrees_with_none() -> None:
    """A size that answers half the texts must not look flawless on the other half."""
    single = batch_size.Arm(1, {"a": "x", "b": "x"}, 2, 0, 0, 0, 0.0)
    half = replace(single, size=2, labels={"a": "x", "c": "x"})
    found = batch_size.agreement(half, single)
    assert (found.count, found.total) == (1, 2)


def test_errors_by_position_keep_the_cap_down() -> None:
    """A model that loses its way in long requests is found out, and costs are counted."""
    options = batch_size.read_options(
        ["--texts", "40", "--sizes", "5,40", "--position-errors", "1", "--latency", "0"]
    )
    found = batch_size.measure(options, lambda _: None)
    single, again, five, sixty = found["sizes"]
    assert again["agreement"]["value"] == 1.0
    assert five["agreement"]["value"] > sixty["agreement"]["value"]
    assert sixty["accuracy"]["value"] < single["accuracy"]["value"]
    assert (found["cap"], single["requests"]) == (1, 40)
    assert sixty["requests"] <= 2  # a text that speaks as if to a model travels alone
    assert single["prompt_tokens"] > sixty["prompt_tokens"] > 0


def test_a_saved_cap_is_what_the_planner_reads(tmp_path: Path) -> None:
    """The newest measurement of a model counts."""
    for largest in (50, 20):
        cap = BatchCap(
            model=MODEL,
            max_reviews=largest,
            texts=400,
            agreement=1.0,
            lower=0.99,
            measured_on=date(2026, 11, 20),
        )
        batch_size.save_cap(tmp_path, cap)
    assert Home(tmp_path).batch_cap(MODEL) == 20


def test_the_simulator_has_no_cap_to_save(tmp_path: Path) -> None:
    """What the simulator does must not decide how a real model is asked."""
    with pytest.raises(SystemExit):
        batch_size.read_options(["--save", str(tmp_path)])


def test_the_other_engines_are_known() -> None:
    """Options are checked before anything is asked."""
    options = batch_size.read_options(["--sizes", "10,1,5"])
    assert options.sizes == [1, 5, 10]
    assert isinstance(options, argparse.Namespace)
