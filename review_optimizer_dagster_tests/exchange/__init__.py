"""Tests of one exchange with a model's endpoint."""
