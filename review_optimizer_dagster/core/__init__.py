"""The domain, in the order of the flow. Nothing here imports Dagster or holds SQL."""
