"""How much never-seen traffic certified patterns serve, and how wrong, over many audits.

The pattern is trained once on the archive and judges the traffic once. A seed is one draw of the
audits; from each, certificates are made as the pipeline makes them, categories pooled, and the
rows that were not audited are served by them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import polars as pl

from review_optimizer_dagster.bounds import Rule, passes
from review_optimizer_dagster.core import patterns
from review_optimizer_dagster.exchange.prompt import as_json
from review_optimizer_dagster.settings import PatternSettings
from review_optimizer_dagster_tests.benchmarks import naive
from review_optimizer_dagster_tests.benchmarks.labelled import Share, benchmark_taxonomy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from review_optimizer_dagster.learning.classifier import Judged
    from review_optimizer_dagster.learning.stack import StackedClassifier
    from review_optimizer_dagster_tests.benchmarks.vectors import Vectors

    Allowed: TypeAlias = NDArray[np.int64]

RULES: Final[tuple[Rule, ...]] = ("one-look", "anytime")
DRAWINGS: Final = ("uniform", "targeted")
BUDGETS: Final = (3_000, 5_000)  # audits
HEADLINE: Final = {0.05: 3_000, 0.03: 3_000, 0.02: 5_000, 0.01: 5_000}  # max_error to audits
_UNIT: Final = 5_000  # reviews that costs are told for
_BLOCK: Final = 100  # seeds at a time: keeps the working set small
_GRAIN: Final = 10  # audits of a label: thresholds are proposed once for numbers that are so near


@dataclass(frozen=True)
class Traffic:
    """Rows that a pattern judged: predicted label, score, whether the label is right."""

    labels: NDArray[np.str_]
    scores: NDArray[np.float64]
    right: NDArray[np.bool_]

    @classmethod
    def of(cls, judged: Judged, rows: pl.DataFrame) -> Traffic:
        """What was said of rows, beside their gold labels."""
        import numpy as np

        labels = np.array(judged.labels, dtype=np.str_)
        right = labels == rows["label"].to_numpy().astype(np.str_)
        return cls(labels, np.asarray(judged.scores, dtype=np.float64), right)


@dataclass(frozen=True)
class Stage:
    """A pattern that was trained on the archive, and what it said of the traffic."""

    name: str
    pattern: patterns.Pattern | StackedClassifier
    traffic: Traffic
    settings: PatternSettings
    rows: int
    """That it was trained on, each text once."""
    train_seconds: float
    judge_seconds: float
    note: str = ""
    embedded: int = 0
    """Traffic rows that had an embedding."""

    @classmethod
    def trained(
        cls, archive: pl.DataFrame, traffic: pl.DataFrame, settings: PatternSettings
    ) -> Stage:
        """The n-gram pattern; archive, traffic: ROWS."""
        taxonomy = benchmark_taxonomy([*archive["label"], *traffic["label"]])
        name = taxonomy.main.name
        texts = archive.unique("content_key", maintain_order=True)
        labels = [as_json({name: label}).decode() for label in texts["label"]]
        rows = texts.select("content_key", text="content", labels=pl.Series(labels))
        began = time.perf_counter()
        pattern = patterns.train(rows, taxonomy, settings)
        trained = time.perf_counter()
        judged = pattern.judge(traffic["content"].to_list())[name]
        seconds = trained - began, time.perf_counter() - trained
        said = Traffic.of(judged, traffic)
        return cls("n-grams", pattern, said, settings, rows.height, *seconds)

    @classmethod
    def stacked(
        cls,
        archive: pl.DataFrame,
        traffic: pl.DataFrame,
        settings: PatternSettings,
        vectors: Vectors,
    ) -> Stage:
        """The same with the second stage, on sentence embeddings of what n-grams leave unsure."""
        from review_optimizer_dagster.learning.stack import StackedClassifier

        name = benchmark_taxonomy(archive["label"]).main.name
        rows = archive.unique("content_key", maintain_order=True).sort("content_key")
        texts, targets = rows["content"].to_list(), {name: rows["label"].to_list()}
        most = vectors.most_rows(settings)
        began = time.perf_counter()
        pattern = StackedClassifier.fit(
            texts, targets, vectors.name, lambda at: vectors.of(rows[at]), most, settings.seed
        )
        trained, embedded = time.perf_counter(), vectors.found
        judged = pattern.judge(traffic["content"].to_list(), lambda at: vectors.of(traffic[at]))
        seconds = trained - began, time.perf_counter() - trained
        said = Traffic.of(judged[name], traffic)
        of_traffic = vectors.found - embedded
        note = f"{vectors.name}: {embedded:,} archive and {of_traffic:,} traffic rows embedded"
        size = rows.height
        return cls("with embeddings", pattern, said, settings, size, *seconds, note, of_traffic)

    def certified(
        self, max_error: float, rule: Rule, drawing: str, audits: int, seeds: int
    ) -> dict[str, Any]:
        """JSON of one way of drawing and certifying: see `figures`."""
        import numpy as np

        settings = self.settings.model_copy(update={"rule": rule, "evidence": audits})
        found = regions(self.traffic, self.pattern, max_error, settings, drawing)
        rows = len(self.traffic.labels)
        pool = np.arange(rows) if drawing == "uniform" else servable(found)
        audits = min(audits, len(pool))
        allowed = most_errors(rule, max_error, settings.confidence, audits)
        outcome = simulate(self.traffic, found, pool, audits, rule, allowed, seeds)
        arm = {"stage": self.name, "rule": rule, "drawing": drawing}
        return {**arm, **figures(outcome, self.traffic, audits, max_error)}

    def as_json(self) -> dict[str, Any]:
        """What training and judging took, and how often the pattern is right about all rows."""
        right = Share(int(self.traffic.right.sum()), len(self.traffic.right))
        return {
            "stage": self.name,
            "rows": self.rows,
            "train_seconds": self.train_seconds,
            "judge_seconds": self.judge_seconds,
            "accuracy": right.as_json(),
            "note": self.note,
        }


@dataclass(frozen=True)
class Region:
    """The rows of one predicted label, best score first."""

    rows: NDArray[np.int64]
    """Their positions in the traffic."""
    scores: NDArray[np.float64]
    wrong: NDArray[np.bool_]
    laxest: float
    """Rows under this score are neither audited nor served."""
    proposed: Callable[[int], tuple[float, ...]]
    """Thresholds, from strict to lax, that are tested where so many rows were audited."""

    def ends(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """How many rows reach each threshold."""
        import numpy as np

        # Ascending negative scores: the last place of -threshold counts the scores at or over it.
        wanted = -np.array(thresholds, dtype=float)
        return np.searchsorted(-self.scores, wanted, side="right").astype(np.int64)


@dataclass(frozen=True)
class Seeds:
    """What came of each seed: one number a seed."""

    audited: NDArray[np.int64]
    """Audits."""
    served: NDArray[np.int64]
    """Rows served that were not audited."""
    wrong: NDArray[np.int64]
    """Of these, wrong ones."""
    reached: NDArray[np.int64]
    """Rows of the whole traffic, audited or not, that reach the certified thresholds."""
    reached_wrong: NDArray[np.int64]
    """Of these, wrong ones."""


def regions(
    traffic: Traffic,
    pattern: patterns.Pattern | StackedClassifier,
    max_error: float,
    settings: PatternSettings,
    drawing: str,
    grain: int = _GRAIN,
) -> dict[str, Region]:
    """Each predicted label's rows, and the thresholds that `core.patterns.certify` would test.

    Targeted audits are drawn among the rows over the laxest threshold at which the pattern's
    out-of-fold error is still `max_error`; no laxer one is tested then.
    """
    import numpy as np

    (field,) = pattern.fields
    found = {}
    for label in np.unique(traffic.labels).tolist():
        seen = patterns.LabelSeen.of(pattern.out_of_fold[field], label)
        laxest = -np.inf if drawing == "uniform" else _laxest(seen, max_error)
        rows = np.flatnonzero(traffic.labels == label)
        rows = rows[np.argsort(-traffic.scores[rows], kind="stable")]
        proposed = _proposer(seen, laxest, max_error, settings, grain)
        scores, wrong = traffic.scores[rows], ~traffic.right[rows]
        found[label] = Region(rows, scores, wrong, laxest, proposed)
    return found


def _laxest(seen: patterns.LabelSeen, max_error: float) -> float:
    """The lowest score over which the training rows are wrong in at most `max_error`."""
    import numpy as np

    held = np.cumsum(seen.wrong) <= max_error * np.arange(1, len(seen.wrong) + 1)
    return float(seen.scores[np.flatnonzero(held)[-1]]) if held.any() else np.inf


def _proposer(
    seen: patterns.LabelSeen, laxest: float, max_error: float, settings: PatternSettings, grain: int
) -> Callable[[int], tuple[float, ...]]:
    """What `core.patterns` proposes for a number of audits, which is rounded to `grain`."""
    covered = float((seen.scores >= laxest).mean()) if len(seen.scores) else 0.0

    @cache
    def propose(audits: int) -> tuple[float, ...]:
        # It takes audits to be drawn from all rows of the label.
        rows = round(audits / covered) if covered else 0
        if settings.rule == "anytime":
            rows = patterns.planned_evidence(patterns.POOLED, rows, seen, settings)
        thresholds = patterns.proposed_thresholds(seen, rows, max_error, settings)
        return tuple(each for each in thresholds if each >= laxest)

    return lambda audits: propose(round(audits / grain) * grain)


def servable(found: Mapping[str, Region]) -> NDArray[np.int64]:
    """Positions of the rows that may be audited and served."""
    import numpy as np

    return np.sort(np.concatenate([r.rows[r.scores >= r.laxest] for r in found.values()]))


def most_errors(rule: Rule, max_error: float, confidence: float, most: int) -> NDArray[np.int64]:
    """For each number of audits up to `most`: the most errors that still certify, -1 for none."""
    import numpy as np

    errors = np.arange(int(most * max_error) + 2)
    counts = np.arange(most + 1)
    found = np.full(most + 1, -1, dtype=np.int64)
    for part in np.array_split(counts, max(1, most // 500)):
        grid_errors, grid_n = np.broadcast_arrays(errors[None, :], part[:, None])
        possible = grid_errors <= grid_n
        certifies = np.zeros(possible.shape, dtype=np.bool_)
        certifies[possible] = passes(
            rule, grid_errors[possible], grid_n[possible], max_error, confidence
        )
        # Fewer errors certify wherever more do.
        found[part] = certifies.sum(axis=1) - 1
    return found


def draw_audits(
    rng: np.random.Generator, pool: NDArray[np.int64], budget: int, seeds: int
) -> NDArray[np.int64]:
    """Positions of the audited rows, a row a seed, in the order in which they are audited.

    Uniform in the pool, without replacement.
    """
    import numpy as np

    keys = rng.random((seeds, len(pool)), dtype=np.float32)
    return pool[np.argsort(keys, axis=1)[:, :budget]]


def _passes_ever(
    ranks: NDArray[np.int64],
    wrong: NDArray[np.bool_],
    ends: NDArray[np.int64],
    first: NDArray[np.int64],
    allowed: Allowed,
) -> NDArray[np.bool_]:
    """By the rule `anytime`: whether each threshold ever passed, (seeds, thresholds).

    ranks, wrong: of the audited rows, in the order of their audit, (seeds, budget). Thresholds
    are tested from `first` on, and none after a failure.
    """
    import numpy as np

    found = np.zeros((len(ranks), len(ends)), dtype=np.bool_)
    failed = np.zeros(len(ranks), dtype=np.bool_)
    for at, end in enumerate(ends):
        tested = np.flatnonzero(~failed & (first <= at))
        inside = ranks[tested] < end
        n = np.cumsum(inside, axis=1, dtype=np.int32)
        errors = np.cumsum(inside & wrong[tested], axis=1, dtype=np.int32)
        found[tested, at] = (errors <= allowed[n]).any(axis=1)
        failed[tested] = ~found[tested, at]
    return found


def serve(
    drawn: NDArray[np.int64], rows: int, found: Mapping[str, Region], rule: Rule, allowed: Allowed
) -> dict[str, Seeds]:
    """Certify each label from the audits of each seed, and serve the rest by it.

    drawn: of `draw_audits`; rows: of the traffic; allowed: of `most_errors`.
    """
    import numpy as np

    audited = np.zeros((len(drawn), rows), dtype=np.bool_)
    np.put_along_axis(audited, drawn, values=True, axis=1)
    seed = np.arange(len(drawn))
    nothing = np.zeros((len(drawn), 1), dtype=np.int64)
    outcome = {}
    for label, region in found.items():
        inside = audited[:, region.rows]
        n = np.hstack([nothing, np.cumsum(inside, axis=1)])
        errors = np.hstack([nothing, np.cumsum(inside & region.wrong, axis=1)])
        wrong = np.concatenate([[0], np.cumsum(region.wrong)])
        tests = [region.proposed(audits) for audits in n[:, -1].tolist()]
        # Whatever the number of audits, the thresholds are the last ones of one series.
        longest = max(tests, key=len)
        first = np.array([len(longest) - len(test) for test in tests])
        ends = region.ends(longest)
        if rule == "one-look":
            passed = errors[:, ends] <= allowed[n[:, ends]]
        else:
            rank = np.full(rows, rows, dtype=np.int64)
            rank[region.rows] = np.arange(len(region.rows))
            is_wrong = np.zeros(rows, dtype=np.bool_)
            is_wrong[region.rows] = region.wrong
            passed = _passes_ever(rank[drawn], is_wrong[drawn], ends, first, allowed)
        untested = np.arange(len(ends)) < first[:, None]
        count = np.logical_and.accumulate(passed | untested, axis=1).sum(axis=1)
        end = np.where(count > first, np.concatenate([[0], ends])[count], 0)
        outcome[label] = Seeds(
            audited=n[:, -1],
            served=end - n[seed, end],
            wrong=wrong[end] - errors[seed, end],
            reached=end,
            reached_wrong=wrong[end],
        )
    return outcome


def simulate(
    traffic: Traffic,
    found: Mapping[str, Region],
    pool: NDArray[np.int64],
    budget: int,
    rule: Rule,
    allowed: Allowed,
    seeds: int,
) -> dict[str, Seeds]:
    """All seeds of one way of drawing and certifying, by predicted label."""
    import numpy as np

    # Every arm draws anew from one seed: arms over the same pool see the same audits.
    rng = np.random.default_rng(0)
    blocks = []
    for start in range(0, seeds, _BLOCK):
        drawn = draw_audits(rng, pool, budget, min(_BLOCK, seeds - start))
        blocks.append(serve(drawn, len(traffic.labels), found, rule, allowed))
    names = [field.name for field in fields(Seeds)]
    return {
        label: Seeds(
            **{name: np.concatenate([getattr(b[label], name) for b in blocks]) for name in names}
        )
        for label in found
    }


def _middle(values: NDArray[np.float64]) -> tuple[float, float]:
    """Between which the middle 95 % of the seeds lie."""
    import numpy as np

    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _of(outcome: Sequence[Seeds], unaudited: int, rows: int, max_error: float) -> dict[str, Any]:
    """Figures of some labels together: what each seed served, how wrong, how often too wrong."""
    import numpy as np

    served, wrong, reached, reached_wrong = (
        np.sum([getattr(each, name) for each in outcome], axis=0)
        for name in ("served", "wrong", "reached", "reached_wrong")
    )
    error = wrong / np.maximum(served, 1)
    error_of_reached = reached_wrong / np.maximum(reached, 1)
    found: dict[str, Any] = {
        "served": float((served / unaudited).mean()),
        "served_interval": _middle(served / unaudited),
        "reached": float((reached / rows).mean()),
        "reached_interval": _middle(reached / rows),
        "error": float(wrong.sum() / max(1, served.sum())),
        "error_interval": _middle(error),
        "abstained": float((served == 0).mean()),
    }
    for name, errors in (("broke_bound", error), ("broke_bound_of_all", error_of_reached)):
        broke = Share(int((errors > max_error).sum()), len(errors))
        found |= {name: broke.value, f"{name}_interval": broke.interval()}
    return found


def figures(
    outcome: Mapping[str, Seeds], traffic: Traffic, budget: int, max_error: float
) -> dict[str, Any]:
    """Over all labels and by predicted label; intervals hold the middle 95 % of the seeds.

    served: share of the traffic rows that were NOT audited, every one of them counted, whatever
    their score. reached: share of all traffic rows that reach a certified threshold, which is what
    days after the audits are served. error: of the served rows that were not audited. broke_bound:
    share of the seeds in which that error is over max_error; broke_bound_of_all: in which the
    error of all rows that reach the thresholds is, which is what a certificate bounds. The rows
    that were not audited are fewer, and where audits took most, their error is mostly chance.
    """
    rows = len(traffic.labels)
    unaudited = rows - budget
    return {
        **_of(list(outcome.values()), unaudited, rows, max_error),
        "seeds": len(next(iter(outcome.values())).served),
        "n": unaudited,
        "audits": budget,
        "by_class": {
            label: _of([seeds], unaudited, rows, max_error) for label, seeds in outcome.items()
        },
    }


def first_seen(
    archive: pl.DataFrame,
    traffic: pl.DataFrame,
    max_errors: Sequence[float],
    seeds: int,
    vectors: Vectors | None,
    note: Callable[[str], None],
) -> dict[str, Any]:
    """All ways at each `max_error`, and the naive ways; JSON: `first_seen`, `baselines` and more.

    The headline of each `max_error` is the n-gram pattern, uniform audits, certificates at one
    look; `second_stage` is the same with embeddings, where there are any.
    """
    stages = [Stage.trained(archive, traffic, PatternSettings())]
    if vectors is not None:
        note("first-seen: second stage")
        stages.append(Stage.stacked(archive, traffic, PatternSettings(), vectors))
    found: dict[str, Any] = {"first_seen": {}}
    for max_error in max_errors:
        note(f"first-seen: max_error {max_error:g}")
        arms = [
            stage.certified(max_error, rule, drawing, min(budget, traffic.height // 2), seeds)
            for stage in stages
            for rule in RULES
            for drawing in DRAWINGS
            for budget in BUDGETS
        ]
        # A small traffic has fewer audits than either budget: then the first is meant.
        most = max(arm["audits"] for arm in arms)
        wanted = min(HEADLINE.get(max_error, BUDGETS[0]), most)
        headline, *second = [
            next(arm for arm in arms if (arm["stage"], arm["audits"]) == (stage.name, wanted))
            for stage in stages
        ]
        found["first_seen"][f"{max_error:g}"] = {
            **headline,
            "second_stage": second[0] if second else None,
            "arms": arms,
        }
    note("first-seen: the naive ways")
    return {
        **found,
        "first_seen_stages": [stage.as_json() for stage in stages],
        "baselines": baselines(archive, traffic),
        "second_stage": _added(found["first_seen"], stages[-1], vectors) if vectors else {},
    }


def _added(
    headlines: Mapping[str, Mapping[str, Any]], stage: Stage, vectors: Vectors
) -> dict[str, dict[str, Any]]:
    """By max_error, of 5,000 reviews: how many more the second stage serves, and what it takes."""
    share = _UNIT / len(stage.traffic.labels)
    each = vectors.seconds_each
    return {
        max_error: {
            "more_served": (found["second_stage"]["reached"] - found["reached"]) * _UNIT,
            "embedded": stage.embedded * share,
            "seconds": None if each is None else each * stage.embedded * share,
        }
        for max_error, found in headlines.items()
    }


def baselines(archive: pl.DataFrame, traffic: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The naive ways over the traffic, one by one, from a store that starts with the archive."""
    texts = pl.concat([archive, traffic]).unique("content_key", maintain_order=True)
    near = naive.NearTexts(texts, asked=traffic["content_key"])
    outcomes = {
        "constant class": naive.constant_class(archive, traffic),
        "exact only": naive.exact_only(archive, traffic),
        "ratio >= 85": naive.near_only(archive, traffic, near, with_veto=False),
        "ratio >= 85 with veto (no patterns)": naive.near_only(
            archive, traffic, near, with_veto=True
        ),
    }
    return {
        name: {**naive.figures(found), "by_class": naive.by_class(found)}
        for name, found in outcomes.items()
    }
