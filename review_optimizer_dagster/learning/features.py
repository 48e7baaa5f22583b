"""First step of a learned pattern: normalised texts become rows of hashed word n-grams."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:  # numpy is imported where it is used: most commands never come near it
    import numpy as np
    from numpy.typing import NDArray

    Hashes: TypeAlias = NDArray[np.uint64]
    Positions: TypeAlias = NDArray[np.int64]

_BITS: Final = 22
_LONGEST_GRAM: Final = 3  # words
_HEAD: Final = 12  # words; reviewers without a title field begin with a title
_TAIL: Final = 25  # words; a conclusion
# Tokenised corpora write "do n't", others "don't"; both then hold the word "not".
_SPELLINGS: Final = (("n't", " not"), ("cannot", "can not"))
_CHUNK_CHARS: Final = 50_000  # hashed at a time: keeps the working set in the processor's cache

# What salts a word so that the same word elsewhere is another feature.
_TITLE, _FIRST, _LAST = 0x51ED270B, 0x2545F491, 0x3C6EF372
_BASE: Final = 6364136223846793005  # odd, so it has an inverse modulo 2**64
_INVERSE: Final = pow(_BASE, -1, 1 << 64)
_NEXT_WORD: Final = 0xC2B2AE3D27D4EB4F

_IN_WORD, _ALONE = 1, 2
# Written without spaces between words: each sign counts as a word.
_UNSPACED: Final = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF),
                    (0x3400, 0x9FFF), (0xF900, 0xFAFF))  # fmt: skip
_BEYOND: Final = 0x10000  # emoji, rare ideographs


class Vectoriser:
    """Rows of hashed n-grams of words: which of them a text holds, not how often.

    The features are runs of one to three words, and once more by themselves the words of the
    title (the first line of two), the first twelve and the last 25. Words are runs of letters,
    marks and digits; exclamation and question marks, emoji and signs of scripts without spaces
    are words too; apostrophes part words, so that tokenised text looks like any other. Hashes of
    all words are taken at once, from running sums (Karp & Rabin, "Efficient randomized
    pattern-matching algorithms", 1987); the hashing trick is Weinberger et al., 2009. No state,
    no seed: a text has the same row everywhere.
    """

    columns: Final = 1 << _BITS
    settings: Final = f"words 1-{_LONGEST_GRAM}, head {_HEAD}, tail {_TAIL}, bits {_BITS}"

    def transform(self, texts: Sequence[str]) -> Any:
        """A scipy CSR matrix of float32 ones, (texts, columns); indices ascend in every row."""
        import numpy as np
        from scipy.sparse import csr_matrix

        indices: list[NDArray[np.int32]] = []
        sizes: list[Positions] = []
        for part in _chunks(texts):
            cells = _cells(part)
            rows = (cells >> np.uint64(_BITS)).astype(np.int64)
            indices.append((cells & np.uint64(self.columns - 1)).astype(np.int32))
            sizes.append(np.bincount(rows, minlength=len(part)))
        columns = np.concatenate(indices) if indices else np.empty(0, dtype=np.int32)
        ends = np.zeros(len(texts) + 1, dtype=np.int64)
        if sizes:
            np.cumsum(np.concatenate(sizes), out=ends[1:])
        ones = np.ones(columns.size, dtype=np.float32)
        return csr_matrix((ones, columns, ends), shape=(len(texts), self.columns))


def _chunks(texts: Sequence[str]) -> Iterator[list[str]]:
    part: list[str] = []
    size = 0
    for text in texts:
        for written, meant in _SPELLINGS:
            text = text.replace(written, meant)
        if part and size + len(text) > _CHUNK_CHARS:
            yield part
            part, size = [], 0
        part.append(text)
        size += len(text) + 1
    if part:
        yield part


def _cells(texts: list[str]) -> Hashes:
    """Every feature of a few texts once: row << bits | column, ascending."""
    import numpy as np

    hashes, rows, in_title = _words(texts)
    begin = np.searchsorted(rows, np.arange(len(texts)))
    end = np.searchsorted(rows, np.arange(len(texts)), side="right")
    at = np.arange(hashes.size)
    grams, owners = [hashes], [rows]
    for salt, chosen in (
        (_TITLE, in_title),
        (_FIRST, at - begin[rows] < _HEAD),
        (_LAST, end[rows] - at <= _TAIL),
    ):
        grams.append(_scrambled(hashes[chosen] ^ np.uint64(salt)))
        owners.append(rows[chosen])
    run = hashes
    for size in range(2, _LONGEST_GRAM + 1):
        run = _scrambled(run[:-1] * np.uint64(_NEXT_WORD) + hashes[size - 1 :])
        inside = rows[: run.size] == rows[size - 1 :]
        grams.append(run[inside])
        owners.append(rows[: run.size][inside])
    columns = np.concatenate(grams) >> np.uint64(64 - _BITS)
    cells = np.concatenate(owners).astype(np.uint64) << np.uint64(_BITS) | columns
    cells.sort()
    return cells[np.append(True, cells[1:] != cells[:-1])] if cells.size else cells


def _words(texts: list[str]) -> tuple[Hashes, Positions, NDArray[np.bool_]]:
    """The words of all texts in their order: hash, row, and whether it stands in a title."""
    import numpy as np

    joined = "\0" + "\0".join(texts) + "\0"
    letters = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = _kinds()[np.minimum(letters, _BEYOND)]
    inside = kinds == _IN_WORD
    edges = np.flatnonzero(inside[1:] != inside[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    powers, inverses = _powers(1 << letters.size.bit_length())
    sums = np.zeros(letters.size + 1, dtype=np.uint64)
    np.cumsum(letters * powers[: letters.size], out=sums[1:])
    # A word's sum, shifted to where its first letter has the power 0: equal words are equal.
    hashes = (sums[ends] - sums[starts]) * inverses[starts]
    alone = np.flatnonzero(kinds == _ALONE)
    if alone.size:
        places = np.concatenate([starts, alone])
        order = np.argsort(places, kind="stable")
        starts = places[order]
        hashes = np.concatenate([hashes, letters[alone].astype(np.uint64)])[order]
    sizes = np.fromiter(map(len, texts), dtype=np.int64, count=len(texts))
    offsets = np.cumsum(sizes + 1) - sizes
    rows = np.searchsorted(offsets, starts, side="right") - 1
    breaks = np.fromiter((text.find("\n") for text in texts), dtype=np.int64, count=len(texts))
    return _scrambled(hashes), rows, starts < (offsets + breaks)[rows]


def _scrambled(hashes: Hashes) -> Hashes:
    import numpy as np

    hashes = (hashes ^ hashes >> np.uint64(32)) * np.uint64(0x9E3779B97F4A7C15)
    return hashes ^ hashes >> np.uint64(29)


@lru_cache(maxsize=2)
def _powers(size: int) -> tuple[Hashes, Hashes]:
    """The powers 0 to size - 1 of the base, and of its inverse, modulo 2**64."""
    import numpy as np

    both = np.repeat(np.array([[_BASE], [_INVERSE]], dtype=np.uint64), size, axis=1)
    both[:, 0] = 1
    both = both.cumprod(axis=1)
    return both[0], both[1]


@lru_cache(maxsize=1)
def _kinds() -> NDArray[np.uint8]:
    """What each code point is to a word; the last entry stands for all from _BEYOND on."""
    import numpy as np

    kinds = np.zeros(_BEYOND + 1, dtype=np.uint8)
    for code in range(_BEYOND):
        category = unicodedata.category(chr(code))
        if category[0] in "LMN":
            kinds[code] = _IN_WORD
        elif category == "So":
            kinds[code] = _ALONE
    for first, last in _UNSPACED:
        kinds[first : last + 1][kinds[first : last + 1] == _IN_WORD] = _ALONE
    kinds[[ord("!"), ord("?"), _BEYOND]] = _ALONE
    return kinds
