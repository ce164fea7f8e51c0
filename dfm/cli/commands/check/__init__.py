"""``dfm check``: is it the sampler or the network?"""
