"""Learned patterns: what is learned, how sure it is, and that the same rows give the same bits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from review_optimizer_dagster.learning.classifier import TextClassifier

WORDS = [f"word{number}" for number in range(200)]
TOLD = {"up": ("fine", "solid", "lovely"), "down": ("poor", "broken", "awful")}


def rows(n: int, seed: int = 0, noise: float = 0.0) -> tuple[list[str], list[str | None]]:
    """Texts of filler around a word that tells the label, and labels of which a share is wrong."""
    rng = np.random.default_rng(seed)
    texts: list[str] = []
    labels: list[str | None] = []
    for _ in range(n):
        label = str(rng.choice(list(TOLD)))
        words = rng.choice(WORDS, 12).tolist()
        words.insert(int(rng.integers(12)), str(rng.choice(TOLD[label])))
        texts.append(" ".join(words))
        flipped = {"up": "down", "down": "up"}[label]
        labels.append(flipped if rng.random() < noise else label)
    return texts, labels


def same(a: TextClassifier, b: TextClassifier, texts: Sequence[str]) -> bool:
    return a.version == b.version and all(
        a.judge(texts)[field].labels == b.judge(texts)[field].labels
        and np.array_equal(a.judge(texts)[field].scores, b.judge(texts)[field].scores)
        for field in a.fields
    )


@pytest.fixture(scope="module")
def noisy() -> TextClassifier:
    texts, labels = rows(1_200, noise=0.15)
    return TextClassifier.fit(texts, {"mood": labels})


def test_labels_texts_it_has_not_seen() -> None:
    """The point of it all: the word that tells is found among words that do not."""
    texts, labels = rows(600)
    judged = TextClassifier.fit(texts, {"mood": labels}).judge(rows(200, seed=1)[0])["mood"]
    right = np.array(judged.labels) == np.array(rows(200, seed=1)[1])
    assert right.mean() > 0.97
    assert judged.scores.dtype == np.float32
    assert judged.scores[right].mean() > 0.9


def test_confidence_is_the_share_that_is_right(noisy: TextClassifier) -> None:
    """15 labels of 100 are wrong: who claimed 99 % would propose thresholds that never hold."""
    texts, labels = rows(1_000, seed=2, noise=0.15)
    judged = noisy.judge(texts)["mood"]
    right = (np.array(judged.labels) == np.array(labels)).mean()
    assert judged.scores.mean() == pytest.approx(right, abs=0.04)
    seen = noisy.out_of_fold["mood"]
    assert seen.scores.mean() == pytest.approx(seen.correct.mean(), abs=0.02)


def test_confidence_rises_with_the_decision(noisy: TextClassifier) -> None:
    """Thresholds are set a label; within one, calibration may stretch the order, not change it."""
    texts, _ = rows(400, seed=3)
    judged, decisions = noisy.judge(texts)["mood"], noisy.decision(texts)["mood"]
    assert decisions.shape == (400, 2)
    best = decisions.argmax(axis=1)
    assert [noisy.labels["mood"][at] for at in best] == judged.labels
    for label in range(2):
        margin = decisions[best == label, label]
        assert (np.diff(judged.scores[best == label][np.argsort(margin)]) >= 0).all()


def test_out_of_fold_rows_were_not_seen() -> None:
    """Labels by lot cannot be learned, only remembered: equal texts too must share a fold."""
    texts, _ = rows(300)
    labels: list[str | None] = np.random.default_rng(5).choice(["a", "b"], 300).tolist()
    classifier = TextClassifier.fit(texts * 3, {"lot": labels * 3})
    assert classifier.out_of_fold["lot"].correct.mean() < 0.62
    assert (np.array(classifier.judge(texts)["lot"].labels) == np.array(labels)).mean() > 0.95


def test_order_of_rows_does_not_matter() -> None:
    """The archive's rows come as the warehouse gives them; the pattern must not hang on that."""
    texts, labels = rows(300, noise=0.1)
    shuffled = np.random.default_rng(1).permutation(300).tolist()
    one = TextClassifier.fit(texts, {"mood": labels})
    other = TextClassifier.fit(
        [texts[at] for at in shuffled], {"mood": [labels[at] for at in shuffled]}
    )
    assert same(one, other, rows(100, seed=4)[0])
    seen, reseen = one.out_of_fold["mood"], other.out_of_fold["mood"]
    assert [seen.labels[at] for at in shuffled] == reseen.labels
    assert np.array_equal(seen.scores[shuffled], reseen.scores)
    assert np.array_equal(
        one.out_of_fold_decisions["mood"][shuffled], other.out_of_fold_decisions["mood"]
    )


@pytest.mark.parametrize("change", ["text", "label", "field", "seed", "row"])
def test_version_names_what_decides(change: str) -> None:
    """Evidence is kept by version: two classifiers that may differ must not share it."""
    texts, labels = rows(60)
    before = TextClassifier.fit(texts, {"mood": labels}).version
    field, seed = "mood", 0
    if change == "text":
        texts[0] += " !"
    elif change == "label":
        labels[0] = "up" if labels[0] == "down" else "down"
    elif change == "field":
        field = "tone"
    elif change == "seed":
        seed = 1
    else:
        texts, labels = texts[1:], labels[1:]
    assert TextClassifier.fit(texts, {field: labels}, seed).version != before


