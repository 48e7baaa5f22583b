"""Asking and reading: what a run sends, what the journal then says, and what it costs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from review_optimizer_dagster.core.batching import STANDARD_TIER, Tier
from review_optimizer_dagster.core.classifier import (
    ANSWERS,
    REQUESTS,
    SHARES,
    Classified,
    Endpoint,
    classify,
    read_requests,
)
from review_optimizer_dagster.errors import UserError
from review_optimizer_dagster.money.prices import ModelEnded, UnknownPrice, load_prices
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.storage.journal import DayJournal
from review_optimizer_dagster_tests.scripted_endpoint import (
    DAY,
    KEY,
    MODEL,
    TAXONOMY,
    Answer,
    Bench,
    ScriptedEndpoint,
    batches,
    completion,
    entries,
    entry,
    error,
    misses,
)

TWELVES = BatchSettings(min_reviews=12, max_reviews=12)
PRICES = load_prices()


def outcome(answer: Answer) -> dict[str, Any]:
    """The answer as the journal keeps it."""
    return {
        "http_status": answer.status,
        "body": answer.body,
        "headers": {},
        "failure": None,
        "error": None,
        "maybe_sent": True,
        "received_at": "2026-11-21T12:00:01+00:00",
        "latency_ms": 1_000.0,
    }


def record(name: str, keys: list[str], answer: Answer | None, **changes: Any) -> dict[str, Any]:
    """A record of the journal: an intent for these contents, and what came back."""
    items = [[str(position), key, 10] for position, key in enumerate(keys, 1)]
    fields = {field.name: list(field.labels) for field in TAXONOMY.fields}
    return {
        "request_id": name,
        "generation": 1,
        "batch_id": "b",
        "attempt": 1,
        "attempts_left": 4,
        "kind": "classification",
        "tenant": "acme",
        "taxonomy": TAXONOMY.name,
        "identity": "i",
        "engine": "openai",
        "simulated": False,
        "model": MODEL,
        "fields": fields,
        "items": items,
        "worst_nanos": 999,
        "sent_at": "2026-11-21T12:00:00+00:00",
        "outcome": outcome(answer) if answer else None,
    } | changes


def read(*records: dict[str, Any], generation: int = 1) -> Any:
    return read_requests(records, {TAXONOMY.name: TAXONOMY}, PRICES, generation)


def test_a_run_labels_every_miss_and_books_every_request(tmp_path: Path) -> None:
    """The ordinary case, from the plan to answers, requests and shares."""
    with ScriptedEndpoint() as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        ran = made.ask(batches(misses(100)))
        readout = made.readout()
        made.close()
    answers, requests, shares = readout.answers, readout.requests, readout.shares
    assert (answers.schema, requests.schema, shares.schema) == (ANSWERS, REQUESTS, SHARES)
    assert ran.unsent.schema == ANSWERS
    assert ran.unsent.is_empty()
    assert answers["content_key"].to_list() == sorted(misses(100)["content_key"])
    (labels,) = answers["labels"].unique().to_list()
    assert json.loads(labels) == {field.name: field.labels[0] for field in TAXONOMY.fields}
    assert set(ran.request_ids) == set(requests["request_id"]) == set(answers["request_id"])
    assert {asked.request_id for asked in endpoint.asked} == set(ran.request_ids)
    assert requests["status"].to_list() == ["ok"] * 8
    assert set(requests["kind"]) == {"classification"}
    assert requests["reviews"].sum() == requests["answered"].sum() == shares.height == 100
    # 1,000 tokens in at $0.10 and 100 out at $0.50 a million.
    assert requests["cost_nanos"].to_list() == [150_000] * 8
    assert shares["cost_nanos"].sum() == made.spend().spent == 8 * 150_000
    assert made.spend().reserved == 0
    assert made.progress[0] == (0, 100)
    assert made.progress[-1] == (100, 100)
    assert sorted(made.progress) == made.progress


def test_embeddings_are_booked_and_answer_nothing() -> None:
    """What a vector costs is part of the ledger; what it says is no label of any text."""
    data = [{"index": at, "embedding": [1.0, 0.0]} for at in range(3)]
    usage = {"prompt_tokens": 1_000, "total_tokens": 1_000}
    body = {"data": data, "model": "text-embedding-3-small", "usage": usage}
    changes: dict[str, Any] = {"kind": "embedding", "fields": {}, "attempts_left": 0}
    changes |= {"model": "text-embedding-3-small", "batch_id": None}

    def embedding(name: str, answer: Answer | None) -> dict[str, Any]:
        return record(name, ["a", "b", "c"], answer, **changes)

    made = read(
        embedding("paid", Answer(body=json.dumps(body))),
        embedding("short", Answer(body=json.dumps(body | {"data": data[:1]}))),
        embedding("untold", Answer(body=json.dumps({"data": data}))),
        embedding("refused", Answer(400, '{"error": {"message": "no"}}')),
        embedding("unknown", None),
    )
    assert made.answers.is_empty()
    requests = made.requests.select("status", "answered", "cost_nanos", "held_nanos").rows()
    # 1,000 tokens at $0.02 a million.
    assert requests == [
        ("ok", 3, 20_000, 0),
        ("invalid", 0, 20_000, 0),
        ("ok", 3, 0, 999),
        ("http_error", 0, 0, 0),
        ("unknown", 0, 0, 999),
    ]
    assert set(made.requests["kind"]) == {"embedding"}
    paid = made.shares.filter(request_id="paid")
    assert paid["content_key"].to_list() == ["a", "b", "c"]
    assert paid["cost_nanos"].sum() == 20_000


def in_flight(made: Bench, plan: pl.DataFrame) -> list[int]:
    """Requests in flight after each step of a run: one more intended, or one settled."""
    counts = [0]
    intend, settle = made.journal.intend, made.journal.settle

    def intending(request: dict[str, Any]) -> None:
        intend(request)
        counts.append(counts[-1] + 1)

    def settling(request_id: str, result: dict[str, Any]) -> None:
        settle(request_id, result)
        counts.append(counts[-1] - 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(made.journal, "intend", intending)
        patch.setattr(made.journal, "settle", settling)
        made.ask(plan)
    return counts


def test_as_many_are_in_flight_as_the_settings_allow(tmp_path: Path) -> None:
    """An idle place is time that nobody gets back; one too many earns refusals."""
    with ScriptedEndpoint() as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        counts = in_flight(made, batches(misses(12 * 48), TWELVES))
        made.close()
    assert counts[:10] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 7]
    assert max(counts) == 8


def test_an_overloaded_endpoint_is_asked_less(tmp_path: Path) -> None:
    """Eight refusals of one round are one sign of overload: half the pace, not a 256th."""
    with ScriptedEndpoint([error(429)] * 8 + [error(500)] * 4) as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        counts = in_flight(made, batches(misses(96), TWELVES))
        assert made.readout().answers.height == 96
        made.close()
    assert len(endpoint.asked) == 20
    # A retry may arrive before the last of the eight, and be refused in its place.
    assert 2 <= max(counts[16:24]) <= 4


def test_it_runs_inside_a_running_loop(tmp_path: Path) -> None:
    """Notebooks and async callers have a loop already, where asyncio.run refuses to start."""

    async def caller() -> Classified:
        return made.ask(batches(misses(12), TWELVES))

    with ScriptedEndpoint() as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        assert len(asyncio.run(caller()).request_ids) == 1
        made.close()


def test_two_runs_of_a_day_cannot_both_pay(tmp_path: Path) -> None:
    """A schedule and a person may start the same partition at the same time."""
    with ScriptedEndpoint() as endpoint:
        made, other = Bench(tmp_path, endpoint.base_url), DayJournal(tmp_path, DAY)
        with other.lock(), pytest.raises(UserError, match="another run is classifying 2026-11-20"):
            made.ask(batches(misses(12), TWELVES))
        assert endpoint.asked == []
        made.ask(batches(misses(12), TWELVES))  # the right was given back
        made.close()
        other.close()


@pytest.mark.parametrize(
    ("model", "problem"), [("gpt-0", UnknownPrice), ("gpt-4.1-nano", ModelEnded)]
)
def test_nothing_is_sent_without_a_price(
    tmp_path: Path, model: str, problem: type[UserError]
) -> None:
    """What cannot be booked must not be bought."""
    with ScriptedEndpoint() as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        ladder = (Tier(STANDARD_TIER, model),)
        asked = Endpoint("openai", endpoint.base_url, KEY, ladder, False, lambda _: "labels")
        taxonomies = {TAXONOMY.name: TAXONOMY}
        with pytest.raises(problem, match=model):
            classify(
                batches(misses(12)), lambda rows: rows, taxonomies, asked, made.journal, 1,
                made.budget, PRICES, clock=made.time.clock(),
            )  # fmt: skip
        assert (endpoint.asked, list(made.journal.requests())) == ([], [])
        made.close()


def test_an_unpriced_answer_ends_the_run_and_is_kept(tmp_path: Path) -> None:
    """The endpoint answered with a model nobody has a price for; a price row mends it later."""
    with ScriptedEndpoint([lambda _: completion("{}", model="gpt-0")]) as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        with pytest.raises(UnknownPrice, match="gpt-0"):
            made.ask(batches(misses(12), TWELVES))
        assert next(made.journal.requests())["outcome"]["http_status"] == 200
        assert made.spend().reserved > 0
        made.close()


def test_a_run_settles_what_a_killed_one_left_reserved(tmp_path: Path) -> None:
    """The process may die between the outcome and the budget."""
    with ScriptedEndpoint() as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        paid = record("r1", ["acme-00000"], entries([entry("1")]), identity="other")
        assert made.budget("acme").reserve("r1", 999_999, made.time.clock().now())
        made.journal.intend({k: v for k, v in paid.items() if k != "outcome"})
        made.journal.settle("r1", paid["outcome"])
        made.ask(batches(misses(12), TWELVES))
        assert made.spend().reserved == 0
        assert made.spend().spent == 2 * 150_000
        made.close()


def test_the_endpoint_never_shows_its_key() -> None:
    """A repr ends up in logs and tracebacks."""
    ladder = (Tier(STANDARD_TIER, MODEL),)
    assert KEY not in repr(Endpoint("openai", "http://x", KEY, ladder, False, lambda _: "labels"))


def test_starting_up_does_not_import_the_client() -> None:
    """A run that the cache answers in full must not wait for it; nor may core import Dagster."""
    code = (
        "import sys, review_optimizer_dagster.core.classifier;"
        "print([name for name in ('openai', 'dagster', 'pandas') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_answers_of_an_earlier_generation_do_not_count_but_their_cost_stays() -> None:
    """Reclassifying pays again; the ledger must show both."""
    first = record("r1", ["k1", "k2"], entries([entry("1"), entry("2")]))
    second = record("r2", ["k1"], entries([entry("1")]), generation=2)
    readout = read(first, second, generation=2)
    assert readout.answers.select("content_key", "request_id").rows() == [("k1", "r2")]
    assert readout.requests["cost_nanos"].sum() == readout.shares["cost_nanos"].sum() == 300_000
    assert read(first, second, generation=1).answers.height == 2
    assert read(first, second, generation=3).answers.is_empty()


def test_answers_to_questions_that_have_changed_do_not_count() -> None:
    """A label set that was edited since makes an old answer an answer to something else."""
    fields = {field.name: [*field.labels, "new"] for field in TAXONOMY.fields}
    old = record("r1", ["k1"], entries([entry("1")]), fields=fields)
    gone = record("r2", ["k2"], entries([entry("1")]), taxonomy="gone")
    readout = read(old, gone)
    assert readout.answers.is_empty()
    assert readout.requests["status"].to_list() == ["ok", "ok"]
    assert readout.shares["cost_nanos"].sum() == 300_000


def test_an_unknown_outcome_is_shown_and_held() -> None:
    """The run died before the answer came: perhaps paid, perhaps not, and asked again."""
    readout = read(record("r1", ["k1"], None, attempts_left=0))
    (row,) = readout.requests.rows(named=True)
    assert (row["status"], row["cost_nanos"], row["held_nanos"]) == ("unknown", 0, 999)
    assert readout.answers.is_empty()
    assert readout.shares.is_empty()


def test_a_review_has_failed_only_when_its_attempts_are_spent() -> None:
    """Until then it is neither answered nor failed: it will be asked again."""
    empty = entries([])
    assert read(record("r1", ["k1"], empty)).answers.is_empty()
    last = record("r2", ["k1"], empty, attempts_left=0)
    (row,) = read(record("r1", ["k1"], empty), last).answers.rows(named=True)
    assert (row["status"], row["reason"], row["attempts"]) == ("failed", "missing", 2)
    late = record("r3", ["k1"], entries([entry("1")]))
    (row,) = read(last, late).answers.rows(named=True)
    assert (row["status"], row["reason"], row["attempts"]) == ("labelled", None, 2)


def test_the_first_answer_stays() -> None:
    """A second one, however it came about, must not change what was published."""
    first = record("r1", ["k1"], entries([entry("1")]))
    other = TAXONOMY.main.labels[1]
    second = record("r2", ["k1"], entries([entry("1", **{TAXONOMY.main.name: other})]))
    (row,) = read(first, second).answers.rows(named=True)
    assert (row["request_id"], row["attempts"]) == ("r1", 2)


def test_shares_follow_the_tokens_and_add_up() -> None:
    """A long review pays more of its batch, also when it was not answered."""
    paid = record("r1", ["k1", "k2", "k3"], entries([entry("1")]))
    for item, tokens in zip(paid["items"], (1, 1, 5), strict=True):
        item[2] = tokens
    shares = dict(read(paid).shares.select("content_key", "cost_nanos").iter_rows())
    assert sum(shares.values()) == 150_000
    assert shares["k3"] == pytest.approx(5 * shares["k1"], abs=5)


def test_cached_and_written_tokens_have_their_own_prices() -> None:
    """Prompt caching is part of the bill."""
    usage = {
        "prompt_tokens": 1_000,
        "completion_tokens": 0,
        "prompt_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 100},
    }
    (row,) = read(record("r1", ["k1"], entries([entry("1")], usage=usage))).requests.rows(
        named=True
    )
    assert row["cached_tokens"] == 600
    assert row["cost_nanos"] == 300 * 100 + 600 * 10 + 100 * 125


def test_a_line_of_a_job_costs_half_whatever_tier_its_body_names() -> None:
    """The endpoint bills the way of sending, not what the model's response says of itself."""
    sent = {"way": "batch", "service_tier": "batch"}
    made = read(
        record("r1", ["k1"], entries([entry("1")], service_tier="default"), **sent),
        record("r2", ["k2"], entries([entry("1")], service_tier=None), **sent),
        record("r3", ["k3"], entries([entry("1")], service_tier="flex")),
        record("r4", ["k4"], None, **sent),
    )
    assert made.requests["cost_nanos"].to_list() == [75_000, 75_000, 75_000, 0]
    assert made.requests["service_tier"].to_list() == ["batch", "batch", "flex", "batch"]
    assert made.requests["status"].to_list() == ["ok", "ok", "ok", "pending"]


