"""The three-level cache: second step of the flow, gives a review the labels a like one was given.

Exact keys at every level come before any similar text, because a right answer beats a similar one.
Similar text only proposes: `NearIndex` finds candidates, `veto` reads the changed words.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import polars as pl

from review_optimizer_dagster.config import CacheSettings
from review_optimizer_dagster.matching.index import NearIndex
from review_optimizer_dagster.matching.veto import veto

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
