"""Whatever the misses, the replies and the order: nothing lost, nothing guessed, nothing unpaid."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.core.batching import plan_batches
from review_optimizer_dagster.core.classifier import read_requests
from review_optimizer_dagster.exchange.reply import read_reply
from review_optimizer_dagster.money.prices import load_prices
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster_tests.core.test_classifier import outcome, record
from review_optimizer_dagster_tests.scripted_endpoint import (
    DAY,
    TAXONOMY,
    Answer,
    asking,
    completion,
    misses,
    tier_of,
)

PRICES = load_prices()
TAXONOMIES = {TAXONOMY.name: TAXONOMY}

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)
IDS = st.sampled_from(["1", "2", "3", "4"]) | JSON
ENTRIES = JSON | st.fixed_dictionaries(
    {"id": IDS}
    | {
        field.name: st.sampled_from([*field.labels, "another"])
        if field is TAXONOMY.main
        else st.sampled_from(field.labels)
        for field in TAXONOMY.fields
    }
)
CONTENTS = st.one_of(
    st.lists(ENTRIES, max_size=6).map(lambda entries: json.dumps({"answers": entries})),
    JSON.map(json.dumps),
    st.text(max_size=20),
    st.none(),
)
USAGES = JSON | st.fixed_dictionaries(
    {
        "prompt_tokens": st.integers(0, 10**6),
        "completion_tokens": st.integers(0, 10**5),
        "prompt_tokens_details": st.none()
        | st.fixed_dictionaries({"cached_tokens": st.integers()}),
    }
)
ANSWERS = st.one_of(
    st.builds(lambda content, usage: completion(content, usage=usage), CONTENTS, USAGES),
    JSON.map(lambda body: Answer(body=json.dumps(body))),
    st.builds(
        lambda status, body: Answer(status, json.dumps(body)),
        st.sampled_from([200, 400, 401, 429, 500]),
        JSON,
    ),
    st.none(),
)
RECORDS = st.lists(
    st.tuples(
        ANSWERS,
        st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True),
        st.integers(1, 2),  # generation
        st.integers(0, 1),  # attempts left
        st.integers(1, 10_000),  # tokens of an item
    ),
    max_size=5,
).map(
    lambda drawn: [
        weighed(
            record(f"r{number}", keys, answer, generation=generation, attempts_left=left), tokens
        )
        for number, (answer, keys, generation, left, tokens) in enumerate(drawn)
    ]
)


def weighed(made: dict[str, Any], tokens: int) -> dict[str, Any]:
    for position, item in enumerate(made["items"]):
        item[2] = tokens * position + 1
    return made


@settings(deadline=None)
@given(
    st.integers(0, 400),
    st.integers(1, 50),
    st.integers(0, 100),
    st.integers(1_000, 8_000),
    st.lists(st.integers(0, 300), min_size=1, max_size=20),
)
def test_every_miss_is_planned_once_within_the_limits(
    count: int, least: int, more: int, tokens: int, words: list[int]
) -> None:
    """A miss that no batch holds would be a review without an answer."""
    limits = BatchSettings(min_reviews=least, max_reviews=least + more, max_input_tokens=tokens)
    texts = [" ".join(["word"] * words[number % len(words)]) for number in range(count)]
    found = misses(count).with_columns(text=pl.Series(texts, dtype=pl.String))
    plan = plan_batches(found, asking, [tier_of(limits)], limits, DAY)
    assert sorted(plan["content_key"]) == sorted(found["content_key"])
    batches = plan.group_by("batch_id").agg(
        pl.len().alias("size"), pl.col("tokens").sum(), pl.col("item_id").n_unique().alias("ids")
    )
    for _, size, together, ids in batches.iter_rows():
        assert size <= limits.max_reviews
        assert together <= tokens or size == 1
        assert ids == size


@settings(deadline=None)
@given(ANSWERS.filter(lambda answer: answer is not None))
def test_a_reply_gives_valid_labels_or_a_fault_for_each_that_was_asked(answer: Answer) -> None:
    """Nothing a server can send may crash the run, or become a label that nobody gave."""
    asked = record("r", ["a", "b", "c"], answer)
    reply = read_reply(asked)
    assert sorted([*reply.labels, *reply.faults]) == ["1", "2", "3"]
    for item_id, labels in reply.labels.items():
        assert list(labels) == [field.name for field in TAXONOMY.fields]
        content = json.loads(json.loads(answer.body)["choices"][0]["message"]["content"])
        given_for_it = [
            {name: entry.get(name) for name in labels}
            for entry in content["answers"]
            if isinstance(entry, dict) and entry.get("id") == item_id
        ]
        assert set(map(str, given_for_it)) == {str(labels)}
        assert all(labels[field.name] in field.labels for field in TAXONOMY.fields)


@settings(deadline=None)
@given(RECORDS)
def test_shares_add_up_and_nobody_is_answered_twice(records: list[dict[str, Any]]) -> None:
    """The ledger must equal what was paid, to the nano-dollar, whatever came back."""
    newest = max((made["generation"] for made in records), default=0)
    readout = read_requests(records, TAXONOMIES, PRICES, newest)
    shares = dict(readout.shares.group_by("request_id").agg(pl.col("cost_nanos").sum()).iter_rows())
    for row in readout.requests.iter_rows(named=True):
        assert shares.get(row["request_id"], 0) == row["cost_nanos"] >= 0
        assert (row["held_nanos"] == 0) or (row["cost_nanos"] == 0)
        assert row["answered"] <= row["reviews"]
    keys = readout.answers.select("identity", "content_key")
    assert keys.is_unique().all()
    current = {made["request_id"] for made in records if made["generation"] == newest}
    assert set(readout.answers["request_id"].drop_nulls()) <= current


@settings(deadline=None)
@given(RECORDS, st.randoms(use_true_random=False))
def test_who_is_labelled_does_not_depend_on_the_order(
    records: list[dict[str, Any]], random: Any
) -> None:
    """Clocks step back; a review must not be lost, or billed anew, because of it."""
    shuffled = list(records)
    random.shuffle(shuffled)
    told = ["identity", "content_key", "status", "attempts"]
    newest = max((made["generation"] for made in records), default=0)
    one, other = (read_requests(given, TAXONOMIES, PRICES, newest) for given in (records, shuffled))
    assert one.answers.select(told).equals(other.answers.select(told))
    assert one.shares["cost_nanos"].sum() == other.shares["cost_nanos"].sum()


@settings(deadline=None)
@given(ANSWERS.filter(lambda answer: answer is not None))
def test_a_record_survives_its_own_json(answer: Answer) -> None:
    """The journal keeps JSON: a record read back must mean the same."""
    made = record("r", ["a"], answer) | {"outcome": outcome(answer)}
    assert read_reply(json.loads(json.dumps(made))) == read_reply(made)
