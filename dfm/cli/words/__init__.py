"""The words of a command line: those that a user types, and those that dfm prints for a user to type."""
