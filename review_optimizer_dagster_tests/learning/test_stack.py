from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from review_optimizer_dagster.learning.classifier import TextClassifier
from review_optimizer_dagster.learning.stack import StackedClassifier

Floats = NDArray[np.float32]
LABELS = np.array(["no", "so-so", "yes"])
TELLING = ("awful", "average", "superb")


@dataclass
class Texts:
    """Made-up texts: of six in ten a word tells the label, of the others only the embedding."""

    texts: list[str]
    labels: list[str]
    vectors: Floats
    asked: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, count: int, seed: int, kinds: int = 2) -> Texts:
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, kinds, count)
        told = rng.random(count) < 0.6
        words = rng.integers(0, 300, (count, 8))
        texts = [
            " ".join([TELLING[code]] * int(tell) + [f"word{number}" for number in row])
            for code, tell, row in zip(codes, told, words, strict=True)
        ]
        vectors = rng.normal(0, 0.5, (count, 12))
        vectors[np.arange(count), codes] += 1.5
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        names = LABELS[[0, 2]] if kinds == 2 else LABELS
        return cls(texts, names[codes].tolist(), vectors.astype(np.float32))

    def embed(self, positions: Sequence[int]) -> Floats:
        self.asked.append(list(positions))
        return self.vectors[list(positions)]


def trained(
    data: Texts, rows: int = 500, name: str = "e5", labels: Sequence[str | None] | None = None
) -> StackedClassifier:
    return StackedClassifier.fit(
        data.texts, {"verdict": labels or data.labels}, name, data.embed, rows, seed=0
    )


def accuracy(labels: Sequence[str], truth: Sequence[str]) -> float:
    return float(np.mean(np.array(labels) == np.array(truth)))


@pytest.fixture(scope="module")
def archive() -> Texts:
    return Texts.of(2_500, seed=1)


@pytest.fixture(scope="module")
def stacked(archive: Texts) -> StackedClassifier:
    return trained(archive)


def test_embeddings_decide_what_the_first_stage_cannot(
    archive: Texts, stacked: StackedClassifier
) -> None:
    """The second stage must be worth what it costs."""
    fresh = Texts.of(2_000, seed=2)
    first = TextClassifier.fit(archive.texts, {"verdict": archive.labels}, seed=0)
    alone = accuracy(first.judge(fresh.texts)["verdict"].labels, fresh.labels)
    both = accuracy(stacked.judge(fresh.texts, fresh.embed)["verdict"].labels, fresh.labels)
    assert alone < 0.85
    assert both > 0.94


def test_only_unsure_texts_are_embedded_and_at_once(stacked: StackedClassifier) -> None:
    """Each embedding costs seconds or money, each call a round trip."""
    fresh = Texts.of(1_000, seed=3)
    judged = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    (asked,) = fresh.asked
    assert asked == sorted(set(asked))
    told = [any(word in text for word in TELLING) for text in fresh.texts]
    sure = sorted(set(range(1_000)) - set(asked))
    assert np.mean([told[at] for at in sure]) > 0.95
    assert accuracy([judged.labels[at] for at in sure], [fresh.labels[at] for at in sure]) > 0.97
    rest = [fresh.texts[at] for at in sure]
    again = stacked.judge(rest, lambda _: pytest.fail("nothing here needs an embedding"))
    assert again["verdict"].labels == [judged.labels[at] for at in sure]
    assert stacked.judge([], fresh.embed)["verdict"].labels == []


def test_a_text_is_judged_alike_in_any_company(stacked: StackedClassifier) -> None:
    """A resolution must not hang on the order of rows."""
    fresh = Texts.of(200, seed=4)
    whole = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    turned = Texts(fresh.texts[::-1], fresh.labels[::-1], fresh.vectors[::-1])
    back = stacked.judge(turned.texts, turned.embed)["verdict"]
    assert back.labels[::-1] == whole.labels
    np.testing.assert_allclose(back.scores[::-1], whole.scores, rtol=1e-6)


def test_a_text_without_embedding_abstains(stacked: StackedClassifier) -> None:
    """A failed request must not look like a confident answer."""
    fresh = Texts.of(300, seed=5)
    stacked.judge(fresh.texts, fresh.embed)
    (asked,) = fresh.asked
    lost = asked[::2]
    fresh.vectors[lost] = np.nan
    judged = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    assert set(np.flatnonzero(judged.scores == 0.0)) == set(lost)
    none = stacked.judge(fresh.texts, lambda at: np.full((len(at), 1), np.nan, dtype=np.float32))
    assert set(np.flatnonzero(none["verdict"].scores == 0.0)) == set(asked)


