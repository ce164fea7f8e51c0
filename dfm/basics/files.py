"""Write a file whole or not at all."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """The whole file or, after a crash or on a full disk, the file that was there: temporary file, fsync, rename.

    Raises:
        OSError: it could not be written; no part of it is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process was in the midst of writing below a run's directory."""
    for path in run.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    # A rename survives a power cut only once the directory itself is on disk.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON object, atomically; NaN and infinities are refused, since JSON has none (write None)."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
