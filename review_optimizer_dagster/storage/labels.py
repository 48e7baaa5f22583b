"""Human labels in the warehouse: files and tables that tenants drop in, and what they come to.

`labels/<tenant>/` holds files of the formats of a delivery, or DuckDB databases, and folders named
after labellers with the same. A file that has changed is read anew; one that is gone takes its
labels back.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import chain
from pathlib import Path

import duckdb
import polars as pl

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.core.reviews import TenantRules
from review_optimizer_dagster.errors import ConfigError, UserError
from review_optimizer_dagster.formats import (
    CHUNK_ROWS,
    INPUT_SUFFIXES,
    InputError,
    Record,
    read_records,
)
from review_optimizer_dagster.settings import InputSettings
from review_optimizer_dagster.storage.inbox import unfinished
from review_optimizer_dagster.storage.warehouse import Connection
from review_optimizer_dagster.truth.labels import (
    RESOLVED,
    Batch,
    LabelSource,
    Rule,
    read_judgements,
    refused_whole,
    resolved,
    wanted_columns,
)

DATABASE_SUFFIXES = (".duckdb", ".db")
LABEL_SUFFIXES = (*INPUT_SUFFIXES, *DATABASE_SUFFIXES)
UNKNOWN_REVIEW = "unknown_review"
_READER_VERSION = 1  # raised when the same file would be read otherwise

_AGAIN = ""  # the digest of a file that is read at every look
_TABLE = "//"  # between a database's name and that of a table in it; no path has it
_OF_FILE = f"(file = $file OR starts_with(file, $file || '{_TABLE}'))"
_KNOWN = "SELECT file, digest FROM label_files"

# A judgement about one review is carried to the day's other reviews of the same text where that
# text was drawn into a label sample: what was drawn is the text.
_SAID = "h.tenant, h.taxonomy, h.field, h.label, h.labeller, h.labelled_at, h.file, h.line"
_APPLIES = f"""
    SELECT r.day, r.review_id, {_SAID}
    FROM human_labels h
    JOIN raw_reviews r ON r.tenant = h.tenant AND r.review_id = h.review_id
        AND r.taxonomy = h.taxonomy AND (h.day IS NULL OR h.day = r.day)
    UNION ALL
    SELECT r.day, r.review_id, {_SAID}
    FROM human_labels h
    JOIN label_samples s ON s.tenant = h.tenant AND s.shown = h.review_id
        AND s.taxonomy = h.taxonomy AND (h.day IS NULL OR h.day = s.day)
    JOIN raw_reviews r ON r.day = s.day AND r.tenant = s.tenant AND r.review_id = s.review_id
        AND r.taxonomy = s.taxonomy AND r.content_key = s.content_key
    JOIN raw_reviews shown ON shown.day = s.day AND shown.tenant = s.tenant
        AND shown.review_id = s.shown AND shown.content_key = s.content_key
    WHERE s.review_id <> s.shown
