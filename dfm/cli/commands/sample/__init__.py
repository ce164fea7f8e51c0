"""``dfm sample``: draw from a checkpoint."""
