"""A run: its configuration made into parts, and what it leaves on disk."""

from dfm.runs.loggers import Logger, NoLogger, TensorBoard

__all__ = [
    "Logger",
    "NoLogger",
    "TensorBoard",
]
