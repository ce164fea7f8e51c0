"""The command line: the only room that speaks. Nothing here imports torch before a command is run."""
