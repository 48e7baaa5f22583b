from __future__ import annotations

import subprocess
import sys
from collections.abc import Collection
from datetime import date, timedelta

import polars as pl
import pytest
from rapidfuzz import fuzz

from review_optimizer_dagster.core.cache import (
    CONTENTS,
    ENTRIES,
    POLICIES,
    RESOLUTION,
    USAGE,
    ExactLru,
    Identity,
    ReviewCache,
    levels,
    valid_since,
)
from review_optimizer_dagster.settings import CacheSettings

ACME = Identity("acme", "reviews@1", "p1", "m1", "1", simulated=False).key
ZEST = Identity("zest", "reviews@1", "p1", "m1", "1", simulated=False).key
DAY = date(2026, 3, 1)
EMPTY = pl.DataFrame(schema=ENTRIES)


class FrameArchive:
    """An archive in memory; answers of before `since` have expired."""

    def __init__(self, entries: pl.DataFrame, since: date = date.min) -> None:
        self.entries = entries.filter(pl.col("day") >= since)

    def exact(self, contents: pl.DataFrame) -> pl.DataFrame:
        return self.entries.join(contents, on=["identity", "content_key"], how="semi")

    def near(self, identity: str, limit: int) -> pl.DataFrame:
        return self.entries.filter(identity=identity).head(limit)


def entries(*rows: tuple[str, str, str], identity: str = ACME) -> pl.DataFrame:
    """Model answers: (key, text, labels)."""
    filled = [(identity, key, key, text, labels, 1.0, DAY) for key, text, labels in rows]
    return pl.DataFrame(filled, ENTRIES, orient="row")


def contents(*rows: tuple[str, str], identity: str = ACME) -> pl.DataFrame:
    return pl.DataFrame([(identity, *row) for row in rows], CONTENTS, orient="row")


def usage(*rows: tuple[str, str, str | None, int, int]) -> pl.DataFrame:
    """Hits: (content_key, source_key, level, times, days after DAY)."""
    filled = [
        (ACME, key, source, level, 1.0, times, DAY + timedelta(days=after))
        for key, source, level, times, after in rows
    ]
    return pl.DataFrame(filled, USAGE, orient="row")


def resolve(
    archive: pl.DataFrame,
    asked: pl.DataFrame,
    *,
    l1: pl.DataFrame = EMPTY,
    l2: pl.DataFrame = EMPTY,
    settings: CacheSettings | None = None,
    off: Collection[tuple[str, str]] = (),
) -> pl.DataFrame:
    cache = ReviewCache(settings or CacheSettings(), l1, l2, FrameArchive(archive), off)
    return cache.resolve(asked)


def test_identities_never_share_a_key() -> None:
    """A part that holds the separator could otherwise pose as another identity."""
    assert (
        Identity("a|b", "c", "p", "m", "1", False).key
        != Identity("a", "b|c", "p", "m", "1", False).key
    )
    assert (
        Identity("a", "c", "p", "m", "1", False).key != Identity("a", "c", "p", "m", "1", True).key
    )
    assert ACME == "acme|reviews@1|p1|m1|1|real"


def test_every_level_answers_and_says_so() -> None:
    """What people read in the summary and in `explain` is this column."""
    archive = entries(
        ("k1", "the kettle boils fast", "L1"),
        ("k2", "the toaster browns evenly", "L2"),
        ("k3", "the blender is easy to clean", "L3"),
        ("k4", "the lamp gives a warm light", "L4"),
    )
    asked = contents(
        ("k1", "the kettle boils fast"),
        ("k2", "the toaster browns evenly"),
        ("n2", "the toaster browns evenly!!"),
        ("k3", "the blender is easy to clean"),
        ("n4", "the lamp gives a warm lights"),
        ("x", "nothing of the kind was ever written"),
    )
    found = resolve(archive, asked, l1=archive[:1], l2=archive[:2])
    assert found.schema == RESOLUTION
    assert found["content_key"].to_list() == asked["content_key"].to_list()
    assert found["level"].to_list() == ["l1", "l2", "l2", "l3_exact", "l3_near", None]
    assert found["labels"].to_list() == ["L1", "L2", "L2", "L3", "L4", None]
    assert found["source_key"].to_list() == ["k1", "k2", "k2", "k3", "k4", None]
    near = found.filter(content_key="n4").row(0, named=True)
    ratio = fuzz.ratio("the lamp gives a warm light", "the lamp gives a warm lights") / 100
    assert near["score"] == near["near_score"] == pytest.approx(ratio)


