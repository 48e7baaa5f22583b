"""Which columns an asset's columns come from, as the joins in `storage/` make them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias

import dagster as dg

Sources: TypeAlias = Mapping[str, tuple[tuple[str, str], ...]]  # column to (asset, its column)

# Of an asset, by the asset that is read: `column`, or `column=theirs` where the names differ. What
# stands here is what a column's value comes from; keys that are only joined by are left out.
_WRITTEN: Final[Mapping[str, Mapping[str, str]]] = {
    "cache_resolution": {
        "raw_reviews": "day tenant review_id content_key near_score=text veto=text",
        "review_archive": "labels source_key=content_key score=text",
        "category_patterns": "labels=label bound score=threshold",
    },
    "batch_plan": {
        "raw_reviews": "taxonomy tokens=text complexity=text",
        "cache_resolution": "day tenant identity content_key purpose=audit",
    },
    "batch_classifications": {"batch_plan": "day tenant identity content_key tier"},
    "review_results": {
        "raw_reviews": "day tenant taxonomy review_id content_key category product_id rating ts "
        "synthetic truth",
        "cache_resolution": "identity repeat level labels source_key score status=labels "
        "simulated=identity",
        "batch_classifications": "status level=status labels request_id model reason",
    },
    "tenant_ledger": {
        "raw_reviews": "category",
        "cache_resolution": "day tenant review_id content_key level avoided_nanos=source_key",
        "batch_classifications": "request_id model tier cost_nanos=request_id",
    },
    "cost_rollups": {
        "tenant_ledger": "day tenant taxonomy simulated cost_nanos avoided_nanos "
        "audit_nanos=cost_nanos embedding_nanos=cost_nanos manual_nanos=cost_nanos "
        "repaid_nanos=cost_nanos saving=cost_nanos cost_per_1000_nanos=cost_nanos",
        "batch_classifications": "requests=request_id misses=status deferred=status",
        "cache_resolution": "hits=level reviews=review_id",
    },
    "published_results": {
        "review_results": "day tenant taxonomy review_id category product_id rating ts status "
        "level repeat labels score model reason simulated synthetic content_key verified=truth",
        "tenant_ledger": "cost_nanos",
    },
    "review_archive": {
        "raw_reviews": "category text=title text",
        "cache_resolution": "day identity content_key tenant review_id asked draw",
        "batch_classifications": "labels model request_id",
        "review_results": "labels=truth",
    },
    "category_patterns": {
        "review_archive": "day identity label=labels category threshold=text n=labels "
        "errors=labels bound=labels",
    },
    "service_levels": {
        "review_results": "day tenant simulated value=level value=status value=truth",
        "cost_rollups": "value=cost_nanos",
        "published_results": "value=day",
    },
}


def sources_of(asset: str) -> Sources:
    """Where each column of an asset comes from; of a column without an entry, nothing is said."""
    found: dict[str, list[tuple[str, str]]] = {}
    for parent, written in _WRITTEN.get(asset, {}).items():
        for each in written.split():
            column, _, theirs = each.partition("=")
            found.setdefault(column, []).append((parent, theirs or column))
    return {column: tuple(parents) for column, parents in found.items()}


def column_lineage(sources: Sources) -> dg.TableColumnLineage:
    """The same as Dagster keeps it.

    Its open-source UI draws no graph of it, hence the words in the column's own description.
    """
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(asset), name) for asset, name in parents]
            for column, parents in sources.items()
        }
    )
