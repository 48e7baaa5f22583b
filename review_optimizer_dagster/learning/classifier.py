"""A learned pattern: linear models over n-grams that label a text and say how sure they are.

Trained on archived answers; whether its confidence may be trusted is certified elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from review_optimizer_dagster.learning.features import Vectoriser

if TYPE_CHECKING:  # numpy is imported where it is used: most commands never come near it
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]
    Codes: TypeAlias = NDArray[np.int64]

_FORMAT: Final = 1
_FOLDS: Final = 5
_FOLDS_OF_MANY: Final = (
    3  # where a field has more than _FEW labels, each fold being a model a label
)
_FEW: Final = 20
_LEAST_TEXTS: Final = 2  # that a feature stands in, or it is not learned
_MOST_WEIGHTS: Final = 1 << 23  # of all labels together, two bytes each
_PENALTY: Final = 1.0  # liblinear's C
_ROUNDS: Final = 15
_RATIO_FLOOR: Final = 0.5
_JUDGED_AT_ONCE: Final = 4_096
_PULL: Final = 5.0  # how many rows' worth a label's calibration is held to that of all labels


@dataclass(frozen=True)
class Judged:
    """What a classifier says of texts: a label each, and the probability that it is right."""

    labels: list[str]
    scores: NDArray[np.float32]


@dataclass(frozen=True)
class OutOfFold:
    """What models that had not seen a training row say of it; rows without a label are left out."""

    labels: list[str]
    scores: NDArray[np.float32]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class _Model:
    """The linear models of one field and the calibration of their decisions.

    `weights` (features, m) and `bias` (m,): m is 1 for two labels, 0 for one, else a label each.
    `sharpness`: what decisions are multiplied by before a softmax over labels. `slope` and
    `offsets` (labels,): from the log-odds of the best label to those of its being right.
    """

    weights: NDArray[np.float16]
    bias: Floats
    sharpness: Floats
    slope: Floats
    offsets: Floats

    def judge(self, decisions: NDArray[np.float32]) -> tuple[Codes, NDArray[np.float32]]:
        """The best label of each row of decisions (n, labels), and its confidence."""
        import numpy as np

        best, odds = _best(decisions, float(self.sharpness))
        odds = float(self.slope) * odds + self.offsets[best]
        return best, (1.0 / (1.0 + np.exp(-odds))).astype(np.float32)


class TextClassifier:
    """Labels texts in every field of a taxonomy; fitted once, never changed.

    A field's model is a linear support vector machine a label, on binary n-grams of equal length
    that are scaled by how much oftener the label's texts hold them (Wang & Manning, "Baselines
    and bigrams: simple, good sentiment and topic classification", 2012). Confidence comes from
    out-of-fold decisions, through a softmax (Guo et al., "On calibration of modern neural
    networks", 2017) and a logistic regression with an offset a label (Platt, "Probabilistic
    outputs for support vector machines", 1999); within a label it rises with the decision.
    """

    def __init__(
        self,
        labels: Mapping[str, tuple[str, ...]],
        columns: NDArray[np.int32],
        models: Mapping[str, _Model],
        out_of_fold: Mapping[str, OutOfFold],
        out_of_fold_decisions: Mapping[str, NDArray[np.float16]],
        version: str,
    ) -> None:
        self.fields = tuple(labels)
        self.labels = labels
        """By field, in the order of the columns of its decisions."""
        self.out_of_fold = out_of_fold
        """By field, for the training rows with a label of it, in the order that `fit` was given."""
        self.out_of_fold_decisions = out_of_fold_decisions
        """By field, (rows, labels): of all training rows, in the order that `fit` was given."""
        self.version = version
        """A digest of the training rows, the settings and all learned numbers."""
        self._columns = columns
        self._models = models

    @classmethod
    def fit(
        cls, texts: Sequence[str], targets: Mapping[str, Sequence[str | None]], seed: int = 0
    ) -> TextClassifier:
        """Train on normalised texts; the same rows in any order give the same answers.

        `targets`: by field a label or None for each text. A field with one label is constant.
        Raises ValueError for a field without any label.
        """
        import numpy as np
        from threadpoolctl import threadpool_limits

        names = {field: _names(field, column) for field, column in targets.items()}
        order, digest, folds = _arranged(texts, targets, seed)
        present = Vectoriser().transform([texts[at] for at in order])
        columns = _learnable(present, sum(len(own) for own in names.values()))
        rows = _unit_rows(present[:, columns].tocsr())
        models, seen, decisions = {}, {}, {}
        with threadpool_limits(limits=1):  # sums in another order end in other bits
            for field, column in targets.items():
                code_of: dict[str | None, int] = {None: -1}
                code_of |= {name: at for at, name in enumerate(names[field])}
                codes = np.array([code_of[column[at]] for at in order])
                models[field], found = _fit_field(rows, codes, folds, len(names[field]), seed)
                given = np.empty_like(found)
                given[order] = found
                seen[field] = _out_of_fold(models[field], given, names[field], column)
                decisions[field] = given.astype(np.float16)
        for part in (
            columns,
            *(array for field in names for array in vars(models[field]).values()),
        ):
            digest.update(part.tobytes())
        return cls(names, columns, models, seen, decisions, digest.hexdigest())

    def judge(self, texts: Sequence[str]) -> Mapping[str, Judged]:
        """By field, the label of each normalised text and the probability that it is right."""
        judged = {}
        for field, decisions in self.decision(texts).items():
            best, scores = self._models[field].judge(decisions)
            judged[field] = Judged([self.labels[field][at] for at in best.tolist()], scores)
        return judged

    def decision(self, texts: Sequence[str]) -> Mapping[str, NDArray[np.float32]]:
        """By field, (texts, labels): how much speaks for each label; no probabilities."""
        import numpy as np

        found = [
            self._decide(texts[start : start + _JUDGED_AT_ONCE])
            for start in range(0, max(1, len(texts)), _JUDGED_AT_ONCE)
        ]
        return {field: np.concatenate([part[field] for part in found]) for field in self.fields}

    def _decide(self, texts: Sequence[str]) -> dict[str, NDArray[np.float32]]:
        import numpy as np
        from scipy.sparse import csr_matrix

        present = Vectoriser().transform(texts)
        places = self._places[present.indices]
        learned = places >= 0
        ends = np.append(0, np.cumsum(learned))[present.indptr]
        places = places[learned]
        shape = (len(texts), self._columns.size)
        rows = _unit_rows(csr_matrix((np.ones(places.size, np.float32), places, ends), shape=shape))
        return {
            field: _decisions(rows, weights, self._models[field].bias)
            for field, weights in self._weights.items()
        }

    @cached_property
    def _places(self) -> NDArray[np.int32]:
        """Where the weights of each of the vectoriser's columns stand; -1 where it has none."""
        import numpy as np

        places = np.full(Vectoriser.columns, -1, dtype=np.int32)
        places[self._columns] = np.arange(self._columns.size, dtype=np.int32)
        return places

    @cached_property
    def _weights(self) -> dict[str, NDArray[np.float32]]:
        import numpy as np

        return {field: self._models[field].weights.astype(np.float32) for field in self.fields}

    def save(self, path: Path) -> None:
        """Write one .npz without pickle, replacing what is there at once."""
        import numpy as np

        labels = {field: list(own) for field, own in self.labels.items()}
        header = {"format": _FORMAT, "version": self.version, "labels": labels}
        parts: dict[str, Any] = {"header": np.array(json.dumps(header)), "columns": self._columns}
        for at, field in enumerate(self.fields):
            seen = self.out_of_fold[field]
            code = {name: number for number, name in enumerate(self.labels[field])}
            parts |= {f"{at}-{name}": array for name, array in vars(self._models[field]).items()}
            parts[f"{at}-seen"] = np.array([code[label] for label in seen.labels], dtype=np.int32)
            parts[f"{at}-scores"], parts[f"{at}-correct"] = seen.scores, seen.correct
            parts[f"{at}-decisions"] = self.out_of_fold_decisions[field]
        temporary = path.with_name(f".{path.name}.new")
        with temporary.open("wb") as file:
            np.savez(file, allow_pickle=False, **parts)
        temporary.replace(path)

    @classmethod
    def load(cls, path: Path) -> TextClassifier:
        """Read what `save` wrote; raises ValueError for a file of another format."""
        import numpy as np

        with np.load(path, allow_pickle=False) as parts:
            header = json.loads(str(parts["header"]))
            if header["format"] != _FORMAT:
                raise ValueError(f"{path}: format {header['format']} is not {_FORMAT}; train again")
            labels = {field: tuple(own) for field, own in header["labels"].items()}
            models, seen, decisions = {}, {}, {}
            for at, field in enumerate(labels):
                names = _Model.__dataclass_fields__
                models[field] = _Model(**{name: parts[f"{at}-{name}"] for name in names})
                told = [labels[field][code] for code in parts[f"{at}-seen"].tolist()]
                seen[field] = OutOfFold(told, parts[f"{at}-scores"], parts[f"{at}-correct"])
                decisions[field] = parts[f"{at}-decisions"]
            return cls(labels, parts["columns"], models, seen, decisions, header["version"])


def _arranged(
    texts: Sequence[str], targets: Mapping[str, Sequence[str | None]], seed: int
) -> tuple[Codes, Any, Codes]:
    """The order to learn rows in, a digest begun with them, and each one's number to fold by.

    Order and number come from a hash of the text: the order in which rows arrive does not matter,
    and equal texts are never on both sides of a fold.
    """
    import numpy as np

    salt = seed.to_bytes(8, "little", signed=True)
    keys = [
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, salt=salt).digest()
        for text in texts
    ]
    labels = [json.dumps(row[1:]) for row in zip(texts, *targets.values(), strict=True)]
    order = sorted(range(len(texts)), key=lambda at: (keys[at], labels[at]))
    settings = [_FORMAT, seed, Vectoriser.settings, _PENALTY, _ROUNDS, _RATIO_FLOOR, _PULL]
    settings += [_LEAST_TEXTS, _MOST_WEIGHTS, _FOLDS, _FOLDS_OF_MANY, _FEW, list(targets)]
    digest = hashlib.blake2b(json.dumps(settings).encode(), digest_size=16)
    for at in order:
        digest.update(keys[at] + labels[at].encode() + b"\n")
    folds = [int.from_bytes(keys[at][-4:], "little") for at in order]
    return np.array(order, dtype=np.int64), digest, np.array(folds, dtype=np.int64)


