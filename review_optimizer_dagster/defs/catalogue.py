"""What every asset is, for the catalogue of the UI: its table, columns, tags and links."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import dagster as dg
from dagster import CodeReferencesMetadataValue, LocalFileCodeReference

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs.lineage import Sources, column_lineage, sources_of
from review_optimizer_dagster.defs.links import ALL_DAYS, reports_url
from review_optimizer_dagster.storage import columns

OWNERS: Final = ["team:reviews"]
# Columns with what a customer wrote, or what a person is found by.
PERSONAL: Final = {"title": "text", "text": "text", "excerpt": "text", "review_id": "id"}


@dataclass(frozen=True)
class Entry:
    """An asset in the catalogue."""

    table: str | None
    """The table of the warehouse that its rows are in, the main one where it writes several."""
    domain: str
    also: tuple[str, ...] = ()
    """Further tables that it writes."""
    tags: Mapping[str, str] = field(default_factory=dict)


# money: spends, a step that may pay a provider; books, one that writes what was paid.
CATALOGUE: Final[Mapping[str, Entry]] = {
    "raw_reviews": Entry("raw_reviews", "reviews"),
    "quarantined_reviews": Entry("quarantined_reviews", "reviews"),
    "cache_resolution": Entry(
        "cache_resolution", "cache", ("text_embeddings",), {"money": "spends"}
    ),
    "batch_plan": Entry("batch_plan", "model"),
    "batch_classifications": Entry(
        "batch_classifications",
        "model",
        (
            "llm_requests", "audits", "level_errors", "batch_samples", "request_latencies",
            "latency_episodes", "latency_watches", "reference_audits", "withdrawn_entries",
        ),
        {"money": "spends"},
    ),
    "review_results": Entry(
        "review_results",
        "quality",
        (
            "gate_verdicts", "accuracy_cells", "scored_reviews", "gate_causes", "drift_tests",
            "daily_profiles", "human_labels", "resolved_labels", "quarantined_labels",
        ),
    ),
    "tenant_ledger": Entry("ledger_entries", "money", (), {"money": "books"}),
    "cost_rollups": Entry("cost_rollups", "money", ("spend_forecasts",), {"money": "books"}),
    "published_results": Entry("published_results", "reviews", ("publications",)),
    "review_archive": Entry("review_archive", "cache"),
    "category_patterns": Entry(
        "pattern_certificates",
        "cache",
        ("pattern_versions", "pattern_evidence", "text_embeddings"),
        {"money": "spends"},
    ),
    "service_levels": Entry("service_levels", "service", ("alerts",)),
    "operations_dashboard": Entry(None, "service"),
}  # fmt: skip

_LINKED: Final = {"published_results", "service_levels", "operations_dashboard"}


def described(spec: dg.AssetSpec, home: Home) -> dg.AssetSpec:
    """An asset with its owners, tags, columns, their lineage, and where its rows are.

    One that the catalogue does not know, as it has no table, is given its owners alone.
    """
    entry = CATALOGUE.get(spec.key.to_user_string(), Entry(None, spec.group_name or "other"))
    tags = {"domain": entry.domain, **entry.tags}
    metadata: dict[str, Any] = {}
    if entry.table is not None:
        table = columns.tables()[entry.table]
        sources = sources_of(spec.key.to_user_string())
        tags |= _personal(table)
        metadata = {
            "dagster/column_schema": column_schema(table, sources),
            "dagster/table_name": f"warehouse.main.{table.name}",
            "dagster/uri": home.warehouse.as_uri(),
        }
        if sources:
            metadata["dagster/column_lineage"] = column_lineage(sources)
        if entry.also:
            metadata["also_writes"] = ", ".join(entry.also)
    if spec.key.to_user_string() in _LINKED:
        metadata["dashboards"] = reports_url(home, ALL_DAYS)
    return spec.replace_attributes(
        owners=OWNERS, tags={**tags, **spec.tags}, metadata={**metadata, **spec.metadata}
    )


def _personal(table: columns.Table) -> dict[str, str]:
    """The tag `pii` of a table: text where reviews stand in it, id where only their ids do."""
    kinds = {PERSONAL[each.name] for each in table.columns if each.name in PERSONAL}
    found = next((kind for kind in ("text", "id") if kind in kinds), None)
    return {"pii": found} if found else {}


def column_schema(table: columns.Table, sources: Sources) -> dg.TableSchema:
    """A table's columns, each with its comment, what it comes from, and whether it is personal."""
    return dg.TableSchema(
        [
            dg.TableColumn(
                each.name,
                each.type,
                description=_column_description(each, sources.get(each.name, ())),
                tags={"pii": PERSONAL[each.name]} if each.name in PERSONAL else {},
            )
            for each in table.columns
        ]
    )


def _column_description(column: columns.Column, parents: tuple[tuple[str, str], ...]) -> str | None:
    comes_from = ", ".join(f"`{asset}.{name}`" for asset, name in parents)
    told = [column.comment, f"From {comes_from}." if comes_from else None]
    return " ".join(filter(None, told)) or None


def with_code(asset: dg.AssetsDefinition) -> dg.AssetsDefinition:
    """An asset that says in which file and line it is defined.

    Dagster's own helper reads every source file for that; the compiled function knows it.
    """
    function: Callable[..., Any] | None = getattr(asset.op.compute_fn, "decorated_fn", None)
    if function is None:
        return asset
    code = function.__code__
    place = LocalFileCodeReference(
        file_path=code.co_filename, line_number=code.co_firstlineno, label="definition"
    )
    value = CodeReferencesMetadataValue(code_references=[place])
    return asset.map_asset_specs(
        lambda spec: spec.replace_attributes(
            metadata={**spec.metadata, "dagster/code_references": value}
        )
    )
