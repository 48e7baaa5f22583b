"""What a user sees when something breaks."""