def test_an_exact_answer_of_l3_beats_a_near_one_of_l2() -> None:
    """A right answer beats a similar one, however cheap the similar one is."""
    archive = entries(("old", "a great case", "near"), ("own", "a great cases", "own"))
    found = resolve(archive, contents(("own", "a great cases")), l2=archive[:1])
    assert found.select("level", "labels").row(0) == ("l3_exact", "own")


def test_a_vetoed_candidate_makes_way_for_the_next() -> None:
    """The most similar text may be the one with the opposite meaning."""
    archive = entries(
        ("neg", "i would not buy this kettle again", "no"),
        ("pos", "i would buy these kettles again!", "yes"),
    )
    found = resolve(archive, contents(("q", "i would buy this kettle again"))).row(0, named=True)
    assert (found["level"], found["labels"]) == ("l3_near", "yes")
    assert found["veto"] == "negation: not"
    assert found["near_score"] > found["score"]


def test_a_refused_candidate_is_explained_on_the_miss() -> None:
    """`explain` must be able to say why a text that looks known went to the model."""
    archive = entries(("k", "it works with my old phone", "yes"))
    found = resolve(archive, contents(("q", "it never works with my old phone"))).row(0, named=True)
    assert found["level"] is None
    assert found["labels"] is None
    assert found["near_score"] >= 0.85
    assert found["veto"] == "negation: never"


def test_equal_candidates_are_decided_by_key() -> None:
    """Two equally near entries may carry different labels; the choice must not hang on chance."""
    archive = entries(("b", "nice soft pillow!", "B"), ("a", "nice soft pillow.", "A"))
    for order in (archive, archive.reverse()):
        assert resolve(order, contents(("q", "nice soft pillow;")))["source_key"].item() == "a"


def test_a_derived_answer_is_no_candidate_for_near_matching() -> None:
    """Text like a text that is like another drifts from what the model saw."""
    derived = entries(("k", "a lovely green vase", "x")).with_columns(source_key=pl.lit("other"))
    assert resolve(derived, contents(("q", "a lovely green vases")))["level"].item() is None


def test_nothing_crosses_identities() -> None:
    """A pool, a prompt or a model of its own is the promise that tenants are given."""
    archive = entries(("k", "a sturdy little ladder", "x"), identity=ZEST)
    asked = contents(("k", "a sturdy little ladder"), ("n", "a sturdy little ladders"))
    found = resolve(archive, asked, l1=archive, l2=archive)
    assert found["level"].to_list() == [None, None]


def test_empty_frames_resolve_to_empty_frames() -> None:
    """An empty partition and a first day without an archive are ordinary days."""
    assert resolve(EMPTY, contents()).schema == RESOLUTION
    assert resolve(EMPTY, contents(("k", "a text"), ("e", "")))["level"].to_list() == [None, None]
    derived = levels(pl.DataFrame(schema=USAGE), EMPTY, CacheSettings())
    assert derived.l1.schema == derived.l2.schema == ENTRIES


def test_the_same_key_twice_is_refused() -> None:
    """A doubled key would silently double reviews."""
    archive = entries(("k", "a text", "x"))
    with pytest.raises(ValueError, match="stands twice"):
        resolve(archive, contents(("k", "a text"), ("k", "a text")))


def test_size_zero_switches_a_level_off() -> None:
    """Benchmarks switch levels off in turn, and so may a tenant's operator."""
    archive = entries(("k", "a roomy canvas bag", "x"))
    off = CacheSettings(l1_entries=0, l2_entries=0, l3_near_entries=0)
    asked = contents(("k", "a roomy canvas bag"), ("n", "a roomy canvas bags"))
    found = resolve(archive, asked, l1=archive, l2=archive, settings=off)
    assert found["level"].to_list() == ["l3_exact", None]


