"""The three-level cache: second step of the flow, gives a review the labels a like one was given.

Exact keys at every level come before any similar text, because a right answer beats a similar one.
Similar text only proposes: `NearIndex` finds candidates, `veto` reads the changed words.
"""

from __future__ import annotations

import re
import unicodedata
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeVar

import polars as pl
from rapidfuzz import fuzz, process
from rapidfuzz.distance import Levenshtein, Postfix, Prefix

from review_optimizer_dagster.config import CacheSettings
from review_optimizer_dagster.tables import load_table

if TYPE_CHECKING:  # numpy is imported where it is used: most commands never come near it
    import numpy as np
    from numpy.typing import NDArray

_KEY: Final = ["identity", "content_key"]


def _schema(texts: str, **others: Any) -> pl.Schema:
    return pl.Schema(dict.fromkeys(texts.split(), pl.String()) | others)


CONTENTS: Final = _schema("identity content_key text")
ENTRIES: Final = _schema(
    "identity content_key source_key text labels", score=pl.Float64(), day=pl.Date()
)
RESOLUTION: Final = _schema(
    "identity content_key level labels source_key",
    **{"score": pl.Float64(), "near_score": pl.Float64(), "veto": pl.String()},
)
USAGE: Final = _schema(
    "identity content_key source_key level", score=pl.Float64(), times=pl.Int64(), day=pl.Date()
)
_SOURCE: Final = ["identity", "source_key"]
_ANSWER: Final = [*_KEY, "level", "labels", "source_key", "score"]
_TRIED: Final = 32  # candidates of one text that the veto reads: template spam offers thousands


@dataclass(frozen=True)
class Identity:
    """Under which an answer holds: nothing of one identity ever answers another.

    >>> Identity("acme", "reviews@1.3f", "9c04", "gpt-6-luna", "1", simulated=False).key
    'acme|reviews@1.3f|9c04|gpt-6-luna|1|real'
    """

    scope: str
    taxonomy: str
    prompt: str
    model_policy: str
    normaliser: str
    simulated: bool

    @property
    def key(self) -> str:
        """The readable string that rows carry; two identities never share one."""
        # Without the escape a "|" in one part would read as the border of two.
        parts = (self.scope, self.taxonomy, self.prompt, self.model_policy, self.normaliser)
        escaped = [part.replace("%", "%25").replace("|", "%7c") for part in parts]
        return "|".join([*escaped, "simulated" if self.simulated else "real"])


class _Rules(NamedTuple):
    kinds: dict[str, str]  # listed word to its list
    ranks: dict[str, int]
    confusable: frozenset[frozenset[str]]
    trailing: list[list[str]]
    tokens: re.Pattern[str]


@lru_cache(maxsize=1)
def _rules() -> _Rules:
    table = load_table("veto")
    kinds = {word: "antonym" for pair in table["antonyms"]["pairs"] for word in pair}
    for kind, listed in reversed(table["lists"].items()):
        kinds |= dict.fromkeys(listed, kind)
    signs = re.escape("".join(word for word in kinds if len(word) == 1 and not word.isalnum()))
    words = rf"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['\u2019][^\W\d_]+)*|[{signs}]"
    return _Rules(
        kinds,
        {kind: rank for rank, kind in enumerate([*table["lists"], "antonym"])},
        frozenset(frozenset(pair) for pair in table["confusable"]["pairs"]),
        sorted((phrase.split() for phrase in table["harmless"]["trailing"]), key=len, reverse=True),
        re.compile(rf"({words})([,.;:!?)]?)"),
    )


def _kind(word: str) -> str | None:
    kinds = _rules().kinds
    word = word.rstrip(",")
    if word[0].isdigit():
        return "number"
    return kinds.get(word) or (kinds.get(word[:-1]) if word.endswith("s") else None)


def _spelt(word: str) -> list[str]:
    table = load_table("veto")
    word = word.replace("\u2019", "'")
    if known := table["spelling"].get(word):
        return list(known)
    for ending, full in table["endings"].items():
        if word.endswith(ending) and len(word) > len(ending):
            return [word.removesuffix(ending), *full.split()]
    return [word]


