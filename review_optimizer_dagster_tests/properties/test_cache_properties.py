from __future__ import annotations

import random
from collections import Counter
from datetime import date, timedelta

import polars as pl
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from review_optimizer_dagster.core.cache import (
    CONTENTS,
    ENTRIES,
    USAGE,
    Identity,
    ReviewCache,
    levels,
)
from review_optimizer_dagster.matching.veto import veto
from review_optimizer_dagster.settings import CacheSettings
from review_optimizer_dagster_tests.core.test_cache import FrameArchive

IDENTITIES = ["acme|real", "zest|real", "acme|simulated"]
DAY = date(2026, 3, 1)
# Few words, so that texts are often alike, and the meaning often flips.
WORDS = [
    "the",
    "lamp",
    "lamps",
    "works",
    "not",
    "never",
    "great",
    "grreat",
    "good",
    "5",
    "but",
    "!",
]
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=7).map(" ".join)
identities = st.sampled_from(IDENTITIES)
SIZES = st.builds(
    CacheSettings,
    l1_entries=st.integers(0, 4),
    l2_entries=st.integers(0, 4),
    l3_near_entries=st.integers(0, 8),
    window_days=st.integers(1, 5),
)
held = st.dictionaries(
    st.tuples(identities, texts), st.sampled_from(["A", "B", "C"]), max_size=12
).map(
    lambda rows: pl.DataFrame(
        [
            (who, "k:" + text, "k:" + text, text, label, 1.0, DAY)
            for (who, text), label in rows.items()
        ],
        ENTRIES,
        orient="row",
    )
)
asked = st.sets(st.tuples(identities, texts), max_size=12).map(
    lambda rows: pl.DataFrame(
        [(who, "k:" + text, text) for who, text in sorted(rows)], CONTENTS, orient="row"
    )
)
used = st.lists(
    st.tuples(
        identities,
        texts,
        texts,
        st.sampled_from(["l1", "l2", "l3_exact", "l3_near", None]),
        st.integers(1, 4),
        st.integers(0, 6),
    ),
    max_size=20,
).map(
    lambda rows: pl.DataFrame(
        [
            (who, "k:" + key, "k:" + source, level, 1.0, times, DAY + timedelta(days=after))
            for who, key, source, level, times, after in rows
        ],
        USAGE,
        orient="row",
    )
)


def shuffled(frame: pl.DataFrame, seed: int) -> pl.DataFrame:
    order = list(range(frame.height))
    random.Random(seed).shuffle(order)  # noqa: S311  (rows are shuffled, no secret is made)
    return frame[order]


@settings(max_examples=60, deadline=None)
@given(held, asked, used, SIZES, st.integers())
def test_the_result_hangs_on_no_order(
    archive: pl.DataFrame, wanted: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings, seed: int
) -> None:
    """A partition gives the same result however its files and rows happened to be read."""
    # What near matching indexes is the archive's choice, so it must not be cut at random here.
    sizes = sizes.model_copy(update={"l3_near_entries": 50})
    l1, l2 = levels(hits, archive, sizes)
    mixed = levels(shuffled(hits, seed), shuffled(archive, seed), sizes)
    assert l1.equals(mixed.l1)
    assert l2.equals(mixed.l2)
    once = ReviewCache(sizes, l1, l2, FrameArchive(archive)).resolve(wanted)
    again = ReviewCache(sizes, l1, l2, FrameArchive(shuffled(archive, seed))).resolve(
        shuffled(wanted, seed)
    )
    keys = ["identity", "content_key"]
    assert once.sort(keys).equals(again.sort(keys))
    alone = [
        ReviewCache(sizes, l1, l2, FrameArchive(archive)).resolve(wanted[i : i + 1])
        for i in range(wanted.height)
    ]
    assert not alone or pl.concat(alone).equals(once)


