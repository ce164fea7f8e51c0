"""CSV files: read by the standard library, converted by NumPy, in blocks of rows."""

import csv
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.arrays.formats.npy import broken
from dfm.data.arrays.formats.table import MISSING, Table, in_row

DELIMITERS = ",;\t|"
ROWS = 50_000  # that are converted together
HEAD = 100  # rows in which a column of text is noticed before the file is read
Row = list[str]


class CsvFile(Table):
    """A CSV file, with or without names in its first line.

    The delimiter is the tab in ``.tsv``, else that of ``, ; tab |`` which the first line has most often. Columns of a
    file whose first line is all numbers are named 0, 1, ... Empty cells and NA are no numbers: NaN.

    Args:
        wanted: the columns that are data, in this order; None: all.
        apart: the columns that are no data.

    Raises:
        UserError: the file cannot be read, a column is not there, or one is no number in the first rows.
    """

    def __init__(self, path: Path, wanted: Sequence[str | int] | None, apart: Collection[str]) -> None:
        self.path = path
        with broken(path), path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            first = file.readline()
        self._delimiter = "\t" if path.suffix.lower() == ".tsv" else max(DELIMITERS, key=first.count)
        head = list(islice(self._rows(header=True), HEAD + 1))
        if not head:
            raise UserError(f"{path} is empty; allowed: a line of names, and rows of numbers")
        self._named = not all(map(_is_number, head[0]))
        names = [name.strip() for name in head[0]] if self._named else [str(i) for i in range(len(head[0]))]
        self.choose(names, wanted, apart)
        self._places = [names.index(name) for name in self.columns]
        self._check_texts(head[1:] if self._named else head)

    def count(self) -> int:
        return self._count

    @cached_property
    def _count(self) -> int:
        return sum(1 for _ in self._rows())

    def blocks(self) -> Iterator[np.ndarray]:
        rows, first = self._rows(), 0
        while block := list(islice(rows, ROWS)):
            yield self._numbers(block, first)
            first += len(block)

    def list_of(self, name: str) -> np.ndarray:
        place = self.lists.index(name)
        return np.array([self._cell(row, place, number).strip() for number, row in enumerate(self._rows())], str)

    def _rows(self, header: bool = False) -> Iterator[Row]:
        """Yield the rows that are not empty.

        Args:
            header: with the first one, also where that has names.
        """
        with broken(self.path), self.path.open(encoding="utf-8-sig", newline="", errors="surrogateescape") as file:
            try:
                rows = (row for row in csv.reader(file, delimiter=self._delimiter) if row)
                if not header and self._named:
                    next(rows, None)
                yield from rows
            except csv.Error as problem:
                raise UserError(f"{self.path} is no CSV file ({problem}); allowed: rows of cells") from None

    def _numbers(self, block: list[Row], first: int) -> np.ndarray:
        """Convert rows: all at once, or cell by cell if one of them is no number."""
        cells = [[self._cell(row, place, first + i) for place in self._places] for i, row in enumerate(block)]
        try:
            return np.array(cells, np.float64)
        except ValueError:
            out = np.empty((len(cells), len(self._places)))
        for i, row in enumerate(cells):
            for j, text in enumerate(row):
                if not _is_cell(text):
                    raise self.no_number(self.columns[j], in_row(first + i, text), {self.columns[j]})
                out[i, j] = np.nan if text.strip() in MISSING else float(text)
        return out

    def _cell(self, row: Row, place: int, number: int) -> str:
        if place >= len(row):
            raise UserError(
                f"{self.path}: row {number} has {len(row)} cells; allowed: {len(self.lists)} in each row (the first "
                "row of numbers is 0)"
            )
        return row[place]

    def _check_texts(self, head: list[Row]) -> None:
        found = {
            self.columns[j]: (i, row[place])
            for i, row in reversed(list(enumerate(head)))
            for j, place in enumerate(self._places)
            if place < len(row) and not _is_cell(row[place])
        }
        if found:
            name = next(column for column in self.columns if column in found)
            raise self.no_number(name, in_row(*found[name]), found)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _is_cell(text: str) -> bool:
    """Whether a cell holds a number, or none at all."""
    return text.strip() in MISSING or _is_number(text)
