"""The Dagster layer, thin: read, one call into core, write, metadata."""

import warnings

import dagster as dg

# A check that knows its partition is a preview feature, and the one way to judge a day by itself.
warnings.filterwarnings("ignore", category=dg.PreviewWarning)
# Where an asset is defined is metadata in beta; without it the UI shows no link.
warnings.filterwarnings("ignore", message="Class `(LocalFileCodeReference|CodeReferencesMeta)")
