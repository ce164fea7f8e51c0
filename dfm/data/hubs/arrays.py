"""Arrays of a hub: one array of numbers for each example, all of one shape."""

from dataclasses import dataclass

import numpy as np

from dfm.data.arrays.formats.number_types import ALLOWED, is_number
from dfm.data.rows.examples import Form


@dataclass(frozen=True, kw_only=True)
class Arrays(Form):
    """The way from an example's array to numbers with the channel first.

    Args:
        channels_last: whether the last axis of an example is the channel.
    """

    channels_last: bool

    version = 2

    def form(self, first: object) -> tuple[tuple[int, ...], np.dtype]:
        array = self._numbers(first)
        return array.shape, array.dtype

    def array(self, raw: object, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return one example (C, ...), and nothing that a user should know of it.

        Raises:
            ValueError: it is no array of numbers, or has another shape than the first one, or numbers that its type
                cannot hold.
        """
        array = self._numbers(raw)
        if array.shape != shape:
            raise ValueError(f"shape {array.shape}, but the first example has {shape}")
        if not np.can_cast(array.dtype, dtype):
            raise ValueError(f"numbers of {array.dtype}, but the first example has {dtype}")
        return array, ()

    def _numbers(self, raw: object) -> np.ndarray:
        array = np.asarray(raw)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        if not is_number(array.dtype):
            raise ValueError(f"{_kind(raw)}; allowed: {ALLOWED}")
        if not 1 <= array.ndim <= 4 or array.size == 0:
            raise ValueError(f"shape {array.shape}; allowed: (d,), (C, L), (C, H, W) or (C, D, H, W)")
        if self.channels_last:
            array = np.moveaxis(array, -1, 0)
        return array.astype(array.dtype.newbyteorder("="), copy=False)


def _kind(raw: object) -> str:
    dtype = getattr(raw, "dtype", None)
    return f"an array of {'objects' if dtype.hasobject else dtype.name}" if dtype is not None else type(raw).__name__
