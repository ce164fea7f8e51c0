"""``dfm nll``: log-likelihoods of held-out data, with their errors."""
