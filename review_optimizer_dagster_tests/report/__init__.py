"""Tests of `review_optimizer_dagster.report`."""
