"""One file or folder a command. Nothing here is imported before its command is run."""