@settings(max_examples=60, deadline=None)
@given(held, asked, used, SIZES)
def test_an_answer_is_of_its_identity_and_of_the_archive(
    archive: pl.DataFrame, wanted: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings
) -> None:
    """Every answer is word for word what the archive holds for its source, in one identity."""
    derived = levels(hits, archive, sizes)
    found = ReviewCache(sizes, *derived, FrameArchive(archive)).resolve(wanted)
    assert found.height == wanted.height
    answers = {(e["identity"], e["content_key"]): e for e in archive.iter_rows(named=True)}
    in_l1 = set(derived.l1.select("identity", "content_key", "source_key").iter_rows())
    text_of = {(w["identity"], w["content_key"]): w["text"] for w in wanted.iter_rows(named=True)}
    for row in found.filter(pl.col("level").is_not_null()).iter_rows(named=True):
        source = answers[row["identity"], row["source_key"]]
        assert row["labels"] == source["labels"]
        if row["level"] == "l1":
            assert (row["identity"], row["content_key"], row["source_key"]) in in_l1
        elif row["source_key"] != row["content_key"]:
            assert row["level"] in ("l2", "l3_near")
            assert sizes.min_ratio <= row["score"] <= row["near_score"]
            assert veto(text_of[row["identity"], row["content_key"]], source["text"]) is None


@settings(max_examples=60, deadline=None)
@given(held, used, SIZES)
def test_what_the_archive_knows_exactly_is_always_answered_exactly(
    archive: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings
) -> None:
    """No size, veto or similar text may stand between a text and its own archived answer."""
    derived = levels(hits, archive, sizes)
    wanted = archive.select(CONTENTS.names())
    found = ReviewCache(sizes, *derived, FrameArchive(archive)).resolve(wanted)
    assert found["labels"].to_list() == archive["labels"].to_list()
    assert found["source_key"].to_list() == archive["content_key"].to_list()
    assert found["score"].to_list() == [1.0] * archive.height


@settings(max_examples=60, deadline=None)
@given(held, used, SIZES)
def test_levels_stay_in_their_bounds(
    archive: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings
) -> None:
    """Sizes hold, both levels come from the archive, and L1 only from what L1 or L2 served."""
    l1, l2 = levels(hits, archive, sizes)
    assert l1.height <= sizes.l1_entries
    assert l2.height <= sizes.l2_entries
    for frame in (l1, l2):
        assert frame.schema == ENTRIES
        assert not frame.select("identity", "content_key").is_duplicated().any()
    answers = archive.select("identity", "source_key", "labels")
    keys = ["identity", "source_key", "labels"]
    assert l2.join(archive, on=archive.columns, how="anti").is_empty()
    assert l1.join(answers, on=keys, how="anti").is_empty()
    served = hits.filter(pl.col("level").is_in(["l1", "l2"]))
    assert l1.join(served, on=["identity", "content_key"], how="anti").is_empty()
    caused = hits.filter(pl.col("level").is_not_null())
    assert l2.join(caused, on=["identity", "source_key"], how="anti").is_empty()


@settings(max_examples=60, deadline=None)
@given(held, used, SIZES)
def test_what_a_level_evicts_ranks_below_what_it_keeps(
    archive: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings
) -> None:
    """A smaller level is the better part of a larger one: nothing is evicted out of turn."""
    roomy = sizes.model_copy(update={"l1_entries": 99, "l2_entries": 99})
    all_l1, all_l2 = levels(hits, archive, roomy)
    l1, l2 = levels(hits, archive, sizes)
    assert l1.equals(all_l1.tail(sizes.l1_entries))
    assert l2.equals(all_l2.head(sizes.l2_entries))


@settings(max_examples=60, deadline=None)
@given(held, used, st.integers(1, 3))
def test_one_off_texts_displace_nothing_popular(
    archive: pl.DataFrame, hits: pl.DataFrame, others: int
) -> None:
    """Answers that served one hit each leave L2 as it was where it is full of better ones."""
    popular = levels(
        hits.with_columns(times=pl.lit(2, pl.Int64)), archive, CacheSettings(window_days=9)
    ).l2
    full = CacheSettings(l2_entries=popular.height, window_days=9)
    once = pl.DataFrame(
        [
            ("acme|real", f"one-off {i}", f"one-off {i}", f"text {i}", "A", 1.0, DAY)
            for i in range(others)
        ],
        ENTRIES,
        orient="row",
    )
    last = hits["day"].max() or DAY
    noise = once.select(
        "identity",
        "content_key",
        "source_key",
        level=pl.lit("l3_exact"),
        score=pl.lit(1.0),
        times=pl.lit(1, pl.Int64),
        day=pl.lit(last, pl.Date),
    )
    noisy = pl.concat([hits.with_columns(times=pl.lit(2, pl.Int64)), noise])
    assert levels(noisy, pl.concat([archive, once]), full).l2.equals(popular)


