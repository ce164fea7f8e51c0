"""The commands, each in a file or folder. A command is imported only when it runs."""
