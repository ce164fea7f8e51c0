"""Arrays and tables of the user's own, as one array of examples that is mapped from a file."""
