"""A run: the parts that its configuration describes, and the files that it leaves on disk."""

from dfm.runs.loggers import Logger, NoLogger, TensorBoard

__all__ = [
    "Logger",
    "NoLogger",
    "TensorBoard",
]
