"""Human labels: what a row of a label file says, and what all that was said comes to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Final, Literal, NamedTuple, TypeAlias

import polars as pl

from review_optimizer_dagster.core.reviews import (
    TenantRules,
    epoch_micros,
    name_text,
    scalar_text,
)
from review_optimizer_dagster.formats import CHUNK_ROWS, InputError, Record, Row
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy
from review_optimizer_dagster.text import redact

Rule: TypeAlias = Literal["majority", "newest"]
Origin: TypeAlias = Literal["file", "table"]

RESERVED: Final = ("tenant", "review_id", "day", "labeller", "labelled_at")  # no field's own name
_DETAIL_CHARS: Final = 300
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

JUDGEMENTS = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy", "review_id"), pl.String())
    | {"day": pl.Date()}  # of delivery; null: every delivery of the review
    | dict.fromkeys(("field", "label", "labeller"), pl.String())
    | {"labelled_at": pl.Datetime("us", "UTC")}
    | {"origin": pl.String(), "file": pl.String(), "line": pl.Int64()}
)
REFUSALS = pl.Schema(
    {"tenant": pl.String(), "file": pl.String(), "line": pl.Int64()}
    | dict.fromkeys(("review_id", "reason", "detail"), pl.String())
)
RESOLVED = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy", "review_id", "field", "label"), pl.String())
    | {"status": pl.String()}  # 'settled', or 'disputed', whose label is null
    | {"labellers": pl.Int64(), "votes": pl.Int64(), "newest_at": pl.Datetime("us", "UTC")}
)
_ABOUT: Final = ["tenant", "taxonomy", "review_id", "field"]


@dataclass(frozen=True)
class LabelSource:
    """A label file or table: its name in the books, and what its rows leave out."""

    tenant: str
    file: str
    labeller: str
    modified_at: datetime
    origin: Origin


class Batch(NamedTuple):
    """Up to some 10,000 rows of a source: JUDGEMENTS and REFUSALS."""

    judgements: pl.DataFrame
    refusals: pl.DataFrame


def label_columns(taxonomy: Taxonomy, renamed: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Field to the columns that may hold its label, the first that is filled first.

    The truth column by the tenant's column map, as in a delivery, then by its own name, then the
    field's name, unless that is another field's truth column or means something else in the file.
    """
    truths = taxonomy.truth_columns()
    claimed = {*truths, *(renamed[ours] for ours in truths if ours in renamed), *RESERVED}
    columns = {}
    for ours, field in truths.items():
        places = [renamed.get(ours, ours), ours]
        if field.name not in claimed:
            places.append(field.name)
        columns[field.name] = tuple(dict.fromkeys(places))
    return columns


def wanted_columns(names: Sequence[str], rules: TenantRules) -> list[str]:
    """The columns of a label file that are read."""
    fields = label_columns(rules.taxonomy, rules.columns).values()
    wanted = {*RESERVED, rules.columns.get("review_id", "review_id")}
    wanted.update(place for places in fields for place in places)
    return [name for name in names if name in wanted]


class _Reader:
    """Turns the rows of one source into judgements and refusals."""

    def __init__(self, source: LabelSource, rules: TenantRules) -> None:
        self._source, self._taxonomy = source, rules.taxonomy
        self._fields: dict[str, LabelField] = {each.name: each for each in rules.taxonomy.fields}
        self._columns = label_columns(rules.taxonomy, rules.columns)
        self._ids = (rules.columns.get("review_id", "review_id"), "review_id")
        self._judgements: list[tuple[object, ...]] = []
        self._refusals: list[tuple[object, ...]] = []
        self.has_labels = False

    def take(self) -> Batch:
        """What was read since the last time."""
        batch = Batch(
            pl.DataFrame(self._judgements, schema=JUDGEMENTS, orient="row"),
            pl.DataFrame(self._refusals, schema=REFUSALS, orient="row"),
        )
        self._judgements, self._refusals = [], []
        return batch

    def refuse(self, line: int | None, review_id: str | None, refused: InputError) -> None:
        """Note that a row, a cell of it, or the whole file (no line) means nothing."""
        detail = redact(refused.detail)[:_DETAIL_CHARS]
        source = self._source
        self._refusals.append((source.tenant, source.file, line, review_id, refused.reason, detail))

    def read(self, line: int | None, row: Row) -> None:
        """One row: a judgement a field that has a label in it."""
        cells = {}
        for field, places in self._columns.items():
            there = [place for place in places if place in row]
            self.has_labels |= bool(there)
            values = [value for place in there if (value := scalar_text(row[place])) is not None]
            if values:
                cells[field] = values
        if not cells:
            return  # nobody has labelled it (yet)
        review_id = None
        try:
            review_id = self._review_id(row)
            common = self._common(row)
        except InputError as refused:
            self.refuse(line, review_id, refused)
            return
        day, labeller, labelled_at = common
        source = self._source
        for field, values in cells.items():
            try:
                label = self._label(self._fields[field], values)
            except InputError as refused:
                self.refuse(line, review_id, refused)
                continue
            about = (source.tenant, self._taxonomy.name, review_id, day, field, label)
            self._judgements.append(
                (*about, labeller, labelled_at, source.origin, source.file, line)
            )

    def _review_id(self, row: Row) -> str:
        found = (name_text("review_id", row[place]) for place in self._ids if place in row)
        review_id = next((each for each in found if each), None)
        if review_id is None:
            raise InputError("no_review_id", "the row has a label, but no review_id")
        return review_id

    def _common(self, row: Row) -> tuple[date | None, str, datetime]:
        tenant = name_text("tenant", row.get("tenant"))
        if tenant not in (None, self._source.tenant):
            raise InputError(
                "other_tenant", f"the row is of {tenant!r}, its folder of {self._source.tenant!r}"
            )
        labeller = name_text("labeller", row.get("labeller")) or self._source.labeller
        micros = epoch_micros(row.get("labelled_at"))
        labelled_at = self._source.modified_at
        if micros is not None:
            labelled_at = _EPOCH + timedelta(microseconds=micros)
        return _day(row.get("day")), labeller, labelled_at

    @staticmethod
    def _label(field: LabelField, values: Sequence[str]) -> str:
        labels = {}
        for value in values:
            label = field.parse_truth(value)
            if label is None:
                raise InputError(
                    "unknown_label",
                    f"{value[:60]!r} is no {field.name}; the labels are: {', '.join(field.labels)}",
                )
            labels[label] = value
        if len(labels) > 1:
            shown = " and ".join(map(repr, labels))
            raise InputError("two_labels", f"two columns say {shown} of {field.name}")
        return next(iter(labels))


