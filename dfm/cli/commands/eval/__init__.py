"""``dfm eval``: how good samples are beside held-out data."""