def test_scores_are_probabilities_of_being_right(stacked: StackedClassifier) -> None:
    """Scores of both stages stand under one threshold, so they must mean the same."""
    fresh = Texts.of(4_000, seed=6)
    judged = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    assert judged.scores.dtype == np.float32
    right = np.array(judged.labels) == np.array(fresh.labels)
    for part in (right[fresh.asked[0]], judged.scores[fresh.asked[0]]), (right, judged.scores):
        assert np.mean(part[0]) == pytest.approx(np.mean(part[1]), abs=0.03)
    assert accuracy(np.array(judged.labels)[judged.scores > 0.99].tolist(),
                    np.array(fresh.labels)[judged.scores > 0.99].tolist()) > 0.97  # fmt: skip


@pytest.mark.parametrize("lost", [False, True])
def test_out_of_fold_shows_what_fresh_texts_will_see(archive: Texts, lost: bool) -> None:
    """Thresholds are proposed from it: sure rows must not be over-represented, nor seen before."""
    data = Texts(archive.texts, archive.labels, archive.vectors.copy())
    if lost:
        data.vectors[1::2] = np.nan
    stacked = trained(data, rows=800)
    seen = stacked.out_of_fold["verdict"]
    fresh = Texts.of(4_000, seed=7)
    judged = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    right = np.array(judged.labels) == np.array(fresh.labels)
    error = 3.5 * (right.std() / len(seen.labels) ** 0.5 + right.std() / 4_000**0.5)
    assert np.mean(seen.correct) == pytest.approx(right.mean(), abs=error)
    for quantile in (0.1, 0.3, 0.5, 0.7):
        assert np.mean(seen.scores < np.quantile(judged.scores, quantile)) == pytest.approx(
            quantile, abs=3.5 * 0.5 / len(seen.labels) ** 0.5
        )
    embedded = sum(np.isfinite(data.vectors[data.asked[0], 0]))
    assert len(seen.labels) == pytest.approx(embedded / (len(fresh.asked[0]) / 4_000), rel=0.12)


def test_out_of_fold_has_not_seen_its_rows(archive: Texts) -> None:
    """Embeddings of many numbers and no meaning fit any label that they are trained on."""
    noise = np.random.default_rng(0).normal(size=(2_500, 300)).astype(np.float32)
    data = Texts(archive.texts, archive.labels, noise)
    seen = trained(data, rows=400).out_of_fold["verdict"]
    doubtful = seen.scores < 0.9
    assert doubtful.sum() > 200
    assert np.mean(seen.correct[doubtful]) < 0.65
    assert np.mean(seen.scores[doubtful]) < 0.65


def test_training_asks_for_so_many_rows_and_no_more(archive: Texts) -> None:
    """The first training would else embed the whole archive."""
    asked = []
    for rows in (150, 300):
        data = Texts(archive.texts, archive.labels, archive.vectors)
        trained(data, rows=rows)
        (positions,) = data.asked
        assert len(positions) == rows
        asked.append(set(positions))
    assert asked[0] < asked[1]  # more rows pay for the new ones alone


def test_without_embeddings_the_first_stage_stays_alone(archive: Texts) -> None:
    """No money on the day of training must not break the pattern."""
    stacked = StackedClassifier.fit(
        archive.texts,
        {"verdict": archive.labels},
        "e5",
        lambda at: np.full((len(at), 1), np.nan, dtype=np.float32),
        500,
    )
    first = TextClassifier.fit(archive.texts, {"verdict": archive.labels}, seed=0)
    fresh = Texts.of(200, seed=8)
    judged = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    assert judged.labels == first.judge(fresh.texts)["verdict"].labels
    assert fresh.asked == []
    assert stacked.out_of_fold["verdict"].labels == first.out_of_fold["verdict"].labels


