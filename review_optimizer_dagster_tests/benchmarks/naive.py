"""The naive ways beside the benchmark `savings`: exact only, plain similarity, the constant class.

A request is answered from what was stored before it, else by the model, which is right, and stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

import polars as pl

from review_optimizer_dagster.matching.index import NearIndex
from review_optimizer_dagster.matching.veto import veto
from review_optimizer_dagster_tests.benchmarks.labelled import Share

MIN_RATIO: Final = 0.85
_TRIED: Final = 32  # candidates of one text that the veto reads, as in the cache

OUTCOMES: Final = pl.Schema(
    {"label": pl.String(), "hit": pl.Boolean(), "right": pl.Boolean()}  # of each request, in order
)


class NearTexts:
    """Which texts of a set are near which others, found once for all ways of using them.

    Candidates come from the index, whose recall is that of brute force to within 1 %.
    """

    def __init__(
        self, texts: pl.DataFrame, asked: pl.Series | None = None, min_ratio: float = MIN_RATIO
    ) -> None:
        """texts: content_key, content, each text once; asked: keys of those to look for, or all."""
        self._keys = texts["content_key"].to_list()
        contents = texts["content"].to_list()
        self._contents = dict(zip(self._keys, contents, strict=True))
        queries = self._keys if asked is None else asked.unique(maintain_order=True).to_list()
        pairs = NearIndex(contents, min_ratio).search([self._contents[key] for key in queries])
        self._near = {
            queries[query]: [
                other for pair in group if (other := self._keys[pair.entry]) != queries[query]
            ]
            for query, group in groupby(pairs, key=attrgetter("query"))
        }

    def candidates(self, key: str, with_veto: bool) -> list[str]:
        """Keys of other texts at that ratio or more, the nearest first; the veto's refusals out."""
        near = self._near.get(key, [])
        if not with_veto:
            return near
        text = self._contents[key]
        return [other for other in near[:_TRIED] if veto(text, self._contents[other]) is None]


def exact_only(archive: pl.DataFrame, requests: pl.DataFrame) -> pl.DataFrame:
    """OUTCOMES of answering repeats of a stored text alone; frames: content_key, label."""
    stored = dict(archive.select("content_key", "label").iter_rows())
    return _outcomes(requests, [_answer(stored, key, label, ()) for key, label in _asked(requests)])


def near_only(
    archive: pl.DataFrame, requests: pl.DataFrame, near: NearTexts, with_veto: bool
) -> pl.DataFrame:
    """OUTCOMES of answering from the nearest stored text at ratio 0.85 or more."""
    stored = dict(archive.select("content_key", "label").iter_rows())
    answers = [
        _answer(stored, key, label, near.candidates(key, with_veto))
        for key, label in _asked(requests)
    ]
    return _outcomes(requests, answers)


def constant_class(archive: pl.DataFrame, requests: pl.DataFrame) -> pl.DataFrame:
    """OUTCOMES of answering every request with the archive's most frequent label."""
    counts = archive.group_by("label").len().sort("len", "label", descending=[True, False])
    return _outcomes(requests, [counts["label"][0]] * requests.height)


def _asked(requests: pl.DataFrame) -> list[tuple[str, str]]:
    return requests.select("content_key", "label").rows()


def _answer(stored: dict[str, str], key: str, label: str, near: Any) -> str | None:
    """The stored answer of the text or of one near it; without one the model's is stored."""
    if key in stored:
        return stored[key]
    if (source := next((other for other in near if other in stored), None)) is not None:
        return stored[source]
    stored[key] = label
    return None


def _outcomes(requests: pl.DataFrame, answers: list[str | None]) -> pl.DataFrame:
    answer = pl.Series("answer", answers, dtype=pl.String)
    return requests.select(
        "label",
        hit=answer.is_not_null(),
        right=pl.col("label") == pl.coalesce(answer, pl.col("label")),
    )


def figures(outcomes: pl.DataFrame) -> dict[str, Any]:
    """hit_rate and error over all requests, error of the hits, each with its exact interval."""
    wrong = outcomes.filter(~pl.col("right")).height
    hits = outcomes.filter("hit")
    shares: Mapping[str, Share] = {
        "hit_rate": Share(hits.height, outcomes.height),
        "error": Share(wrong, outcomes.height),
        "hit_error": Share(hits.filter(~pl.col("right")).height, hits.height),
    }
    found: dict[str, Any] = {"n": outcomes.height}
    for name, share in shares.items():
        found |= {name: share.value, f"{name}_interval": share.interval()}
    return found


def by_class(outcomes: pl.DataFrame) -> dict[str, dict[str, Any]]:
    """The figures of the requests of each gold label."""
    parts = outcomes.sort("label").group_by("label", maintain_order=True)
    return {str(label): figures(part) for (label,), part in parts}
