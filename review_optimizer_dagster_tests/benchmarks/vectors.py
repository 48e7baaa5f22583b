"""Sentence embeddings for the benchmark `savings`: read from a file, or made on the spot."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl

from review_optimizer_dagster.settings import PatternSettings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from review_optimizer_dagster.learning.embeddings import Embedder


class Vectors:
    """Gives rows their embeddings, and counts how many had one and what that took.

    A row without one has a row of NaN, which the second stage leaves out or abstains on.
    """

    def __init__(self, known: dict[str, NDArray[np.float32]], embedder: Embedder | None) -> None:
        self._known = known
        self._embedder = embedder
        self.name = embedder.name if embedder else "from a file"
        self.found = 0
        self.seconds = 0.0

    @classmethod
    def from_file(cls, path: Path) -> Vectors:
        """An .npz with `ids` (review_id) and `vectors`, (n, d), in the same order."""
        import numpy as np

        with np.load(path, allow_pickle=False) as arrays:
            known = dict(zip(arrays["ids"].tolist(), arrays["vectors"], strict=True))
        return cls(known, None)

    @classmethod
    def made_here(cls) -> Vectors:
        """By the extra `semantic`: about a quarter of a second of one core a text."""
        from review_optimizer_dagster.learning.embeddings import LocalEmbedder

        return cls({}, LocalEmbedder())

    @property
    def seconds_each(self) -> float | None:
        """Seconds that one embedding took; None where they come from a file."""
        return self.seconds / self.found if self._embedder and self.found else None

    def most_rows(self, settings: PatternSettings) -> int:
        """How many training rows may be asked for; a file answers what it has of any."""
        return settings.semantic_rows if self._embedder else 1_000_000_000

    def of(self, rows: pl.DataFrame) -> NDArray[np.float32]:
        """The embeddings of rows (review_id, content), (n, d)."""
        import numpy as np

        began = time.perf_counter()
        if self._embedder is not None:
            vectors = self._embedder.embed(rows["content"].to_list())
        else:
            width = len(next(iter(self._known.values())))
            nothing = np.full(width, np.nan, dtype=np.float32)
            vectors = np.stack([self._known.get(row, nothing) for row in rows["review_id"]])
        self.found += int(np.isfinite(vectors).all(axis=1).sum())
        self.seconds += time.perf_counter() - began
        return vectors
