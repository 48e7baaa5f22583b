"""Two stages as one classifier: n-grams answer where they are sure, embeddings decide the rest.

An embedding costs a thousand times what n-grams cost, so only the unsure texts get one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from review_optimizer_dagster.learning.classifier import Judged, OutOfFold, TextClassifier

if TYPE_CHECKING:  # numpy is imported where it is used: most commands never come near it
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    AnyFloats: TypeAlias = NDArray[np.floating[Any]]
    Embed: TypeAlias = Callable[[Sequence[int]], NDArray[np.float32]]

_FORMAT: Final = 1
# Out-of-fold error of what the first stage keeps of a label. Between 0.01 and 0.017 what could be
# served of 10,000 reviews at an error of 2 % or more did not change; less asks for more embeddings.
_SURE_ERROR: Final = 0.015
_FEWEST_ROWS: Final = 100  # that the second stage of a field is trained on
_FOLDS: Final = 5
_DECISION_WEIGHT: Final = 0.1  # of the first stage's decisions, beside an embedding
_INVERSE_PENALTY: Final = 0.3


@dataclass(frozen=True)
class _SecondStage:
    """The frozen numbers of one field: d of an embedding, k first-stage and m own labels.

    `cutoffs`: (k,), the confidence from which on a first-stage label stands. `labels`: (m,).
    `centre`: (d,), of the embeddings. `scale`: (2,), what they and the decisions are divided by.
    `weights`: (d + k, m) and `bias`: (m,), of log-odds. `calibration`: (2,), slope and offset of
    the log-odds of being right over the margin between the best two labels (Platt, 1999).
    """

    cutoffs: Floats
    labels: NDArray[np.str_]
    centre: Floats
    scale: Floats
    weights: Floats
    bias: Floats
    calibration: Floats

    def decide(self, vectors: Floats, decisions: AnyFloats) -> tuple[list[str], Floats]:
        """Labels and confidences of rows of embeddings (n, d) and first-stage decisions (n, k)."""
        import numpy as np

        odds = _inputs(vectors, decisions, self.centre, self.scale) @ self.weights + self.bias
        best, margins = _best(odds)
        slope, offset = self.calibration
        labels: list[str] = self.labels[best].tolist()
        return labels, 1.0 / (1.0 + np.exp(-(slope * margins + offset)))


class StackedClassifier:
    """A `TextClassifier` and, for the texts that it leaves unsure, a second stage on embeddings.

    One frozen classifier with one calibrated confidence a field. Stacking on out-of-fold
    decisions: Wolpert, "Stacked generalization", 1992.
    """

    def __init__(
        self,
        first: TextClassifier,
        embedder_name: str,
        stages: Mapping[str, _SecondStage],
        out_of_fold: Mapping[str, OutOfFold],
    ) -> None:
        self.fields = first.fields
        self.embedder_name = embedder_name
        self.out_of_fold = out_of_fold
        """By field: a random share of the training rows, judged as fresh texts would be."""
        self._first = first
        self._stages = stages
        digest = hashlib.blake2b(f"{first.version}|{embedder_name}".encode(), digest_size=16)
        for field in sorted(stages):
            digest.update(field.encode() + b"\0")
            for array in _arrays(stages[field]).values():
                digest.update(repr((array.shape, array.dtype.str)).encode() + array.tobytes())
        self.version = digest.hexdigest()

    @classmethod
    def fit(
        cls,
        texts: Sequence[str],
        targets: Mapping[str, Sequence[str | None]],
        embedder_name: str,
        embed: Embed,
        rows: int,
        seed: int = 0,
    ) -> StackedClassifier:
        """Train both stages; `embed` is asked once, for at most `rows` positions of `texts`.

        The positions come in a random order, so that an `embed` which stops half-way has embedded
        a random part. The same rows in any order give the same classifier. A field whose unsure
        rows are too few, or are no better judged with embeddings, has no second stage. Rows for
        which `embed` gives NaN are left out.
        """
        import numpy as np

        first = TextClassifier.fit(texts, targets, seed)
        views = {field: _View.of(first, field, targets[field]) for field in first.fields}
        order = _shuffled(texts, seed)
        unsure = np.zeros(len(texts), dtype=bool)
        for view in views.values():
            unsure |= view.unsure
        asked = order[unsure[order]][:rows]
        vectors = np.full((len(texts), 1), np.nan)
        if asked.size:
            found = _checked(embed(asked.tolist()), asked.size)
            vectors = np.full((len(texts), found.shape[1]), np.nan)
            vectors[asked] = found
        has_vector = np.isfinite(vectors).all(axis=1)
        stages, judged = {}, {}
        for field, view in views.items():
            at = order[(has_vector & view.unsure)[order]]
            if (trained := _train(vectors[at], view, at)) is not None:
                stages[field], judged[field] = trained
        # Sure rows at the rate at which unsure ones were embedded: a uniform sample of them all.
        share = has_vector.sum() / max(1, unsure.sum()) if unsure.any() else 1.0
        sure = order[~unsure[order]]
        sample = has_vector.copy()
        sample[sure[: round(float(share) * sure.size)]] = True
        if not stages:
            sample[:] = True
        out_of_fold = {field: view.seen(sample, judged.get(field)) for field, view in views.items()}
        return cls(first, embedder_name, stages, out_of_fold)

    def judge(self, texts: Sequence[str], embed: Embed) -> Mapping[str, Judged]:
        """Judge texts; `embed` is asked once, for the positions that need it, if any do.

        A text whose embedding is NaN keeps the first stage's label with confidence 0.
        """
        import numpy as np

        judged = dict(self._first.judge(texts))
        unsure = {
            field: _below(stage.cutoffs, self._first.labels[field], judged[field])
            for field, stage in self._stages.items()
        }
        needs_one = np.zeros(len(texts), dtype=bool)
        for below in unsure.values():
            needs_one |= below
        asked = np.flatnonzero(needs_one)
        if not asked.size:
            return judged
        positions: list[int] = asked.tolist()
        vectors = _checked(embed(positions), len(positions))
        has_vector = np.isfinite(vectors).all(axis=1)
        decisions = self._first.decision([texts[at] for at in positions])
        for field, stage in self._stages.items():
            labels, scores = list(judged[field].labels), judged[field].scores.copy()
            needed = unsure[field][asked]
            scores[asked[needed]] = 0.0
            use = np.flatnonzero(needed & has_vector)
            if use.size:
                decided, confidences = stage.decide(vectors[use], decisions[field][use])
                scores[asked[use]] = confidences
                for at, label in zip(asked[use], decided, strict=True):
                    labels[at] = label
            judged[field] = Judged(labels, scores)
        return judged

    def save(self, path: Path) -> None:
        """Write one .npz without pickle, replacing what is there at once; same rows, same bytes."""
        import numpy as np

        header: dict[str, Any] = {"format": _FORMAT, "embedder": self.embedder_name}
        header["stages"] = sorted(self._stages)
        with TemporaryDirectory(dir=path.parent) as folder:
            self._first.save(Path(folder) / "first.npz")
            first = np.frombuffer((Path(folder) / "first.npz").read_bytes(), dtype=np.uint8)
            parts: dict[str, Any] = {"first": first, "header": np.array(json.dumps(header))}
            for at, field in enumerate(header["stages"]):
                stage = _arrays(self._stages[field])
                parts |= {f"stage-{at}-{name}": array for name, array in stage.items()}
            for at, field in enumerate(self.fields):
                seen = self.out_of_fold[field]
                parts[f"seen-{at}-labels"] = np.array(seen.labels, dtype=np.str_)
                parts[f"seen-{at}-scores"] = seen.scores
                parts[f"seen-{at}-correct"] = seen.correct
            whole = Path(folder) / "whole.npz"
            np.savez_compressed(whole, allow_pickle=False, **parts)
            whole.replace(path)

    @classmethod
    def load(cls, path: Path) -> StackedClassifier:
        """Read what `save` wrote; raises ValueError for a file of another format."""
        import numpy as np

        with np.load(path, allow_pickle=False) as parts, TemporaryDirectory() as folder:
            header = json.loads(str(parts["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"{path}: format {header['format']} is not {_FORMAT}; train again")
            (Path(folder) / "first.npz").write_bytes(parts["first"].tobytes())
            first = TextClassifier.load(Path(folder) / "first.npz")
            stages = {
                field: _SecondStage(
                    **{f.name: parts[f"stage-{at}-{f.name}"] for f in fields(_SecondStage)}
                )
                for at, field in enumerate(header["stages"])
            }
            seen = {
                field: OutOfFold(
                    parts[f"seen-{at}-labels"].tolist(),
                    parts[f"seen-{at}-scores"],
                    parts[f"seen-{at}-correct"],
                )
                for at, field in enumerate(first.fields)
            }
        return cls(first, header["embedder"], stages, seen)


def load_pattern(path: Path) -> TextClassifier | StackedClassifier:
    """Read what either kind's `save` wrote; the file tells which one it is."""
    import numpy as np

    with np.load(path, allow_pickle=False) as parts:
        kind = StackedClassifier if "first" in parts.files else TextClassifier
    return kind.load(path)


