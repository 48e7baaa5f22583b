"""One partition definition for every asset: the UTC day of delivery. Today is a valid partition."""

import dagster as dg

from review_optimizer_dagster.config import Home

DAILY = dg.DailyPartitionsDefinition(
    start_date=Home.from_environment().settings.first_day.isoformat(),
    timezone="UTC",
    end_offset=1,
)
