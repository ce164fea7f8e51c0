"""Numbers: as a file holds them, as a model sees them, and what the change costs a likelihood."""