@dataclass(frozen=True)
class _View:
    """A field of all n training rows as the first stage sees them out of fold.

    Rows without a label of the field are neither known nor unsure.
    """

    targets: NDArray[np.str_]
    known: NDArray[np.bool_]
    unsure: NDArray[np.bool_]
    cutoffs: Floats
    decisions: Floats
    labels: NDArray[np.str_]
    scores: Floats

    @classmethod
    def of(cls, first: TextClassifier, field: str, targets: Sequence[str | None]) -> _View:
        import numpy as np

        seen = first.out_of_fold[field]
        known = np.array([target is not None for target in targets], dtype=bool)
        labels = np.full(known.size, "", dtype=object)
        scores, unsure = np.ones(known.size), np.zeros(known.size, dtype=bool)
        labels[known], scores[known] = seen.labels, seen.scores
        names, right = np.array(seen.labels, dtype=np.str_), np.asarray(seen.correct)
        cutoffs = np.array(
            [
                _cutoff(np.asarray(seen.scores)[names == label], right[names == label])
                for label in first.labels[field]
            ]
        )
        judged = Judged(list(seen.labels), seen.scores)
        unsure[known] = _below(cutoffs, first.labels[field], judged)
        return cls(
            targets=np.array([target or "" for target in targets], dtype=np.str_),
            known=known,
            unsure=unsure,
            cutoffs=cutoffs,
            decisions=np.asarray(first.out_of_fold_decisions[field], dtype=np.float64),
            labels=labels.astype(np.str_),
            scores=scores,
        )

    def seen(self, sample: NDArray[np.bool_], decided: _Decided | None) -> OutOfFold:
        """What the composite gives to the rows of a sample, without having trained on them."""
        import numpy as np

        labels, scores = self.labels.astype(object), self.scores.copy()
        if decided is not None:
            labels[decided.at], scores[decided.at] = decided.labels, decided.scores
        rows = np.flatnonzero(sample & self.known)
        correct = labels[rows].astype(np.str_) == self.targets[rows]
        return OutOfFold(labels[rows].tolist(), scores[rows].astype(np.float32), correct)