def test_embeddings_that_say_less_are_not_asked_for() -> None:
    """A second stage of few rows can be worse than the first, and would cost money to be so."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 2, 2_500)
    # Words lean towards a label without telling it, so hardly any text is a sure one.
    words = np.where(rng.random((2_500, 8)) < 0.68, codes[:, None], 1 - codes[:, None])
    words = 2 * rng.integers(0, 20, words.shape) + words
    texts = [" ".join(f"word{number}" for number in row) for row in words]
    noise = rng.normal(size=(2_500, 300)).astype(np.float32)
    data = Texts(texts, LABELS[[0, 2]][codes].tolist(), noise)
    stacked = trained(data, rows=150)
    fresh = Texts(texts[:100], data.labels[:100], noise[:100])
    stacked.judge(fresh.texts, fresh.embed)
    assert len(data.asked[0]) == 150
    assert fresh.asked == []


def test_fields_of_their_own_kinds() -> None:
    """Three labels, a rare one, rows without a label and a constant field in one taxonomy."""
    data = Texts.of(2_500, seed=9, kinds=3)
    rare = [*["odd"] * 3, *data.labels[3:]]
    some = [label if at % 2 else None for at, label in enumerate(data.labels)]
    targets: dict[str, Sequence[str | None]] = {
        "verdict": rare,
        "half": some,
        "same": ["x"] * 2_500,
    }
    stacked = StackedClassifier.fit(data.texts, targets, "e5", data.embed, 900)
    fresh = Texts.of(1_000, seed=10, kinds=3)
    judged = stacked.judge(fresh.texts, fresh.embed)
    assert len(fresh.asked) == 1
    assert accuracy(judged["verdict"].labels, fresh.labels) > 0.9
    assert accuracy(judged["half"].labels, fresh.labels) > 0.85
    assert set(judged["same"].labels) == {"x"}
    # A field that is sure keeps its answer where the text is embedded for another field's sake.
    unseen = stacked.judge(fresh.texts, lambda at: np.full((len(at), 1), np.nan, dtype=np.float32))
    (asked,) = fresh.asked
    for name in ("verdict", "half"):
        kept = [at for at in asked if unseen[name].scores[at] > 0]
        assert kept
        assert [judged[name].labels[at] for at in kept] == [unseen[name].labels[at] for at in kept]
        assert (judged[name].scores[kept] == unseen[name].scores[kept]).all()
    seen = stacked.out_of_fold
    assert len(seen["half"].labels) == pytest.approx(len(seen["verdict"].labels) / 2, rel=0.15)


def test_saved_and_loaded_it_is_the_same(
    archive: Texts, stacked: StackedClassifier, tmp_path: Path
) -> None:
    """A pattern outlives its process, and the same archive gives the same bytes."""
    for name, classifier in (("a", stacked), ("b", trained(archive))):
        classifier.save(tmp_path / f"{name}.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.npz", "b.npz"]
    loaded = StackedClassifier.load(tmp_path / "a.npz")
    assert (loaded.version, loaded.fields) == (stacked.version, stacked.fields)
    assert loaded.embedder_name == "e5"
    fresh = Texts.of(300, seed=11)
    one = stacked.judge(fresh.texts, fresh.embed)["verdict"]
    two = loaded.judge(fresh.texts, fresh.embed)["verdict"]
    assert one.labels == two.labels
    assert (one.scores == two.scores).all()
    before, after = stacked.out_of_fold["verdict"], loaded.out_of_fold["verdict"]
    assert before.labels == after.labels
    assert (before.scores == after.scores).all()
    assert (before.correct == after.correct).all()


def test_the_order_of_the_archive_does_not_matter(
    archive: Texts, stacked: StackedClassifier
) -> None:
    """A database gives its rows in any order."""
    turned = Texts(archive.texts[::-1], archive.labels[::-1], archive.vectors[::-1])
    assert trained(turned).version == stacked.version


def test_the_version_tells_every_difference(archive: Texts, stacked: StackedClassifier) -> None:
    """A certificate holds for the numbers that it was tested on, and for no others."""
    moved = Texts(archive.texts, archive.labels, archive.vectors.copy())
    moved.vectors[0, 0] += 0.01
    moved.vectors[:, 1] *= 0.999
    versions = {
        stacked.version,
        trained(archive, name="other").version,
        trained(archive, rows=400).version,
        trained(moved).version,
    }
    assert len(versions) == 4


def test_a_wrong_number_of_embeddings_is_refused(stacked: StackedClassifier) -> None:
    """Vectors that slipped by a row would be believed."""
    fresh = Texts.of(100, seed=12)
    with pytest.raises(ValueError, match="embeddings"):
        stacked.judge(fresh.texts, lambda at: fresh.vectors[list(at)][1:])
