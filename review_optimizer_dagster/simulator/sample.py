"""Where the demo's reviews come from: a grammar, a seed and a day; nothing is stored.

Every fresh review is addressed by its day and index, so that a later day can deliver it again.
The words, labels and shares are data: `grammar/*.toml`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import polars as pl

from review_optimizer_dagster.simulator.writer import (
    CELLS,
    Outcome,
    Pivot,
    Writer,
    load_grammar,
)

MEMORY_DAYS = 7  # earlier days that a day delivers again

SAMPLE = pl.Schema(
    {
        "review_id": pl.String(),
        "tenant": pl.String(),
        "category": pl.String(),
        "product_id": pl.String(),
        "title": pl.String(),
        "text": pl.String(),
        "rating": pl.Float64(),
        "ts": pl.Datetime("us", "UTC"),
        "label": pl.String(),
        "product_quality": pl.String(),
        "purchase_recommendation": pl.String(),
        "synthetic": pl.Boolean(),
    }
)
_MAIN_FIELD = "sentiment"

TENANTS: tuple[str, ...] = tuple(row["name"] for row in load_grammar().rules["tenants"])


class SampleReview(NamedTuple):
    """A fresh review; `kind` says why it exists: plain, pivot, variant or flipped."""

    review_id: str
    tenant: str
    category: str
    product_id: str
    title: str | None
    text: str
    rating: float
    ts: datetime
    labels: Mapping[str, str]
    kind: str


@dataclass(frozen=True)
class Sample:
    """The endless feed that starts on `first_day`, `reviews` a day."""

    first_day: date
    reviews: int
    seed: int

    def fresh_count(self, day: date) -> int:
        """How many reviews of a day are new; the others are delivered again."""
        earlier = min(MEMORY_DAYS, (day - self.first_day).days)
        share = load_grammar().rules["redelivered_share"] * earlier / MEMORY_DAYS
        return self.reviews - int(self.reviews * share)

    def _rng(self, day: date, index: int | str) -> random.Random:
        # Strings are seeded by a digest, so every process draws the same; it is a demo, no secret.
        return random.Random(f"{self.seed}:{day.isoformat()}:{index}")  # noqa: S311

    def _earlier_days(self, day: date) -> list[date]:
        days = (day - timedelta(days=back) for back in range(1, MEMORY_DAYS + 1))
        return [earlier for earlier in days if earlier >= self.first_day]

    def _drawn_kind(self, day: date, index: int) -> str:
        rules = load_grammar().rules
        digest = hashlib.blake2b(f"{self.seed}:{day.isoformat()}:{index}".encode(), digest_size=4)
        draw = int.from_bytes(digest.digest()) / 2**32
        if draw < rules["pivots_share"]:
            return "pivot"
        return "variant" if draw < rules["pivots_share"] + rules["variants_share"] else "plain"

    def kind(self, day: date, index: int) -> str:
        """What a fresh review is; a pivot is turned round a day later, at the same index."""
        drawn = self._drawn_kind(day, index)
        before = day - timedelta(days=1)
        turned = before >= self.first_day and self._drawn_kind(before, index) == "pivot"
        return "flipped" if turned and drawn != "pivot" else drawn

    def fresh(self, day: date, index: int) -> SampleReview:
        """The fresh review of a day and index."""
        kind = self.kind(day, index)
        if kind == "flipped":
            return self._renamed(self._pivot(day - timedelta(days=1), index, 1), day, index, kind)
        if kind == "pivot":
            return self._pivot(day, index, 0)
        if kind == "variant" and (base := self._variant_base(day, index)) is not None:
            rng = self._rng(day, f"variant-{index}")
            changed = base._replace(text=_vary(base.text, rng))
            return self._renamed(changed, day, index, kind)
        return self._plain(day, index)

    def _start(self, day: date, index: int) -> tuple[str, Writer]:
        grammar = load_grammar()
        tenant, category = grammar.cells[index % CELLS]
        return tenant, Writer(self._rng(day, index), grammar, category)

    def _plain(self, day: date, index: int) -> SampleReview:
        tenant, writer = self._start(day, index)
        outcome: Outcome = writer.pick(writer.grammar.outcomes)
        writer.fill(outcome)
        return self._review(day, index, tenant, writer, outcome, "plain")

    def _pivot(self, day: date, index: int, side: int) -> SampleReview:
        """A review that one word decides; side 1 differs from side 0 by that word alone."""
        tenant, writer = self._start(day, index)
        pivot: Pivot = writer.pick(writer.grammar.pivots)
        writer.context["pivot"] = pivot.words[side]
        for name in ("opening", "fact", "use"):
            writer.add(name)
        writer.say("pivot", pivot.text)
        outcome = Outcome(pivot.labels[side], pivot.stars[side], "title_flat", (), (), 0)
        return self._review(day, index, tenant, writer, outcome, "pivot")

    def _review(
        self, day: date, index: int, tenant: str, writer: Writer, outcome: Outcome, kind: str
    ) -> SampleReview:
        odd = writer.random() < writer.grammar.rules["odd_rating"]
        title = writer.title(outcome.title)
        return SampleReview(
            review_id=_review_id(day, index),
            tenant=tenant,
            category=writer.category.name,
            product_id=writer.product.product_id,
            title=title,
            text=writer.text,
            rating=float(writer.pick((1, 2, 3, 4, 5) if odd else outcome.stars)),
            ts=_written(day, writer.rng),
            labels=outcome.labels,
            kind=kind,
        )

    def _renamed(self, review: SampleReview, day: date, index: int, kind: str) -> SampleReview:
        ts = _written(day, self._rng(day, f"ts-{index}"))
        return review._replace(review_id=_review_id(day, index), ts=ts, kind=kind)

    def _variant_base(self, day: date, index: int) -> SampleReview | None:
        """A plain review of the same tenant and category, of this day or one before it."""
        rng = self._rng(day, f"base-{index}")
        days = [day, *self._earlier_days(day)]
        for _ in range(10):
            base_day = days[int(rng.random() * len(days))]
            end = index if base_day == day else self.fresh_count(base_day)
            candidates = range(index % CELLS, end, CELLS)
            if candidates:
                base = candidates[int(rng.random() * len(candidates))]
                if self.kind(base_day, base) == "plain":
                    return self._plain(base_day, base)
        return None

    def redelivered(self, day: date) -> list[tuple[date, int]]:
        """Day and index of the earlier reviews that come again; each slot keeps its cell."""
        cells = load_grammar().cells
        rng = self._rng(day, "redelivered")
        candidates: dict[tuple[str, str], list[tuple[date, int]]] = defaultdict(list)
        for earlier in self._earlier_days(day):
            for index in range(self.fresh_count(earlier)):
                tenant, category = cells[index % CELLS]
                candidates[tenant, category.name].append((earlier, index))
        slots: dict[tuple[str, str], list[int]] = defaultdict(list)
        for index in range(self.fresh_count(day), self.reviews):
            tenant, category = cells[index % CELLS]
            slots[tenant, category.name].append(index)
        drawn = []
        for cell in sorted(slots):
            # Feeds of a few dozen reviews can have less to repeat than they should: new ones then.
            again = rng.sample(candidates[cell], min(len(slots[cell]), len(candidates[cell])))
            drawn += again + [(day, index) for index in slots[cell][len(again) :]]
        return drawn

    def day(self, day: date) -> list[SampleReview]:
        """Every review delivered on a day, in a shuffled order."""
        addresses = [(day, index) for index in range(self.fresh_count(day))]
        addresses += self.redelivered(day)
        self._rng(day, "order").shuffle(addresses)
        return [self.fresh(*address) for address in addresses]


def _review_id(day: date, index: int) -> str:
    return f"synthetic-{day:%Y%m%d}-{index:05d}"


def _written(day: date, rng: random.Random) -> datetime:
    """When a review delivered on a day was written: within the three days before it, UTC."""
    midnight = datetime(day.year, day.month, day.day, tzinfo=UTC)
    return midnight - timedelta(seconds=1 + int(rng.random() * 3 * 86_400))


def _misspell(text: str, rng: random.Random) -> str:
    """Two neighbouring letters of a longer word change places."""
    words = text.split(" ")
    longer = [i for i, word in enumerate(words) if len(word) >= 6 and word.isalpha()]
    if not longer:
        return f"{text} "
    place = longer[int(rng.random() * len(longer))]
    word = words[place]
    at = 1 + int(rng.random() * (len(word) - 3))
    words[place] = word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    return " ".join(words)


def _shout(text: str, rng: random.Random) -> str:
    sentences = text.split(". ")
    place = int(rng.random() * len(sentences))
    sentences[place] = sentences[place].upper()
    return ". ".join(sentences)


def _repunctuate(text: str, rng: random.Random) -> str:
    return text.replace(". ", "! " if rng.random() < 0.5 else "... ")


def _close(text: str, rng: random.Random) -> str:
    closings: Sequence[str] = load_grammar().rules["variants"]["closings"]
    return f"{text} {closings[int(rng.random() * len(closings))]}"


# Changes that leave the meaning alone.
_VARIATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    _misspell,
    lambda text, _rng: text.lower(),
    _shout,
    _repunctuate,
    _close,
)


def _vary(text: str, rng: random.Random) -> str:
    return _VARIATIONS[int(rng.random() * len(_VARIATIONS))](text, rng)


def sample_day(day: date, first_day: date, reviews: int = 5_000, seed: int = 7) -> pl.DataFrame:
    """The reviews delivered on a day: a SAMPLE frame, the same in every process.

    Raises ValueError for a day before the first.
    """
    if day < first_day:
        raise ValueError(f"{day} is before the first day, {first_day}")
    rows = Sample(first_day, reviews, seed).day(day)
    # The main field's truth stands in the column `label`, the others' in columns of their names.
    records = (
        {**row._asdict(), **row.labels, "label": row.labels[_MAIN_FIELD], "synthetic": True}
        for row in rows
    )
    data = [tuple(record[name] for name in SAMPLE.names()) for record in records]
    return pl.DataFrame(data, schema=SAMPLE, orient="row")


def write_sample(inbox: Path, day: date, first_day: date) -> list[Path]:
    """Write a day's reviews to `inbox/<tenant>/<day>/sample.jsonl.gz`, a file a tenant.

    Files appear whole or not at all, and hold the same bytes each time.
    """
    frame = sample_day(day, first_day)
    written = []
    for tenant in TENANTS:
        rows = frame.filter(pl.col("tenant") == tenant).iter_rows(named=True)
        lines = (json.dumps(row, ensure_ascii=False, default=_iso) + "\n" for row in rows)
        path = inbox / tenant / day.isoformat() / "sample.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The name and time in a gzip header would differ from one write to the next.
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(gzip.compress("".join(lines).encode(), compresslevel=6, mtime=0))
        temporary.replace(path)
        written.append(path)
    return written


def _iso(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no place in a sample")
