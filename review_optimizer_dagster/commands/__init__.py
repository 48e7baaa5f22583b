"""What a user types: a module a command, and what all of them share."""
