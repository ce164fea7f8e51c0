"""Bytes that are computed once, kept in a file, and mapped into memory by all later runs."""

import errno
import mmap
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from dfm.basics.files import lock


def memory_map(target: Path, shape: tuple[int, ...], fill: Callable[[np.ndarray], None]) -> np.ndarray:
    """Map ``target`` into memory as uint8 of this shape; write the file first if it is missing or has another length.

    The file's name is FAMILY-DIGEST.SUFFIX, and only one file of a family is kept. If several processes ask at once,
    one of them writes and the others wait.

    Args:
        target: the file.
        shape: of the array.
        fill: writes every byte of an empty array. A file gets the name ``target`` only after ``fill`` has ended.

    Raises:
        OSError: the file cannot be written, or the disk has no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64))
    target.parent.mkdir(parents=True, exist_ok=True)
    family = target.stem.rpartition("-")[0]
    with lock(target.with_name(f"{family}.lock"), wait=True):
        if not target.exists() or target.stat().st_size != size:
            _write(target, shape, size, fill)
            for old in target.parent.glob(f"{family}-*{target.suffix}*"):
                with suppress(OSError):  # another user's file, in a shared folder
                    if old != target:
                        old.unlink(missing_ok=True)  # processes that still map it keep their copy
    return np.memmap(target, dtype=np.uint8, mode="r", shape=shape)


def as_tensor(array: np.ndarray) -> torch.Tensor:
    """Return the numbers of an array as a tensor that shares its memory, or its file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch warns that the file is read-only: nothing writes to it
        return torch.from_numpy(array)


def expect_random_access(array: np.ndarray) -> None:
    """Tell the system that rows of a mapped array will be read in any order, so that it reads no neighbours of them.

    In a file larger than the memory, each neighbour would push out a page that is needed (measured under a limit of
    an eighth of the file: 2 ms a batch of 64 rows of 12 KiB instead of 470). Arrays in memory stay as they are.
    """
    base: object = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        base.madvise(mmap.MADV_RANDOM)


def _write(target: Path, shape: tuple[int, ...], size: int, fill: Callable[[np.ndarray], None]) -> None:
    if size > shutil.disk_usage(target.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb"):
            if hasattr(os, "posix_fallocate"):  # if a mapped file outgrows its disk, the process ends without a message
                os.posix_fallocate(handle, 0, size)
        fill(np.memmap(partial, dtype=np.uint8, mode="w+", shape=shape))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
