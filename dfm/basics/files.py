"""Files: written whole or not at all, and locked against other processes."""

import errno
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write the whole file, or leave the old file in place after a crash or on a full disk.

    The steps are: write a temporary file, fsync, rename.

    Raises:
        OSError: the file could not be written; no part of it is left.
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


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder, but not those in the folders inside it."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    # A rename survives a power cut only once the directory itself is on disk.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object atomically.

    Raises:
        ValueError: a number is NaN or infinite; JSON has neither, so write None instead.
    """
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def lock(path: Path, *, wait: bool) -> IO[bytes]:
    """Lock a file against other processes and return it open.

    The lock ends when the file is closed or the process ends, however it ends. On a file system without locks the file
    is returned without one.

    Args:
        path: the file, which is made if it does not exist and never removed.
        wait: whether to wait for a process that has the lock now.

    Raises:
        BlockingIOError: another process has the lock, and ``wait`` is false.
        OSError: the file cannot be opened.
    """
    file = path.open("ab")
    try:
        success = lock_descriptor(file.fileno(), blocking=wait)
    except OSError:  # a file system without locks: nobody can know whether another process has the file
        success = True
    if not success:
        file.close()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN), str(path))
    return file
