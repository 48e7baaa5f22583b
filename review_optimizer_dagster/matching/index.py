"""Finds the texts that a text may be near, without comparing it with every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from rapidfuzz import fuzz, process

if TYPE_CHECKING:  # numpy is imported where it is used: most commands never come near it
    import numpy as np
    from numpy.typing import NDArray

_BINS: Final = 512
_SCALE: Final = 4.0  # root mean square of a profile: no bin can pass 4 * sqrt(512) = 90, an int8
_FOLD: Final = 4  # bins that the first look adds up to one
_FIRST_LOOK: Final = 0.8  # of the product asked for: folding blurs it, so the first look is wider
_CHUNK: Final = 256  # texts hashed at a time: keeps the working set in the processor's cache
_BLOCK: Final = 128  # queries compared at a time
_LONG: Final = 160  # letters: from here on chance matters little
_SAMPLE: Final = 2_000  # entries that the background is taken from
_PRIOR: Final = 50  # texts' worth of no background: a small archive has none to subtract


class Pair(NamedTuple):
    """An entry that is near a query: positions in the two sequences, ratio in 0..1."""

    query: int
    entry: int
    ratio: float


class NearIndex:
    """Finds the entries whose rapidfuzz ratio with a query is at least `min_ratio`.

    A text's profile is its letter trigrams, hashed with signs into 512 bins (Weinberger et al.,
    2009), less what any text of its length holds, in small whole numbers of one norm: products
    are exact cosines, so no result hangs on the order of rows. A query meets the entries whose
    length the ratio allows (2 min / (a + b) >= ratio), by folded, then by full profiles, and
    rapidfuzz verifies. The bound is empirical: a cosine of 0.32 at a ratio of 0.85, where edits
    in every word leave 0.3 to 0.5. Work grows with the entries of like length.

    >>> index = NearIndex(["great product"], 0.85)
    >>> [(pair.entry, round(pair.ratio, 2)) for pair in index.search(["great products", "bad"])]
    [(0, 0.96)]
    """

    def __init__(self, texts: Sequence[str], min_ratio: float) -> None:
        import numpy as np

        self._min_ratio = min_ratio
        self._least_product = np.float32(min_ratio**6.5 * _BINS * _SCALE**2)
        sizes = _sizes(texts)
        order = _by_size(sizes)
        self._positions = order.tolist()
        self._texts = [texts[i] for i in self._positions]
        self._sizes = sizes[order]
        counts = _trigram_counts(self._texts)
        self._background, self._spread = _background(counts, self._sizes)
        self._profiles = self._profile(counts, self._sizes)
        self._folded = _fold(self._profiles)

    def search(self, texts: Sequence[str]) -> list[Pair]:
        """All near entries of all queries, ordered by query, then best ratio, then entry."""
        sizes = _sizes(texts)
        profiles = self._profile(_trigram_counts(texts), sizes)
        order = _by_size(sizes)
        found: list[Pair] = []
        for start in range(0, len(order) if self._texts else 0, _BLOCK):
            block = order[start : start + _BLOCK]
            rows, columns = self._candidates(profiles[block], sizes[block])
            queries, entries = block[rows].tolist(), columns.tolist()
            asked, held = [texts[i] for i in queries], [self._texts[i] for i in entries]
            least = self._min_ratio * 100
            ratios = process.cpdist(asked, held, scorer=fuzz.ratio, score_cutoff=least, dtype=float)
            for query, entry, ratio in zip(queries, entries, ratios.tolist(), strict=True):
                if ratio > 0:
                    found.append(Pair(query, self._positions[entry], ratio / 100))
        return sorted(found, key=lambda pair: (pair.query, -pair.ratio, pair.entry))

    def _profile(self, counts: NDArray[np.int16], sizes: NDArray[np.int64]) -> NDArray[np.int8]:
        import numpy as np

        profiles = np.empty(counts.shape, dtype=np.int8)
        for start in range(0, len(counts), _CHUNK):
            part = slice(start, start + _CHUNK)
            surplus = (counts[part] - sizes[part, None] * self._background) / self._spread
            length = np.sqrt((surplus * surplus).mean(axis=1, keepdims=True))
            profiles[part] = np.rint(surplus * (_SCALE / np.maximum(length, 1e-12)))
        return profiles

    def _candidates(
        self, profiles: NDArray[np.int8], sizes: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Pairs that may be near: rows of `profiles` (ascending `sizes`) and entries."""
        import numpy as np

        shrink = self._min_ratio / (2.0 - self._min_ratio)
        low = int(np.searchsorted(self._sizes, np.floor(sizes[0] * shrink), "left"))
        high = int(np.searchsorted(self._sizes, np.ceil(sizes[-1] / shrink), "right"))
        products = _fold(profiles) @ self._folded[low:high].T
        # The fewer trigrams, the more chance is in a product; and short texts are verified fast.
        least = self._least_product * np.sqrt(np.minimum(sizes / _LONG, 1.0), dtype=np.float32)
        likely = np.flatnonzero(products >= np.float32(_FIRST_LOOK) * least[:, None])
        rows, columns = np.divmod(likely, max(1, high - low))
        columns += low
        exact = np.einsum("ij,ij->i", profiles[rows], self._profiles[columns], dtype=np.float32)
        near = exact >= least[rows]
        return rows[near], columns[near]