@lru_cache(maxsize=8192)
def _words(text: str) -> tuple[str, ...]:
    """The words of a normalised text in one spelling; a negation keeps the stop after it."""
    rules = _rules()
    if not text.isascii():  # without accents
        text = "".join(
            c for c in unicodedata.normalize("NFD", text) if not "\u0300" <= c <= "\u036f"
        )
    words: list[str] = []
    for word, stop in rules.tokens.findall(text):
        words += _spelt(word)
        if stop and _kind(words[-1]) == "negation":
            words[-1] += ","  # "no, good" is not "no good"
        if stop == "?":
            words.append("?")
    while end := next(
        (p for p in rules.trailing if len(p) < len(words) and words[-len(p) :] == p), []
    ):
        del words[-len(end) :]
    # The end of the text is a stop for every text.
    return (*words[:-1], words[-1].rstrip(",")) if words else ()


def _one_plural(a: str, b: str) -> bool:
    short, long = sorted((a, b), key=len)
    if len(short) < 3:
        return False
    if long == short + "s":
        return not short.endswith("s")
    if long == short + "es":
        return short.endswith(("s", "x", "z", "ch", "sh", "o"))
    return short.endswith("y") and long == short[:-1] + "ies"


def _one_typo(a: str, b: str) -> bool:
    """Whether one is a slip of the other: swapped or doubled letters, a vowel, a letter too many.

    Only slips that hardly ever make another word; prefixes and endings carry meaning and are none.
    """
    listed = (_kind(a) is not None) + (_kind(b) is not None)
    if min(len(a), len(b)) < 5 or listed == 2 or not (a.isalpha() and b.isalpha()):
        return False
    head = Prefix.similarity(a, b)
    tail = Postfix.similarity(a[head:], b[head:])
    old, new = a[head : len(a) - tail], b[head : len(b) - tail]
    if len(old) == len(new) == 2:
        return head > 0 and old == new[::-1]
    inside = head >= 2 and tail >= 2
    if len(letter := old + new) == 1:
        doubled = head > 0 and letter == a[head - 1] and (tail > 0 or letter != "s")
        return doubled or (inside and min(len(a), len(b)) >= 6)
    one_vowel = len(old) == len(new) == 1 and set(letter) <= set("aeiou")
    return one_vowel and inside and not listed and len(a) >= 7


def _same_word(a: str, b: str) -> bool:
    """Whether two different spellings are one word: elongation, plural, slip of the finger."""
    if re.search(r"([^\W\d_])\1\1", a + " " + b):
        return re.sub(r"(.)\1+", r"\1", a) == re.sub(r"(.)\1+", r"\1", b)
    if "negation" in (_kind(a), _kind(b)) or frozenset((a, b)) in _rules().confusable:
        return False
    return _one_plural(a, b) or _one_typo(a, b)


