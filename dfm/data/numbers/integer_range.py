"""Integer levels of arrays: the lowest number and their count, found from the data or given."""

from collections.abc import Sequence

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.memory_map import slices

MOST = 65_536
AT_LEAST = 2


def found_range(arrays: Sequence[np.ndarray], dataset: str) -> tuple[int, int]:
    """Return the smallest and the largest number of integer or boolean arrays, in one pass over each.

    Raises:
        UserError: a number needs the last bit of uint32 or uint64.
    """
    low, high = [], []
    for array in arrays:
        for rows in slices(array):
            low.append(int(array[rows].min()))
            high.append(int(array[rows].max()))
        check_signed(max(high, default=0), array.dtype, dataset)
    return (min(low), max(high)) if low else (0, 1)


def check_signed(highest: int, dtype: np.dtype, dataset: str) -> None:
    """Refuse a number that torch, which knows no unsigned type above 16 bits, would read as a negative one.

    Raises:
        UserError: ``highest`` needs the last bit of uint32 or uint64.
    """
    if dtype.name in ("uint32", "uint64") and highest > np.iinfo(dtype).max // 2:
        raise UserError(f"dataset {dataset}: the number {highest} of {dtype}; allowed: the range of signed ones")


def levels_of(
    low: int, high: int, dtype: np.dtype, levels: int | None, lowest: int | None, place: object
) -> tuple[int, int]:
    """Return (K, lowest): level 0 is the number ``lowest``, and the numbers are ``lowest`` .. ``lowest`` + K - 1.

    Of unsigned types the lowest is 0 and K the smallest power of two above the largest number, as of a camera of so
    many bits: 200 has 256 levels, 3,000 has 4,096. Of signed types they are the range itself.

    Args:
        low, high: of the data.
        levels, lowest: what the user gave; None: found.
        place: where the data lie, for messages.

    Raises:
        UserError: there are more than 65,536 levels, or the given ones do not hold the data.
    """
    start = lowest if lowest is not None else 0 if dtype.kind in "ub" else low
    exact = high - start + 1
    if low < start:
        raise UserError(f"dataset.lowest={start}: {place} holds the number {low}; allowed: at most {low}")
    if levels is None:
        if exact > MOST:
            raise UserError(
                f"{place} holds whole numbers from {low} to {high}, {exact} levels; allowed: "
                f"{AT_LEAST} to {MOST}; try dataset.integers=real"
            )
        unsigned = dtype.kind in "ub" and lowest is None
        return max(AT_LEAST, 2 ** (exact - 1).bit_length() if unsigned else exact), start
    if not AT_LEAST <= levels <= MOST:
        raise UserError(f"dataset.levels={levels}; allowed: {AT_LEAST} to {MOST}; try dataset.integers=real for more")
    if exact > levels:
        way = f"dataset.levels={exact}" if exact <= MOST else "dataset.integers=real"
        raise UserError(
            f"dataset.levels={levels}: {place} holds the number {high}; allowed: {start} to {start + levels - 1}; "
            f"try {way}"
        )
    return levels, start
