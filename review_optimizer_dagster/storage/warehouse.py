"""The warehouse: every read and write of warehouse.duckdb goes through a short-lived connection."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date
from importlib import resources
from pathlib import Path

import duckdb
import polars as pl
from dagster_duckdb import DuckDBResource
from pydantic import Field

from review_optimizer_dagster.errors import UserError

Parameters = Sequence[object] | Mapping[str, object]
_SCHEMA = "schema.sql"


class _ArrowStream:
    """Shows DuckDB only the Arrow stream of a frame; polars' other faces would need pyarrow."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._frame.__arrow_c_stream__(requested_schema)


class Connection:
    """An open connection that speaks polars. Lent by `Warehouse.open`, closed by it."""

    def __init__(self, raw: duckdb.DuckDBPyConnection) -> None:
        self.raw = raw

    def execute(self, sql: str, parameters: Parameters = ()) -> None:
        """Run a statement; `$name` or `?` parameters."""
        self.raw.execute(sql, parameters)

    def script(self, name: str, **names: str) -> None:
        """Run a .sql file of this package, all of it or nothing.

        `{name}` in it is replaced by an identifier.
        """
        sql = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
        for key, value in names.items():
            sql = sql.replace("{" + key + "}", value)
        # Hundreds of statements: each by itself would be written and waited for by itself.
        # They define and describe, so that planning each is a third of its time for nothing.
        self.raw.execute("PRAGMA disable_optimizer")
        try:
            with self.transaction():
                self.raw.execute(sql)
        finally:
            self.raw.execute("PRAGMA enable_optimizer")

    def frame(self, sql: str, parameters: Parameters = ()) -> pl.DataFrame:
        """The rows of a query as a polars frame."""
        # Through the stream alone: pl.DataFrame(relation) works too, but then duckdb's types
        # outlive the interpreter, which prints pages of warnings when a command ends.
        return pl.scan_arrow_c_stream(self.raw.sql(sql, params=parameters or None)).collect()

    def rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[object, ...]]:
        """The rows of a small query as tuples."""
        return self.raw.execute(sql, parameters).fetchall()

    def count(self, table: str, day: date) -> int:
        """How many rows a table has of a day."""
        sql = f"SELECT count(*) FROM {table} WHERE day = ?"  # noqa: S608 (our own names)
        return int(str(self.rows(sql, [day])[0][0]))

    @contextmanager
    def view(self, name: str, frame: pl.DataFrame) -> Iterator[None]:
        """Lend a polars frame to SQL under a name."""
        self.raw.register(name, _ArrowStream(frame))
        try:
            yield
        finally:
            self.raw.unregister(name)

    def append(self, table: str, frame: pl.DataFrame, **constants: object) -> int:
        """Insert a frame by column name; `constants` fill further columns. Returns the rows."""
        if frame.is_empty():
            return 0
        columns = [f'"{name}"' for name in (*constants, *frame.columns)]
        values = [f"${name}" for name in constants] + [f'"{name}"' for name in frame.columns]
        with self.view("incoming_rows", frame):
            self.raw.execute(
                f"INSERT INTO {table} ({', '.join(columns)}) "  # noqa: S608 (our own names)
                f"SELECT {', '.join(values)} FROM incoming_rows",
                constants,
            )
        return frame.height

    def replace(
        self, table: str, frame: pl.DataFrame, day: date, tenants: Sequence[str] | None = None
    ) -> int:
        """Replace a table's rows of one day (of these tenants, or of all) by a frame."""
        only = "" if tenants is None else " AND list_contains($tenants, tenant)"
        self.raw.execute(
            f"DELETE FROM {table} WHERE day = $day{only}",  # noqa: S608 (our own names)
            {"day": day} | ({} if tenants is None else {"tenants": list(tenants)}),
        )
        return self.append(table, frame, day=day)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        self.raw.begin()
        try:
            yield
        except BaseException:
            self.raw.rollback()
            raise
        self.raw.commit()


def _put_tables_in_place(connection: Connection) -> None:
    """Run the schema, unless the file says that it has had exactly this one.

    A run opens the warehouse some twenty times, and the schema takes longer than the opening.
    """
    sql = resources.files(__package__).joinpath(_SCHEMA).read_bytes()
    digest = hashlib.blake2b(sql, digest_size=16).hexdigest()
    try:
        if connection.rows("SELECT digest FROM warehouse_schema") == [(digest,)]:
            return
    except duckdb.CatalogException:
        pass  # a new file, or one of a version that did not note it
    connection.script(_SCHEMA)
    with connection.transaction():
        connection.execute("CREATE OR REPLACE TABLE warehouse_schema (digest VARCHAR)")
        connection.execute("INSERT INTO warehouse_schema VALUES (?)", [digest])
        connection.execute(
            "COMMENT ON TABLE warehouse_schema IS 'The schema that this file has, by its digest.'"
        )


class Warehouse(DuckDBResource):
    """warehouse.duckdb, opened late and closed soon, since DuckDB lets one process write."""

    wait_seconds: float = Field(
        default=60.0, gt=0, description="How long to wait while another process has it open."
    )

    memory_limit: str = Field(
        default="600MB", description="Memory that DuckDB may use before it spills to disk."
    )

    @contextmanager
    def open(self, read_only: bool = False) -> Iterator[Connection]:
        """A connection with the tables in place, in UTC, closed whatever happens.

        Raises UserError where another process keeps the file longer than `wait_seconds`.
        """
        path = Path(self.database)
        if read_only and not path.exists():
            raise UserError(f"{path} does not exist yet: run `review-optimizer run` first")
        path.parent.mkdir(parents=True, exist_ok=True)
        raw = self._connect(path, read_only)
        try:
            connection = Connection(raw)
            connection.execute("SET TimeZone = 'UTC'")
            if not read_only:
                _put_tables_in_place(connection)
            yield connection
        finally:
            raw.close()

    def _connect(self, path: Path, read_only: bool) -> duckdb.DuckDBPyConnection:
        give_up = time.monotonic() + self.wait_seconds
        pause = 0.05
        while True:
            try:
                # No extension is used, and none may be fetched.
                return duckdb.connect(
                    str(path),
                    read_only=read_only,
                    config={
                        "autoinstall_known_extensions": "false",
                        "memory_limit": self.memory_limit,
                        **self.connection_config,
                    },
                )
            except duckdb.IOException as error:
                if "Could not set lock" not in str(error):
                    raise UserError(f"{path} cannot be opened: {error}") from error
                if time.monotonic() + pause > give_up:
                    raise UserError(
                        f"{path} has been open in another process for {self.wait_seconds:g} s; "
                        "close it there (analysts use published/analytics.duckdb), then run again"
                    ) from error
            time.sleep(pause)
            pause = min(1.0, pause * 1.6)
