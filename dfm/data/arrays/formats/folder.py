"""A folder of ``.npy`` files: each is one example, or each is a piece of one long array."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from dfm.basics.errors import UserError, unknown
from dfm.data.arrays.formats.npy import NpyFile
from dfm.data.arrays.formats.source import Source
from dfm.data.rows.natural_order import natural

EXAMPLES, PIECES, AUTO = "examples", "pieces", "auto"
FILES = (AUTO, EXAMPLES, PIECES)


class NpyFolder(Source):
    """All ``.npy`` files below a folder, in natural order (2 before 10) of their paths.

    ``examples``: all have one shape, and each is one example. ``pieces``: they differ in the number of rows at most,
    and are concatenated. ``auto``: pieces if their numbers of rows differ, else examples.

    Args:
        files: which of these.
        without: files of the folder that are no data, such as the labels.

    Raises:
        UserError: there is no file, or their shapes or types differ.
    """

    def __init__(self, path: Path, files: str, without: Sequence[Path]) -> None:
        if files not in FILES:
            raise unknown("dataset.files", files, FILES)
        self.path = path
        others = {other.resolve() for other in without}
        found = [file for file in path.rglob("*.npy") if file.is_file() and not file.name.startswith(".")]
        found = [file for file in found if not others or file.resolve() not in others]
        names = sorted((file.relative_to(path).as_posix() for file in found), key=natural)
        if not names:
            raise UserError(f"dataset array: no .npy file in {path}; allowed: a folder of .npy files, or one file")
        self._files, self._first = names, NpyFile(path / names[0])
        # Files of one length have one shape, or else their own headers say so when they are read
        alike = len({(path / name).stat().st_size for name in names}) == 1
        self._pieces = files == PIECES or (files == AUTO and not alike)
        self.example = self._first.example if self._pieces else self._first.header.shape
        self.dtype = self._first.dtype
        if not alike or self._pieces:
            self._rows = sum(array.count() for array in self._arrays())
        if self._pieces:
            self.notices = (f"{len(names)} files are pieces of one array, in the order {names[0]}, {names[-1]}",)
        else:
            self.names = names
            self.lists = ("folder",)

    def files(self) -> Sequence[Path]:
        return [self.path / name for name in self._files]

    def what(self) -> tuple[object, ...]:
        return (self._pieces,)

    def count(self) -> int:
        return self._rows if self._pieces else len(self._files)

    def decode(self, out: np.ndarray) -> None:
        row = 0
        for array in self._arrays():
            if self._pieces:
                array.decode(out[row : row + array.count()])
                row += array.count()
            else:
                array.decode(out[row])
                row += 1

    def _arrays(self) -> Iterator[NpyFile]:
        """Yield the array of each file; their headers are read and compared.

        Raises:
            UserError: a shape or a type differs from that of the first file.
        """
        first = self._first
        for name in self._files:
            array = NpyFile(self.path / name)
            same = array.example == first.example if self._pieces else array.header.shape == first.header.shape
            if not same or array.dtype != first.dtype:
                raise UserError(
                    f"dataset array: in {self.path}, {name} has {array.header.shape} of {array.dtype} and "
                    f"{self._files[0]} {first.header.shape} of {first.dtype}; allowed: one type, and one shape, or "
                    "pieces that differ in the first axis only"
                )
            yield array

    def list_of(self, name: str) -> np.ndarray:
        """Return the name of the folder directly below the root that each example lies in, for ``folder``."""
        if name != "folder" or self.names is None:
            raise UserError(
                f"dataset array: no list '{name}' in {self.path}; allowed: folder (the sub-folder of each example), or "
                "a file: .npy or .txt, one value for each example"
            )
        loose = next((example for example in self.names if "/" not in example), None)
        if loose is not None:
            raise UserError(f"dataset array: {loose} lies in no sub-folder of {self.path}; allowed: all in sub-folders")
        return np.array([example.partition("/")[0] for example in self.names])
