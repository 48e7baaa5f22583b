"""Measurements that print tables with sample sizes; not tests."""
