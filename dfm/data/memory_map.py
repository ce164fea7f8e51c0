"""Numbers that are computed once, kept in a file, and mapped into memory by all later runs; and the free memory."""

import errno
import hashlib
import mmap
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from numpy.typing import DTypeLike

from dfm.basics.files import lock

BLOCK = 2**26  # bytes that are read together


def kept_file(folder: Path, name: str, form: str, content: str, ending: str) -> Path:
    """Return the file FAMILY-DIGEST.ENDING for numbers that ``memory_map`` keeps.

    Args:
        name: the first word of FAMILY.
        form: what tells these numbers from others, for the rest of FAMILY.
        content: a text that changes when the numbers change, for DIGEST.
    """
    family, digest = (
        hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16] for text in (form, content)
    )
    return folder / f"{name}-{family}-{digest}.{ending}"


def memory_map(
    target: Path,
    shape: tuple[int, ...],
    fill: Callable[[np.ndarray], None],
    dtype: DTypeLike = np.uint8,
    beside: Path | None = None,
) -> np.ndarray:
    """Map ``target`` into memory as an array; write the file first if it is missing or has another length.

    The file's name is FAMILY-DIGEST.SUFFIX, and only one file of a family is kept. If several processes ask at once,
    one of them writes and the others wait.

    Args:
        target: the file.
        shape: of the array.
        fill: writes every number of an empty array. A file gets the name ``target`` only after ``fill`` has ended.
        dtype: type of the array.
        beside: a file FAMILY-DIGEST.OTHER that ``fill`` writes too. If it is missing, ``fill`` is called again.

    Raises:
        OSError: the file cannot be written, or the disk has no room for it.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    target.parent.mkdir(parents=True, exist_ok=True)
    family = target.stem.rpartition("-")[0]
    with lock(target.with_name(f"{family}.lock"), wait=True):
        lost = beside is not None and not beside.exists()
        if lost or not target.exists() or target.stat().st_size != size:
            _write(target, shape, size, fill, dtype)
            for old in target.parent.glob(f"*{family}-*"):  # also .FAMILY-..., which a killed process had begun
                with suppress(OSError):  # another user's file, in a shared folder
                    if old not in (target, beside):
                        old.unlink(missing_ok=True)  # processes that still map it keep their copy
    return np.memmap(target, dtype=dtype, mode="r", shape=shape)


def slices(array: np.ndarray) -> Iterator[slice]:
    """Yield the rows of an array in blocks of ``BLOCK`` bytes, so that a mapped one need not fit in memory."""
    step = max(1, BLOCK // max(1, array[:1].nbytes))
    for first in range(0, len(array), step):
        yield slice(first, first + step)


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
    base = _bases(array)[-1]
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_RANDOM"):
        base.madvise(mmap.MADV_RANDOM)


def file_of(array: np.ndarray) -> str | None:
    """Return the file that an array is mapped from; None if it is in memory."""
    bases = _bases(array)
    if not isinstance(bases[-1], mmap.mmap):
        return None
    return next((str(base.filename) for base in bases if isinstance(base, np.memmap) and base.filename), None)


def _bases(array: np.ndarray) -> list[object]:
    """Return an array, the one that it is a view of, and so on, to what holds the numbers."""
    bases: list[object] = [array]
    while isinstance(base := bases[-1], np.ndarray):
        bases.append(base.base)
    return bases


def _write(
    target: Path, shape: tuple[int, ...], size: int, fill: Callable[[np.ndarray], None], dtype: DTypeLike
) -> None:
    if size > shutil.disk_usage(target.parent).free:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f"{target.name}.")
    partial = Path(name)
    try:
        with os.fdopen(handle, "wb"):
            if hasattr(os, "posix_fallocate"):  # if a mapped file outgrows its disk, the process ends without a message
                os.posix_fallocate(handle, 0, size)
        fill(np.memmap(partial, dtype=dtype, mode="w+", shape=shape))
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def free_memory(root: Path = Path("/")) -> int:
    """Return the bytes that this process may still take: the least of the machine's and of its control groups'.

    The machine's is Linux's own estimate; on other systems it is half of the memory. A container's limit is one of a
    control group, of version 1 or 2. A limit also holds for all groups below, so every group above counts. Pages of
    files that a group has read and not used of late (``inactive_file``) are given back when they are needed.

    Args:
        root: the folder with ``proc`` and ``sys``, for tests.
    """
    return max(0, min([_machine(root), *_groups(root)]))


def _machine(root: Path) -> int:
    try:
        lines = (root / "proc/meminfo").read_text("utf-8").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _groups(root: Path) -> Iterator[int]:
    """Yield the free memory of each control group that this process is in and that has a limit."""
    for folder, limits, usage, idle in _group_folders(root):
        used = _number(folder / usage)
        allowed = [number for limit in limits if (number := _number(folder / limit)) is not None]
        if used is not None and allowed:
            yield min(allowed) - used + _idle(folder / "memory.stat", idle)


def _group_folders(root: Path) -> Iterator[tuple[Path, tuple[str, ...], str, str]]:
    """Yield the folder of each group from this process's own up to the root, and the names of its files."""
    Files = tuple[tuple[str, ...], str, str]
    version_2: Files = (("memory.max", "memory.high"), "memory.current", "inactive_file")
    version_1: Files = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8", "surrogateescape").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        number, controllers, path = line.split(":", 2)
        if number == "0":
            tops, files = ["sys/fs/cgroup", "sys/fs/cgroup/unified"], version_2
        elif "memory" in controllers.split(","):
            tops, files = ["sys/fs/cgroup/memory"], version_1
        else:
            continue
        # In a container its own group is often mounted as the top, whatever /proc calls it: then the folders of
        # that name are missing, and the top has the limit.
        parts = [part for part in path.split("/") if part not in ("", "..")]
        for top in tops:
            for depth in range(len(parts), -1, -1):
                yield (root / top).joinpath(*parts[:depth]), *files


def _number(file: Path) -> int | None:
    """Return the number in a file; None if there is none, as in 'max'."""
    try:
        return int(file.read_text("ascii"))
    except (OSError, ValueError):
        return None


def _idle(file: Path, name: str) -> int:
    try:
        lines = [line.split() for line in file.read_text("ascii").splitlines()]
        return next(int(words[1]) for words in lines if len(words) == 2 and words[0] == name)
    except (OSError, ValueError, StopIteration):
        return 0
