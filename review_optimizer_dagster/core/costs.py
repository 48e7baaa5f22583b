"""What the answers cost, after the classifier: shares of requests, the ledger, and its sums.

Money is an integer of nano-dollars everywhere. The ledger is append-only: what turns out otherwise
is corrected by a further entry, and what is booked already is not booked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from review_optimizer_dagster.exchange.reply import Reply
from review_optimizer_dagster.money.prices import (
    BATCH_TIER,
    DEFAULT_TIER,
    PriceTable,
    request_cost,
)

BASELINE_NANOS_PER_REVIEW = 1_500_000  # $1.50 per 1,000 reviews: one request a review, no cache

LEDGER = pl.Schema(
    {
        "entry_id": pl.String(),
        "tenant": pl.String(),
        "scope": pl.String(),  # whose cache the review met: the tenant's own, or its pool's
        "taxonomy": pl.String(),
        "category": pl.String(),
        "review_id": pl.String(),  # null: paid for, but the review is no longer in the partition
        "content_key": pl.String(),
        "kind": pl.String(),  # ATTEMPTS, FREE, 'correction', or one of MANUAL
        "purpose": pl.String(),  # the kind; of a correction, that of the entry it corrects
        "request_id": pl.String(),
        "generation": pl.Int64(),  # of the request; above 1 the partition was paid for again
        "level": pl.String(),
        "tier": pl.String(),
        "service_tier": pl.String(),
        "model": pl.String(),
        "simulated": pl.Boolean(),
        "cost_nanos": pl.Int64(),
        "avoided_nanos": pl.Int64(),
        "avoided_rule": pl.String(),  # of AVOIDED_RULES; null on what was paid
        "source_tenant": pl.String(),  # of a hit: who paid for the answer; null: a pattern gave it
        "corrects": pl.String(),  # of a correction: the entry_id that it corrects
        "note": pl.String(),
        "incurred_at": pl.Datetime("us", "UTC"),  # when the request was sent, or the hit booked
        "booked_at": pl.Datetime("us", "UTC"),
        "booked_by": pl.String(),  # the run, or whoever booked it by hand
    }
)
REFERENCE = "reference"  # an audit by the reference model; 'audit' is a recheck by the same one
ATTEMPTS = ("classification", "audit", REFERENCE, "embedding")  # what requests are for
FREE = ("hit", "repeat")
CORRECTION = "correction"
MANUAL = ("refund", "adjustment")  # booked by hand, from a provider's bill
AVOIDED_RULES = ("median_paid", "median_earlier", "baseline")

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
        "audit_nanos": pl.Int64(),  # of the cost, that of rechecks and of audits by a reference
        "embedding_nanos": pl.Int64(),  # that of embedding texts for the learned patterns
        "repaid_nanos": pl.Int64(),  # that of texts which the partition had paid for before
        "manual_nanos": pl.Int64(),  # that of refunds and adjustments
        "avoided_nanos": pl.Int64(),
        "no_cache_nanos": pl.Int64(),  # estimate of the cost had there been no cache
        "baseline_nanos": pl.Int64(),
        "saving": pl.Float64(),  # 1 - cost / baseline; null without labels
        "saving_no_cache": pl.Float64(),  # 1 - cost / no_cache; null where that is 0
        "cost_per_1000_nanos": pl.Int64(),  # of labelled reviews; null without any
    }
)


_ROLLUP_SUMS = [
    "reviews", "hits", "misses", "deferred", "cost_nanos", "audit_nanos", "embedding_nanos",
    "repaid_nanos", "manual_nanos", "avoided_nanos",
]  # fmt: skip
_CONTENT = ["tenant", "identity", "content_key"]

# Of a labelled review. A repeat is answered by its leading review, and counts as a hit of L1.
_IS_HIT = pl.col("repeat") | (pl.col("level") != "model")


@dataclass(frozen=True)
class Posting:
    """When entries are booked, and by whom."""

    at: datetime
    by: str

    @property
    def columns(self) -> dict[str, pl.Expr]:
        """booked_at and booked_by, of every entry alike."""
        return {"booked_at": pl.lit(self.at), "booked_by": pl.lit(self.by)}


@dataclass(frozen=True)
class ManualEntry:
    """A booking by hand."""

    kind: str
    """Of MANUAL."""
    tenant: str
    taxonomy: str
    simulated: bool
    nanos: int
    """Negative where money came back."""
    reference: str
    """The provider's number for it: the same one again is not booked twice."""
    note: str = ""


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
    shares: pl.DataFrame,
    requests: pl.DataFrame,
    results: pl.DataFrame,
    booked: pl.DataFrame,
    posting: Posting,
) -> pl.DataFrame:
    """What the ledger of a day lacks of what was paid: one entry a review and attempt. LEDGER.

    shares: request_id, identity, content_key, tenant, cost_nanos; requests: REQUESTS; results:
    RESULTS; booked: the day's ledger (LEDGER) so far. A text that was asked once for several
    reviews of a tenant is borne by its leading review (repeat is false, then the smallest
    review_id); without one, review_id is null and the money is booked all the same. An entry whose
    request costs otherwise now (its price row was mended) is corrected by a further one.
    Raises ValueError where the shares of a request do not add up to what it cost, so that the
    ledger always sums to the requests.
    """
    _refuse_gaps(shares, requests)
    leaders = (
        results.sort("repeat", "review_id")
        .unique(_CONTENT, keep="first", maintain_order=True)
        .select(*_CONTENT, "review_id", "category")
    )
    facts = requests.select(
        *("request_id", "taxonomy", "kind", "simulated", "generation", "tier", "service_tier"),
        model=pl.coalesce("model", "model_requested"),
        incurred_at="sent_at",
    )
    entries = (
        shares.join(facts, on="request_id")
        .join(leaders, on=_CONTENT, how="left")
        .sort("incurred_at", "request_id", "content_key")
    )
    keys = entries.select("request_id", "content_key", "kind").iter_rows()
    entries = entries.with_columns(
        entry_id=pl.Series([_entry_id(*key) for key in keys], dtype=pl.String),
        scope=_scope(),
        purpose=pl.col("kind"),
        level=pl.lit("model"),
        avoided_nanos=pl.lit(0),
        **posting.columns,
    )
    new = _as_ledger(entries.join(booked, on="entry_id", how="anti", maintain_order="left"))
    return pl.concat([new, _repriced(entries, booked, posting)])


