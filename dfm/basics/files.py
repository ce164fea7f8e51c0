"""Files: written whole or not at all, and locked against other processes."""

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from filelock import lock_descriptor

from dfm.basics.errors import is_out_of_memory

# A disk without room for more, whether it is full or the user's share of it is.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# A file system that cannot sync a file or a directory (network mounts, FUSE). What it has taken counts as written.
NO_SYNC = (errno.EINVAL, errno.EBADF, errno.EACCES, errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
# What to try, by the error of the operating system that is no fault of dfm.
ADVICE = {
    **dict.fromkeys(FULL, "try to free some space, or another hydra.run.dir=DIR"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "try a place where you may read and write"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "try fewer programs at a time, or a larger ulimit -n"),
    **dict.fromkeys((errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG), "try another path"),
    **dict.fromkeys(
        (errno.EIO, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT, errno.ENODEV), "the disk has failed; try another"
    ),
}


def refusal(error: OSError) -> str | None:
    """Return one line about a disk that refuses: the file, the reason, and what to try; None for any other error."""
    advice = ADVICE.get(error.errno or 0)
    if advice is None:
        return None
    file = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
    return f"{file}{error.strerror}; {advice}"


def is_of_the_machine(error: Exception) -> bool:
    """Whether an error is a failure of the machine, memory or disk, which tells nothing about a file."""
    return is_out_of_memory(error) or (isinstance(error, OSError) and refusal(error) is not None)


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """Write the whole file, or leave the old file in place after a crash or on a full disk.

    Raises:
        OSError: as ``whole_file``.
    """
    with whole_file(path) as file:
        file.write(data)


@contextmanager
def whole_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a file to write that gets its name when this block ends without an error. Until then the old file stays.

    The steps are: write a temporary file, fsync, rename.

    Raises:
        OSError: the file could not be written; no part of it is left. The error names ``path``.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            sync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename in (None, str(temporary)):
            error.filename, error.filename2 = str(path), None
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically. Bytes of a path that are no UTF-8 are written as they are."""
    write_atomically(path, text.encode("utf-8", "surrogateescape"))


def read_text(path: Path) -> str:
    """Read what ``write_text`` wrote."""
    return path.read_text("utf-8", "surrogateescape")


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files that a killed process left in a folder, but not those in the folders inside it."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


def sync(descriptor: int) -> None:
    """Bring a file to the disk, safe from a power cut, where the file system can do that.

    Raises:
        OSError: the disk failed or is full.
    """
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in NO_SYNC:
            raise


def _sync_directory(path: Path) -> None:
    # A rename survives a power cut only once the directory itself is on disk.
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # a directory that may be written to and not read, or a system that opens no directories
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write one JSON object atomically. A number that is NaN or infinite is null: JSON has neither."""
    write_atomically(path, (json.dumps(finite_or_null(content), indent=2, allow_nan=False) + "\n").encode())


def finite_or_null(value: Any) -> Any:
    """Return plain containers with None in place of the numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: finite_or_null(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_or_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


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
