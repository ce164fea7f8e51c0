"""The jobs of a command: their directories, and the jobs of a multirun with their table."""
