"""One pass over a split: range, mean and variance of each channel, and examples with NaN or infinity.

Blocks of examples are joined by the rule of Chan, Golub and LeVeque 1983, so an array of any size needs little memory.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.split import Split

NAMED = 5  # rows that an error names; it counts the rest


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What one pass over a split finds.

    Args:
        count: how many numbers a channel has.
        low, high: the smallest and the largest number of each channel, float64 (C,); of levels those of all channels
            together, (1,).
        mean, variance: likewise, over examples and places.
        levels: how often each integer level occurs, int64 (K,); None for real numbers.
    """

    count: int
    low: Tensor
    high: Tensor
    mean: Tensor
    variance: Tensor
    levels: Tensor | None


def statistics(split: Split, name: str, levels: int | None, columns: Sequence[str] = ()) -> Statistics:
    """Return the statistics of a split with at least one example.

    Args:
        name: of data set and split, for messages.
        levels: K, the number of integer levels; None for real numbers.
        columns: the names of the columns of a table, for messages.

    Raises:
        UserError: an integer is no level of 0 to K-1, or a number is NaN or infinite; its rows are named, and the
            columns of a table.
    """
    total: Statistics | None = None
    broken: list[int] = []
    broken_columns: set[str] = set()
    real = split.is_real
    for first, block in split.blocks():
        if real:
            odd = ~block.flatten(1).isfinite()
            broken += (first + odd.any(1).nonzero().flatten()).tolist()
            broken_columns |= {name for name, any_odd in zip(columns, odd.any(0).tolist(), strict=False) if any_odd}
        if levels is not None:
            _check_levels(block, levels, split.lowest, name)
        part = _of_block(block, levels)
        total = part if total is None else _join(total, part)
    if broken:
        more = f" and {len(broken) - NAMED} more" if len(broken) > NAMED else ""
        rows = ", ".join(map(str, _in_file(split, broken[:NAMED])))
        where = f" (column {', '.join(c for c in columns if c in broken_columns)})" if broken_columns else ""
        raise UserError(
            f"{name}: NaN or infinity in row {rows}{more}{where}; allowed: finite numbers; remove these rows, "
            "which count from 0"
        )
    assert total is not None
    return total


def _in_file(split: Split, rows: list[int]) -> list[int]:
    """Return the rows of the user's file, which may hold other splits too."""
    return rows if split.rows is None else split.rows[rows].tolist()


def _check_levels(block: Tensor, levels: int, lowest: int, name: str) -> None:
    low, high = int(block.min()), int(block.max())
    if low < 0 or high >= levels:
        worst = (low if low < 0 else high) + lowest
        raise UserError(f"{name}: the number {worst}; allowed: {lowest} to {lowest + levels - 1}, for {levels} levels")


def _of_block(block: Tensor, levels: int | None) -> Statistics:
    if levels is None:
        channels = block.double().transpose(0, 1).flatten(1)  # (C, numbers)
        return Statistics(
            count=channels.shape[1],
            low=channels.amin(1),
            high=channels.amax(1),
            mean=channels.mean(1),
            variance=channels.var(1, correction=0),
            levels=None,
        )
    counts = torch.bincount(block.flatten(), minlength=levels)
    seen, share = counts.nonzero().flatten().double(), counts.double() / counts.sum()
    v = torch.arange(levels, dtype=torch.float64)
    mean = share @ v
    return Statistics(
        count=block.numel(),
        low=seen.min()[None],
        high=seen.max()[None],
        mean=mean[None],
        variance=(share @ (v - mean).square())[None],
        levels=counts,
    )


def _join(a: Statistics, b: Statistics) -> Statistics:
    count = a.count + b.count
    gap = b.mean - a.mean
    square = a.variance * a.count + b.variance * b.count + gap.square() * (a.count * b.count / count)
    return Statistics(
        count=count,
        low=torch.minimum(a.low, b.low),
        high=torch.maximum(a.high, b.high),
        mean=a.mean + gap * (b.count / count),
        variance=square / count,
        levels=None if a.levels is None or b.levels is None else a.levels + b.levels,
    )
