"""Alerts: what went over a limit, told once, in words that say what to do."""
