"""One TOML file a taxonomy: the words and phrases that the lexicon judge goes by."""
