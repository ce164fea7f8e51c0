"""``dfm data``: what is in a data set, what the network sees of it, and which settings suit it."""
