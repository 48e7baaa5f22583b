"""The one Definitions object: what exists."""

from datetime import timedelta

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
    reporting,
    service,
)
from review_optimizer_dagster.defs.backfill import backfill
from review_optimizer_dagster.defs.catalogue import described, with_code
from review_optimizer_dagster.defs.resources import Engine, HomeFolder
from review_optimizer_dagster.defs.statements import statement
from review_optimizer_dagster.monitors.service import promises
from review_optimizer_dagster.settings import TenantSettings
from review_optimizer_dagster.storage.warehouse import Warehouse

_MODULES = [
    ingestion, caching, classification, money, gate, publishing, patterns, service, reporting,
]  # fmt: skip


def publication_freshness(home: Home) -> dg.FreshnessPolicy:
    """How old the newest publication may be in the UI: a day, and the hours that are promised.

    Of several tenants, the least; half of them are a warning. Whoever is promised none has 24.
    """
    settings = home.settings
    tenants = list(settings.tenants.values()) or [TenantSettings()]
    hours = [promises(settings.service, each).targets["freshness_hours"] for each in tenants]
    least = min((each for each in hours if each is not None), default=24.0)
    day = timedelta(days=1)
    return dg.FreshnessPolicy.time_window(
        fail_window=day + timedelta(hours=least), warn_window=day + timedelta(hours=least / 2)
    )


def _completed(spec: dg.AssetSpec, home: Home, freshness: dg.FreshnessPolicy) -> dg.AssetSpec:
    """An asset as the catalogue has it, and the one that analysts wait for with its freshness."""
    shown = described(spec, home)
    if spec.key != dg.AssetKey("published_results"):
        return shown
    return shown.replace_attributes(freshness_policy=freshness)


def definitions_of(home: Home) -> dg.Definitions:
    """What exists, over one home folder, whose settings are read as they stand now."""
    home = Home(home.folder)  # the caller's own may be asked before its tenants.toml is written
    freshness = publication_freshness(home)
    return dg.Definitions(
        assets=[
            with_code(asset).map_asset_specs(lambda spec: _completed(spec, home, freshness))
            for asset in dg.load_assets_from_modules(_MODULES)
            if isinstance(asset, dg.AssetsDefinition)
        ],
        asset_checks=dg.load_asset_checks_from_modules(_MODULES),
        jobs=[automation.daily_reviews, backfill, automation.retrain, statement],
        schedules=[automation.yesterday],
        sensors=[
            automation.inbox_arrivals,
            automation.batch_results,
            automation.deferred_reviews,
            automation.budget_alerts,
            automation.service_alerts,
            automation.alert_delivery,
            automation.latency_alerts,
            automation.drift_alerts,
            automation.quality_alerts,
        ],
        executor=dg.in_process_executor,
        resources={
            "home_folder": HomeFolder(folder=str(home.folder)),
            "warehouse": Warehouse(database=str(home.warehouse)),
            "engine": Engine(),
        },
    )


defs = definitions_of(Home.from_environment())
