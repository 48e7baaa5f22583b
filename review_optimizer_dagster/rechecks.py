"""Rechecks, between cache and model: which hits are asked all the same, and what that shows.

A hit is drawn by a permanent random number, so that running a day again draws the same ones, and
so that those under any smaller probability are a uniform sample (Ohlsson, "Coordination of samples
using permanent random numbers", in Business Survey Methods, 1995).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

import polars as pl

from review_optimizer_dagster.bounds import intervals, lower_bound
from review_optimizer_dagster.settings import RecheckSettings

PATTERN: Final = "l3_pattern"
NEAR_LEVELS: Final = frozenset({"l2", "l3_near"})  # those that may be switched off
WHOLE_REVIEW: Final = ""  # the class of rows that count reviews, not one label of a field
_DRAW_BITS: Final = 53  # what a float holds exactly, so that no draw is rounded up to 1
_INTERVAL: Final = 0.90  # two-sided; each end is a one-sided bound of 95 %
_CONFIDENCE: Final = 0.95  # that a level which is switched off is as wrong as that
_ENTRY: Final = ["identity", "source_key"]

LEVEL_ERRORS: Final = pl.Schema(
    dict.fromkeys(("identity", "tenant", "taxonomy"), pl.String())
    | {
        "simulated": pl.Boolean(),
        "level": pl.String(),
        "class": pl.String(),  # field=label, as served; '' counts reviews
        "n": pl.Int64(),
        "disagreements": pl.Int64(),
        "lower": pl.Float64(),
        "upper": pl.Float64(),
    }
)


def draw(content_keys: pl.Series, day: date, seed: int) -> pl.Series:
    """Each text's permanent random number of a day, uniform in [0, 1).

    >>> draw(pl.Series(["a", "b"]), date(2026, 3, 4), 0).round(3).to_list()
    [0.376, 0.994]
    """
    digests = (
        hashlib.blake2b(f"{seed}|{day}|{key}".encode(), digest_size=8).digest()
        for key in content_keys
    )
    draws = [(int.from_bytes(digest) >> (64 - _DRAW_BITS)) / 2**_DRAW_BITS for digest in digests]
    return pl.Series("draw", draws, dtype=pl.Float64)


def drawn(texts: pl.DataFrame, settings: RecheckSettings) -> pl.DataFrame:
    """Decide which hits are rechecked: adds `asked` (probability) and `audit`.

    texts, each once: identity, source_key, level (null: a miss, which is always asked), draw,
    least (null, or a probability that a level asks for), reviews (of the day that have the text),
    comes_again (a pattern answers it now, and did on an earlier day), and of the entry that
    answers: answered_before (an earlier day), vetted (a recheck agreed with it), entry_reviews (of
    the day that it answered in earlier runs) and identity_reviews (all of the day). An entry that
    was never vetted and would answer more than `most_unaudited` of the day is rechecked for
    certain, on its text with the smallest draw: the one that any probability takes first, so that
    the sample stays uniform. A single review is no such share, however few
    the day has: asking for each would pay for every first hit of a small tenant.
    """
    served = pl.col("entry_reviews") + pl.col("reviews").sum().over(_ENTRY)
    too_much = (served > 1) & (served > settings.most_unaudited * pl.col("identity_reviews"))
    first = pl.col("draw") == pl.col("draw").min().over(_ENTRY)
    certain = too_much & first & ~pl.col("vetted") & (pl.col("level") != PATTERN)
    share = (
        pl.when("comes_again")
        .then(max(settings.share, settings.repeat_share))
        .when("answered_before")
        .then(settings.share)
        .otherwise(settings.new_share)
    )
    is_hit = pl.col("level").is_not_null()
    asked = (
        pl.when(~is_hit | certain)
        .then(1.0)
        .otherwise(pl.max_horizontal(share, "least").clip(upper_bound=1.0))
    )
    return texts.with_columns(asked=asked).with_columns(
        audit=is_hit & (pl.col("draw") < pl.col("asked"))
    )


def judged(rechecks: pl.DataFrame) -> pl.DataFrame:
    """Add `agrees`: whether the model gave every field the label that was served.

    rechecks: labels, answer (both JSON objects, field to label).
    """
    pairs = rechecks.select("labels", "answer").iter_rows()
    agrees = [json.loads(labels) == json.loads(answer) for labels, answer in pairs]
    return rechecks.with_columns(agrees=pl.Series(agrees, dtype=pl.Boolean))


def level_errors(sample: pl.DataFrame) -> pl.DataFrame:
    """How often the model contradicted each level, a tenant and class (LEVEL_ERRORS).

    sample: a uniform sample of rechecks: identity, tenant, taxonomy, level, labels, answer, agrees.
    """
    by = ["identity", "tenant", "taxonomy", "level"]
    rows = []
    for *scope, labels, answer, agrees in sample.select(
        *by, "labels", "answer", "agrees"
    ).iter_rows():
        rows.append((*scope, WHOLE_REVIEW, not agrees))
        told = json.loads(answer)
        served: dict[str, Any] = json.loads(labels)
        rows += [
            (*scope, f"{field}={label}", told.get(field) != label)
            for field, label in served.items()
        ]
    schema = dict.fromkeys([*by, "class"], pl.String) | {"wrong": pl.Boolean}
    counts = (
        pl.DataFrame(rows, schema=schema, orient="row")
        .group_by(*by, "class")
        .agg(n=pl.len().cast(pl.Int64), disagreements=pl.col("wrong").sum().cast(pl.Int64))
        .sort(*by, "class")
    )
    lower, upper = intervals(counts["disagreements"].to_numpy(), counts["n"].to_numpy(), _INTERVAL)
    return counts.with_columns(
        simulated=pl.col("identity").str.ends_with("|simulated"),
        lower=pl.Series(lower, dtype=pl.Float64),
        upper=pl.Series(upper, dtype=pl.Float64),
    ).select(LEVEL_ERRORS.names())


def distrusted(sample: pl.DataFrame, allowed: Mapping[str, float]) -> pl.DataFrame:
    """The near levels that are wrong more often than their tenants allow, beyond doubt.

    sample: a uniform sample of rechecks: identity, content_key, source_key, level, day, agrees;
    allowed: identity to the largest share of wrong reviews. Only similar texts are doubted: an
    exact match that the model contradicts costs the entry, not the level. Returns identity, level
    ('l2' or 'l3_near'), n, disagreements, lower (one-sided 95 % Clopper-Pearson bound of the
    error), allowed, and `last`, the last day that had a recheck.
    """
    near = pl.col("level").is_in(sorted(NEAR_LEVELS)) & (
        pl.col("source_key") != pl.col("content_key")
    )
    counts = (
        sample.filter(near)
        .group_by("identity", "level")
        .agg(
            n=pl.len().cast(pl.Int64),
            disagreements=(~pl.col("agrees")).sum().cast(pl.Int64),
            last=pl.col("day").max(),
        )
        .sort("identity", "level")
    )
    limits = [allowed.get(identity, 1.0) for identity in counts["identity"]]
    lower = [
        lower_bound(wrong, n, _CONFIDENCE)
        for wrong, n in counts.select("disagreements", "n").iter_rows()
    ]
    return counts.with_columns(
        lower=pl.Series(lower, dtype=pl.Float64), allowed=pl.Series(limits, dtype=pl.Float64)
    ).filter(pl.col("lower") > pl.col("allowed"))