@settings(max_examples=60, deadline=None)
@given(held, asked, used, SIZES, st.integers(0, 11))
def test_a_purge_takes_along_every_descendant(
    archive: pl.DataFrame, wanted: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings, at: int
) -> None:
    """An entry that is gone answers at no level, and neither does what L1 and L2 had of it."""
    assume(at < archive.height)
    purged = archive[at].select("identity", "source_key")
    left = archive.join(purged, on=["identity", "source_key"], how="anti")
    derived = levels(hits, left, sizes)
    everything = pl.concat([wanted, archive.select(CONTENTS.names())]).unique(
        ["identity", "content_key"]
    )
    found = ReviewCache(sizes, *derived, FrameArchive(left)).resolve(everything)
    for frame in (*derived, found):
        assert frame.join(purged, on=["identity", "source_key"], how="semi").is_empty()


@settings(max_examples=60, deadline=None)
@given(held, asked, used, SIZES, st.sets(st.tuples(identities, st.sampled_from(["l2", "l3_near"]))))
def test_what_is_off_answers_nothing_and_disturbs_nobody(
    archive: pl.DataFrame,
    wanted: pl.DataFrame,
    hits: pl.DataFrame,
    sizes: CacheSettings,
    off: set[tuple[str, str]],
) -> None:
    """Only the near answers of the levels named change; the same cache counts what it gave."""
    derived = levels(hits, archive, sizes)
    before = ReviewCache(sizes, *derived, FrameArchive(archive)).resolve(wanted)
    cache = ReviewCache(sizes, *derived, FrameArchive(archive), off)
    after = cache.resolve(wanted)
    for old, new in zip(before.iter_rows(named=True), after.iter_rows(named=True), strict=True):
        near = new["level"] and new["level"] != "l1" and new["source_key"] != new["content_key"]
        assert not near or (new["identity"], new["level"]) not in off
        if not any(identity == old["identity"] for identity, _ in off):
            assert old == new
    answered = [(row["identity"], row["level"] or "miss") for row in after.iter_rows(named=True)]
    assert {key: n for key, n in cache.counts.items() if key[1] != "vetoed"} == Counter(answered)


@settings(max_examples=60, deadline=None)
@given(held, used, SIZES)
def test_levels_are_idempotent(
    archive: pl.DataFrame, hits: pl.DataFrame, sizes: CacheSettings
) -> None:
    """Derived from what they kept, levels are what they were: a restart changes nothing."""
    first = levels(hits, archive, sizes)
    keys = ["identity", "source_key"]
    kept = pl.concat([first.l1.select(keys), first.l2.select(keys)]).unique()
    narrowed = archive.join(kept, on=keys, how="semi")
    again = levels(hits, narrowed, sizes)
    assert again.l2.equals(first.l2)
    assert again.l1.drop("text").equals(first.l1.drop("text"))


@given(texts, texts)
def test_the_veto_is_symmetric_and_lets_a_text_answer_itself(a: str, b: str) -> None:
    """Neither order nor a text's own words may raise an objection."""
    assert veto(a, b) == veto(b, a)
    assert veto(a, a) in (None, "content: no words")


@given(st.tuples(*[st.text("ab|%", max_size=4)] * 5), st.booleans())
def test_the_identity_key_can_be_read_back(
    parts: tuple[str, str, str, str, str], simulated: bool
) -> None:
    """Two identities never share a key, whatever stands in their parts."""
    *read, kind = Identity(*parts, simulated).key.split("|")
    assert [part.replace("%7c", "|").replace("%25", "%") for part in read] == [*parts]
    assert kind == ("simulated" if simulated else "real")
