"""What the archive teaches: features of texts, and classifiers that know how sure they are."""
