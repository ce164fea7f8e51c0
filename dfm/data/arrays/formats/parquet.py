"""Parquet files, by pyarrow, which is imported when one is read."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.arrays.formats.npy import broken
from dfm.data.arrays.formats.table import Table

ROWS = 50_000  # that are converted together
NUMBERS = ("is_integer", "is_floating", "is_boolean", "is_decimal")


class ParquetFile(Table):
    """A Parquet file. Columns are whole numbers, floats, decimals or booleans; empty cells are NaN.

    Args:
        wanted: the columns that are data, in this order; None: all.
        apart: the columns that are no data.

    Raises:
        UserError: pyarrow is not installed, the file cannot be read, or a column is not there or no number.
    """

    def __init__(self, path: Path, wanted: Sequence[str | int] | None, apart: Collection[str]) -> None:
        self.path = path
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise UserError(
                f"{path}: Parquet is read by pyarrow, which is not installed; try pip install 'dfm[tables]', or save "
                "the table as CSV"
            ) from None
        with broken(path):
            try:
                self._file: Any = pyarrow.parquet.ParquetFile(path)
            except pyarrow.ArrowInvalid as problem:
                raise UserError(f"{path} is no Parquet file ({problem}); allowed: a whole file") from None
        schema = self._file.schema_arrow
        self.choose([name for name in schema.names if not name.startswith("__index_level_")], wanted, apart)
        types = pyarrow.types
        texts = [c for c in self.columns if not any(getattr(types, n)(schema.field(c).type) for n in NUMBERS)]
        if texts:
            raise self.no_number(texts[0], f"its type is {schema.field(texts[0]).type}", texts)

    def count(self) -> int:
        return int(self._file.metadata.num_rows)

    def blocks(self) -> Iterator[np.ndarray]:
        for batch in self._file.iter_batches(batch_size=ROWS, columns=list(self.columns)):
            yield np.stack([_floats(batch.column(batch.schema.get_field_index(name))) for name in self.columns], 1)

    def list_of(self, name: str) -> np.ndarray:
        values = self._file.read(columns=[name]).column(0).to_pylist()
        return np.array(["" if value is None else value for value in values])


def _floats(column: Any) -> np.ndarray:
    values = column.to_numpy(zero_copy_only=False)
    if values.dtype == object:  # decimals, and booleans with empty cells
        values = [np.nan if value is None else float(value) for value in values]
    return np.asarray(values, np.float64)