def _repriced(entries: pl.DataFrame, booked: pl.DataFrame, posting: Posting) -> pl.DataFrame:
    """Corrections of booked entries whose share of their request's cost is another one now."""
    so_far = (
        booked.with_columns(of=pl.coalesce("corrects", "entry_id"))
        .filter(pl.col("kind").is_in([*ATTEMPTS, CORRECTION]))
        .group_by("of")
        .agg(booked=pl.col("cost_nanos").sum(), times=pl.len())
    )
    wrong = (
        entries.join(so_far, left_on="entry_id", right_on="of", maintain_order="left")
        .with_columns(cost_nanos=pl.col("cost_nanos") - pl.col("booked"))
        .filter(pl.col("cost_nanos") != 0)
    )
    return _corrections(wrong, "its request has another price now", posting)


def _corrections(entries: pl.DataFrame, note: str, posting: Posting) -> pl.DataFrame:
    """Entries that correct these: LEDGER. `times`: how many entries there are of each already."""
    keys = entries.select("entry_id", pl.col("times").cast(pl.String)).iter_rows()
    return _as_ledger(
        entries.with_columns(
            corrects=pl.col("entry_id"),
            entry_id=pl.Series([_entry_id(CORRECTION, *key) for key in keys], dtype=pl.String),
            kind=pl.lit(CORRECTION),
            note=pl.lit(note),
            **posting.columns,
        )
    )