"""  # noqa: S608 (our own names)


@dataclass(frozen=True)
class LabelFile:
    """A file in `labels/`; `file` is its path there, `labeller` whose it is if no row says so."""

    path: Path
    tenant: str
    file: str
    labeller: str


@dataclass(frozen=True)
class Loaded:
    """What a look into `labels/` changed."""

    read: tuple[str, ...]
    removed: tuple[str, ...]
    judgements: int  # in all files now
    quarantined: int


def label_files(folder: Path) -> list[LabelFile]:
    """Every label file, in order; hidden and unfinished ones not."""
    found = []
    for path in sorted([*folder.glob("*/*"), *folder.glob("*/*/*")]):
        parts = path.relative_to(folder).parts
        hidden = unfinished(path) or any(part.startswith(".") for part in parts)
        # DuckDB's own log lies beside a database that is being written.
        if path.is_file() and not hidden and path.suffix != ".wal":
            found.append(label_file(path, parts))
    return found


def label_file(path: Path, parts: tuple[str, ...]) -> LabelFile:
    """A file at `tenant/[labeller/]name`: the folder's name, or the file's, is the labeller."""
    labeller = parts[1] if len(parts) == 3 else path.name.partition(".")[0]
    return LabelFile(path, parts[0], "/".join(parts), labeller)


def load(
    connection: Connection,
    folder: Path,
    rules: Callable[[str], TenantRules],
    limits: InputSettings,
    now: datetime,
) -> Loaded:
    """Bring `human_labels` up to date with the files of a folder; reads only what has changed.

    A changed file replaces its own rows, one that is gone takes its own away, and one that cannot
    be opened at all keeps what was read of it before. Judgements of a review that no delivery had
    are kept, and quarantined until one has it.
    """
    known = {str(file): digest for file, digest in connection.rows(_KNOWN)}
    files = label_files(folder)
    read = []
    for each in files:
        own: TenantRules | InputError
        try:
            own = rules(each.tenant)
            digest = _digest(each.path, own)
        except FileNotFoundError:
            continue  # gone since it was listed: the next look takes its labels back
        except ConfigError:
            raise
        except UserError as error:
            own, digest = InputError("unknown_tenant", str(error)), _AGAIN
        if known.get(each.file) != digest or digest == _AGAIN:
            _replace(connection, each, _batches(each, own, limits), digest, now)
            read.append(each.file)
    removed = sorted(set(known) - {each.file for each in files})
    with connection.transaction():
        for name in removed:
            _forget(connection, name)
        _quarantine_unknown(connection)
    ((judgements, quarantined),) = connection.rows(
        "SELECT (SELECT count(*) FROM human_labels), (SELECT count(*) FROM quarantined_labels)"
    )
    return Loaded(tuple(read), tuple(removed), int(str(judgements)), int(str(quarantined)))


def _batches(
    file: LabelFile, rules: TenantRules | InputError, limits: InputSettings
) -> Iterator[Batch]:
    if isinstance(rules, InputError):
        yield refused_whole(file.tenant, file.file, rules)
    else:
        yield from read_file(file, rules, limits)


def _digest(path: Path, rules: TenantRules) -> str:
    """Of what the rows of a file depend on: the file as it is, and what it is read by."""
    stat, taxonomy = path.stat(), rules.taxonomy
    aliases = [(each.name, each.truth_column, dict(each.truth_aliases)) for each in taxonomy.fields]
    facts = (stat.st_size, stat.st_mtime_ns, taxonomy.identity, aliases, dict(rules.columns))
    return hashlib.blake2b(repr((_READER_VERSION, *facts)).encode(), digest_size=8).hexdigest()


def read_file(file: LabelFile, rules: TenantRules, limits: InputSettings) -> Iterator[Batch]:
    """The judgements of a label file, or of each table of a database that has a `review_id`.

    Raises InputError, before it yields anything, where a database cannot be opened.
    """
    modified_at = datetime.fromtimestamp(file.path.stat().st_mtime, UTC)
    if not file.path.name.lower().endswith(DATABASE_SUFFIXES):
        source = LabelSource(file.tenant, file.file, file.labeller, modified_at, "file")
        records = read_records(file.path, lambda names: wanted_columns(names, rules), limits)
        yield from read_judgements(records, source, rules)
        return
    with _database(file.path) as raw:
        ids = {rules.columns.get("review_id", "review_id"), "review_id"}
        tables = _tables(raw, ids)
        if not tables:
            refused = InputError("no_label_table", "no table of it has a column review_id")
            yield refused_whole(file.tenant, file.file, refused)
        for name, columns in tables.items():
            source = LabelSource(
                file.tenant, f"{file.file}{_TABLE}{name}", file.labeller, modified_at, "table"
            )
            records = _table_rows(raw, name, wanted_columns(columns, rules))
            yield from read_judgements(records, source, rules)


def _database(path: Path) -> duckdb.DuckDBPyConnection:
    # By itself, and not attached: what it holds must reach neither the warehouse nor other files.
    try:
        return duckdb.connect(
            str(path),
            read_only=True,
            config={"autoinstall_known_extensions": "false", "enable_external_access": "false"},
        )
    except duckdb.Error as error:
        problem = _first_line(error).replace(str(path), path.name)
        detail = f"no DuckDB database that can be opened now: {problem}"
        raise InputError("unreadable_file", detail) from None


def _tables(raw: duckdb.DuckDBPyConnection, ids: set[str]) -> dict[str, list[str]]:
    """Name to columns, of tables with an id. No views: they could show what is not in the file."""
    columns = raw.execute(
        """
        SELECT c.schema_name || '.' || c.table_name AS name,
            list(c.column_name ORDER BY c.column_index)
        FROM duckdb_columns() c JOIN duckdb_tables() t USING (database_oid, table_oid)
        WHERE c.database_name = current_database() GROUP BY ALL ORDER BY ALL
        """
    ).fetchall()
    return {name: names for name, names in columns if ids & set(names)}


def _table_rows(raw: duckdb.DuckDBPyConnection, table: str, columns: list[str]) -> Iterator[Record]:
    """Rows of a table with their number, from 1."""
    quoted = ", ".join(map(_quoted, columns))
    schema, _, name = table.partition(".")
    sql = f"SELECT {quoted} FROM {_quoted(schema)}.{_quoted(name)} ORDER BY rowid"  # noqa: S608
    result = raw.execute(sql)
    line = 0
    try:
        while rows := result.fetchmany(CHUNK_ROWS):
            for row in rows:
                line += 1
                yield line, 0, dict(zip(columns, row, strict=True))
    except duckdb.Error as error:
        yield line + 1, 0, InputError("unreadable_file", f"cannot be read: {_first_line(error)}")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _replace(
    connection: Connection, file: LabelFile, batches: Iterator[Batch], digest: str, now: datetime
) -> None:
    """Put what a file says now in the place of what it said, if it can be opened at all."""
    judgements = quarantined = 0
    is_open = True
    try:
        first = next(batches)
    except InputError as refused:
        first, digest, is_open = refused_whole(file.tenant, file.file, refused), _AGAIN, False
    with connection.transaction():
        _forget(connection, file.file, judgements=is_open)
        for batch in chain([first], batches):
            judgements += connection.append("human_labels", batch.judgements)
            quarantined += connection.append("quarantined_labels", batch.refusals)
        note = {"file": [file.file], "judgements": [judgements], "quarantined": [quarantined]}
        connection.append(
            "label_files", pl.DataFrame(note), tenant=file.tenant, digest=digest, read_at=now
        )


def _forget(connection: Connection, file: str, judgements: bool = True) -> None:
    """Drop what is kept of a file and of the tables in it."""
    tables = ("human_labels",) if judgements else ()
    for table in (*tables, "quarantined_labels", "label_files"):
        connection.execute(f"DELETE FROM {table} WHERE {_OF_FILE}", {"file": file})  # noqa: S608


def _quarantine_unknown(connection: Connection) -> None:
    """Quarantine judgements of reviews that no delivery had, and no others of that reason."""
    connection.execute("DELETE FROM quarantined_labels WHERE reason = ?", [UNKNOWN_REVIEW])
    connection.execute(
        """
        INSERT INTO quarantined_labels BY NAME
        SELECT DISTINCT tenant, file, line, review_id, $reason AS reason,
            'no delivery had this review' || coalesce(' on ' || h.day, '') ||
            '; the label counts as soon as one has it' AS detail
        FROM human_labels h
        WHERE NOT EXISTS (
            FROM raw_reviews r WHERE r.tenant = h.tenant AND r.review_id = h.review_id
                AND (h.day IS NULL OR h.day = r.day))
        ORDER BY ALL
        """,
        {"reason": UNKNOWN_REVIEW},
    )


def concerned_days(connection: Connection, file: str) -> list[date]:
    """The days of delivery whose reviews a file's judgements are about."""
    rows = connection.rows(
        f"SELECT DISTINCT day FROM ({_APPLIES}) WHERE {_OF_FILE} ORDER BY day",  # noqa: S608
        {"file": file},
    )
    return [day for (day,) in rows if isinstance(day, date)]


