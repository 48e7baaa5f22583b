"""The one Definitions object: what exists."""

import dagster as dg

from review_optimizer_dagster.config import Home
from review_optimizer_dagster.defs import (
    automation,
    caching,
    classification,
    gate,
    ingestion,
    money,
    patterns,
    publishing,
)
from review_optimizer_dagster.defs.resources import Engine, HomeFolder
from review_optimizer_dagster.storage.warehouse import Warehouse

_OWNERS = ["team:reviews"]
_MODULES = [ingestion, caching, classification, money, gate, publishing, patterns]


def definitions_of(home: Home) -> dg.Definitions:
    """What exists, over one home folder."""
    return dg.Definitions(
        assets=[
            asset.map_asset_specs(lambda spec: spec.replace_attributes(owners=_OWNERS))
            for asset in dg.load_assets_from_modules(_MODULES)
            if isinstance(asset, dg.AssetsDefinition)
        ],
        asset_checks=dg.load_asset_checks_from_modules(_MODULES),
        jobs=[automation.daily_reviews],
        schedules=[automation.yesterday],
        sensors=[
            automation.inbox_arrivals,
            automation.batch_results,
            automation.deferred_reviews,
            automation.budget_alerts,
            automation.alert_delivery,
            automation.drift_alerts,
        ],
        executor=dg.in_process_executor,
        resources={
            "home_folder": HomeFolder(folder=str(home.folder)),
            "warehouse": Warehouse(database=str(home.warehouse)),
            "engine": Engine(),
        },
    )


defs = definitions_of(Home.from_environment())
