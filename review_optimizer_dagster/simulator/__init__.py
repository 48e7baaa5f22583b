"""A stand-in for the model: an OpenAI-compatible endpoint, its judges, and sample reviews."""
