"""Tests of the domain, without Dagster or storage."""
