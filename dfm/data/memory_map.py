"""Bytes that are computed once, kept in a file, and mapped into memory by all later runs."""

import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np


def memory_map(target: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """uint8 of a shape, mapped from ``target``, which is written first where it is missing or of another length.

    The name is FAMILY-DIGEST.SUFFIX; of a family one file is kept. Of several processes one writes, the others wait.

    Args:
        fill: writes every byte of such an array; only a file that it has ended is ever named ``target``.

    Raises:
        OSError: the file cannot be made, or the disk has no room for it.
    """
    needed = int(np.prod(shape, dtype=np.int64))
    target.parent.mkdir(parents=True, exist_ok=True)
    family = target.stem.rpartition("-")[0]
    with _alone(target.with_name(f"{family}.lock")):
        if not target.exists() or target.stat().st_size != needed:
            _write(target, shape, needed, fill)
            for old in target.parent.glob(f"{family}-*{target.suffix}*"):
                with suppress(OSError):  # another user's, in a folder that is shared
                    if old != target:
                        old.unlink(missing_ok=True)  # who has it mapped keeps it until he ends
    return np.memmap(target, dtype=np.uint8, mode="r", shape=shape)


def _write(target: Path, shape: tuple[int, ...], needed: int, fill: Callable[[np.ndarray], None]) -> None:
    if needed > shutil.disk_usage(target.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb"):
            if hasattr(os, "posix_fallocate"):  # a mapped file that outgrows its disk ends the process without a word
                os.posix_fallocate(handle, 0, needed)
        fill(np.memmap(partial, dtype=np.uint8, mode="w+", shape=shape))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Within, no other process of this machine is; where the system has no such locks, nothing is promised."""
    try:
        import fcntl
    except ImportError:
        yield
        return
    with lock.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
