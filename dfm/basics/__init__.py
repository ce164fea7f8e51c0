"""The ground: what three rooms or more stand on. It imports no other room."""
