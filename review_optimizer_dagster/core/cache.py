"""The three-level cache: second step of the flow, gives a review the labels a like one was given.

Exact keys at every level come before any similar text, because a right answer beats a similar one.
Similar text only proposes: `NearIndex` finds candidates, `veto` reads the changed words. What a
level holds is a table, `POLICIES`; how long an answer holds is decided where the archive is read.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import groupby
from operator import attrgetter
from types import MappingProxyType
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import polars as pl

from review_optimizer_dagster.matching.index import NearIndex, Pair
from review_optimizer_dagster.matching.veto import veto
from review_optimizer_dagster.settings import CacheSettings

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
_MISS: Final = (None,) * (len(RESOLUTION) - len(_KEY))
_TRIED: Final = 32  # candidates of one text that the veto reads: template spam offers thousands

_Key = tuple[str, str]  # identity, content_key
_Row = tuple[Any, ...]


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


@dataclass(frozen=True)
class Policy:
    """By what a level chooses its entries: those with the best rank, as many as its size allows.

    `size` is the key of CacheSettings; `admitted_by` are the levels whose hits let an entry in
    (empty: it needs none); `rank` are the columns that decide, the first first, and whether the
    larger value is the better one.

    >>> young = Policy("l2_entries", ("l2",), (("day", True), ("content_key", False)))
    >>> rows = pl.DataFrame({"content_key": ["b", "c", "a"], "day": [1, 2, 1]})
    >>> young.best(rows, CacheSettings(l2_entries=2))["content_key"].to_list()
    ['c', 'a']
    """

    size: str
    admitted_by: tuple[str, ...]
    rank: tuple[tuple[str, bool], ...]

    def best(self, candidates: pl.DataFrame, settings: CacheSettings) -> pl.DataFrame:
        """The rows that the level keeps, the best first."""
        columns, larger = zip(*self.rank, strict=True)
        return candidates.sort(columns, descending=larger).head(getattr(settings, self.size))


_ANY_HIT: Final = ("l1", "l2", "l3_exact", "l3_near")

POLICIES: Final[Mapping[str, Policy]] = MappingProxyType(
    {
        # Least recently used goes: contents, by the day of last use (`day`), uses on it (`times`).
        "l1": Policy(
            "l1_entries",
            ("l1", "l2"),
            (("day", True), ("times", True), ("content_key", True), ("identity", True)),
        ),
        # Least frequently used goes: answers, by their hits in the window (`times`), the day of
        # the last one (`last`). A text that came once never displaces one that came twice.
        "l2": Policy(
            "l2_entries",
            _ANY_HIT,
            (("times", True), ("last", True), ("identity", False), ("content_key", False)),
        ),
        # Least useful goes: archived answers of one identity, by their hits in the window
        # (`times`, 0 where none), then the day of the answer (`day`). Every entry costs the index
        # the same, so its use is the chance that it answers: what did so lately is likeliest to
        # again, and of what never did, the newest texts are closest to those that come next.
        "l3_near": Policy(
            "l3_near_entries", (), (("times", True), ("day", True), ("content_key", False))
        ),
    }
)


def valid_since(day: date, ttl_days: int | None) -> date:
    """The first day whose answers still hold on a day; None days hold for ever.

    Whoever reads the archive drops older answers there, before any is ranked or counted: L1 and L2
    hold only what `levels` finds in the archive, so what is derived from one expires with it.

    >>> str(valid_since(date(2026, 3, 31), 30)), str(valid_since(date(2026, 3, 31), None))
    ('2026-03-01', '0001-01-01')
    """
    if ttl_days is None or ttl_days >= (day - date.min).days:
        return date.min
    return day - timedelta(days=ttl_days)


class Levels(NamedTuple):
    """What L1 (oldest use first; `day` is that of last use) and L2 (popular first) hold: ENTRIES.

    `text` is null in L1 where the archive rows had none; exact look-up needs the key alone.
    """

    l1: pl.DataFrame
    l2: pl.DataFrame


def levels(usage: pl.DataFrame, entries: pl.DataFrame, settings: CacheSettings) -> Levels:
    """Derive L1 and L2 from the hits of the window (USAGE) and the archive (ENTRIES).

    The window is the `window_days` up to the last day in `usage`. L2 holds archived answers, L1
    contents with the labels of their source as it stands now, both as POLICIES ranks them: what
    left the archive, or expired there, leaves both. Depends on nothing but its arguments, in any
    order.
    """
    window = pl.duration(days=settings.window_days)
    hits = usage.filter(pl.col("level").is_not_null())
    recent = hits.filter(pl.col("day") > pl.col("day").max() - window)
    answers = entries.filter(pl.col("content_key") == pl.col("source_key")).unique(_KEY)
    popular = (
        recent.filter(pl.col("level").is_in(POLICIES["l2"].admitted_by))
        .group_by(_SOURCE)
        .agg(pl.col("times").sum(), last=pl.col("day").max())
        .join(answers, on=_SOURCE)
    )
    served = recent.filter(pl.col("level").is_in(POLICIES["l1"].admitted_by))
    used = _used_contents(served, answers, entries)
    return Levels(
        l1=POLICIES["l1"].best(used, settings).reverse().select(ENTRIES.names()),
        l2=POLICIES["l2"].best(popular, settings).select(ENTRIES.names()),
    )


def _used_contents(
    served: pl.DataFrame, answers: pl.DataFrame, entries: pl.DataFrame
) -> pl.DataFrame:
    """The contents that were served: ENTRIES, `day` of last use, and `times` on that day."""
    last = (
        served.join(answers.select(*_KEY, own=pl.lit(True)), on=_KEY, how="left")
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
    return last.join(answers.select(*_SOURCE, "labels"), on=_SOURCE).join(
        texts, on=_KEY, how="left"
    )


class Archive(Protocol):
    """L3 as the cache sees it: ENTRIES, none older than its taxonomy's TTL (`valid_since`)."""

    def exact(self, contents: pl.DataFrame) -> pl.DataFrame:
        """The entries of these keys (identity, content_key), one a key."""

    def near(self, identity: str, limit: int) -> pl.DataFrame:
        """The best entries of an identity by POLICIES["l3_near"], at most `limit`."""


