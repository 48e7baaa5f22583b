"""What a day's reviews are like, as counts: the profiles that drift is told from."""

from __future__ import annotations

import hashlib
import itertools
import json
import zlib
from collections.abc import Iterable
from typing import Final

import polars as pl

from review_optimizer_dagster.monitors.language import language_of, words_of

EVERYTHING: Final = ""  # the category of rows that count all reviews
KEY: Final = ("tenant", "taxonomy", "simulated", "category", "signal")
NO_ANSWER: Final = "none"  # the level of a review without a label

VOCABULARY_BUCKETS: Final = 32
_LEAST_LETTERS: Final = 4  # shorter words are the same in every kind of text
_LENGTHS: Final = (16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096)  # upper ends, in characters
_MOST_CATEGORIES: Final = 300  # that a day's mix names; the rest is one bucket
_MOST_PROFILED: Final = 50  # categories with a profile of their own, the largest
OTHERS: Final = "(others)"

REVIEWS: Final = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy"), pl.String())
    | {"simulated": pl.Boolean()}
    | dict.fromkeys(("review_id", "category", "level", "labels", "title", "text"), pl.String())
)
AUDITS: Final = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy"), pl.String())
    | {"simulated": pl.Boolean(), "category": pl.String(), "agrees": pl.Boolean()}
)
PROFILES: Final = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy"), pl.String())
    | {"simulated": pl.Boolean()}
    | dict.fromkeys(("category", "signal", "bucket"), pl.String())
    | {"reviews": pl.Int64()}
)


def profile(reviews: pl.DataFrame, audits: pl.DataFrame, min_reviews: int) -> pl.DataFrame:
    """The counts of a day's reviews by signal and bucket: PROFILES.

    reviews: REVIEWS of one day, level `none` for those without a label; audits: AUDITS of the day.
    The signals are `label:FIELD`, `length` (characters of title and text, a bucket an octave),
    `language`, `vocabulary` (one word a review, drawn by its id and hashed: a review counts once,
    so that the counts are independent), `level`, `audit`, and of all reviews `category`. Each is
    counted over everything, and over each category with at least `min_reviews` reviews. Of a
    text no more than the bucket is kept.
    """
    if reviews.is_empty():
        return PROFILES.to_frame()
    texts = _texts(reviews)
    signals = [
        *_labels(reviews),
        *(
            (name, reviews.with_columns(bucket=texts[name]))
            for name in ("length", "language", "vocabulary")
        ),
        ("level", reviews.with_columns(bucket="level")),
        (
            "audit",
            audits.with_columns(
                bucket=pl.when("agrees").then(pl.lit("agrees")).otherwise(pl.lit("disagrees"))
            ),
        ),
    ]
    counted = pl.concat(
        [
            *(_counts(frame, name) for name, frame in signals),
            _counts(_with_few_categories(reviews), "category"),
        ]
    )
    whole = counted.group_by(*KEY[:3], "signal", "bucket").agg(pl.col("reviews").sum())
    own = counted.filter(pl.col("signal") != "category").join(
        _profiled(reviews, min_reviews), on=KEY[:4], how="semi"
    )
    everything = whole.with_columns(category=pl.lit(EVERYTHING))
    return (
        pl.concat([everything.select(PROFILES.names()), own.select(PROFILES.names())])
        .cast(PROFILES)
        .sort(*KEY, "bucket")
    )


def _counts(frame: pl.DataFrame, signal: str) -> pl.DataFrame:
    counts = frame.filter(pl.col("bucket").is_not_null()).group_by(*KEY[:4], "bucket")
    return counts.agg(reviews=pl.len().cast(pl.Int64)).with_columns(signal=pl.lit(signal))


def _profiled(reviews: pl.DataFrame, min_reviews: int) -> pl.DataFrame:
    """The categories that are looked at by themselves."""
    sizes = reviews.group_by(*KEY[:4]).len().filter(pl.col("len") >= max(1, min_reviews))
    ranked = sizes.sort("len", "category", descending=[True, False])
    return ranked.filter(pl.int_range(pl.len()).over(*KEY[:3]) < _MOST_PROFILED)


def _with_few_categories(reviews: pl.DataFrame) -> pl.DataFrame:
    sizes = reviews.group_by(*KEY[:4]).len().sort("len", "category", descending=[True, False])
    named = sizes.filter(pl.int_range(pl.len()).over(*KEY[:3]) < _MOST_CATEGORIES)
    named = named.select(*KEY[:4], bucket="category")
    return reviews.join(named, on=KEY[:4], how="left", nulls_equal=True).with_columns(
        pl.col("bucket").fill_null(OTHERS)
    )


def _labels(reviews: pl.DataFrame) -> Iterable[tuple[str, pl.DataFrame]]:
    """Each field of the labels, and the reviews with its label as their bucket."""
    spelled = [text for text in reviews["labels"].unique().to_list() if text is not None]
    read: dict[str, dict[str, str]] = {text: json.loads(text) for text in sorted(spelled)}
    for field in sorted({name for labels in read.values() for name in labels}):
        answers = {text: labels.get(field) for text, labels in read.items()}
        bucket = pl.col("labels").replace_strict(answers, default=None, return_dtype=pl.String)
        yield f"label:{field}", reviews.with_columns(bucket=bucket)


def _texts(reviews: pl.DataFrame) -> pl.DataFrame:
    """Of each review: length, language and vocabulary."""
    whole = reviews.select(
        "review_id",
        text=pl.concat_str(["title", "text"], separator=" ", ignore_nulls=True).str.strip_chars(),
    )
    languages, vocabulary = [], []
    for review_id, text in whole.iter_rows():
        words = words_of(text)
        languages.append(language_of(text, words))
        vocabulary.append(_drawn_word(review_id, words))
    breaks = [str(end) for end in _LENGTHS]
    return pl.DataFrame(
        {
            "length": whole["text"]
            .str.len_chars()
            .cut(_LENGTHS, labels=[*(f"to {end}" for end in breaks), f"over {breaks[-1]}"])
            .cast(pl.String),
            "language": pl.Series(languages, dtype=pl.String),
            "vocabulary": pl.Series(vocabulary, dtype=pl.String),
        }
    )


def _drawn_word(review_id: str, words: list[str]) -> str | None:
    """The bucket of one word of a review: the first long one from a place that its id draws."""
    if not words:
        return None
    digest = hashlib.blake2b(review_id.encode(), digest_size=8).digest()
    place = int.from_bytes(digest) % len(words)
    for word in itertools.chain(words[place:], words[:place]):
        if len(word) >= _LEAST_LETTERS:
            return f"{zlib.crc32(word.encode()) % VOCABULARY_BUCKETS:02d}"
    return None
