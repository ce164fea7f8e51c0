"""``dfm eval``: the quality of samples, compared with held-out data."""