def _day(value: object) -> date | None:
    if isinstance(value, datetime):
        return value.date()
    if isinstance(value, date):
        return value
    spelled = scalar_text(value)
    if spelled is None:
        return None
    try:
        return date.fromisoformat(spelled[:10] if spelled[10:11] in ("T", " ") else spelled)
    except ValueError:
        raise InputError(
            "wrong_type", f"day {spelled[:50]!r} is no day; write 2026-11-20"
        ) from None


def read_judgements(
    records: Iterable[Record], source: LabelSource, rules: TenantRules
) -> Iterator[Batch]:
    """The judgements of a file or table, and what of it means nothing; in batches.

    A row says something of each field whose cell is filled; one that is empty is no judgement.
    A bad cell costs the other fields of its row nothing, and a bad row the others nothing. Numbers
    that stand for labels in a delivery are not understood here: only labels and their aliases are.
    """
    reader, rows = _Reader(source, rules), 0
    broken = False
    for line, _, row in records:
        if isinstance(row, InputError):
            broken |= line is None
            reader.refuse(line, None, row)
            continue
        reader.read(line, row)
        rows += 1
        if rows % CHUNK_ROWS == 0:
            yield reader.take()
    if rows and not reader.has_labels and not broken:
        columns = label_columns(rules.taxonomy, rules.columns).values()
        names = ", ".join(dict.fromkeys(place for places in columns for place in places))
        reader.refuse(None, None, InputError("no_label_column", f"it has none of: {names}"))
    yield reader.take()


def refused_whole(tenant: str, file: str, refused: InputError) -> Batch:
    """A batch that says why a file as a whole means nothing."""
    row = (tenant, file, None, None, refused.reason, redact(refused.detail)[:_DETAIL_CHARS])
    nothing = pl.DataFrame(schema=JUDGEMENTS)
    return Batch(nothing, pl.DataFrame([row], schema=REFUSALS, orient="row"))


def resolved(judgements: pl.DataFrame, rule: Rule) -> pl.DataFrame:
    """What the judgements of some deliveries' reviews come to, a review and field (RESOLVED).

    judgements: JUDGEMENTS that apply to the reviews of one day. Of each labeller the newest counts
    (the later line or file name where two are of one moment). `majority`: the label of most
    labellers; `newest`: that of the newest of them all. A tie is `disputed`, and no truth.
    """
    order = ["labelled_at", "file", "line"]
    own = (
        judgements.sort([*_ABOUT, *order], nulls_last=False)
        .unique([*_ABOUT, "labeller"], keep="last", maintain_order=True)
        .with_columns(
            labellers=pl.len().over(_ABOUT).cast(pl.Int64),
            newest_at=pl.col("labelled_at").max().over(_ABOUT),
        )
    )
    if rule == "newest":
        own = own.filter(pl.col("labelled_at") == pl.col("newest_at"))
    votes = own.group_by([*_ABOUT, "label"]).agg(
        pl.col("labellers", "newest_at").first(), votes=pl.len().cast(pl.Int64)
    )
    best = votes.filter(pl.col("votes") == pl.col("votes").max().over(_ABOUT))
    single = pl.len() == 1
    return (
        best.group_by(_ABOUT)
        .agg(
            label=pl.when(single).then(pl.col("label").first()),
            status=pl.when(single).then(pl.lit("settled")).otherwise(pl.lit("disputed")),
            labellers=pl.col("labellers").first(),
            votes=pl.col("votes").first(),
            newest_at=pl.col("newest_at").first(),
        )
        .sort(_ABOUT)
        .select(pl.col(name).cast(dtype) for name, dtype in RESOLVED.items())
    )
