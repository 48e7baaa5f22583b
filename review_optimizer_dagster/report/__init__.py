"""The dashboard: what its charts are, what it says of a day, and its one self-contained file."""
