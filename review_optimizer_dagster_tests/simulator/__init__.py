"""Tests of the endpoint, its judges and the sample."""