@dataclass(frozen=True)
class _Near:
    """What similar texts of one identity may match; a position of the index is one of the lists."""

    index: NearIndex
    levels: list[str]
    keys: list[str]
    labels: list[str]
    texts: list[str]


class ReviewCache:
    """Answers sets of contents from what `levels` derived and the archive, as the run began.

    `off` names the near levels ("l2", "l3_near") of an identity that rechecks have switched off:
    they are not consulted, while the exact keys of L2 and L3 are. `counts` says how many contents
    of an identity each level has answered, how many were a "miss", and how many of those the veto
    kept from a similar text ("vetoed").
    """

    def __init__(
        self,
        settings: CacheSettings,
        l1: pl.DataFrame,
        l2: pl.DataFrame,
        archive: Archive,
        off: Collection[tuple[str, str]] = (),
    ) -> None:
        self._settings = settings
        self._archive = archive
        self._off = frozenset(off)
        self.l1: ExactLru[_Key, _Row] = ExactLru(settings.l1_entries)
        for row in l1.select(ENTRIES.names()).iter_rows():
            self.l1.put(row[:2], row)
        self._l2 = l2.select(ENTRIES.names()).head(settings.l2_entries)
        self._l2_rows = {row[:2]: row for row in self._l2.iter_rows()}
        self._indexes: dict[str, _Near] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def resolve(self, contents: pl.DataFrame) -> pl.DataFrame:
        """Answer what may be answered (CONTENTS, unique keys, to RESOLUTION in the same order).

        A null `level` is a miss. `near_score` is the best ratio over the threshold, `veto` why the
        best refused candidate was refused, also where a later one or a later level answered.
        Raises ValueError where a key stands twice.
        """
        texts = {row[:2]: row[2] for row in contents.select(CONTENTS.names()).iter_rows()}
        if len(texts) < contents.height:
            raise ValueError("an identity and content_key stands twice in what is to be resolved")
        # Rows, not joins: a join of one row costs more than a whole look-up may.
        found: dict[_Key, _Row] = {}
        for level, look_up in (
            ("l1", self._in_l1),
            ("l2", self._in_l2),
            ("l3_exact", self._in_archive),
        ):
            if rest := [key for key in texts if key not in found]:
                for identity, key, source, _, labels, score, _ in look_up(rest):
                    found[identity, key] = (level, labels, source, score, None, None)
        found |= self._near_answers({key: texts[key] for key in texts if key not in found})
        rows = [(*key, *found.get(key, _MISS)) for key in texts]
        self._count(rows)
        return pl.DataFrame(rows, RESOLUTION, orient="row")

    def _count(self, rows: Iterable[_Row]) -> None:
        for identity, _, level, *_, reason in rows:
            self.counts[identity, level or "miss"] += 1
            if reason and not level:
                self.counts[identity, "vetoed"] += 1

    def _in_l1(self, keys: Sequence[_Key]) -> Iterable[_Row]:
        return [row for key in keys if (row := self.l1.get(key)) is not None]

    def _in_l2(self, keys: Sequence[_Key]) -> Iterable[_Row]:
        return [self._l2_rows[key] for key in keys if key in self._l2_rows]

    def _in_archive(self, keys: Sequence[_Key]) -> Iterable[_Row]:
        asked = pl.DataFrame(keys, {name: ENTRIES[name] for name in _KEY}, orient="row")
        return self._archive.exact(asked).select(ENTRIES.names()).iter_rows()

    def _near(self, identity: str) -> _Near:
        """One index over both near levels; what stands in both is indexed once, as L2's."""
        if identity not in self._indexes:
            held = [
                self._held(identity, level).with_columns(level=pl.lit(level))
                for level in ("l2", "l3_near")
            ]
            names = [*_KEY, "source_key", "level", "labels", "text"]
            entries = (
                pl.concat(part.select(names) for part in held)
                # Only the model's own answers: a text like one that is like another drifts away.
                .filter(pl.col("content_key") == pl.col("source_key"), identity=identity)
                .unique("content_key", keep="first", maintain_order=True)
                .sort("content_key")
            )
            lists = [entries[name].to_list() for name in ("level", "content_key", "labels", "text")]
            self._indexes[identity] = _Near(NearIndex(lists[-1], self._settings.min_ratio), *lists)
        return self._indexes[identity]

    def _held(self, identity: str, level: str) -> pl.DataFrame:
        if (identity, level) in self._off:
            return self._l2.clear()
        limit = self._settings.l3_near_entries
        return self._l2 if level == "l2" else self._archive.near(identity, limit).head(limit)

    def _near_answers(self, texts: Mapping[_Key, str]) -> dict[_Key, _Row]:
        """What is said of the texts that have a candidate; a miss where all were refused."""
        parts: dict[str, list[_Key]] = {}
        for key in texts:
            parts.setdefault(key[0], []).append(key)
        found: dict[_Key, _Row] = {}
        for identity, keys in parts.items():
            near, asked = self._near(identity), [texts[key] for key in keys]
            for query, pairs in groupby(near.index.search(asked), key=attrgetter("query")):
                found[keys[query]] = _first_allowed(asked[query], pairs, near)
        return found


def _first_allowed(text: str, pairs: Iterable[Pair], near: _Near) -> _Row:
    """RESOLUTION without its key: the first candidate of L2, then of L3, that passes the veto.

    pairs: the best ratio first.
    """
    offered: dict[str, list[Pair]] = {"l2": [], "l3_near": []}
    for pair in pairs:
        offered[near.levels[pair.entry]].append(pair)
    best = max(of_level[0].ratio for of_level in offered.values() if of_level)
    refused = None
    for level, of_level in offered.items():
        for pair in of_level[:_TRIED]:
            at = pair.entry
            if (reason := veto(text, near.texts[at])) is None:
                return level, near.labels[at], near.keys[at], pair.ratio, best, refused
            refused = refused or reason
    return None, None, None, None, best, refused