def test_a_stored_classifier_is_the_same(tmp_path: Path) -> None:
    """A day's run loads what an earlier one fitted; its certificates are for exactly that."""
    texts, labels = rows(200, noise=0.1)
    targets: dict[str, Sequence[str | None]] = {
        "mood": labels,
        "third": [None if at % 9 == 0 else "xyz"[at % 3] for at in range(200)],
        "same": ["only"] * 200,
    }
    fitted = TextClassifier.fit(texts, targets)
    fitted.save(tmp_path / "a.npz")
    TextClassifier.fit(texts, targets).save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    loaded = TextClassifier.load(tmp_path / "a.npz")
    assert (loaded.fields, loaded.labels) == (fitted.fields, fitted.labels)
    assert same(fitted, loaded, rows(50, seed=6)[0])
    for field in fitted.fields:
        assert loaded.out_of_fold[field].labels == fitted.out_of_fold[field].labels
        assert np.array_equal(loaded.out_of_fold[field].scores, fitted.out_of_fold[field].scores)
        assert np.array_equal(loaded.out_of_fold[field].correct, fitted.out_of_fold[field].correct)
        assert np.array_equal(
            loaded.out_of_fold_decisions[field], fitted.out_of_fold_decisions[field]
        )


def test_a_file_of_another_format_is_refused(tmp_path: Path) -> None:
    """Weights belong to the columns of one way of hashing; another would answer nonsense."""
    parts: dict[str, Any] = {"header": np.array('{"format": 999, "version": "x", "labels": {}}')}
    np.savez(tmp_path / "new.npz", allow_pickle=False, **parts)
    with pytest.raises(ValueError, match=r"new\.npz: format 999 .* train again"):
        TextClassifier.load(tmp_path / "new.npz")


def test_rows_without_a_label_of_a_field() -> None:
    """A row may be labelled in one field only; it teaches that one and is still decided in all."""
    texts, labels = rows(300)
    some: list[str | None] = [label if at % 2 else None for at, label in enumerate(labels)]
    classifier = TextClassifier.fit(texts, {"mood": labels, "some": some})
    assert len(classifier.out_of_fold["mood"].labels) == 300
    seen = classifier.out_of_fold["some"]
    assert len(seen.labels) == len(seen.scores) == len(seen.correct) == 150
    kept = [label for label in some if label is not None]
    assert [a == b for a, b in zip(seen.labels, kept, strict=True)] == seen.correct.tolist()
    assert seen.correct.mean() > 0.9
    assert classifier.out_of_fold_decisions["some"].shape == (300, 2)


def test_a_field_with_one_label_is_constant() -> None:
    """A young archive may hold one label only; more rows of it make it surer, never certain."""
    few, many = (
        TextClassifier.fit(rows(n)[0], {"kind": ["only"] * n}).judge(["anything", ""])["kind"]
        for n in (10, 300)
    )
    assert few.labels == many.labels == ["only", "only"]
    assert 0.5 < few.scores[0] < many.scores[0] < 1


def test_a_field_without_labels_is_refused() -> None:
    """There is no label to answer with, and the message must say of which field."""
    with pytest.raises(ValueError, match="'mood' has no label in any of 20"):
        TextClassifier.fit(rows(20)[0], {"mood": [None] * 20})


def test_many_labels_and_one_seen_once() -> None:
    """Intent taxonomies have a hundred labels, some so rare that a fold holds none of them."""
    rng = np.random.default_rng(0)
    names = [f"intent{number}" for number in range(30)]
    labels: list[str | None] = [name for name in names for _ in range(12)]
    texts = [f"{rng.choice(WORDS)} about {label}s {rng.choice(WORDS)}" for label in labels]
    texts.append("quite another thing")
    labels.append("rare")
    classifier = TextClassifier.fit(texts, {"intent": labels})
    assert classifier.decision(texts)["intent"].shape == (361, 31)
    assert classifier.out_of_fold["intent"].correct[:-1].mean() > 0.95
    judged = classifier.judge([f"tell me about {name}s" for name in names])["intent"]
    assert judged.labels == names


def test_texts_that_say_nothing() -> None:
    """No text, no word and no known word are all judged, without certainty."""
    texts, labels = rows(200)
    classifier = TextClassifier.fit(texts, {"mood": labels})
    assert classifier.judge([])["mood"].labels == []
    judged = classifier.judge(["", "...", "qqq zzz"])["mood"]
    assert set(judged.labels) <= {"up", "down"}
    assert (judged.scores < 0.9).all()
    silent = TextClassifier.fit(["", "."], {"mood": ["up", "down"]})
    assert len(silent.judge(["good"])["mood"].labels) == 1
