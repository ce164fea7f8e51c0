"""A source: a file or a folder that holds an array of examples, or that is decoded into one."""

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.memory_map import kept_file, memory_map, slices

DECODER = 1  # increase it when a source is decoded otherwise: older cache files are then not read
SMALL = 2**26  # bytes that are decoded into memory at each start; larger arrays are decoded once, into a file


class Source(ABC):
    """A file or a folder that holds examples. Its constructor reads the header only.

    Attributes:
        path: the file or the folder.
        example: the shape of one example, as the file has it.
        dtype: the type of the numbers, in the byte order of this machine.
        columns: the names of the columns of a table; empty for other sources.
        names: a name for each example, where each has a file of its own; None: they are numbered.
        lists: the names of what ``list_of`` can give.
        notices: what the user should know, a line each.
    """

    path: Path
    example: tuple[int, ...]
    dtype: np.dtype
    columns: tuple[str, ...] = ()
    names: Sequence[str] | None = None
    lists: tuple[str, ...] = ()
    notices: tuple[str, ...] = ()

    @abstractmethod
    def count(self) -> int:
        """Return the number of examples; for some sources this reads the whole file."""

    @abstractmethod
    def decode(self, out: np.ndarray) -> None:
        """Write all examples into ``out`` (N, *example) of ``dtype``."""

    def mapped(self) -> np.ndarray | None:
        """Return the array (N, *example) as it lies in the file, read-only; None if it has to be decoded."""
        return None

    def list_of(self, name: str) -> np.ndarray:
        """Return another column or key of the same file: one value for each example, (N,)."""
        raise UserError(f"{self.path} has no columns or keys; give a file: .npy or .txt, one value for each example")

    def files(self) -> Sequence[Path]:
        """Return the files that are read."""
        return [self.path]

    def what(self) -> tuple[object, ...]:
        """Return what is decoded besides the file itself: names of columns or keys."""
        return self.columns

    def array(self, cache: Path) -> np.ndarray:
        """Return all examples (N, *example), mapped from the file itself or from a cache file, or small and in memory.

        Raises:
            UserError: the file is broken, or a cache file is needed and cannot be written.
        """
        array = self.mapped()
        if array is not None:
            return array
        shape = (self.count(), *self.example)
        size = math.prod(shape) * self.dtype.itemsize
        if size <= SMALL:
            out = np.empty(shape, self.dtype)
            self.decode(out)
            return out
        try:
            return memory_map(self._cache_file(cache), shape, self.decode, self.dtype)
        except OSError as problem:
            raise UserError(
                f"dataset array: {self.path} needs a file of {size / 2**30:.1f} GiB in {cache} "
                f"({problem.strerror or problem}); try dataset.cache=DIR on a larger disk"
            ) from None

    def _cache_file(self, cache: Path) -> Path:
        """Return the cache file; its name changes with the files, their dates and sizes, and what is read of them."""
        form = repr((DECODER, str(self.path.resolve()), self.what()))
        facts = [(str(file), os.stat(file)) for file in self.files()]
        content = "".join(repr((name, fact.st_size, fact.st_mtime_ns)) for name, fact in facts)
        return kept_file(cache, "array", form, content, "numbers")


def copy(array: np.ndarray, out: np.ndarray) -> None:
    """Copy an array to another of the same shape in blocks, so that a mapped one need not fit in memory."""
    for rows in slices(array):
        out[rows] = array[rows]
