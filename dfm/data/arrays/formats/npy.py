"""NumPy's files: ``.npy`` and the members of ``.npz``, mapped where they lie, or decoded once.

Only headers are read until the numbers are needed. Pickled objects are never loaded.
"""

import math
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.arrays.formats.number_types import check_type
from dfm.data.arrays.formats.source import Source, copy

READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
PIECE = 2**22  # bytes that are unpacked together
LOCAL_HEADER = 30  # bytes before the name of a member of a zip file


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the header of an array says.

    Args:
        shape: of the array, (N, *example).
        fortran: whether the first axis is the fastest one.
        dtype: with the file's byte order.
        start: bytes before the numbers, from the start of the array's own file or member.
    """

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype
    start: int

    @property
    def size(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], what: str) -> Header:
    """Read the header of an array.

    Raises:
        UserError: this is no array, its numbers are of no type of ours, or it is one number only.
    """
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = READERS[version](stream)
    except (ValueError, KeyError, EOFError) as problem:
        raise UserError(f"{what} is no array of NumPy ({problem}); allowed: what np.save or np.savez wrote") from None
    check_type(dtype, what)
    if not shape:
        raise UserError(f"{what} holds a single number; allowed: an array with one row for each example")
    return Header(shape=shape, fortran=fortran and len(shape) > 1, dtype=dtype, start=stream.tell())


@contextmanager
def broken(what: object) -> Iterator[None]:
    """Turn the errors of a broken or unreadable file into one line.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        yield
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as problem:
        reason = getattr(problem, "strerror", None) or problem
        raise UserError(f"{what} cannot be read ({reason}); allowed: a whole file") from None


class _Array(Source):
    """An array with a header of NumPy's format."""

    header: Header

    def _take(self, header: Header) -> None:
        self.header = header
        self.example = header.shape[1:]
        self.dtype = header.dtype.newbyteorder("=")

    def count(self) -> int:
        return self.header.shape[0]

    def _as_it_lies(self, offset: int) -> np.ndarray:
        """Map the numbers that begin at this byte of the file."""
        order = "F" if self.header.fortran else "C"
        with broken(self.path):
            if self.path.stat().st_size < offset + self.header.size:
                raise UserError(f"{self.path} is cut short; allowed: a whole file")
            if self.header.size == 0:
                return np.empty(self.header.shape, self.header.dtype)
            return np.memmap(self.path, self.header.dtype, "r", offset, self.header.shape, order)  # type: ignore[call-overload]

    @property
    def _direct(self) -> bool:
        """Whether rows can be taken from the file as they are."""
        return self.header.dtype.isnative and not self.header.fortran


class NpyFile(_Array):
    """One array in an ``.npy`` file.

    Raises:
        UserError: this is no such file, or it holds no numbers.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with broken(path), path.open("rb") as file:
            self._take(read_header(file, str(path)))

    def mapped(self) -> np.ndarray | None:
        return self._as_it_lies(self.header.start) if self._direct else None

    def decode(self, out: np.ndarray) -> None:
        copy(self._as_it_lies(self.header.start), out)


class NpzMember(_Array):
    """One array in an ``.npz`` file.

    What ``np.savez`` wrote is mapped where it lies, if it lies at a multiple of its numbers' size. What
    ``np.savez_compressed`` wrote is unpacked.

    Args:
        key: the name of the array; None: the only one.

    Raises:
        UserError: this is no such file, there is no such key, several and none is named, or it holds no numbers.
    """

    def __init__(self, path: Path, key: str | None) -> None:
        self.path = path
        with broken(path), zipfile.ZipFile(path) as file:
            self.lists = tuple(name.removesuffix(".npy") for name in file.namelist() if name.endswith(".npy"))
            if key is None and len(self.lists) == 1:
                key = self.lists[0]
            if key not in self.lists:
                given = "no key" if key is None else f"no array '{key}'"
                raise UserError(
                    f"{path}: {given}; allowed: {', '.join(self.lists) or 'a file with arrays'}"
                    + (f"; try dataset.key={_largest(file, self.lists)}" if self.lists else "")
                )
            self.key = key
            self._member = file.getinfo(f"{key}.npy")
            with file.open(self._member) as stream:
                self._take(read_header(stream, f"{path}, key {key}"))
            if self._member.file_size != self.header.start + self.header.size:
                raise UserError(f"{path}, key {key}: its length is not that of its header; allowed: a whole file")
        stored = self._member.compress_type == zipfile.ZIP_STORED
        self._offset = self._start_of_member() + self.header.start if stored else None

    def what(self) -> tuple[object, ...]:
        return ("key", self.key)

    def mapped(self) -> np.ndarray | None:
        # A processor may refuse numbers at other addresses, and torch does not know that these are such
        if self._offset is None or not self._direct or self._offset % self.dtype.itemsize:
            return None
        return self._as_it_lies(self._offset)

    def decode(self, out: np.ndarray) -> None:
        if self._offset is not None and (not self.header.fortran or self._offset % self.dtype.itemsize == 0):
            copy(self._as_it_lies(self._offset), out)
            return
        numbers = np.empty(self.header.size, np.uint8) if self.header.fortran else out.reshape(-1).view(np.uint8)
        with broken(self.path), zipfile.ZipFile(self.path) as file, file.open(self._member) as stream:
            read_header(stream, str(self.path))
            _read_into(stream, numbers, self.path)
        found = numbers.view(self.header.dtype)
        if self.header.fortran:
            out[...] = found.reshape(self.header.shape, order="F")
        elif not self.header.dtype.isnative:
            out.reshape(-1)[...] = found.byteswap().view(self.dtype)

    def list_of(self, name: str) -> np.ndarray:
        if name not in self.lists:
            raise UserError(f"{self.path}: no array '{name}'; allowed: {', '.join(self.lists)}")
        with broken(self.path), np.load(self.path, allow_pickle=False) as file:
            try:
                return np.asarray(file[name])
            except ValueError:
                raise UserError(
                    f"{self.path}, key {name}: Python objects; allowed: whole numbers, or text as np.array(x, str)"
                ) from None

    def _start_of_member(self) -> int:
        """Return the first byte of the member itself, behind its local header, whose two lengths are in its end."""
        with broken(self.path), self.path.open("rb") as file:
            file.seek(self._member.header_offset)
            name, extra = struct.unpack("<HH", file.read(LOCAL_HEADER)[-4:])
        return self._member.header_offset + LOCAL_HEADER + name + extra


def _largest(file: zipfile.ZipFile, keys: tuple[str, ...]) -> str:
    return max(keys, key=lambda key: file.getinfo(f"{key}.npy").file_size)


def _read_into(stream: IO[bytes], numbers: np.ndarray, path: Path) -> None:
    view, place = memoryview(numbers), 0  # type: ignore[arg-type]
    while place < len(view):
        got = stream.readinto(view[place : place + PIECE])  # type: ignore[attr-defined]
        if not got:
            raise UserError(f"{path} is cut short; allowed: a whole file")
        place += got
