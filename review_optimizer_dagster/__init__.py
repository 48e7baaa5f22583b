"""Classify reviews with a cache that proves its answers and a model that is asked in batches."""
