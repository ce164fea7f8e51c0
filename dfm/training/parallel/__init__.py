"""How the processes of a run hold its network."""