def _scope() -> pl.Expr:
    """The tenant or pool that an identity is of."""
    return pl.col("identity").str.split("|").list.first()


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
    results: pl.DataFrame,
    shares: pl.DataFrame,
    sources: pl.DataFrame,
    earlier: pl.DataFrame,
    booked: pl.DataFrame,
    day: date,
    posting: Posting,
) -> pl.DataFrame:
    """What the ledger of a day lacks of what was not paid: a hit or a repeat costs 0. LEDGER.

    sources: tenant, review_id, source_tenant: who paid for the answer of a hit; earlier: scope,
    taxonomy, simulated, median: what a review cost on the days before; booked: the day's ledger.

    `avoided_nanos` is an estimate, its rule in `avoided_rule`. 'median_paid': the (lower) median of
    what the answering request took for a review that the model labelled in this partition, among
    those of the same identity (tenant or pool, taxonomy, prompt, model policy). 'median_earlier':
    that of the days before, where the model labelled none. 'baseline': the baseline price a review,
    where there is no such day. It stays as it was booked for as long as the review is that hit;
    when it no longer is, a correction takes it back.
    """
    hits = (
        results.filter((pl.col("status") == "labelled") & _IS_HIT)
        .with_columns(scope=_scope())
        .join(_paid_medians(results, shares), on="identity", how="left")
        .join(earlier, on=["scope", "taxonomy", "simulated"], how="left", suffix="_earlier")
        .join(sources, on=["tenant", "review_id"], how="left")
        .with_columns(kind=pl.when("repeat").then(pl.lit("repeat")).otherwise(pl.lit("hit")))
        .sort("tenant", "taxonomy", "review_id")
    )
    of_hits = booked.filter(pl.col("kind").is_in(FREE))
    corrected = booked.filter(pl.col("corrects").is_not_null()).select(entry_id="corrects")
    standing = of_hits.join(corrected, on="entry_id", how="anti", maintain_order="left")
    same = ["tenant", "taxonomy", "review_id", "content_key", "kind", "level"]
    review = same[:3]
    gone = standing.join(hits, on=same, how="anti", maintain_order="left").with_columns(
        avoided_nanos=-pl.col("avoided_nanos"), times=pl.lit(1)
    )
    times = of_hits.group_by(review).agg(times=pl.len().cast(pl.String))
    new = hits.join(standing, on=same, how="anti", maintain_order="left").join(
        times, on=review, how="left", maintain_order="left"
    )
    # The first has the name that it has always had, so that nothing is booked twice.
    keys = new.select(*review, pl.col("times").fill_null("")).iter_rows()
    names = [_entry_id(*filter(None, (str(day), *key))) for key in keys]
    rule = (
        pl.when(pl.col("median").is_not_null())
        .then(pl.lit("median_paid"))
        .when(pl.col("median_earlier").is_not_null())
        .then(pl.lit("median_earlier"))
        .otherwise(pl.lit("baseline"))
    )
    found = new.with_columns(
        entry_id=pl.Series(names, dtype=pl.String),
        purpose=pl.col("kind"),
        request_id=pl.lit(None),
        cost_nanos=pl.lit(0),
        avoided_nanos=pl.coalesce("median", "median_earlier").fill_null(BASELINE_NANOS_PER_REVIEW),
        avoided_rule=rule,
        incurred_at=pl.lit(posting.at),
        **posting.columns,
    )
    taken_back = _corrections(gone, "the review is no longer this hit", posting)
    return pl.concat([_as_ledger(found), taken_back])


def _paid_medians(results: pl.DataFrame, shares: pl.DataFrame) -> pl.DataFrame:
    """identity, median: of what the answering requests took for a review."""
    answer = [*_CONTENT, "request_id"]
    return (
        results.filter(
            (pl.col("status") == "labelled") & (pl.col("level") == "model") & ~pl.col("repeat")
        )
        .join(shares.select(*answer, "cost_nanos"), on=answer)
        .group_by("identity")
        .agg(median=pl.col("cost_nanos").quantile(0.5, "lower").cast(pl.Int64))
    )


