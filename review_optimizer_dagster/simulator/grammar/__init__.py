"""The sample's words: `shared.toml`, and one TOML file a category."""
