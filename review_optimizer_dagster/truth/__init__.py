"""What is known to be right: human labels, samples worth labelling, and what follows from them."""
