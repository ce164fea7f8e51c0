"""Rows: which of them belong to which split, and their classes."""
