"""Tests of the warehouse, the published files and the journal."""
