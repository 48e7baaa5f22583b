"""Tests of prices, budgets and forecasts."""
