"""L3's learned patterns, after near matching: they answer where their error is bounded, or abstain.

A pattern is a frozen classifier of all closed fields, for one identity. What it may say, and from
which score on, stands in certificates: thresholds proposed by its training rows, and tested on
evidence that it was not trained on (DESIGN: an answer comes from a cache only where it was shown
to be right).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import polars as pl

from review_optimizer_dagster.bounds import (
    error_bound,
    fixed_sequence,
    lower_bound,
    passes,
)
from review_optimizer_dagster.exchange.prompt import as_json
from review_optimizer_dagster.settings import PatternSettings
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from review_optimizer_dagster.learning.classifier import Judged, OutOfFold, TextClassifier
    from review_optimizer_dagster.learning.stack import StackedClassifier

STATUSES: Final = ("serving", "abstains", "cut out", "switched off")
POOLED: Final = ""  # the category of a certificate for all categories without one of their own

_NAMES: Final = {"identity": pl.String(), "version": pl.String(), "field": pl.String()}
TRAINING: Final = pl.Schema(dict.fromkeys(("content_key", "text", "labels"), pl.String()))
JUDGEMENTS: Final = pl.Schema(
    {
        "identity": pl.String(),
        "content_key": pl.String(),
        "category": pl.String(),  # null where unknown
        "version": pl.String(),
        "field": pl.String(),
        "label": pl.String(),
        "score": pl.Float64(),
    }
)
EVIDENCE: Final = pl.Schema(
    _NAMES
    | {
        "content_key": pl.String(),
        "day": pl.Date(),
        "category": pl.String(),
        "label": pl.String(),  # predicted
        "score": pl.Float64(),
        "reference": pl.String(),  # the model's label, or a human's
        "agrees": pl.Boolean(),
        "draw": pl.Float64(),
        "live": pl.Boolean(),  # drawn after the pattern first answered
    }
)
CERTIFICATES: Final = pl.Schema(
    _NAMES
    | {
        "label": pl.String(),
        "category": pl.String(),  # POOLED for all that have none of their own
        "threshold": pl.Float64(),  # least score that is served; null unless serving
        "n": pl.Int64(),  # evidence that decided the status, and how much of it disagreed
        "errors": pl.Int64(),
        "bound": pl.Float64(),  # upper bound of the error; lower where it was cut out or off
        "max_error": pl.Float64(),  # that this field may have
        "rule": pl.String(),
        "status": pl.String(),  # one of STATUSES
    }
)
ANSWERED: Final = pl.Schema(
    dict.fromkeys(("identity", "content_key", "labels", "source_key"), pl.String())
    | {"score": pl.Float64(), "bound": pl.Float64()}
)

_STEP: Final = 0.01  # of a label's coverage, between thresholds: finer steps served no more
_SIMULATED: Final = 200  # audits that decide where the sequence starts
_RECENT: Final = 500  # live answers of a region that may switch it off: weeks, so that drift shows
_KEY: Final = ["identity", "content_key", "version"]


NO_EMBEDDER: Final = "none"  # stands for the embedder's name where a pattern has one stage


class Embeddings(Protocol):
    """Where the second stage of a pattern has its vectors from."""

    @property
    def name(self) -> str:
        """What decides the vectors."""

    def of(self, texts: pl.DataFrame) -> NDArray[np.float32]:
        """A vector a row of texts (tenant, content_key, text), (n, d); NaN where there is none."""


class Frozen(Protocol):
    """A trained classifier, as certificates see it."""

    @property
    def fields(self) -> tuple[str, ...]:
        """The closed fields that it answers."""

    @property
    def out_of_fold(self) -> Mapping[str, OutOfFold]:
        """By field, what it said of training rows that it had not seen."""

    @property
    def version(self) -> str:
        """A digest of everything that decides its answers."""


class Pattern(Frozen, Protocol):
    """A classifier that needs the texts alone."""

    def judge(self, texts: Sequence[str]) -> Mapping[str, Judged]:
        """By field, a label and a score for every text."""


# --- training -------------------------------------------------------------------------------------


def is_holdout(content_keys: pl.Series, share: float) -> pl.Series:
    """Which contents train no pattern, ever: a fixed share of all, by a hash of the key.

    >>> is_holdout(pl.Series(["a", "b", "c"]), 0.5).to_list()
    [True, True, False]
    """
    digests = (
        hashlib.blake2b(key.encode(), digest_size=8, person=b"holdout").digest()
        for key in content_keys
    )
    held = [int.from_bytes(digest) < share * 2**64 for digest in digests]
    return pl.Series("holdout", held, dtype=pl.Boolean)


def due(rows: int, trained_on: int | None, settings: PatternSettings) -> bool:
    """Whether an archive of so many rows should train a pattern (anew)."""
    if rows < settings.min_rows:
        return False
    return trained_on is None or rows >= settings.growth * trained_on


def with_references(rows: pl.DataFrame, taxonomy: Taxonomy) -> pl.DataFrame:
    """The same rows with the `labels` that a pattern is to give: a human's word before the model's.

    rows: labels (JSON, the model's), truth (JSON, a human's); labels outside the taxonomy are
    dropped. A human who only knows classes that `coarse` maps to does not contradict a finer label
    of the model: that stands.
    """
    told = [_reference(rows, field) for field in taxonomy.fields]
    return rows.with_columns(labels=_object(told))


def _reference(rows: pl.DataFrame, field: LabelField) -> pl.Expr:
    human, model = _label_of(pl.col("truth"), field), _label_of(pl.col("labels"), field)
    known = frozenset(rows.select(human.drop_nulls().unique()).to_series())
    agreed = [
        (label, truth)
        for label in field.labels
        for truth in known
        if field.agrees(label, truth, known)
    ]
    stands = pl.concat_str(model, human, separator="\0").is_in(["\0".join(p) for p in agreed])
    said = pl.when(stands).then(model).otherwise(pl.coalesce(human, model))
    return said.replace_strict(_fragments(field), default=None)


def train(rows: pl.DataFrame, taxonomy: Taxonomy, settings: PatternSettings) -> TextClassifier:
    """Fit a pattern to archived answers (TRAINING), each content once, in any order.

    Contents that `is_holdout` names must not be among them.
    """
    from review_optimizer_dagster.learning.classifier import TextClassifier

    return TextClassifier.fit(rows["text"].to_list(), _targets(rows, taxonomy), settings.seed)


def train_stacked(
    rows: pl.DataFrame, taxonomy: Taxonomy, settings: PatternSettings, embeddings: Embeddings
) -> StackedClassifier:
    """Fit a pattern of two stages to rows as `train` takes them, with tenant."""
    from review_optimizer_dagster.learning.stack import StackedClassifier

    return StackedClassifier.fit(
        rows["text"].to_list(),
        _targets(rows, taxonomy),
        embeddings.name,
        lambda positions: embeddings.of(rows[list(positions)]),
        settings.semantic_rows,
        settings.seed,
    )


def _targets(rows: pl.DataFrame, taxonomy: Taxonomy) -> dict[str, list[str | None]]:
    """The labels of each field, a row each."""
    return {
        field.name: rows.select(
            _label_of(pl.col("labels"), field).replace_strict(
                {label: label for label in field.labels}, default=None
            )
        )
        .to_series()
        .to_list()
        for field in taxonomy.fields
    }


def _label_of(labels: pl.Expr, field: LabelField) -> pl.Expr:
    return labels.str.json_path_match(f"$.{field.name}")


def _fragments(field: LabelField) -> dict[str, str]:
    """Each label of a field to its part of the canonical JSON object."""
    return {label: as_json({field.name: label}).decode()[1:-1] for label in field.labels}


def _object(fragments: Sequence[pl.Expr]) -> pl.Expr:
    """The canonical JSON object of fragments in the order of the taxonomy; null ones are left out.

    Put together by columns: a call of json for every text would take most of the time.
    """
    inside = pl.concat_str(fragments, separator=", ", ignore_nulls=True)
    return pl.concat_str(pl.lit("{"), inside, pl.lit("}"))


# --- evidence -------------------------------------------------------------------------------------


def judge(
    classifier: Pattern | StackedClassifier,
    identity: str,
    texts: pl.DataFrame,
    embeddings: Embeddings | None = None,
) -> pl.DataFrame:
    """What a pattern would say of texts (content_key, category, text). Returns JUDGEMENTS.

    One of two stages needs embeddings, and the tenant of each text.
    """
    from review_optimizer_dagster.learning.stack import StackedClassifier

    bodies = texts["text"].to_list()
    if not isinstance(classifier, StackedClassifier):
        said = classifier.judge(bodies)
    elif embeddings is not None:
        said = classifier.judge(bodies, lambda positions: embeddings.of(texts[list(positions)]))
    else:
        raise ValueError(f"the pattern {classifier.version} needs embeddings")
    return pl.concat(
        [
            JUDGEMENTS.to_frame(),
            *(
                texts.select(
                    "content_key",
                    pl.col("category").cast(pl.String()),
                    identity=pl.lit(identity),
                    version=pl.lit(classifier.version),
                    field=pl.lit(field),
                    label=pl.Series(said[field].labels, dtype=pl.String),
                    score=pl.Series(said[field].scores, dtype=pl.Float64),
                ).select(JUDGEMENTS.names())
                for field in classifier.fields
            ),
        ]
    )


def evidence(judgements: pl.DataFrame, references: pl.DataFrame) -> pl.DataFrame:
    """Compare what a pattern said (JUDGEMENTS) with what it should have said. Returns EVIDENCE.

    references: content_key, day, category, labels (JSON), draw, live; a uniform sample. A content
    counts once, when it was first drawn: asking again about the same text would tell nothing new.
    """
    known = references.sort("day", "draw", "category").unique("content_key", keep="first")
    told = [
        known.select(
            "content_key",
            "day",
            "category",
            "draw",
            "live",
            field=pl.lit(field),
            reference=pl.col("labels").str.json_path_match(f"$.{field}"),
        )
        for field in sorted(judgements["field"].unique())
    ]
    if not told:
        return EVIDENCE.to_frame()
    return (
        judgements.drop("category")
        .join(pl.concat(told).drop_nulls("reference"), on=["content_key", "field"])
        .with_columns(agrees=pl.col("label") == pl.col("reference"))
        .select(EVIDENCE.names())
        .cast(EVIDENCE)
        .sort("identity", "version", "field", "day", "draw", "content_key")
    )


# --- certificates ---------------------------------------------------------------------------------


def certify(
    evidence: pl.DataFrame, classifier: Frozen, max_error: float, settings: PatternSettings
) -> pl.DataFrame:
    """What a pattern may answer, from the evidence (EVIDENCE of one identity and this version).

    `max_error` bounds the whole review and is split over the fields. A row of CERTIFICATES for
    every field and label, of all categories pooled (POOLED) and of each that has `category_rows`
    for itself. A category whose part of a pool contradicts the bound, by a one-sided lower bound,
    is `cut out`; what the last live answers contradict is `switched off` whatever all evidence
    says. Raises ValueError where the evidence is of other patterns.
    """
    if evidence.is_empty():
        return CERTIFICATES.to_frame()
    sources = set(evidence.select("identity", "version").unique().iter_rows())
    if len(sources) > 1 or next(iter(sources))[1] != classifier.version:
        raise ValueError(f"evidence of {sorted(sources)} cannot certify {classifier.version}")
    ordered = evidence.sort("day", "draw", "content_key").with_columns(
        pl.col("category").fill_null(POOLED)
    )
    allowed = max_error / len(classifier.fields)
    rows = []
    for field in classifier.fields:
        seen = classifier.out_of_fold[field]
        of_field = ordered.filter(field=field)
        for label in sorted({*seen.labels, *of_field["label"]}):
            of_label = LabelSeen.of(seen, label)
            for outcome in _outcomes(of_field.filter(label=label), of_label, allowed, settings):
                names = (evidence["identity"][0], classifier.version, field, label)
                rows.append((*names, *outcome[:-1], allowed, settings.rule, outcome.status))
    return pl.DataFrame(rows, CERTIFICATES, orient="row")


class _Outcome(NamedTuple):
    category: str
    threshold: float | None
    n: int
    errors: int
    bound: float
    status: str


class LabelSeen(NamedTuple):
    """What the training rows say of one label: scores, the best first, and which were wrong."""

    scores: Any
    wrong: Any
    share: float  # of all training rows

    @classmethod
    def of(cls, seen: OutOfFold, label: str) -> LabelSeen:
        """What was predicted of one label, the most confident first."""
        import numpy as np

        mine = np.asarray(seen.labels, dtype=object) == label
        scores = np.asarray(seen.scores, dtype=float)[mine]
        order = np.argsort(-scores, kind="stable")
        wrong = ~np.asarray(seen.correct, dtype=bool)[mine]
        return cls(scores[order], wrong[order], float(mine.mean()) if len(mine) else 0.0)


def _outcomes(
    evidence: pl.DataFrame, seen: LabelSeen, max_error: float, settings: PatternSettings
) -> list[_Outcome]:
    """The certificates of one field and label."""
    sizes = evidence.filter(pl.col("category") != POOLED)["category"].value_counts()
    own = sorted(sizes.filter(pl.col("count") >= settings.category_rows)["category"])
    pool = evidence.filter(~pl.col("category").is_in(own))
    groups = {POOLED: pool} | {name: evidence.filter(category=name) for name in own}
    found = [_outcome(name, group, seen, max_error, settings) for name, group in groups.items()]
    if found[0].threshold is not None:
        served = pool.filter(pl.col("score") >= found[0].threshold)
        for name in sorted(set(served["category"]) - {POOLED}):
            n, errors = _counts(served.filter(category=name))
            if (least := lower_bound(errors, n, settings.confidence)) > max_error:
                found.append(_Outcome(name, None, n, errors, least, "cut out"))
    return found


def _outcome(
    category: str, group: pl.DataFrame, seen: LabelSeen, max_error: float, settings: PatternSettings
) -> _Outcome:
    thresholds = proposed_thresholds(
        seen, planned_evidence(category, group.height, seen, settings), max_error, settings
    )
    scores, wrong = group["score"].to_numpy(), ~group["agrees"].to_numpy()
    rule, confidence = settings.rule, settings.confidence
    passed = fixed_sequence(thresholds, scores, wrong, max_error, rule, confidence)
    if passed is None:
        tested = group.filter(pl.col("score") >= thresholds[0]) if thresholds else group
        n, errors = _counts(tested)
        bound = error_bound(rule, errors, n, confidence)
        return _Outcome(category, None, n, errors, bound, "abstains")
    recent = group.filter("live", pl.col("score") >= passed.threshold).tail(_RECENT)
    n, errors = _counts(recent)
    if (least := lower_bound(errors, n, confidence)) > max_error:
        return _Outcome(category, None, n, errors, least, "switched off")
    return _Outcome(category, passed.threshold, passed.n, passed.errors, passed.bound, "serving")


def _counts(evidence: pl.DataFrame) -> tuple[int, int]:
    return evidence.height, int((~evidence["agrees"]).sum())


def planned_evidence(category: str, rows: int, seen: LabelSeen, settings: PatternSettings) -> int:
    """How much evidence the thresholds are chosen for.

    What there is, for one look. A bound that holds at every look needs thresholds that stay as
    evidence is added: they are chosen for what was planned.
    """
    if settings.rule == "one-look":
        return rows
    return settings.category_rows if category else round(settings.evidence * seen.share)


def proposed_thresholds(
    seen: LabelSeen, rows: int, max_error: float, settings: PatternSettings
) -> list[float]:
    """Thresholds in the order of the tests, from strict to lax; empty where no test can pass.

    Candidates lie `_STEP` of the label's coverage apart. The sequence starts where simulated
    audits, drawn from the training rows, end farthest on average: a stricter start has too little
    evidence to pass, a laxer one too many errors. Only the training rows and the number of
    evidence rows are read, never how these turned out.
    """
    import numpy as np

    total = len(seen.scores)
    if not total or not rows:
        return []
    last = np.unique(np.ceil(np.arange(_STEP, 1 + _STEP / 2, _STEP) * total).astype(int)) - 1
    thresholds = np.unique(seen.scores[np.minimum(last, total - 1)])[::-1]
    over = np.searchsorted(-seen.scores, -thresholds, side="right")  # rows at or over each
    bands = np.diff(over, prepend=0)
    wrong = np.diff(np.cumsum(seen.wrong)[over - 1], prepend=0)
    random = np.random.default_rng(settings.seed)
    drawn = random.multinomial(rows, bands / total, size=_SIMULATED)
    errors = random.binomial(drawn, wrong / bands).cumsum(axis=1)
    passed = passes(settings.rule, errors, drawn.cumsum(axis=1), max_error, settings.confidence)
    reached, means = np.zeros(_SIMULATED), np.zeros(len(thresholds))
    for place in range(len(thresholds) - 1, -1, -1):
        reached = np.where(passed[:, place], np.maximum(reached, over[place]), 0)
        means[place] = reached.mean()
    return [float(each) for each in thresholds[means.argmax() :]] if means.any() else []


# --- answers --------------------------------------------------------------------------------------


def answer(
    judgements: pl.DataFrame, certificates: pl.DataFrame, taxonomy: Taxonomy
) -> pl.DataFrame:
    """The texts (JUDGEMENTS) all of whose fields are certified. Returns ANSWERED, by key.

    A category's own certificate decides, whatever it says; the pooled one where there is none.
    `score` is the least of the fields', `bound` the sum of their certified bounds.
    """
    rows = _certified(judgements, certificates)
    refused = rows.filter(~pl.col("served")).select(_KEY)
    # A text that was judged twice counts by the worst.
    rest = rows.join(refused, on=_KEY, how="anti").sort("bound", "score", descending=[True, False])
    whole = rest.select(_KEY).unique()
    for field in taxonomy.fields:
        labels = _fragments(field)
        part = rest.filter(pl.col("field") == field.name, pl.col("label").is_in(list(labels)))
        part = part.unique(_KEY, keep="first", maintain_order=True).select(
            *_KEY,
            pl.col("label").replace_strict(labels, default=None).alias(f"label_{field.name}"),
            pl.col("score").alias(f"score_{field.name}"),
            pl.col("bound").alias(f"bound_{field.name}"),
        )
        whole = whole.join(part, on=_KEY)
    names = [field.name for field in taxonomy.fields]
    return (
        whole.with_columns(
            labels=_object([pl.col(f"label_{name}") for name in names]),
            source_key=pl.format("pattern:{}", "version"),
            score=pl.min_horizontal(f"score_{name}" for name in names),
            bound=pl.sum_horizontal(f"bound_{name}" for name in names),
        )
        .sort("identity", "content_key", "bound", "source_key")
        .unique(["identity", "content_key"], keep="first", maintain_order=True)
        .select(ANSWERED.names())
    )


def _certified(judgements: pl.DataFrame, certificates: pl.DataFrame) -> pl.DataFrame:
    """JUDGEMENTS with `served` and the `bound` of the certificate that decides."""
    named = ["identity", "version", "field", "label"]
    held = certificates.select(*named, "category", "status", "threshold", "bound")
    is_pooled = pl.col("category") == POOLED
    rows = judgements.with_columns(pl.col("category").fill_null(POOLED)).join(
        held.filter(~is_pooled), on=[*named, "category"], how="left"
    )
    pooled = held.filter(is_pooled).drop("category")
    rows = rows.join(pooled, on=named, how="left", suffix="_pooled")
    has_own = pl.col("status").is_not_null()
    rows = rows.with_columns(
        pl.when(has_own).then(name).otherwise(f"{name}_pooled").alias(name)
        for name in ("status", "threshold", "bound")
    )
    # A score that is no number compares as the largest.
    sure = pl.col("score").is_finite() & (pl.col("score") >= pl.col("threshold"))
    served = ((pl.col("status") == "serving") & sure).fill_null(False)
    return rows.with_columns(served=served)
