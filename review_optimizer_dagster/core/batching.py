"""The batches: how hard each miss is, which model tier begins, who travels with whom.

A batch holds one tenant, taxonomy, identity, model tier and purpose. Within such a group the
batches are alike: nearly the same number of reviews and of tokens, so that none is left running at
the end. The plan depends on the set of misses, the settings and the day, never on the order of the
rows.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from review_optimizer_dagster.exchange.prompt import Asking
from review_optimizer_dagster.settings import BatchSettings
from review_optimizer_dagster.tables import load_table
from review_optimizer_dagster.tokens import estimated_tokens

MISSES = pl.Schema(
    {
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "identity": pl.String(),
        "content_key": pl.String(),
        "title": pl.String(),
        "text": pl.String(),
        "purpose": pl.String(),  # what it is asked for, see core.costs.ATTEMPTS
    }
)

PLAN = pl.Schema(
    {
        "batch_id": pl.String(),
        "position": pl.Int64(),  # in its batch, from 1
        "item_id": pl.String(),  # the document's name in the prompt
        "tenant": pl.String(),
        "taxonomy": pl.String(),
        "identity": pl.String(),
        "content_key": pl.String(),
        "tier": pl.String(),
        "complexity": pl.Float64(),
        "tokens": pl.Int64(),  # estimated input tokens of this document
        "purpose": pl.String(),
    }
)

STANDARD_TIER = "standard"
DOCUMENT_TOKENS = 12  # the JSON around a document: id, keys, quotes

_GROUP = ["tenant", "taxonomy", "identity", "tier", "purpose"]


@dataclass(frozen=True)
class Tier:
    """One step of the ladder of models, the cheapest first."""

    name: str
    model: str
    max_complexity: float = 1.0
    """Reviews up to this complexity begin here; the last tier takes the rest."""
    max_reviews: int = 100
    """Most reviews in a batch of this model."""
    effort: str | None = None
    """Its reasoning_effort; None: not sent."""


def complexity(texts: pl.Series) -> pl.Series:
    """How hard each text is to label, 0 (easy) to 1: the weighted mean of four parts.

    Technical, sentiment, length and domain; weights and words are tables/complexity.toml.
    """
    table = load_table("complexity")
    text = pl.col("text").str.to_lowercase()
    words = text.str.count_matches(r"\S+").clip(lower_bound=table["words_at_least"])
    length = estimated_tokens(pl.col("text")) / table["length"]["full_at"]
    parts = {"length": length} | {
        name: text.str.count_matches(_any_of(table[name])) * 100 / words / table[name]["full_at"]
        for name in ("technical", "sentiment", "domain")
    }
    weights = {name: table[name]["weight"] for name in parts}
    score = pl.sum_horizontal(
        part.clip(upper_bound=1.0) * weights[name] for name, part in parts.items()
    ) / sum(weights.values())
    return texts.alias("text").to_frame().select(complexity=score).to_series()


def _any_of(part: Mapping[str, Any]) -> str:
    choices = [*part["patterns"], *(re.escape(word) for word in part["words"])]
    return rf"\b(?:{'|'.join(choices)})\b"


def instruction_like(texts: pl.Series) -> pl.Series:
    """Whether a text speaks as if to a model: words are tables/instructions.toml.

    Such a text travels alone, so that a model which obeys it mislabels nothing else.
    """
    patterns = "|".join(load_table("instructions")["patterns"])
    return texts.str.to_lowercase().str.contains(patterns)


def plan_batches(
    misses: pl.DataFrame,
    asking: Callable[[str, Tier], Asking],
    ladder: Sequence[Tier],
    settings: BatchSettings,
    day: date,
    in_flight: int = 8,
) -> pl.DataFrame:
    """Pack the misses into batches.

    misses: MISSES, unique by identity and content_key; asking: how a taxonomy, by name, is asked
    in a tier. Returns PLAN, one row a miss, batch by batch in the order they are to be sent. A
    batch has at most `max_reviews` of its tier, and at least `min_reviews` unless the tokens or
    the misses do not allow it.
    """
    if misses.is_empty():
        return PLAN.to_frame()
    tiers = {tier.name: tier for tier in ladder}
    packed = []
    for group in _measured(misses, ladder, settings, day).partition_by(_GROUP):
        tier = tiers[group["tier"][0]]
        fixed = asking(group["taxonomy"][0], tier).fixed_tokens
        limits = _Limits(
            min(settings.min_reviews, tier.max_reviews),
            tier.max_reviews,
            max(1, settings.max_input_tokens - fixed),
            in_flight,
        )
        packed.append(_packed(group, limits, day))
    return pl.concat(packed).sort("first", "batch_id", "position").select(PLAN.names()).cast(PLAN)


@dataclass(frozen=True)
class _Limits:
    """What a batch of one group may hold."""

    min_reviews: int
    max_reviews: int
    max_tokens: int
    in_flight: int


def _measured(
    misses: pl.DataFrame, ladder: Sequence[Tier], settings: BatchSettings, day: date
) -> pl.DataFrame:
    """The misses with tier, complexity, tokens, room, order and alone.

    `room` is the share of a batch that one takes, `order` is shuffled by the seed, `alone` says
    that it must not travel with others.
    """
    whole = misses.select(pl.concat_str(["title", "text"], separator="\n", ignore_nulls=True))
    texts = whole.to_series()
    keys = misses.select("identity", "content_key").iter_rows()
    tier = pl.lit(ladder[-1].name)
    for step in reversed(ladder[:-1]):
        fits = pl.col("complexity") <= step.max_complexity
        tier = pl.when(fits).then(pl.lit(step.name)).otherwise(tier)
    return (
        misses.with_columns(
            complexity=complexity(texts),
            alone=instruction_like(texts),
            tokens=estimated_tokens(pl.col("title").fill_null(""))
            + estimated_tokens(pl.col("text"))
            + DOCUMENT_TOKENS,
            order=pl.Series([_digest([settings.seed, day, *key]) for key in keys], dtype=pl.String),
        )
        .with_columns(tier=tier)
        .drop("title", "text")
    )


def _packed(group: pl.DataFrame, limits: _Limits, day: date) -> pl.DataFrame:
    """One group with batch_id, position, item_id and `first` (what orders the batches)."""
    # A document of more than half the limit travels alone; without those, twice as many batches
    # as the tokens need always fit, so the search below ends soon.
    alone = pl.col("alone") | (pl.col("tokens") > limits.max_tokens // 2)
    large = group.filter(alone).sort("order").with_row_index("batch")
    dealt = _dealt(group.filter(~alone), limits).with_columns(batch=pl.col("batch") + large.height)
    placed = pl.concat([large.cast({"batch": pl.Int64}), dealt.select(large.columns)])
    named = placed.group_by("batch").agg(
        batch_id=pl.col("content_key").sort(), first=pl.col("order").min()
    )
    prefix = [day, *group.select(_GROUP).row(0)]
    ids = [_digest([*prefix, *keys]) for keys in named["batch_id"]]
    return (
        placed.join(named.with_columns(batch_id=pl.Series(ids, dtype=pl.String)), on="batch")
        .sort("batch", "order")
        .with_columns(position=pl.int_range(1, pl.len() + 1).over("batch"))
        .with_columns(item_id=pl.col("position").cast(pl.String))
    )


def _dealt(group: pl.DataFrame, limits: _Limits) -> pl.DataFrame:
    """The group with `batch`, dealt out like cards: longest first, to and fro over the batches."""
    ranked = group.sort(["tokens", "order"], descending=[True, False])
    count = _batch_count(ranked, limits)
    while True:
        turn, place = (
            pl.int_range(pl.len()) // max(count, 1),
            pl.int_range(pl.len()) % max(count, 1),
        )
        forth = turn % 2 == 0
        dealt = ranked.with_columns(batch=pl.when(forth).then(place).otherwise(count - 1 - place))
        heaviest = dealt.group_by("batch").agg(pl.col("tokens").sum())["tokens"].max()
        if heaviest is None or int(str(heaviest)) <= limits.max_tokens:
            return dealt
        count += max(1, count // 20)


def _batch_count(group: pl.DataFrame, limits: _Limits) -> int:
    """How many batches a group is dealt to, before the check of the heaviest one.

    As many as complexity asks for, and enough to keep all places in flight busy to the end, as
    long as none falls under `min_reviews`; more only where reviews or tokens do not fit.
    """
    span = limits.max_reviews - limits.min_reviews
    room = float((1 / (limits.max_reviews - group["complexity"] * span)).sum())
    tokens = int(group["tokens"].sum())
    needed = max(math.ceil(group.height / limits.max_reviews), -(-tokens // limits.max_tokens))
    wanted = max(needed, math.ceil(room - 1e-9))
    whole_rounds = math.ceil(wanted / limits.in_flight) * limits.in_flight
    return max(needed, min(whole_rounds, max(1, group.height // limits.min_reviews)))


def _digest(parts: Iterable[object]) -> str:
    return hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=12).hexdigest()
