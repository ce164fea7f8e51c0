"""The commands: each composes its parts, calls the engine and reports. Nothing here is imported before it is run."""
