"""Arrays of a hub: one array of numbers for each example, all of one shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from dfm.data.arrays.formats.number_types import ALLOWED, is_number


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """The way from an example's array to numbers with the channel first.

    Args:
        channels_last: whether the last axis of an example is the channel.
    """

    channels_last: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the numbers of a result, for the name of a cache file."""
        return 2, self

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Do nothing: arrays have no limit of their own."""
        yield

    def form(self, first: object) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and type of all examples, from the first one.

        Raises:
            ValueError: it is no array of numbers.
        """
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

    def notices(self, name: str, counts: dict[str, int], total: int) -> tuple[str, ...]:
        """Return nothing: arrays are not changed."""
        return ()

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
