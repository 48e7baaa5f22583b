"""The only place with SQL: the warehouse, the published files, and the journal."""
