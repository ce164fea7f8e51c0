"""``dfm train``: a training run, from its configuration to its last report."""