def _unmatched(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is left of a changed stretch when spacing and other spellings are set aside."""
    if "".join(old) == "".join(new) and all(_kind(word) != "negation" for word in (*old, *new)):
        return [], []  # but "use less" is not "useless"
    only_old: list[str] = []
    only_new: list[str] = []
    start = 0
    for word in old:
        same = (j for j in range(start, len(new)) if new[j] == word or _same_word(word, new[j]))
        if (match := next(same, None)) is None:
            only_old.append(word)
        else:
            only_new += new[start:match]
            start = match + 1
    return only_old, only_new + list(new[start:])


def _changed(old: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words that only one of two word sequences has, in their order."""
    numbers: dict[str, int] = {}
    a, b = ([numbers.setdefault(word, len(numbers)) for word in words] for words in (old, new))
    only_old: list[str] = []
    only_new: list[str] = []
    end_old = end_new = 0
    for block in Levenshtein.opcodes(a, b).as_matching_blocks():
        gone, come = _unmatched(old[end_old : block.a], new[end_new : block.b])
        only_old += gone
        only_new += come
        end_old, end_new = block.a + block.size, block.b + block.size
    return only_old, only_new


def veto(a: str, b: str) -> str | None:
    """Why the labels of one normalised text must not answer for the other, or None.

    Symmetric. The reason is "<kind>: <word>"; the kinds are the lists of tables/veto.toml, and
    `antonym`, `order` (same words, moved), `part` (one content word for another) and `content`.

    >>> veto("it works great", "it does not work great")
    'negation: not'
    >>> veto("i recieved the lens", "i received the lenses") is None
    True
    >>> veto("the screen is dim", "the battery is dim")
    'part: battery/screen'
    """
    words_a, words_b = (_words(text) for text in sorted((a, b)))
    if not (words_a and words_b):
        return "content: no words"
    harmless = load_table("veto")["harmless"]
    compares = any(_kind(word) == "comparison" for word in (*words_a, *words_b))
    skipped = {*harmless["filler"], *(() if compares else harmless["reference"])}
    kept_a, kept_b = ([w for w in words if w not in skipped] for words in (words_a, words_b))
    old, new = _changed(kept_a, kept_b)
    if not (old or new):
        return None
    if sorted(old) == sorted(new):
        return f"order: {min(old)}"
    ranks = _rules().ranks
    if listed := [(ranks[kind], kind, word) for word in old + new if (kind := _kind(word))]:
        _, kind, word = min(listed)
        return f"{kind}: {word.rstrip(',')}"
    if old and new:
        return "part: " + "/".join(sorted((min(old), min(new))))
    return f"content: {min(old + new)}"


_BINS: Final = 512
_SCALE: Final = 4.0  # root mean square of a profile: no bin can pass 4 * sqrt(512) = 90, an int8
_CHUNK: Final = 1024  # texts hashed at a time: keeps the working set in the processor's cache
_BLOCK: Final = 128  # queries compared at a time
_SHORT: Final = 120  # letters
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
        self._least_product = np.float32(min_ratio**7 * _BINS * _SCALE**2)
        kept = [i for i, text in enumerate(texts) if text]
        self._positions = sorted(kept, key=lambda i: (len(texts[i]), texts[i]))
        self._texts = [texts[i] for i in self._positions]
        self._sizes = _sizes(self._texts)
        counts = _trigram_counts(self._texts)
        self._background, self._spread = _background(counts, self._sizes)
        self._profiles = self._profile(counts, self._sizes)
        self._folded = np.add(self._profiles[:, ::2], self._profiles[:, 1::2], dtype=np.int16)

    def search(self, texts: Sequence[str]) -> list[Pair]:
        """All near entries of all queries, ordered by query, then best ratio, then entry."""
        import numpy as np

        sizes = _sizes(texts)
        profiles = self._profile(_trigram_counts(texts), sizes)
        order = np.argsort(sizes, kind="stable")
        order = order[np.searchsorted(sizes[order], 1) :]  # an empty text is near nothing
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
        queries = np.add(profiles[:, ::2], profiles[:, 1::2], dtype=np.float32)
        products = queries @ self._folded[low:high].astype(np.float32).T
        # A few words leave few trigrams, and are verified fast.
        least = self._least_product * np.where(sizes < _SHORT, np.float32(0.7), np.float32(1.0))
        # Folding blurs a product, so the first look is the wider one.
        likely = np.flatnonzero(products >= np.float32(0.8) * least[:, None])
        rows, columns = np.divmod(likely, max(1, high - low))
        columns += low
        exact = np.einsum("ij,ij->i", profiles[rows], self._profiles[columns], dtype=np.float32)
        near = exact >= least[rows]
        return rows[near], columns[near]


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
        for shift, factor in ((1, 2246822519), (2, 3266489917)):
            hashed ^= hashed >> np.uint32(15)
            hashed ^= letters[shift : len(letters) - 2 + shift]
            hashed *= np.uint32(factor)
        hashed ^= hashed >> np.uint32(16)
        rows = np.repeat(np.arange(len(part), dtype=np.int64), _sizes(part) + 2)
        cells = rows * (2 * _BINS) + (hashed * np.uint32(668265263) >> np.uint32(22))
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


_Name = TypeVar("_Name", bound=Hashable)
_Value = TypeVar("_Value")


class ExactLru(Generic[_Name, _Value]):
    """Exact look-up that forgets what was used longest ago; counts its own hits and misses.

    >>> lru = ExactLru(capacity=2)
    >>> lru.put("a", 1); lru.put("b", 2); lru.get("a")
    1
    >>> lru.put("c", 3)
    >>> lru.get("b") is None, list(lru), lru.hits, lru.misses
    (True, ['a', 'c'], 1, 1)
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._values: OrderedDict[_Name, _Value] = OrderedDict()
        self.hits = 0
        self.misses = 0

    def __iter__(self) -> Iterator[_Name]:
        return iter(self._values)

    def get(self, name: _Name) -> _Value | None:
        """The value, now the one used last, or None."""
        if name not in self._values:
            self.misses += 1
            return None
        self.hits += 1
        self._values.move_to_end(name)
        return self._values[name]

    def put(self, name: _Name, value: _Value) -> None:
        """Keep the value as the one used last, and evict what is over the capacity."""
        self._values[name] = value
        self._values.move_to_end(name)
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)


class Levels(NamedTuple):
    """What L1 (oldest use first; `day` is that of last use) and L2 (popular first) hold: ENTRIES.

    `text` is null in L1 where the archive rows had none; exact look-up needs the key alone.
    """

    l1: pl.DataFrame
    l2: pl.DataFrame


def levels(usage: pl.DataFrame, entries: pl.DataFrame, settings: CacheSettings) -> Levels:
    """Derive L1 and L2 from the hits of the window (USAGE) and the archive (ENTRIES).

    The window is the `window_days` up to the last day in `usage`. L2 holds the archived answers
    that served a hit, by how many, then by recency, then by key. L1 holds the contents that L1 or
    L2 served, by last day, times on it, then key, with the labels of their source as it stands
    now: what left the archive leaves both. Depends on nothing but its arguments, in any order.
    """
    hits = usage.filter(pl.col("level").is_not_null())
    window = pl.duration(days=settings.window_days)
    recent = hits.filter(pl.col("day") > pl.col("day").max() - window)
    answers = entries.filter(pl.col("content_key") == pl.col("source_key")).unique(_KEY)
    popular = (
        recent.group_by(_SOURCE)
        .agg(pl.col("times").sum(), last=pl.col("day").max())
        .join(answers, on=_SOURCE)
        .sort("times", "last", *_KEY, descending=[True, True, False, False])
    )
    return Levels(
        l1=_recent_contents(recent, answers, entries).tail(settings.l1_entries),
        l2=popular.head(settings.l2_entries).select(ENTRIES.names()),
    )


def _recent_contents(
    recent: pl.DataFrame, answers: pl.DataFrame, entries: pl.DataFrame
) -> pl.DataFrame:
    """ENTRIES of what L1 or L2 served, oldest use first."""
    served = (
        recent.filter(pl.col("level").is_in(["l1", "l2"]))
        .join(answers.select(*_KEY, own=pl.lit(True)), on=_KEY, how="left")
        # A content's own archived answer beats that of a similar text; else the latest counts.
        .with_columns(
            source_key=pl.when("own").then("content_key").otherwise("source_key"),
            score=pl.when("own").then(1.0).otherwise("score"),
        )
        .sort("day", "score", "source_key", descending=[True, True, False])
        .group_by(_KEY, maintain_order=True)
        .agg(
            pl.col("day", "source_key", "score").first(),
            times=pl.col("times").filter(pl.col("day") == pl.col("day").max()).sum(),
        )
    )
    texts = entries.select(*_KEY, "text").unique(_KEY)
    return (
        served.join(answers.select(*_SOURCE, "labels"), on=_SOURCE)
        .join(texts, on=_KEY, how="left")
        .sort("day", "times", "content_key", "identity")
        .select(ENTRIES.names())
    )


class Archive(Protocol):
    """L3 as the cache sees it; every frame is ENTRIES."""

    def exact(self, contents: pl.DataFrame) -> pl.DataFrame:
        """The entries of these keys (identity, content_key), one a key."""

    def near(self, identity: str, limit: int) -> pl.DataFrame:
        """The best entries of an identity, at most `limit`, that similar texts may match."""


class ReviewCache:
    """Answers sets of contents from what `levels` derived and the archive, as the run began."""

    def __init__(
        self, settings: CacheSettings, l1: pl.DataFrame, l2: pl.DataFrame, archive: Archive
    ) -> None:
        self._settings = settings
        self._archive = archive
        self.l1: ExactLru[tuple[str, str], tuple[Any, ...]] = ExactLru(settings.l1_entries)
        for row in l1.select(ENTRIES.names()).iter_rows():
            self.l1.put(row[:2], row)
        self._l2 = l2.head(settings.l2_entries)
        self._indexes: dict[tuple[str, str], tuple[pl.DataFrame, NearIndex]] = {}

    def resolve(self, contents: pl.DataFrame) -> pl.DataFrame:
        """Answer what may be answered (CONTENTS, unique keys, to RESOLUTION in the same order).

        A null `level` is a miss. `near_score` is the best ratio over the threshold, `veto` why the
        best refused candidate was refused, also where a later one or a later level answered.
        """
        rest = contents.select(CONTENTS.names())
        answers: list[pl.DataFrame] = []
        exact = {"l1": self._l1_entries, "l2": lambda _: self._l2, "l3_exact": self._archive.exact}
        for level, look_up in exact.items():
            entries = look_up(rest.select(_KEY)).with_columns(level=pl.lit(level)).select(_ANSWER)
            answers.append(hits := rest.select(_KEY).join(entries, on=_KEY, validate="1:1"))
            rest = rest.join(hits, on=_KEY, how="anti")
        tried: list[pl.DataFrame] = []
        for level in ("l2", "l3_near"):
            tried.append(near := self._near(rest, level))
            hits = near.filter(pl.col("level").is_not_null()).select(_ANSWER)
            answers.append(hits)
            rest = rest.join(hits, on=_KEY, how="anti")
        explained = (
            pl.concat(tried)
            .sort("near_score", "veto", descending=[True, False])
            .group_by(_KEY, maintain_order=True)
            .agg(pl.col("near_score").first(), pl.col("veto").drop_nulls().first())
        )
        return (
            contents.select(_KEY)
            .join(pl.concat(answers), on=_KEY, how="left", maintain_order="left")
            .join(explained, on=_KEY, how="left", maintain_order="left")
            .select(RESOLUTION.names())
        )

    def _l1_entries(self, keys: pl.DataFrame) -> pl.DataFrame:
        found = [row for key in keys.iter_rows() if (row := self.l1.get(key)) is not None]
        return pl.DataFrame(found, ENTRIES, orient="row")

    def _index(self, level: str, identity: str) -> tuple[pl.DataFrame, NearIndex]:
        if (level, identity) not in self._indexes:
            limit = self._settings.l3_near_entries
            held = self._l2 if level == "l2" else self._archive.near(identity, limit).head(limit)
            # Only the model's own answers: a text like a text that is like another drifts away.
            own = held.filter(identity=identity).filter(
                pl.col("content_key") == pl.col("source_key")
            )
            entries = own.sort("content_key")
            index = NearIndex(entries["text"].to_list(), self._settings.min_ratio)
            self._indexes[level, identity] = entries, index
        return self._indexes[level, identity]

    def _near(self, contents: pl.DataFrame, level: str) -> pl.DataFrame:
        """RESOLUTION of the contents that have a candidate; a null level where all were refused."""
        rows: list[tuple[Any, ...]] = []
        for (identity,), part in contents.group_by("identity", maintain_order=True):
            entries, index = self._index(level, str(identity))
            keys, texts = part["content_key"], part["text"].to_list()
            for query, pairs in groupby(index.search(texts), key=attrgetter("query")):
                offered = list(islice(pairs, _TRIED))
                answer, refused = None, None
                for pair in offered:
                    entry = entries.row(pair.entry, named=True)
                    if (reason := veto(texts[query], entry["text"])) is None:
                        answer = (level, entry["labels"], entry["content_key"], pair.ratio)
                        break
                    refused = refused or reason
                found = answer or (None, None, None, None)
                rows.append((identity, keys[query], *found, offered[0].ratio, refused))
        return pl.DataFrame(rows, RESOLUTION, orient="row")
