"""Arrays of a hub: one array of numbers for each example, all of one shape."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

MOST = 65_536  # levels of integers
TYPES = ("uint8", "uint16", "int8", "int16", "int32", "int64", "float16", "float32", "float64")


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """The way from an example's array to numbers with the channel first.

    Args:
        channels_last: whether the last axis of an example is the channel.
        real: whether integers count as real numbers, which have no levels.
    """

    channels_last: bool
    real: bool

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the numbers of a result, for the name of a cache file."""
        return 1, self

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

    def array(self, raw: object, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return one example (C, ...), and nothing that a user should know of it.

        Raises:
            ValueError: it is no array of numbers, or has another shape than the first one.
        """
        array = self._numbers(raw)
        if array.shape != shape:
            raise ValueError(f"shape {array.shape}, but the first example has {shape}")
        return array, ()

    def notices(self, name: str, counts: dict[str, int], total: int) -> tuple[str, ...]:
        """Return nothing: arrays are not changed."""
        return ()

    def _numbers(self, raw: object) -> np.ndarray:
        array = np.asarray(raw)
        if array.dtype == bool:
            array = array.astype(np.uint8)
        if array.dtype.name not in TYPES:
            raise ValueError(f"{_kind(raw)}; allowed: numbers of type {', '.join(TYPES)}")
        if not 1 <= array.ndim <= 4 or array.size == 0:
            raise ValueError(f"shape {array.shape}; allowed: (d,), (C, L), (C, H, W) or (C, D, H, W)")
        if self.channels_last:
            array = np.moveaxis(array, -1, 0)
        if self.real and array.dtype.kind != "f":
            array = array.astype(np.float64)
        return array


def _kind(raw: object) -> str:
    dtype = getattr(raw, "dtype", None)
    return f"an array of {'objects' if dtype.hasobject else dtype.name}" if dtype is not None else type(raw).__name__


def levels_of(dtype: np.dtype, lowest: int, highest: int) -> tuple[int, int]:
    """Return (number that is level 0, K) of integers, as ``dataset=array`` does.

    Of unsigned types level 0 is 0, and K the smallest power of two above the largest number: 200 has 256 levels, 3,000
    has 4,096. Of signed types they are the range itself.

    Raises:
        ValueError: the data need more than ``MOST`` levels.
    """
    start = 0 if dtype.kind == "u" else lowest
    exact = highest - start + 1
    if exact > MOST:
        raise ValueError(
            f"whole numbers from {lowest} to {highest}; allowed: {MOST:,} levels; try dataset.integers=real"
        )
    return start, max(2, 2 ** (exact - 1).bit_length() if dtype.kind == "u" else exact)
