"""Parallel training: how the processes of a run hold its network."""