@dataclass(frozen=True)
class _Decided:
    """What a second stage gives to training rows that each fit had not seen."""

    at: NDArray[np.int64]
    labels: list[str]
    scores: Floats


def _shuffled(texts: Sequence[str], seed: int) -> NDArray[np.int64]:
    """The texts' positions in an order that hangs on the texts and the seed alone."""
    import numpy as np

    salt = seed.to_bytes(8, "little", signed=True)
    keys = [
        hashlib.blake2b(
            text.encode("utf-8", "surrogatepass"), digest_size=16, salt=salt, person=b"embedded"
        ).digest()
        for text in texts
    ]
    return np.array(sorted(range(len(texts)), key=keys.__getitem__), dtype=np.int64)


def _train(
    vectors: Floats, view: _View, at: NDArray[np.int64]
) -> tuple[_SecondStage, _Decided] | None:
    """The second stage of the shuffled rows `at`; None where they teach nothing."""
    import numpy as np
    from threadpoolctl import threadpool_limits

    names, codes, counts = np.unique(view.targets[at], return_inverse=True, return_counts=True)
    kept = counts >= _FOLDS  # of a rarer label there is none to learn from in some fold
    if at.size < _FEWEST_ROWS or kept.sum() < 2:
        return None
    own = np.flatnonzero(kept[codes])  # the others are judged too, and count as wrong
    decisions = view.decisions[at]
    centre = vectors.mean(axis=0)
    scale = np.array([_norm(vectors - centre), _norm(_levelled(decisions)) / _DECISION_WEIGHT])
    inputs = _inputs(vectors, decisions, centre, scale)
    fold = np.empty(at.size, dtype=np.int64)
    fold[np.argsort(codes, kind="stable")] = np.arange(at.size) % _FOLDS
    odds = np.empty((at.size, int(kept.sum())))
    with threadpool_limits(limits=1):  # sums in another order end in other bits
        for number in range(_FOLDS):
            train = own[fold[own] != number]
            weights, bias = _regression(inputs[train], codes[train])
            odds[fold == number] = inputs[fold == number] @ weights + bias
        best, margins = _best(odds)
        right = names[kept][best] == names[codes]
        # A few hundred rows can teach less than the first stage knows of them already.
        if right.sum() <= (view.labels[at] == view.targets[at]).sum():
            return None
        calibration = _calibration(margins, right)
        weights, bias = _regression(inputs[own], codes[own])
    stage = _SecondStage(view.cutoffs, names[kept], centre, scale, weights, bias, calibration)
    scores = 1.0 / (1.0 + np.exp(-(calibration[0] * margins + calibration[1])))
    return stage, _Decided(at, names[kept][best].tolist(), scores)


