"""Similar texts: what may be one (the index), and what must not be taken for one (the veto)."""