def manual_entries(asked: ManualEntry, request: pl.DataFrame, posting: Posting) -> pl.DataFrame:
    """What somebody books by hand: a refund, a credit note, a fee. Returns LEDGER.

    request: the LEDGER entries of the attempt that it is about, whose reviews share it in
    proportion to what they cost; empty where it is about no request, and the tenant bears it.
    """
    total = abs(asked.nanos)
    about = request.filter(pl.col("kind").is_in(ATTEMPTS)).sort("entry_id")
    if about.is_empty():
        about = pl.DataFrame([{"tenant": asked.tenant}], schema=LEDGER)
    parts = allocate(total, about["cost_nanos"].fill_null(0).to_list())
    signed = [part if asked.nanos >= 0 else -part for part in parts]
    keys = about["entry_id"].fill_null("").to_list()
    names = [_entry_id(asked.kind, asked.tenant, asked.reference, key) for key in keys]
    return _as_ledger(
        about.with_columns(
            entry_id=pl.Series(names, dtype=pl.String),
            taxonomy=pl.lit(asked.taxonomy),
            simulated=pl.lit(asked.simulated),
            kind=pl.lit(asked.kind),
            purpose=pl.lit(asked.kind),
            cost_nanos=pl.Series(signed, dtype=pl.Int64),
            avoided_nanos=pl.lit(0),
            note=pl.lit(f"{asked.reference}: {asked.note}" if asked.note else asked.reference),
            incurred_at=pl.lit(posting.at),
            **posting.columns,
        )
    )


def _as_ledger(entries: pl.DataFrame) -> pl.DataFrame:
    missing = [pl.lit(None).alias(name) for name in LEDGER if name not in entries.columns]
    return entries.with_columns(missing).select(
        pl.col(name).cast(dtype) for name, dtype in LEDGER.items()
    )


def rollup(ledger: pl.DataFrame, results: pl.DataFrame) -> pl.DataFrame:
    """Sums of a partition for each tenant and taxonomy, simulated money apart. Returns ROLLUP.

    ledger: LEDGER; results: RESULTS. hits + misses + deferred = reviews; misses are those that the
    model labelled or failed on. A rechecked hit is a hit; what its recheck cost is part of the
    cost. The baseline is what the reviews that have labels would have cost one request at a time:
    a review that nobody answered saved nothing.
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
    attempts = pl.col("purpose").is_in(ATTEMPTS)
    first = pl.col("generation").filter(attempts).min().over("tenant", "content_key", "purpose")
    cost_of = pl.col("cost_nanos").filter
    sums = (
        ledger.with_columns(again=attempts & (pl.col("generation") > first))
        .group_by(by)
        .agg(
            pl.col("cost_nanos", "avoided_nanos").sum(),
            audit_nanos=cost_of(pl.col("purpose").is_in(["audit", REFERENCE])).sum(),
            embedding_nanos=cost_of(purpose="embedding").sum(),
            repaid_nanos=cost_of(pl.col("again") & (pl.col("purpose") == "classification")).sum(),
            manual_nanos=cost_of(pl.col("purpose").is_in(MANUAL)).sum(),
        )
    )
    answered, cost = pl.col("answered"), pl.col("cost_nanos")
    # What only a cache needs, and what was paid twice or by hand, is no part of a plain run's cost.
    only_here = pl.sum_horizontal("audit_nanos", "embedding_nanos", "repaid_nanos", "manual_nanos")
    return (
        counts.join(sums, on=by, how="full", coalesce=True)
        .with_columns(pl.col([*_ROLLUP_SUMS, "answered"]).fill_null(0).cast(pl.Int64))
        .with_columns(
            baseline_nanos=answered * BASELINE_NANOS_PER_REVIEW,
            no_cache_nanos=cost - only_here + pl.col("avoided_nanos"),
        )
        .with_columns(
            saving=pl.when(answered > 0).then(1 - cost / pl.col("baseline_nanos")),
            saving_no_cache=pl.when(pl.col("no_cache_nanos") > 0).then(
                1 - cost / pl.col("no_cache_nanos")
            ),
            cost_per_1000_nanos=pl.when(answered > 0).then(
                (cost * 1_000 + answered // 2) // answered
            ),
        )
        .select(pl.col(name).cast(dtype) for name, dtype in ROLLUP.items())
        .sort(by)
    )
