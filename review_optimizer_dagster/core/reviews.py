"""First step of the flow: files become reviews with a content key, the unreadable is quarantined.

Files are streamed in chunks of at most 10,000 rows. Every row of a file ends either in `REVIEWS`
or, with file, line and reason, in `QUARANTINE`; a problem of the file as a whole is one row there.
Blank lines are no rows, and a file without rows is an empty delivery, not an error.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import polars as pl

from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.formats import (
    CHUNK_ROWS,
    MAX_NAME_CHARS,
    InputError,
    Record,
    Row,
    read_records,
)
from review_optimizer_dagster.settings import INPUT_FIELDS, MIXED_INBOX, TENANT_NAME, InputSettings
from review_optimizer_dagster.tables import load_table
from review_optimizer_dagster.taxonomies import LabelField, Taxonomy
from review_optimizer_dagster.text import content_key, normalise, redact

UNKNOWN_CATEGORY = "unknown"

REVIEWS = pl.Schema(
    dict.fromkeys(("tenant", "taxonomy", "review_id", "content_key", "category"), pl.String())
    | dict.fromkeys(("product_id", "title", "text"), pl.String())
    | {"rating": pl.Float64(), "ts": pl.Datetime("us", "UTC"), "truth": pl.String()}
    | {"synthetic": pl.Boolean(), "file": pl.String(), "line": pl.Int64()}
)
QUARANTINE = pl.Schema(
    {"tenant": pl.String(), "file": pl.String(), "line": pl.Int64()}
    | dict.fromkeys(("review_id", "reason", "detail", "excerpt"), pl.String())
)

_CHUNK_BYTES = 64 * 2**20
_EXCERPT_CHARS = 200
_UNKNOWN_TRUTHS = 100  # different unknown truth values that a chunk counts one by one


@dataclass(frozen=True)
class Source:
    """A file to read; `tenant` is None where each row names its own in a column `tenant`."""

    path: Path
    file: str
    tenant: str | None


@dataclass(frozen=True)
class TenantRules:
    """What a tenant's rows are read by; `columns` maps our column names to the input's."""

    taxonomy: Taxonomy
    columns: Mapping[str, str]


class Chunk(NamedTuple):
    """Up to 10,000 rows of a file; `unknown_truth`: `field=value` to rows kept without it."""

    reviews: pl.DataFrame
    quarantined: pl.DataFrame
    unknown_truth: dict[str, int]


class _Layout(NamedTuple):
    name: str
    recognised_by: tuple[frozenset[str], ...]
    columns: Mapping[str, Sequence[str]]
    integer_labels: str | None


class _Plan(NamedTuple):
    """Where the values of a row stand, for one tenant and one set of columns."""

    layout: _Layout
    taxonomy: str
    places: tuple[str | None, ...]  # of INPUT_FIELDS, in their order
    truths: tuple[tuple[str, LabelField], ...]


@lru_cache(maxsize=1)
def _layouts() -> tuple[_Layout, ...]:
    return tuple(
        _Layout(
            layout["name"],
            tuple(map(frozenset, layout["recognised_by"])),
            layout["columns"],
            layout.get("integer_labels"),
        )
        for layout in load_table("sources")["layouts"]
    )


_MAPPED = _Layout("column map", (), {}, None)


def _plan(keys: Sequence[str], rules: TenantRules, default: _Layout | None) -> _Plan | None:
    """How a row of these columns is read; None where no layout, map or default fits."""
    present = frozenset(keys)
    mapped = {ours: theirs for ours, theirs in rules.columns.items() if theirs in present}
    fits = (known for known in _layouts() if any(map(present.issuperset, known.recognised_by)))
    layout = next(fits, default or (_MAPPED if "text" in mapped else None))
    if layout is None:
        return None
    truths = rules.taxonomy.truth_columns()
    found: dict[str, str | None] = {}
    for ours in (*INPUT_FIELDS, *truths):
        places = [mapped[ours]] if ours in mapped else layout.columns.get(ours, [ours])
        found[ours] = next((place for place in places if place in present), None)
    return _Plan(
        layout,
        rules.taxonomy.name,
        tuple(found[ours] for ours in INPUT_FIELDS),
        tuple((place, field) for ours, field in truths.items() if (place := found[ours])),
    )


_UNCLEAN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\ud800-\udfff]")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_YEARS_1_TO_9999 = range(-62_135_596_800_000_000, 253_402_300_800_000_000)
_FORM = re.compile(r"(\d+(?:/\d+)+):\d+")
_TRUE_FALSE = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


def _clean(text: str) -> str:
    """The text without control characters; half a surrogate pair becomes U+FFFD."""
    text = text.strip()
    if text.isprintable():
        return text
    return _UNCLEAN.sub(lambda found: "\ufffd" if found[0] >= "\ud800" else "", text).strip()


def _words(field: str, value: object) -> str | None:
    if value is None or type(value) is str:
        return (value and _clean(value)) or None
    raise InputError("wrong_type", f"{field} is a {type(value).__name__}, not a text")


def scalar_text(value: object) -> str | None:
    """A scalar as text, 1.0 as "1"; None where nothing is there."""
    if isinstance(value, str):
        return value.strip() or None
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def name_text(field: str, value: object) -> str | None:
    """An id or a name as text, None where nothing is there; raises InputError for what is none."""
    if value is None:
        return None
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise InputError("wrong_type", f"{field} is a {type(value).__name__}, not a text")
    if not (name := scalar_text(value)):
        return None
    if len(name) > MAX_NAME_CHARS:
        raise InputError("over_long", f"{field} is longer than {MAX_NAME_CHARS} characters")
    if not name.isprintable() and _UNCLEAN.search(name):
        raise InputError("encoding", f"{field} holds a control character or half a character")
    return name


def _rating(value: object) -> float | None:
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    try:
        rating = math.nan if isinstance(value, bool) else float(value)  # type: ignore[arg-type]  # else TypeError
    except (TypeError, ValueError, OverflowError):
        rating = math.nan
    if not math.isfinite(rating):
        raise InputError("wrong_type", f"rating {str(value)[:50]!r} is not a number")
    return rating


def epoch_micros(value: object) -> int | None:
    """Microseconds since 1970 UTC of seconds, milliseconds, ISO text, date or datetime."""
    if value is None:
        return None
    spelled = scalar_text(value) if isinstance(value, str | int | float) else None
    if spelled is None and isinstance(value, str):
        return None
    try:
        micros = _moment(value, spelled)
    except (ArithmeticError, TypeError, ValueError):
        micros = None
    if micros is None or micros not in _YEARS_1_TO_9999:
        raise InputError(
            "wrong_type", f"ts {str(value)[:50]!r} is no time; use ISO 8601 or seconds"
        )
    return micros


def _moment(value: object, spelled: str | None) -> int:
    if isinstance(value, bool):
        raise TypeError
    if spelled is None:
        if isinstance(value, datetime):
            moment = value
        elif isinstance(value, date):
            moment = datetime.combine(value, time())
        else:
            raise TypeError
    elif re.fullmatch(r"-?\d+(?:\.\d+)?", spelled) and not re.fullmatch(
        r"(?:19|20|21)\d\d(?:0\d|1[0-2])[0-3]\d", spelled
    ):
        number = int(spelled) if spelled.lstrip("-").isdigit() else float(spelled)
        # Seconds reach 1e11 in the year 5138, and milliseconds have passed it since 1973.
        unit = next(
            (unit for limit, unit in ((1e11, 10**6), (1e14, 1_000)) if abs(number) < limit), 1
        )
        return round(number * unit)
    else:
        moment = datetime.fromisoformat(spelled.removesuffix(" UTC"))
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    return (moment - _EPOCH) // _MICROSECOND


def _flag(value: object) -> bool:
    if value is None:
        return False
    spelled = scalar_text(value)
    flag = _TRUE_FALSE.get(spelled.lower()) if spelled else False
    if flag is None:
        raise InputError("wrong_type", f"synthetic {str(value)[:50]!r} is neither true nor false")
    return flag


class _Interpreter:
    """Turns the rows of one file into reviews; what it learns of the file is its only state."""

    def __init__(
        self, source: Source, rules: Callable[[str], TenantRules], limits: InputSettings
    ) -> None:
        self._source, self._ask, self._limits = source, rules, limits
        self._known: dict[str, TenantRules] = {}
        self._plans: dict[tuple[str, tuple[str, ...]], _Plan | None] = {}
        self._default: _Layout | None = None
        self._forms: dict[tuple[str, str], str | None] = {}
        self._unknown: Counter[str] = Counter()
        self._truths: dict[tuple[object, ...], tuple[str, tuple[tuple[str, str], ...]]] = {}

    def columns(self, names: Sequence[str]) -> list[str]:
        """The columns of a Parquet file that are needed; all, where each row may need others."""
        own = self._source.tenant
        try:
            plan = _plan(names, self._rules(own), None) if own else None
        except InputError:
            plan = None
        if plan is None:
            return list(names)
        wanted = {*plan.places, *(column for column, _ in plan.truths)}
        return [name for name in names if name in wanted]

    def learn(self, records: list[Record]) -> InputError | None:
        """Learn layout and digit labels from the first chunk; a refusal where no row is known."""
        seen: dict[tuple[str, str], set[str]] = {}
        fields: dict[tuple[str, str], tuple[LabelField, str | None]] = {}
        strange: tuple[str, ...] = ()
        for _, _, row in records:
            if isinstance(row, InputError) or not row:
                continue
            try:
                tenant = self._tenant(row)
                plan = self._plan(tenant, row)
            except InputError as refused:
                strange = strange or (tuple(row) if refused.reason == "unknown_layout" else ())
                continue
            self._default = self._default or plan.layout
            for column, field in plan.truths:
                value = row[column]
                if (spelled := scalar_text(value)) and spelled.isdecimal():
                    seen.setdefault((tenant, field.name), set()).add(spelled)
                    usual = None if isinstance(value, str) else plan.layout.integer_labels
                    fields[tenant, field.name] = field, usual
        self._plans.clear()  # from here on the file's own layout reads rows of none
        self._forms = {key: _form(*fields[key], digits) for key, digits in seen.items()}
        if self._default or not strange:
            return None
        columns = ", ".join(map(repr, strange))[:500]
        return InputError(
            "unknown_layout",
            f"no known layout has the columns {columns}; say which is which in tenants.toml, "
            'for instance [tenants.NAME.columns] text = "..."',
        )

    def chunk(self, records: Iterable[Record]) -> Chunk:
        """The rows as frames; each row is in exactly one of them."""
        self._unknown = Counter()
        reviews = []
        quarantined = []
        for line, _, row in records:
            if isinstance(row, InputError):
                quarantined.append(self._refuse(line, {}, row))
                continue
            try:
                reviews.append(self._review(line, row))
            except InputError as refused:
                quarantined.append(self._refuse(line, row, refused))
        return Chunk(_frame(reviews, REVIEWS), _frame(quarantined, QUARANTINE), dict(self._unknown))

    def _tenant(self, row: Row) -> str:
        own = self._source.tenant
        column = self._rules(own).columns.get("tenant", "tenant") if own else "tenant"
        named = name_text("tenant", row.get(column))
        if own is None:
            if named is None:
                raise InputError("no_tenant", "the row has no tenant; name it in `tenant`")
            return named
        if named is not None and named != own:
            raise InputError("other_tenant", f"the row is of {named!r}, its folder of {own!r}")
        return own

    def _rules(self, tenant: str) -> TenantRules:
        if (known := self._known.get(tenant)) is None:
            try:
                if not re.match(TENANT_NAME, tenant):
                    raise UserError(f"{tenant!r} cannot be the name of a tenant")
                known = self._known[tenant] = self._ask(tenant)
            except ConfigError:
                raise
            except UserError as error:
                raise InputError("unknown_tenant", str(error)) from None
        return known

    def _plan(self, tenant: str, row: Row) -> _Plan:
        key = tenant, tuple(row)
        if key not in self._plans:
            if len(self._plans) > 1_000:
                self._plans.clear()
            self._plans[key] = _plan(key[1], self._rules(tenant), self._default)
        if (plan := self._plans[key]) is None:
            raise InputError("unknown_layout", f"no known layout has the columns {key[1]}"[:500])
        return plan

    def _review(self, line: int | None, row: Row) -> tuple[object, ...]:
        if not row:
            raise InputError("empty_row", "the row holds nothing")
        tenant = self._tenant(row)
        plan = self._plan(tenant, row)
        at = [row[place] if place else None for place in plan.places]
        _, review_id, category, product_id, title, text, rating, ts, synthetic = at
        title, text = _words("title", title), _words("text", text)
        if text is None:
            if all(value in (None, "") for value in row.values()):
                raise InputError("empty_row", "the row holds nothing")
            raise InputError("empty_text", f"no text, by the layout {plan.layout.name}")
        if len(text) + len(title or "") > self._limits.max_text_chars:
            limit = f"{self._limits.max_text_chars:,} characters"
            raise InputError("over_long", f"title and text have more than {limit}")
        normalised = normalise(title, text)
        if not normalised or normalised.endswith("\n"):
            raise InputError("empty_text", "nothing but markup or invisible characters")
        return (
            tenant,
            plan.taxonomy,
            name_text("review_id", review_id),
            content_key(normalised),
            name_text("category", category) or UNKNOWN_CATEGORY,
            name_text("product_id", product_id),
            title,
            text,
            _rating(rating),
            epoch_micros(ts),
            self._truth(tenant, plan, row),
            _flag(synthetic),
            self._source.file,
            line,
        )

    def _truth(self, tenant: str, plan: _Plan, row: Row) -> str:
        key = tenant, *[(field.name, scalar_text(row[column])) for column, field in plan.truths]
        if key not in self._truths:
            if len(self._truths) > 10_000:
                self._truths.clear()
            self._truths[key] = self._labels(tenant, plan, row)
        truth, unknown = self._truths[key]
        for name, spelled in unknown:
            counted = f"{name}={spelled[:60]}"
            full = len(self._unknown) >= _UNKNOWN_TRUTHS and counted not in self._unknown
            self._unknown[f"{name}=(others)" if full else counted] += 1
        return truth

    def _labels(
        self, tenant: str, plan: _Plan, row: Row
    ) -> tuple[str, tuple[tuple[str, str], ...]]:
        truth = {}
        unknown = []
        for column, field in plan.truths:
            if (spelled := scalar_text(row[column])) is None:
                continue
            value = spelled
            if spelled.isdecimal() and spelled not in field.labels and _forms(field):
                value = f"{self._forms.get((tenant, field.name))}:{spelled}"
            if label := field.parse_truth(value):
                truth[field.name] = label
            else:
                unknown.append((field.name, spelled))
        return json.dumps(truth, ensure_ascii=False), tuple(unknown)

    def _refuse(self, line: int | None, row: Row, refused: InputError) -> tuple[object, ...]:
        named = row.get("tenant")
        known = named if isinstance(named, str) and named in self._known else MIXED_INBOX
        text = next((v for v in row.values() if isinstance(v, str) and len(v) > 20), None)
        excerpt = refused.excerpt or text or (json.dumps(row, default=str) if row else None)
        review_id = row.get("review_id")
        return (
            self._source.tenant or known,
            self._source.file,
            line,
            _clean(str(review_id))[:MAX_NAME_CHARS] if review_id is not None else None,
            refused.reason,
            _clean(redact(refused.detail)),
            _clean(redact(excerpt[:2_000]))[:_EXCERPT_CHARS] if excerpt else None,
        )


def _forms(field: LabelField) -> dict[str, set[str]]:
    """The ways of numbering in a field's aliases: "0/1:1" is the 1 of a file of 0 and 1."""
    forms = {found[1] for alias in field.truth_aliases if (found := _FORM.fullmatch(alias))}
    return {form: set(form.split("/")) for form in sorted(forms)}


