"""Commands, as a user types them and reads what they print."""