def _names(field: str, labels: Sequence[str | None]) -> tuple[str, ...]:
    names = tuple(sorted({label for label in labels if label is not None}))
    if not names:
        raise ValueError(f"field {field!r} has no label in any of {len(labels)} training rows")
    return names


def _learnable(present: Any, labels: int) -> NDArray[np.int32]:
    """The columns to learn: those of at least so many texts that their weights are not too many."""
    import numpy as np

    texts = np.bincount(present.indices, minlength=present.shape[1])
    least = _LEAST_TEXTS
    while (texts >= least).sum() * labels > _MOST_WEIGHTS:
        least += 1
    return np.flatnonzero(texts >= least).astype(np.int32)


def _unit_rows(present: Any) -> Any:
    """The rows scaled to length one; they hold ones, so their length is the root of their count."""
    import numpy as np

    counts = np.diff(present.indptr)
    present.data = np.repeat(1.0 / np.sqrt(np.maximum(counts, 1)), counts).astype(np.float32)
    return present


def _decisions(rows: Any, weights: NDArray[np.float32], bias: Floats) -> NDArray[np.float32]:
    """(rows, labels), from weights of m models: one speaks for the second of two labels."""
    import numpy as np

    if bias.size == 0:
        return np.zeros((rows.shape[0], 1), dtype=np.float32)
    decided = np.asarray(rows @ weights) + bias.astype(np.float32)
    return np.hstack([-decided, decided]) if bias.size == 1 else decided