def _by_size(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions of the texts that are not empty (an empty one is near nothing), shortest first."""
    import numpy as np

    order = np.argsort(sizes, kind="stable")
    return order[np.searchsorted(sizes[order], 1) :]


def _fold(profiles: NDArray[np.int8]) -> NDArray[np.float32]:
    """Profiles of a quarter of the bins, in whole numbers that a float32 product adds exactly."""
    import numpy as np

    folded = np.add(profiles[:, ::_FOLD], profiles[:, 1::_FOLD], dtype=np.float32)
    for offset in range(2, _FOLD):
        folded += profiles[:, offset::_FOLD]
    return folded


def _sizes(texts: Sequence[str]) -> NDArray[np.int64]:
    import numpy as np

    return np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))


def _trigram_counts(texts: Sequence[str]) -> NDArray[np.int16]:
    """Signed counts of hashed letter trigrams: a row a text, 512 bins; NULs pad both ends."""
    import numpy as np

    counts = np.empty((len(texts), _BINS), dtype=np.int16)
    for start in range(0, len(texts), _CHUNK):
        part = texts[start : start + _CHUNK]
        padded = "\0\0" + "\0\0".join(part) + "\0\0"
        letters = np.frombuffer(padded.encode("utf-32-le", "surrogatepass"), np.uint32)
        hashed = letters[:-2] * np.uint32(2654435761)
        hashed += letters[1:-1] * np.uint32(2246822519)
        hashed += letters[2:] * np.uint32(3266489917)
        hashed ^= hashed >> np.uint32(15)
        hashed *= np.uint32(668265263)
        hashed >>= np.uint32(22)
        cells = np.repeat(np.arange(len(part), dtype=np.int64) * (2 * _BINS), _sizes(part) + 2)
        cells += hashed
        both = np.bincount(cells, minlength=len(part) * 2 * _BINS).reshape(-1, 2, _BINS)
        counts[start : start + _CHUNK] = np.clip(both[:, 0] - both[:, 1], -32_000, 32_000)
    return counts


def _background(
    counts: NDArray[np.int16], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """What a letter of any text adds to each bin, and how far texts spread around it.

    From a sample in which no text is like another: where a template fills half the archive,
    subtracting it would hide that its copies are alike.
    """
    import numpy as np

    step = max(1, -(-len(counts) // _SAMPLE))
    sample, lengths = counts[::step].astype(np.float32), np.maximum(sizes[::step, None], 1)
    norms = np.sqrt(np.maximum((sample * sample).sum(axis=1), 1))
    alike = (sample @ sample.T) >= np.float32(0.6) * norms[:, None] * norms
    own = ~np.tril(alike, -1).any(axis=1)
    weight = int(own.sum()) + _PRIOR
    background = sample[own].sum(axis=0, dtype=np.float64) / max(1, lengths[own].sum())
    background *= (weight - _PRIOR) / weight
    surplus = sample[own] - lengths[own] * background
    variance = (surplus * surplus / lengths[own]).sum(axis=0)
    prior = max(float(variance.mean()) / (weight - _PRIOR or 1), 1e-6)
    return background, np.sqrt((variance + _PRIOR * prior) / weight)
