"""Rows: which of them belong to which split, their classes, and the store of those that were decoded."""
