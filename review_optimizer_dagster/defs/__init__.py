"""The Dagster layer, thin: read, one call into core, write, metadata."""