def test_a_near_level_that_is_off_is_not_consulted() -> None:
    """Rechecks switch off what answers wrongly; exact keys are another matter."""
    archive = entries(
        ("k1", "the kettle boils fast", "L1"), ("k2", "the toaster browns evenly", "L2")
    )
    asked = contents(
        ("k1", "the kettle boils fast"),
        ("n1", "the kettle boils fast!"),
        ("k2", "the toaster browns evenly"),
        ("n2", "the toaster browns evenly!"),
    )
    everything = {(ACME, "l2"), (ACME, "l3_near")}
    for off, expected in (
        (set[tuple[str, str]](), ["l2", "l2", "l3_exact", "l3_near"]),
        # What L2 holds stands in the archive too, and answers from there.
        ({(ACME, "l2")}, ["l2", "l3_near", "l3_exact", "l3_near"]),
        ({(ACME, "l3_near")}, ["l2", "l2", "l3_exact", None]),
        (everything, ["l2", None, "l3_exact", None]),
        ({(ZEST, level) for _, level in everything}, ["l2", "l2", "l3_exact", "l3_near"]),
    ):
        found = resolve(archive, asked, l2=archive[:1], off=off)
        assert found["level"].to_list() == expected


def test_the_cache_counts_what_it_answered() -> None:
    """An operator sees from the counters which level earns its memory."""
    archive = entries(("k", "it works with my old phone", "yes"))
    cache = ReviewCache(CacheSettings(), archive, EMPTY, FrameArchive(archive))
    for _ in range(2):
        cache.resolve(
            contents(
                ("k", "it works with my old phone"),
                ("n", "it works with my old phones"),
                ("v", "it never works with my old phone"),
                ("m", "nothing of the kind"),
            )
        )
    assert dict(cache.counts) == {
        (ACME, "l1"): 2,
        (ACME, "l3_near"): 2,
        (ACME, "miss"): 4,
        (ACME, "vetoed"): 2,
    }
    assert (cache.l1.hits, cache.l1.misses) == (2, 6)


def test_a_hit_climbs_one_level_a_day() -> None:
    """L3 to L2, L2 to L1: what is asked often becomes cheap to answer."""
    archive = entries(("k", "a fine woollen scarf", "x"), ("never", "an unread book", "y"))
    settings = CacheSettings()
    asked = contents(("q", "a fine woollen scarfs"))
    seen: list[str] = []
    hits = pl.DataFrame(schema=USAGE)
    for day in range(4):
        l1, l2 = levels(hits, archive, settings)
        found = resolve(archive, asked, l1=l1, l2=l2)
        seen.append(found["level"].item())
        assert found.select("labels", "source_key").row(0) == ("x", "k")
        hit = found.select("identity", "content_key", "source_key", "level", "score").with_columns(
            times=pl.lit(1, pl.Int64), day=pl.lit(DAY + timedelta(days=day))
        )
        hits = pl.concat([hits, hit.select(USAGE.names())])
    assert seen == ["l3_near", "l2", "l1", "l1"]


def test_one_off_texts_do_not_push_out_popular_ones() -> None:
    """Entry to L2 is by popularity over the window, not by the last day's noise."""
    archive = entries(*((f"k{i}", f"text {i}", "x") for i in range(5)))
    hits = usage(
        ("a", "k4", "l3_near", 9, 0),
        ("b", "k1", "l3_near", 1, 5),
        ("k0", "k0", "l3_exact", 1, 5),
        ("c", "k3", "l3_near", 1, 6),
    )
    l2 = levels(hits, archive, CacheSettings(l2_entries=3)).l2
    assert l2["content_key"].to_list() == ["k4", "k3", "k0"]


def test_l1_forgets_what_was_used_longest_ago() -> None:
    """LRU by last day, times on that day, then key."""
    archive = entries(*((f"k{i}", f"text {i}", f"L{i}") for i in range(6)))
    hits = usage(
        ("k0", "k0", "l1", 50, 0),
        ("k1", "k1", "l2", 1, 3),
        ("k2", "k2", "l2", 4, 3),
        ("k3", "k3", "l2", 1, 3),
        ("k4", "k4", "l3_exact", 9, 4),
    )
    l1 = levels(hits, archive, CacheSettings(l1_entries=3)).l1
    assert l1["content_key"].to_list() == ["k1", "k3", "k2"]
    assert l1["labels"].to_list() == ["L1", "L3", "L2"]
    assert l1["text"].to_list() == ["text 1", "text 3", "text 2"]


def test_hits_outside_the_window_do_not_count() -> None:
    """Popularity is of late; last year's favourite gives way."""
    archive = entries(("old", "old text", "x"), ("new", "new text", "y"))
    hits = usage(("old", "old", "l2", 99, 0), ("new", "new", "l2", 1, 30))
    derived = levels(hits, archive, CacheSettings(window_days=30))
    assert derived.l1["content_key"].to_list() == derived.l2["content_key"].to_list() == ["new"]
    wider = levels(hits, archive, CacheSettings(window_days=31))
    assert wider.l2["content_key"].to_list() == ["old", "new"]