def _fit_field(
    rows: Any, codes: Codes, folds: Codes, labels: int, seed: int
) -> tuple[_Model, NDArray[np.float32]]:
    """The model of one field, and decisions (rows, labels) of models that had not seen the row.

    `codes`: the label of each row, -1 for none.
    """
    import numpy as np

    fold = folds % (_FOLDS if labels <= _FEW else _FOLDS_OF_MANY)
    found = np.zeros((rows.shape[0], labels), dtype=np.float32)
    for number in range(fold.max() + 1 if labels > 1 else 0):
        train = np.flatnonzero((fold != number) & (codes >= 0))
        weights, bias = _train(rows[train], codes[train], labels, seed)
        found[fold == number] = _decisions(rows[fold == number], weights.astype(np.float32), bias)
    train = np.flatnonzero(codes >= 0)
    weights, bias = _train(rows[train], codes[train], labels, seed)
    return _Model(weights, bias, *_calibration(found[train], codes[train])), found


def _out_of_fold(
    model: _Model,
    decisions: NDArray[np.float32],
    names: tuple[str, ...],
    targets: Sequence[str | None],
) -> OutOfFold:
    import numpy as np

    known = np.array([label is not None for label in targets], dtype=bool)
    best, scores = model.judge(decisions[known])
    labels = [names[at] for at in best.tolist()]
    meant = [label for label in targets if label is not None]
    correct = np.array([label == right for label, right in zip(labels, meant, strict=True)])
    return OutOfFold(labels, scores, correct)