def _form(field: LabelField, usual: str | None, digits: set[str]) -> str | None:
    """The one numbering that holds all digits seen, else the layout's usual one, else None."""
    fitting = [form for form, numbers in _forms(field).items() if digits <= numbers]
    return fitting[0] if len(fitting) == 1 else usual if usual in fitting else None


def _frame(rows: list[tuple[object, ...]], schema: pl.Schema) -> pl.DataFrame:
    values = list(zip(*rows, strict=True)) or [()] * len(schema)
    raw = {**schema, "ts": pl.Int64()} if "ts" in schema else dict(schema)
    frame = pl.DataFrame(dict(zip(raw, values, strict=True)), schema=raw)
    if "ts" in schema:
        frame = frame.with_columns(pl.from_epoch("ts", "us").dt.replace_time_zone("UTC"))
    return frame


def read_reviews(
    source: Source, rules: Callable[[str], TenantRules], limits: InputSettings
) -> Iterator[Chunk]:
    """Read a file in chunks of at most 10,000 rows; never raises for what the file holds.

    The layout, and what digit labels mean (0/1 or 1/2), are decided by the first chunk, so that
    one pass is enough. Digits that fit several ways of numbering, or none, give no truth.
    Raises ConfigError where a tenant's own configuration cannot be used.
    """
    interpreter = _Interpreter(source, rules, limits)
    for number, records in enumerate(
        _chunks(read_records(source.path, interpreter.columns, limits))
    ):
        if number == 0 and (unknown := interpreter.learn(records)):
            broken = [record for record in records if isinstance(record[2], InputError)]
            yield interpreter.chunk([*broken, (None, 0, unknown)])
            return
        yield interpreter.chunk(records)


def _chunks(records: Iterable[Record]) -> Iterator[list[Record]]:
    chunk: list[Record] = []
    size = 0
    for record in records:
        chunk.append(record)
        size += record[1]
        if len(chunk) >= CHUNK_ROWS or size >= _CHUNK_BYTES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
