"""What the UI says of assets, checks, jobs, sensors and config without any run."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster import CodeReferencesMetadataValue, LocalFileCodeReference
from dagster._config import ConfigType, Field, Shape

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.definitions import definitions_of
from review_optimizer_dagster.defs import catalogue, lineage
from review_optimizer_dagster.storage import columns

DEFINITIONS = definitions_of(Home(Path("/nowhere/home")))
SPECS = {spec.key.to_user_string(): spec for spec in DEFINITIONS.resolve_all_asset_specs()}
CHECKS = [
    spec
    for checks in (DEFINITIONS.asset_checks or [], DEFINITIONS.assets or [])
    for each in checks
    if isinstance(each, dg.AssetsDefinition)
    for spec in each.check_specs
]
JOBS = ("daily_reviews", "backfill", "retrain", "statement")
WITH_TABLES = {name: entry.table for name, entry in catalogue.CATALOGUE.items() if entry.table}


@pytest.mark.parametrize("name", sorted(SPECS))
def test_every_asset_explains_itself(name: str) -> None:
    """Whoever opens an asset knows what it is, whose it is, and where it stands."""
    spec = SPECS[name]
    assert spec.description
    assert spec.owners == catalogue.OWNERS
    assert spec.kinds
    assert spec.group_name not in {None, "default"}
    assert spec.tags["domain"]
    references = spec.metadata["dagster/code_references"]
    assert isinstance(references, CodeReferencesMetadataValue)
    (place,) = references.code_references
    assert isinstance(place, LocalFileCodeReference)
    assert place.file_path.endswith(".py")
    assert place.line_number is not None
    line = Path(place.file_path).read_text().splitlines()[place.line_number - 1]
    assert line.startswith(("@dg.asset", "@dg.multi_asset"))


@pytest.mark.parametrize("name", sorted(WITH_TABLES))
def test_every_table_is_shown_before_any_run(name: str) -> None:
    """Its description says what a row is; its columns, their types and comments, are ours."""
    spec, table = SPECS[name], columns.tables()[WITH_TABLES[name] or ""]
    assert "A row is" in (spec.description or "")
    assert spec.metadata["dagster/table_name"] == f"warehouse.main.{table.name}"
    assert spec.metadata["dagster/uri"] == "file:///nowhere/home/warehouse.duckdb"
    schema = spec.metadata["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchema)
    assert [(each.name, each.type) for each in schema.columns] == [
        (each.name, each.type) for each in table.columns
    ]
    for shown, column in zip(schema.columns, table.columns, strict=True):
        assert (shown.description or "").startswith(column.comment or "")


def test_no_column_of_an_asset_is_without_a_comment() -> None:
    """Once a table has comments at all, each of its columns has one."""
    bare = [
        f"{table.name}.{column.name}"
        for table in (columns.tables()[name] for name in WITH_TABLES.values() if name)
        if any(column.comment for column in table.columns)
        for column in table.columns
        if not column.comment
    ]
    assert bare == []


def test_every_asset_is_in_the_catalogue_and_every_table_is_there() -> None:
    """A step that is added without an entry would have no columns in the UI."""
    assert set(WITH_TABLES) <= set(SPECS)
    assert set(SPECS) <= set(catalogue.CATALOGUE)
    also = {table for entry in catalogue.CATALOGUE.values() for table in entry.also}
    assert also <= set(columns.tables())


@pytest.mark.parametrize("name", sorted(WITH_TABLES))
def test_lineage_names_columns_that_exist_upstream(name: str) -> None:
    """A line to a column that is gone, or to a step that comes later, would be a lie."""
    graph = DEFINITIONS.resolve_asset_graph()
    before = {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(name))}
    own = {column.name for column in columns.tables()[WITH_TABLES[name] or ""].columns}
    for column, parents in lineage.sources_of(name).items():
        assert column in own, column
        for asset, theirs in parents:
            # The cache reads what the steps of earlier days left, of which the graph knows nothing.
            assert asset in before or name == "cache_resolution", asset
            there = columns.tables()[WITH_TABLES[asset] or ""].columns
            assert theirs in {each.name for each in there}, f"{asset}.{theirs}"


def test_lineage_is_kept_for_dagster_and_written_for_people() -> None:
    """The open-source UI draws no graph of columns, so each one says what it comes from."""
    metadata = SPECS["published_results"].metadata
    kept = metadata["dagster/column_lineage"]
    assert isinstance(kept, dg.TableColumnLineage)
    assert kept.deps_by_column["labels"] == [
        dg.TableColumnDep(dg.AssetKey("review_results"), "labels")
    ]
    written = {each.name: each.description for each in metadata["dagster/column_schema"].columns}
    assert "From `review_results.labels`." in (written["labels"] or "")
    assert {"raw_reviews", "cache_resolution", "batch_classifications"} == {
        dep.asset_key.to_user_string()
        for deps in SPECS["review_results"]
        .metadata["dagster/column_lineage"]
        .deps_by_column.values()
        for dep in deps
    }


@pytest.mark.parametrize("name", ["published_results", "service_levels"])
def test_the_dashboards_are_a_click_away(name: str, tmp_path: Path) -> None:
    """At the address of `[reports]`, wherever the folder is served."""
    link = SPECS[name].metadata["dashboards"]
    assert link == dg.MetadataValue.url("http://127.0.0.1:3001/operations.html")
    (tmp_path / "tenants.toml").write_text('[reports]\nurl = "https://reports.example/daily"\n')
    shown = catalogue.described(SPECS[name], Home(tmp_path)).metadata
    assert shown["dashboards"] == link  # what an asset says of itself comes first
    bare = SPECS[name].replace_attributes(metadata={})
    assert catalogue.described(bare, Home(tmp_path)).metadata["dashboards"] == dg.MetadataValue.url(
        "https://reports.example/daily/operations.html"
    )


def test_personal_data_and_money_can_be_searched_for() -> None:
    """`tag:pii=text` finds where reviews stand, `tag:money=spends` what may pay a provider."""
    texts = {name for name, spec in SPECS.items() if spec.tags.get("pii") == "text"}
    assert texts == {"raw_reviews", "quarantined_reviews", "review_archive"}
    spends = {name for name, spec in SPECS.items() if spec.tags.get("money") == "spends"}
    assert spends == {"cache_resolution", "batch_classifications", "category_patterns"}


def test_a_comment_stands_before_what_a_column_comes_from() -> None:
    """Both are there once schema.sql comments a column."""
    (table,) = columns.read_schema(
        "CREATE TABLE IF NOT EXISTS t (text VARCHAR, n BIGINT);"
        "COMMENT ON COLUMN t.text IS 'What was written.'"
    ).values()
    shown = catalogue.column_schema(table, {"text": (("raw_reviews", "text"),)})
    assert [each.description for each in shown.columns] == [
        "What was written. From `raw_reviews.text`.", None,
    ]  # fmt: skip
    assert shown.columns[0].tags == {"pii": "text"}


def test_checks_jobs_sensors_and_the_schedule_say_what_they_do() -> None:
    """The Automation page and the jobs are read by people who did not write them."""
    assert {spec.name for spec in CHECKS} >= {
        "contract", "quality_gate", "drift", "response_time", "service_levels",
    }  # fmt: skip
    described: list[Any] = [
        *CHECKS,
        *(DEFINITIONS.sensors or []),
        *(DEFINITIONS.schedules or []),
        *map(DEFINITIONS.resolve_job_def, JOBS),
    ]
    for each in described:
        assert len(each.description or "") > 30, each.name


def fields(kind: ConfigType, path: str = "") -> Iterator[tuple[str, Field]]:
    """Every field of our own in a config schema, with its path."""
    if not isinstance(kind, Shape) and not hasattr(kind, "fields"):
        return
    for name, each in getattr(kind, "fields", {}).items():
        yield f"{path}{name}", each
        yield from fields(each.config_type, f"{path}{name}.")


@pytest.mark.parametrize("job", JOBS)
def test_the_launchpad_explains_every_field_and_requires_none(job: str) -> None:
    """Launched as it opens, each job does the usual; what may be changed says what it means."""
    schema = DEFINITIONS.resolve_job_def(job).run_config_schema.run_config_schema_type
    own = {
        path: each
        for path, each in fields(schema)
        if ".config." in path and path.startswith(("ops.", "resources."))
    }
    resources = {"home_folder", "engine", "warehouse"}
    own = {
        path: each
        for path, each in own.items()
        if path.startswith("ops.") or path.split(".")[1] in resources
    }
    assert {path.split(".")[1] for path in own if path.startswith("resources.")} == resources
    assert len(own) > 12
    assert [path for path, each in own.items() if not each.description] == []
    # The two places, which the definitions name, stand in the Launchpad as it opens.
    required = [path for path, each in own.items() if each.is_required]
    assert required == [
        "resources.home_folder.config.folder", "resources.warehouse.config.database",
    ]  # fmt: skip
    every = dict(fields(schema))
    for path in required:
        filled = every[path.rpartition(".")[0]]
        assert not filled.is_required
        assert "/nowhere/home" in filled.default_value[path.rpartition(".")[2]]


def test_no_path_of_the_machine_is_in_a_definition_but_the_home_and_the_code() -> None:
    """What is shown is made when definitions load: nothing of it is written into the project."""
    for name, spec in SPECS.items():
        for key, value in spec.metadata.items():
            if key not in {"dagster/code_references", "dagster/uri"}:
                assert str(Path(__file__).parents[2]) not in str(value), (name, key)