def _train(rows: Any, codes: Codes, labels: int, seed: int) -> tuple[NDArray[np.float16], Floats]:
    """Weights (features, m) and biases (m,) of m models, each one label against the others."""
    import numpy as np

    learned = range(labels) if labels > 2 else range(1, labels)
    weights = np.zeros((rows.shape[1], len(learned)), dtype=np.float16)
    bias = np.full(len(learned), -1.0)  # what a model says where its label was never seen
    total = np.bincount(rows.indices, minlength=rows.shape[1])
    for at, label in enumerate(learned):
        mine = codes == label
        if mine.all():
            bias[at] = 1.0
        elif mine.any() and rows.nnz:
            weights[:, at], bias[at] = _separate(rows, mine, total, seed)
    return weights, bias


def _separate(rows: Any, mine: NDArray[np.bool_], total: Codes, seed: int) -> tuple[Floats, float]:
    """The weights and bias that part the rows of a label from all others."""
    import numpy as np
    from scipy.sparse import csr_matrix
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    of_mine = np.bincount(rows[mine].indices, minlength=total.size) + 1.0
    of_others = total - of_mine + 2.0
    ratio = np.log(of_mine / of_mine.sum() * (of_others.sum() / of_others))
    scale = np.abs(ratio) + _RATIO_FLOOR
    scaled = csr_matrix((rows.data * scale[rows.indices], rows.indices, rows.indptr), rows.shape)
    model = LinearSVC(C=_PENALTY, max_iter=_ROUNDS, random_state=seed % (1 << 32))
    with warnings.catch_warnings():
        # A fixed number of rounds is meant: the last digits cost most and change no label.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(scaled, mine)
    return model.coef_[0] * scale, float(model.intercept_[0])


def _best(decisions: NDArray[np.float32], sharpness: float) -> tuple[Codes, Floats]:
    """The best label of each row, and its log-odds against all others under a softmax."""
    import numpy as np
    from scipy.special import logsumexp

    best = decisions.argmax(axis=1)
    sharp = decisions * np.float64(sharpness)
    if sharp.shape[1] == 1:
        return best, np.zeros(len(best))
    at = np.arange(len(best))
    top = sharp[at, best].copy()
    sharp[at, best] = -np.inf
    return best, top - logsumexp(sharp, axis=1)


def _calibration(decisions: NDArray[np.float32], codes: Codes) -> tuple[Floats, Floats, Floats]:
    """Sharpness, slope and offsets (labels,) under which decisions give the observed accuracy."""
    import numpy as np
    from scipy.optimize import minimize, minimize_scalar
    from scipy.special import expit, logsumexp

    labels = decisions.shape[1]
    at = np.arange(len(codes))

    def surprise(log_sharpness: float) -> float:
        sharp = decisions * np.exp(log_sharpness)
        return float((logsumexp(sharp, axis=1) - sharp[at, codes]).mean())

    sharpness = 1.0
    if labels > 1:
        sharpness = float(np.exp(minimize_scalar(surprise, bounds=(-4, 6), method="bounded").x))
    best, odds = _best(decisions, sharpness)
    correct = (best == codes).astype(np.float64)

    def loss(given: Floats) -> tuple[float, Floats]:
        slope, shared, own = np.exp(given[0]), given[1], given[2:]
        told = slope * odds + shared + own[best]
        # One more right and one more wrong row: a faultless classifier must not claim certainty.
        value = (np.logaddexp(0.0, told) - correct * told).sum()
        value += 2 * np.logaddexp(0.0, shared) - shared + _PULL / 2 * (own @ own + given[0] ** 2)
        excess = expit(told) - correct
        of_slope = (excess * odds).sum() * slope + _PULL * given[0]
        of_shared = excess.sum() + 2 * expit(shared) - 1
        of_own = np.bincount(best, weights=excess, minlength=labels) + _PULL * own
        return float(value), np.concatenate([[of_slope, of_shared], of_own])

    fitted = minimize(loss, np.zeros(2 + labels), jac=True, method="L-BFGS-B").x
    return np.array(sharpness), np.array(np.exp(fitted[0])), fitted[1] + fitted[2:]
