"""The Dagster UI and the dashboard as a user sees them, in a headless Chromium."""
