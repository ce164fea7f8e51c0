"""Tables: columns of numbers by name, from CSV or Parquet; an example is a row (d,) of float64."""

import re
from abc import abstractmethod
from collections.abc import Collection, Iterator, Sequence

import numpy as np

from dfm.basics.errors import UserError, unknown
from dfm.data.arrays.formats.source import Source

PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]+")  # names that need no quotes on a command line
SHOWN = 12  # columns that a suggestion lists
MISSING = ("", "NA", "N/A", "na", "n/a", "NaN", "nan", "null", "NULL", "None", "?")  # cells without a number


class Table(Source):
    """A table, of which the columns of numbers are the data.

    A class of one format reads the names of the columns in its constructor and calls ``choose``.

    Here a list of the file is any of its columns.
    """

    dtype = np.dtype("float64")

    def choose(self, names: Sequence[str], wanted: Sequence[str | int] | None, apart: Collection[str]) -> None:
        """Take the columns that are data: the named ones, or all but those in ``apart`` and those without a name.

        Raises:
            UserError: a name is not there or twice, or no column is left.
        """
        self.lists = tuple(names)
        twice = {name for name in names if name and names.count(name) > 1}
        if twice:
            raise UserError(f"{self.path}: several columns are named {sorted(twice)[0]}; allowed: names that differ")
        for name in [str(name) for name in wanted or ()] + list(apart):
            if name not in names:
                raise unknown(f"column of {self.path}", name, filter(None, names))
        chosen = [str(name) for name in wanted] if wanted else [name for name in names if name and name not in apart]
        if wanted is None and "" in names:
            self.notices = (f"the column without a name in {self.path.name} is left out (row numbers?)",)
        if not chosen:
            raise UserError(f"{self.path} has no column of numbers; allowed: at least one")
        self.columns, self.example = tuple(chosen), (len(chosen),)

    def no_number(self, name: str, found: str, texts: Collection[str]) -> UserError:
        """Return the error for a column that is no number.

        Args:
            found: what shows it.
            texts: the columns that are no numbers, as far as is known.
        """
        rest = [quoted(column) for column in self.columns if column not in texts]
        ways = [f"dataset.columns=[{','.join(rest)}]"] if 0 < len(rest) <= SHOWN else ["dataset.columns=[NAME,NAME]"]
        ways += [f"dataset.labels={quoted(name)} for classes"]
        return UserError(
            f"{self.path}: column '{name}' is no number ({found}); allowed: columns of numbers; try {' or '.join(ways)}"
        )

    def decode(self, out: np.ndarray) -> None:
        row = 0
        for block in self.blocks():
            out[row : row + len(block)] = block
            row += len(block)

    @abstractmethod
    def blocks(self) -> Iterator[np.ndarray]:
        """Yield the rows of the columns that are data, float64 (n, d), NaN where a cell is empty."""


def in_row(row: int, text: object) -> str:
    """Return what stands in a row of a column, as words of an error."""
    return f"row {row}: {str(text)[:40]!r}"


def quoted(name: str) -> str:
    """Return a name as it may be typed on a command line."""
    return name if PLAIN.fullmatch(name) else f"'\"{name}\"'"
