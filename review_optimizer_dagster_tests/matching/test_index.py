from __future__ import annotations

import random
from collections.abc import Sequence

from rapidfuzz import fuzz

from review_optimizer_dagster.matching.index import NearIndex
from review_optimizer_dagster_tests.matching.test_veto import read_pairs


def varied_texts(count: int) -> list[str]:
    """Sentences of different lengths without chance: every word is drawn by arithmetic."""
    words = [
        *("kettle", "garden", "winter", "sofa", "lantern", "button", "pocket", "violin"),
        *("harbour", "meadow", "copper", "walnut", "saddle", "ribbon", "marble", "basket"),
        *("feather", "candle", "mirror", "pepper", "orchard", "blanket", "thunder", "canyon"),
    ]
    return [
        " ".join(
            words[(i * 7 + j * j * 5 + i * j) % len(words)] + str(i % 13) * (j % 5 == 0)
            for j in range(3 + i % 40)
        )
        for i in range(count)
    ]


def edited(text: str, every: int) -> str:
    """The text with every n-th letter changed: spread edits are the hardest for any index."""
    return "".join("z" if i % every == every - 1 else letter for i, letter in enumerate(text))


def test_helpers_make_different_texts() -> None:
    """The recall test means nothing on copies of one text."""
    texts: Sequence[str] = varied_texts(400)
    assert len(set(texts)) > 390


def test_the_index_finds_what_brute_force_finds() -> None:
    """The index is a short cut, not another measure of likeness."""
    texts = varied_texts(400)
    asked = [edited(text, every) for text in texts[::4] for every in (7, 9, 14, 25)]
    index = NearIndex(texts, 0.85)
    found = {(pair.query, pair.entry): pair.ratio for pair in index.search(asked)}
    true = {
        (i, j): fuzz.ratio(a, b) / 100
        for i, a in enumerate(asked)
        for j, b in enumerate(texts)
        if fuzz.ratio(a, b) >= 85
    }
    assert len(true) > 300
    assert set(found) <= set(true)
    assert all(found[pair] == true[pair] for pair in found)
    assert len(found) >= 0.99 * len(true)


def test_long_reviews_with_a_slip_in_every_word_are_found() -> None:
    """At a ratio of 0.85 a long text shares few trigrams with what it was: the hardest pairs."""
    lines = [one for one, _ in read_pairs("flips").values()]
    texts = [" ".join(lines[i : i + 6]) for i in range(0, 360, 3)]
    asked = [edited(text, 7) for text in texts]
    assert {round(fuzz.ratio(a, b)) for a, b in zip(texts, asked, strict=True)} == {86}
    found = {(pair.query, pair.entry) for pair in NearIndex(texts, 0.85).search(asked)}
    assert {(i, i) for i in range(len(texts))} <= found


def test_short_texts_are_found() -> None:
    """A few words leave few trigrams, and a first look that is too strict would lose them."""
    texts = varied_texts(60)
    short = sorted({" ".join(text.split()[:3]) for text in texts})
    asked = [edited(text, 9) for text in short]
    found = {(p.query, p.entry) for p in NearIndex(short, 0.85).search(asked)}
    true = {
        (i, j) for i, a in enumerate(asked) for j, b in enumerate(short) if fuzz.ratio(a, b) >= 85
    }
    assert len(true) >= 40
    assert len(found) >= 0.99 * len(true)


def test_what_is_asked_beside_a_text_changes_nothing() -> None:
    """Queries are compared in blocks; a block must not decide what one of them finds."""
    texts = varied_texts(300)
    asked = [edited(text, 12) for text in texts[::3]]
    index = NearIndex(texts, 0.85)
    together = index.search(asked)
    alone = [
        pair._replace(query=i) for i, text in enumerate(asked) for pair in index.search([text])
    ]
    assert together == alone
    order = list(range(len(asked)))
    random.Random(3).shuffle(order)  # noqa: S311  (texts are shuffled, no secret is made)
    mixed = index.search([asked[i] for i in order])
    assert sorted(pair._replace(query=order[pair.query]) for pair in mixed) == sorted(together)


def test_a_template_that_fills_the_archive_is_still_found() -> None:
    """What all texts share is subtracted; copies of one template must not vanish with it."""
    texts = [
        f"your parcel {i} for the customer {i * 7919} has been left with us" for i in range(300)
    ]
    found = NearIndex(texts, 0.85).search(
        ["your parcel 5 for the customer 39595 has been left with us"]
    )
    true = [t for t in texts if fuzz.ratio(t, texts[5]) >= 85]
    assert len(found) >= 0.99 * len(true) > 200
    assert (found[0].entry, found[0].ratio) == (5, 1.0)


def test_other_scripts_are_indexed() -> None:
    """Reviews are not all in Latin letters, and emoji lie outside the basic plane."""
    texts = [
        "отличный чайник, быстро закипает",
        "很好的耳机, 音质清晰, 推荐购买",
        "👍🏽👍🏽👍🏽 супер товар 😍",
    ]
    asked = [
        "отличный чайник быстро закипает",
        "很好的耳机 音质清晰 推荐购买",
        "👍🏽👍🏽 супер товар 😍",
    ]
    found = NearIndex(texts, 0.8).search(asked)
    assert [(pair.query, pair.entry) for pair in found] == [(0, 0), (1, 1), (2, 2)]


def test_nothing_held_or_asked_is_nothing_found() -> None:
    """A first day has no archive, and a review may be empty once its markup is gone."""
    assert NearIndex([], 0.85).search(["a text", ""]) == []
    assert NearIndex(["", "a text"], 0.85).search([]) == []
    assert [(p.query, p.entry) for p in NearIndex(["", "a text"], 0.85).search(["", "a text"])] == [
        (1, 1)
    ]