def _regression(inputs: Floats, codes: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Weights (features, m) and biases (m,) of a ridge-penalised logistic regression."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=_INVERSE_PENALTY, max_iter=1_000).fit(inputs, codes)
    weights, bias = model.coef_.T, model.intercept_
    if weights.shape[1] == 1:  # of two labels the second's log-odds alone
        weights, bias = np.hstack([-weights / 2, weights / 2]), np.array([-bias[0], bias[0]]) / 2
    return weights, bias


def _calibration(margins: Floats, correct: NDArray[np.bool_]) -> Floats:
    """Slope and offset of the log-odds of being right; never falling with the margin.

    Platt, "Probabilistic outputs for support vector machines", 1999, with his smoothed targets.
    """
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    right, wrong = int(correct.sum()), int((~correct).sum())
    target = np.where(correct, (right + 1) / (right + 2), 1 / (wrong + 2))
    model = LogisticRegression(C=1e6).fit(
        np.tile(margins, 2)[:, None],
        np.repeat([1, 0], margins.size),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return np.array([max(float(model.coef_[0, 0]), 1e-3), float(model.intercept_[0])])


def _inputs(vectors: Floats, decisions: AnyFloats, centre: Floats, scale: Floats) -> Floats:
    """What the regression sees: the embeddings, and the decisions at their weight."""
    import numpy as np

    return np.hstack([(vectors - centre) / scale[0], _levelled(decisions) / scale[1]])


def _levelled(decisions: AnyFloats) -> Floats:
    import numpy as np

    levelled: Floats = decisions - decisions.mean(axis=1, keepdims=True, dtype=np.float64)
    return levelled


def _norm(rows: Floats) -> float:
    """Root mean square length of the rows; never 0."""
    import numpy as np

    return max(float(np.sqrt((rows * rows).sum(axis=1).mean())), 1e-12)


def _best(odds: Floats) -> tuple[NDArray[np.int64], Floats]:
    """The best column of each row, and by how much it beats the second."""
    import numpy as np

    best = odds.argmax(axis=1)
    top = np.partition(odds, -2, axis=1)
    return best, top[:, -1] - top[:, -2]


def _cutoff(scores: Floats, correct: NDArray[np.bool_]) -> float:
    """The laxest confidence over which at most _SURE_ERROR of the rows are wrong; else infinity."""
    import numpy as np

    order = np.argsort(-scores, kind="stable")
    wrong = np.cumsum(~correct[order])
    ends = np.append(np.diff(scores[order]) != 0, True)[: scores.size]  # equal ones go together
    held = np.flatnonzero(ends & (wrong <= _SURE_ERROR * np.arange(1, scores.size + 1)))
    return float(scores[order[held[-1]]]) if held.size else float("inf")


def _below(cutoffs: Floats, labels: Sequence[str], judged: Judged) -> NDArray[np.bool_]:
    """Which of the judged are less sure than their label's cutoff."""
    import numpy as np

    by_label = dict(zip(labels, cutoffs, strict=True))
    least = np.array([by_label[label] for label in judged.labels], dtype=np.float64)
    return np.asarray(judged.scores < least, dtype=bool)


def _checked(vectors: NDArray[np.float32], count: int) -> Floats:
    """The embeddings as numbers to compute with. Raises ValueError where rows are missing."""
    import numpy as np

    found = np.asarray(vectors, dtype=np.float64)
    if found.ndim != 2 or found.shape[0] != count:
        raise ValueError(f"asked for {count} embeddings, got an array of shape {found.shape}")
    return found


def _arrays(stage: _SecondStage) -> dict[str, NDArray[Any]]:
    return {f.name: getattr(stage, f.name) for f in fields(stage)}