@pytest.mark.parametrize(
    "usage",
    [
        {},
        {"prompt_tokens": "1000", "completion_tokens": 1},
        {"prompt_tokens": -1, "completion_tokens": 1},
        {"prompt_tokens": True, "completion_tokens": 1},
        {
            "prompt_tokens": 1,
            "completion_tokens": 1,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    ],
)
def test_usage_that_cannot_be_is_held_like_none(usage: dict[str, Any]) -> None:
    """A bill made of nonsense would be nonsense."""
    (row,) = read(record("r1", ["k1"], entries([entry("1")], usage=usage))).requests.rows(
        named=True
    )
    assert (row["cost_nanos"], row["held_nanos"], row["status"]) == (0, 999, "ok")


def test_a_price_is_that_of_the_day_of_sending() -> None:
    """Prices are dated: a late readout must not reprice what was sent before."""
    sent = record("r1", ["k1"], entries([entry("1")]), sent_at="2019-01-01T00:00:00+00:00")
    with pytest.raises(UnknownPrice, match=str(date(2019, 1, 1))):
        read(sent)


def test_an_answer_is_used_for_the_whole_pool(tmp_path: Path) -> None:
    """Tenants that share an identity are not asked for the same content twice."""
    with ScriptedEndpoint() as endpoint:
        made = Bench(tmp_path, endpoint.base_url)
        mine = misses(12).with_columns(identity=pl.lit("pool"), content_key=pl.col("text"))
        made.ask(batches(mine, TWELVES))
        made.ask(batches(mine.with_columns(tenant=pl.lit("beta")), TWELVES))
        assert len(endpoint.asked) == 1
        made.close()
