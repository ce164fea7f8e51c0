"""The command line, the only room that prints. It imports no torch before a command runs."""