def settle(connection: Connection, day: date, rule: Callable[[str], Rule]) -> None:
    """Resolve the judgements about a day's reviews, each tenant's by its rule: resolved_labels."""
    frame = connection.frame(f"FROM ({_APPLIES}) WHERE day = $day", {"day": day})
    parts = [resolved(part, rule(str(tenant))) for (tenant,), part in frame.group_by("tenant")]
    settled = pl.concat(parts) if parts else pl.DataFrame(schema=RESOLVED)
    with connection.transaction():
        connection.replace("resolved_labels", settled.sort("tenant", "review_id", "field"), day)


def read_labels(connection: Connection, home: Home, days: Iterable[date]) -> Loaded:
    """Read what is new in the home's labels, and settle what they say of some days."""

    def rules(tenant: str) -> TenantRules:
        return TenantRules(home.taxonomy(tenant), home.tenant(tenant).columns)

    loaded = load(connection, home.labels, rules, home.settings.input, datetime.now(UTC))
    for day in days:
        settle(connection, day, lambda tenant: home.tenant(tenant).label_rule)
    return loaded


def resolved_truth(connection: Connection, day: date) -> pl.DataFrame:
    """What is known to be right of each review of a day: tenant, review_id, truth, truth_origin.

    truth: JSON object, field to label. Field by field, settled human labels stand over what the
    delivery said, and a field that is disputed has none. truth_origin: 'human' where any of it
    is, 'delivered', or null where nothing is known.
    """
    return connection.frame(
        """
        WITH human AS (
            SELECT tenant, taxonomy, review_id, json_group_object(field, label) AS labels,
                count(label) > 0 AS is_known
            FROM resolved_labels WHERE day = $day GROUP BY ALL),
        merged AS (
            SELECT r.tenant, r.review_id, h.is_known, CASE WHEN h.labels IS NULL THEN r.truth
                ELSE json_merge_patch(coalesce(r.truth, '{}'), h.labels)::VARCHAR END AS truth
            FROM raw_reviews r LEFT JOIN human h USING (tenant, taxonomy, review_id)
            WHERE r.day = $day)
        SELECT tenant, review_id, truth, CASE WHEN is_known THEN 'human'
            WHEN truth <> '{}' THEN 'delivered' END AS truth_origin
        FROM merged ORDER BY tenant, review_id
        """,
        {"day": day},
    )
