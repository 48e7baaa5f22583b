"""What the answers cost, after the classifier: prices, budgets, and the ledger of who owes what.

Money is an integer of nano-dollars everywhere; a price is nano-dollars per million tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime
from typing import Any

import polars as pl

from review_optimizer_dagster.exchange.reply import Reply
from review_optimizer_dagster.money.prices import BATCH_TIER, DEFAULT_TIER, PriceTable, request_cost

BASELINE_NANOS_PER_REVIEW = 1_500_000  # $1.50 per 1,000 reviews: one request a review, no cache

LEDGER = pl.Schema(
    {
        "entry_id": pl.String(),
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "review_id": pl.String(),  # null: paid for, but the review is no longer in the partition
        "content_key": pl.String(),
        "kind": pl.String(),  # the request's ('audit': of a hit; 'embedding'), 'hit' or 'repeat'
        "request_id": pl.String(),
        "level": pl.String(),
        "model": pl.String(),
        "simulated": pl.Boolean(),
        "cost_nanos": pl.Int64(),
        "avoided_nanos": pl.Int64(),
        "avoided_rule": pl.String(),  # 'median_paid' or 'baseline'; null on a paid entry
        "booked_at": pl.Datetime("us", "UTC"),
    }
)

ROLLUP = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "simulated": pl.Boolean(),
        "reviews": pl.Int64(),
        "hits": pl.Int64(),
        "misses": pl.Int64(),
        "deferred": pl.Int64(),
        "cost_nanos": pl.Int64(),
        "audit_nanos": pl.Int64(),  # of the cost, that of rechecking hits
        "avoided_nanos": pl.Int64(),
        "baseline_nanos": pl.Int64(),
        "saving": pl.Float64(),  # 1 - cost / baseline; null without labels
        "cost_per_1000_nanos": pl.Int64(),  # of labelled reviews; null without any
    }
)


_ROLLUP_SUMS = [
    "reviews", "hits", "misses", "deferred", "cost_nanos", "audit_nanos", "avoided_nanos",
]  # fmt: skip

# Of a labelled review. A repeat is answered by its leading review, and counts as a hit of L1.
_IS_HIT = pl.col("repeat") | (pl.col("level") != "model")


def reply_cost(record: Mapping[str, Any], reply: Reply, prices: PriceTable) -> int:
    """Nano-dollars of a request of the journal, by the model and tier that its response names.

    What went through the Batch API is billed as such, whatever tier its body names.
    """
    if reply.usage is None:
        return 0
    day = datetime.fromisoformat(record["sent_at"]).date()
    asked_tier = record.get("service_tier", DEFAULT_TIER)
    named_tier = reply.service_tier or asked_tier
    tier = asked_tier if asked_tier == BATCH_TIER else named_tier
    model = reply.model or record["model"]
    price = prices.price(model, tier, day, reply.usage.prompt_tokens)
    return request_cost(price, reply.usage)


def allocate(total: int, weights: Sequence[int]) -> list[int]:
    """Shares of a total in proportion to weights, by largest remainder; they add up to the total.

    Ties go to the earlier position; weights that are all zero share equally. Raises ValueError for
    a negative total or weight, or a total with nobody to bear it.

    >>> allocate(100, [1, 1, 1])
    [34, 33, 33]
    """
    if total < 0 or any(weight < 0 for weight in weights):
        raise ValueError("a total and its weights must not be negative")
    if not weights:
        if total:
            raise ValueError(f"{total} nano-dollars and nobody to bear them")
        return []
    whole = sum(weights)
    bases = list(weights) if whole else [1] * len(weights)
    whole = whole or len(weights)
    shares, remainders = zip(*(divmod(total * base, whole) for base in bases), strict=True)
    by_remainder = sorted(range(len(bases)), key=lambda position: -remainders[position])
    lucky = set(by_remainder[: total - sum(shares)])
    return [share + (position in lucky) for position, share in enumerate(shares)]


def _entry_id(*parts: str) -> str:
    return hashlib.blake2b("|".join(parts).encode(), digest_size=16).hexdigest()


def paid_entries(
    shares: pl.DataFrame, requests: pl.DataFrame, results: pl.DataFrame
) -> pl.DataFrame:
    """Ledger rows of what was paid: one a review and attempt. Returns LEDGER.

    shares: request_id, identity, content_key, tenant, cost_nanos; requests: REQUESTS; results:
    RESULTS. A text that was asked once for several reviews of a tenant is borne by its leading
    review (repeat is false, then the smallest review_id); without one, review_id is null and the
    money is booked all the same. Raises ValueError where the shares of a request do not add up to
    what it cost, so that the ledger always sums to the requests.
    """
    _refuse_gaps(shares, requests)
    content = ["tenant", "identity", "content_key"]
    leaders = (
        results.sort("repeat", "review_id")
        .unique(content, keep="first", maintain_order=True)
        .select(*content, "review_id")
    )
    facts = requests.select(
        "request_id",
        "taxonomy",
        "kind",
        "simulated",
        model=pl.coalesce("model", "model_requested"),
        booked_at="sent_at",
    )
    entries = (
        shares.join(facts, on="request_id")
        .join(leaders, on=content, how="left")
        .sort("booked_at", "request_id", "content_key")
    )
    keys = entries.select("request_id", "content_key", "kind").iter_rows()
    return _as_ledger(
        entries.with_columns(
            entry_id=pl.Series([_entry_id(*key) for key in keys], dtype=pl.String),
            level=pl.lit("model"),
            avoided_nanos=pl.lit(0),
            avoided_rule=pl.lit(None),
        )
    )


def _refuse_gaps(shares: pl.DataFrame, requests: pl.DataFrame) -> None:
    """Raise ValueError unless every request is shared out in full, and nothing else is."""
    shared = shares.group_by("request_id").agg(shared=pl.col("cost_nanos").sum())
    wrong = (
        requests.select("request_id", "cost_nanos")
        .join(shared, on="request_id", how="full", coalesce=True)
        .filter(
            pl.col("cost_nanos").is_null() | (pl.col("cost_nanos") != pl.col("shared").fill_null(0))
        )
        .sort("request_id")
    )
    for request_id, cost, share in wrong.iter_rows():
        raise ValueError(f"request {request_id} cost {cost} nano-dollars, its shares are {share}")


def hit_entries(
    results: pl.DataFrame, shares: pl.DataFrame, day: date, booked_at: datetime
) -> pl.DataFrame:
    """Ledger rows of what was not paid: a cache hit or a repeat costs 0. Returns LEDGER.

    `avoided_nanos` is an estimate, its rule in `avoided_rule`. 'median_paid': the (lower) median of
    what the answering request took for a review that the model labelled in this partition, among
    those of the same tenant and identity (taxonomy, prompt and model policy). 'baseline': the
    baseline price a review, where the model labelled none. Entry ids come from the day and the
    review, so a second run of the partition books nothing new.
    """
    labelled = results.filter(pl.col("status") == "labelled")
    answer = ["tenant", "identity", "content_key", "request_id"]
    medians = (
        labelled.filter(pl.col("level") == "model", ~pl.col("repeat"))
        .join(shares.select(*answer, "cost_nanos"), on=answer)
        .group_by("tenant", "identity")
        .agg(median=pl.col("cost_nanos").quantile(0.5, "lower").cast(pl.Int64))
    )
    hits = (
        labelled.filter(_IS_HIT)
        .join(medians, on=["tenant", "identity"], how="left")
        .sort("tenant", "taxonomy", "review_id")
    )
    keys = hits.select("tenant", "taxonomy", "review_id").iter_rows()
    estimated = pl.col("median").is_not_null()
    return _as_ledger(
        hits.with_columns(
            entry_id=pl.Series([_entry_id(str(day), *key) for key in keys], dtype=pl.String),
            kind=pl.when("repeat").then(pl.lit("repeat")).otherwise(pl.lit("hit")),
            request_id=pl.lit(None),
            cost_nanos=pl.lit(0),
            avoided_nanos=pl.col("median").fill_null(BASELINE_NANOS_PER_REVIEW),
            avoided_rule=pl.when(estimated)
            .then(pl.lit("median_paid"))
            .otherwise(pl.lit("baseline")),
            booked_at=pl.lit(booked_at),
        )
    )


def _as_ledger(entries: pl.DataFrame) -> pl.DataFrame:
    return entries.select(pl.col(name).cast(dtype) for name, dtype in LEDGER.items())


def rollup(ledger: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    """Sums of a partition for each tenant and taxonomy, simulated money apart. Returns ROLLUP.

    ledger: LEDGER; results: RESULTS. hits + misses + deferred = reviews; misses are those that the
    model labelled or failed on. A rechecked hit is a hit; what its recheck cost is part of the
    cost. The baseline is what the reviews that have labels would have cost
    one request at a time: a review that nobody answered saved nothing.
    """
    by = ["tenant", "taxonomy", "simulated"]
    deferred = pl.col("status") == "deferred"
    hit = (pl.col("status") == "labelled") & _IS_HIT
    counts = results.group_by(by).agg(
        reviews=pl.len(),
        hits=hit.sum(),
        misses=(~hit & ~deferred).sum(),
        deferred=deferred.sum(),
        answered=(pl.col("status") == "labelled").sum(),
    )
    sums = ledger.group_by(by).agg(
        pl.col("cost_nanos", "avoided_nanos").sum(),
        audit_nanos=pl.col("cost_nanos").filter(pl.col("kind") == "audit").sum(),
    )
    answered, cost = pl.col("answered"), pl.col("cost_nanos")
    return (
        counts.join(sums, on=by, how="full", coalesce=True)
        .with_columns(pl.col([*_ROLLUP_SUMS, "answered"]).fill_null(0).cast(pl.Int64))
        .with_columns(baseline_nanos=answered * BASELINE_NANOS_PER_REVIEW)
        .with_columns(
            saving=pl.when(answered > 0).then(1 - cost / pl.col("baseline_nanos")),
            cost_per_1000_nanos=pl.when(answered > 0).then(
                (cost * 1_000 + answered // 2) // answered
            ),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in ROLLUP.items())
        .sort(by)
    )
