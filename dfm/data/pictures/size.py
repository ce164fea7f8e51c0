"""The size of pictures: one number for both sides, or height and width."""

from collections.abc import Sequence
from typing import Any

from dfm.basics.errors import UserError


def height_width(dataset: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return the pixels of both sides.

    Raises:
        UserError: they are no two counts.
    """
    sides = list(size) if isinstance(size, Sequence) else [size, size]
    if len(sides) != 2 or min(sides) < 1:
        raise UserError(f"dataset {dataset}: size={size}; allowed: a count of pixels, or [height, width]")
    return sides[0], sides[1]


def picture_shape(channels: Any, size: Any) -> tuple[int, ...] | None:
    """Return the shape (C, H, W) of such pictures; None for arguments that a data set will refuse."""
    sides = [size, size] if isinstance(size, int) else size
    return whole_shape([channels, *sides]) if isinstance(sides, Sequence) and len(sides) == 2 else None


def whole_shape(numbers: Sequence[Any]) -> tuple[int, ...] | None:
    """Return a shape of whole numbers of at least 1; None for anything else."""
    return tuple(numbers) if all(isinstance(number, int) and number > 0 for number in numbers) else None