def test_near_matching_keeps_the_most_useful_answers() -> None:
    """Hits in the window decide, then the age of the answer; the storage ranks by this table."""
    candidates = pl.DataFrame(
        {
            "content_key": ["unused old", "b new", "a new", "used old", "used often"],
            "times": [0, 0, 0, 2, 3],
            "day": [DAY, DAY + timedelta(days=5), DAY + timedelta(days=5), DAY, DAY],
        }
    )
    best = POLICIES["l3_near"].best(candidates, CacheSettings(l3_near_entries=4))
    assert best["content_key"].to_list() == ["used often", "used old", "a new", "b new"]


def test_every_level_ranks_to_the_last_tie() -> None:
    """A tie that nothing decides would make a result hang on the order of rows."""
    for policy in POLICIES.values():
        assert "content_key" in dict(policy.rank)
        assert policy.size in CacheSettings.model_fields


def test_what_a_pattern_answered_enters_no_level() -> None:
    """A derived answer without an entry of its own has nothing that could be kept or audited."""
    archive = entries(("k", "a text", "x"))
    hits = usage(("p", "pattern:7", "l3_pattern", 9, 0), ("p", "pattern:7", "l1", 3, 0))
    derived = levels(hits, archive, CacheSettings())
    assert derived.l1.is_empty()
    assert derived.l2.is_empty()


def test_an_expired_answer_answers_at_no_level() -> None:
    """What a taxonomy lets expire must not live on in a copy that was used yesterday."""
    archive = entries(("k", "a tidy oak box", "x"))
    hits = usage(("k", "k", "l1", 3, 9), ("n", "k", "l2", 3, 9))
    asked = contents(("k", "a tidy oak box"), ("n", "a tidy oak boxes"), ("q", "a tidy oak box!"))
    for age, expected in ((10, ["l1", "l1", "l2"]), (11, [None, None, None])):
        kept = FrameArchive(archive, valid_since(DAY + timedelta(days=age), 10))
        l1, l2 = levels(hits, kept.entries, CacheSettings())
        found = ReviewCache(CacheSettings(), l1, l2, kept).resolve(asked)
        assert found["level"].to_list() == expected


def test_what_leaves_the_archive_leaves_every_level() -> None:
    """A withdrawn answer must take along everything that came from it."""
    archive = entries(("k", "a text", "x"), ("other", "b text", "y"))
    hits = usage(("near", "k", "l2", 3, 0), ("k", "k", "l1", 3, 0), ("other", "other", "l2", 1, 0))
    derived = levels(hits, archive.filter(pl.col("content_key") != "k"), CacheSettings())
    assert derived.l1["source_key"].to_list() == derived.l2["source_key"].to_list() == ["other"]


def test_an_archived_answer_of_its_own_replaces_a_derived_one_in_l1() -> None:
    """Once the model has judged the text itself, the similar text's labels are out of date."""
    archive = entries(("src", "a tidy box", "derived"), ("q", "a tidy boxes", "own"))
    l1 = levels(usage(("q", "src", "l2", 1, 0)), archive, CacheSettings()).l1
    assert l1.select("content_key", "source_key", "labels", "score").row(0) == (
        "q",
        "q",
        "own",
        1.0,
    )


def test_the_lru_keeps_what_it_was_asked_for() -> None:
    """A get counts as a use, a put of a known name replaces, a capacity of 0 keeps nothing."""
    lru: ExactLru[str, int] = ExactLru(2)
    lru.put("a", 1)
    lru.put("b", 2)
    lru.put("a", 3)
    lru.put("c", 4)
    assert list(lru) == ["a", "c"]
    assert lru.get("a") == 3
    lru.put("d", 5)
    assert list(lru) == ["a", "d"]
    none: ExactLru[str, int] = ExactLru(0)
    none.put("a", 1)
    assert none.get("a") is None


def test_importing_the_cache_stays_light() -> None:
    """Every command pays for what is imported at the top."""
    code = (
        "import sys, review_optimizer_dagster.core.cache;"
        "print([m for m in ('numpy', 'scipy', 'pandas', 'dagster') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
