"""What explains analytics.duckdb to analysts: its views, its catalogue, the labels there are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources

import duckdb
import polars as pl

from review_optimizer_dagster.storage.warehouse import Connection
from review_optimizer_dagster.taxonomies import Taxonomy

# Raised when a name that analysts use goes away, or means something else.
SCHEMA_VERSION = 1

_VIEWS = ("views.sql", "star.sql")
_CATALOG = "catalog.sql"

_LABELS = pl.Schema(
    {
        "taxonomy": pl.String(),
        "field": pl.String(),
        "field_order": pl.Int64(),
        "question": pl.String(),
        "label": pl.String(),
        "label_order": pl.Int64(),
        "definition": pl.String(),
    }
)


def put_views_in_place(connection: Connection, published: Sequence[str]) -> None:
    """Make the views in the warehouse, unless they are there as these files say.

    published: the tables that analysts get, which the catalogue lists beside the views. A thousand
    comments take longer than the data of a day: copying what the warehouse has takes nothing.
    """
    files = [resources.files(__package__).joinpath(name) for name in (*_VIEWS, _CATALOG)]
    schema = resources.files(__package__).joinpath("schema.sql")
    sql = "\0".join(each.read_text(encoding="utf-8") for each in (schema, *files))
    digest = hashlib.blake2b(repr((sql, published)).encode(), digest_size=16).hexdigest()
    try:
        if connection.rows("SELECT digest FROM warehouse_views") == [(digest,)]:
            return
    except duckdb.CatalogException:
        pass  # a new file, or one of a version that kept no views
    # Should this break off, nothing says that the views are there, and the next run makes them.
    connection.execute("DROP TABLE IF EXISTS warehouse_views")
    old = connection.rows(
        "SELECT view_name FROM duckdb_views() "
        "WHERE database_name = current_database() AND NOT internal"
    )
    for (view,) in old:  # a view that is no longer made must not be copied for ever
        connection.execute(f'DROP VIEW "{view}"')
    for name in _VIEWS:
        connection.script(name, out="main")
    with connection.view("published_names", pl.DataFrame({"name": list(published)})):
        connection.script(_CATALOG)
    with connection.transaction():
        connection.execute("CREATE TABLE warehouse_views (digest VARCHAR)")
        connection.execute("INSERT INTO warehouse_views VALUES (?)", [digest])
        connection.execute(
            "COMMENT ON TABLE warehouse_views IS 'The views that this file has, by their digest.'"
        )
        connection.execute(
            "COMMENT ON COLUMN warehouse_views.digest IS 'Of the SQL files that make them.'"
        )


def replace_taxonomies(connection: Connection, taxonomies: Iterable[Taxonomy]) -> None:
    """Keep the fields and labels of these taxonomies in place of what they were."""
    rows = [
        {
            "taxonomy": taxonomy.name,
            "field": field.name,
            "field_order": field_order,
            "question": field.question,
            "label": label,
            "label_order": label_order,
            "definition": field.definitions.get(label),
        }
        for taxonomy in taxonomies
        for field_order, field in enumerate(taxonomy.fields, 1)
        for label_order, label in enumerate(field.labels, 1)
    ]
    frame = pl.DataFrame(rows, schema=_LABELS)
    names = frame["taxonomy"].unique().to_list()
    with connection.transaction():
        connection.execute(
            "DELETE FROM taxonomy_labels WHERE list_contains($names, taxonomy)", {"names": names}
        )
        connection.append("taxonomy_labels", frame)
