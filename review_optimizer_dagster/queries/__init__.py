"""The questions that analysts ask first, as SQL over published/analytics.duckdb: one a file."""
