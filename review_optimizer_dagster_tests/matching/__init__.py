"""Tests of what may be one text, and what must not be taken for one."""
