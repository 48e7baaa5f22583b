"""Tests of `review_optimizer_dagster.suites`."""
