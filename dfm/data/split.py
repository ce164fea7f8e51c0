"""One part of a data set: examples in memory or in a file, their labels, and a fingerprint."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError

Rows = slice | Sequence[int] | Tensor | np.ndarray
INTEGERS = (torch.uint8, torch.int8, torch.uint16, torch.int16, torch.int32, torch.int64)
REALS = (torch.float16, torch.float32, torch.float64)
BLOCK = 2**22  # numbers that are looked at together


def real_type(dtype: np.dtype) -> np.dtype:
    """Return the type of numbers as real ones: floats keep theirs; integers are float32 up to 16 bits, else float64."""
    return dtype if dtype.kind == "f" else np.dtype(np.float64 if dtype.itemsize > 2 else np.float32)


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a data set.

    ``take`` gives examples in the form that all rooms work with: integer levels from 0 on, as uint8 or int32, or real
    numbers in the unit of the user's file.

    Args:
        values: the numbers as the file holds them, (M, *D), in memory or mapped from a file: integers are levels plus
            ``lowest``. The first axis of D is the channel.
        labels: int64 (N,), or None.
        rows: the rows of ``values`` that belong to this split, int64 (N,); None: all of them.
        lowest: the integer that is level 0.
        real: whether integers are real numbers too (``real_type``).

    Raises:
        UserError: a type or a shape differs from these.
    """

    values: Tensor
    labels: Tensor | None
    rows: np.ndarray | None = None
    lowest: int = 0
    real: bool = False

    def __post_init__(self) -> None:
        if self.values.dtype not in INTEGERS + REALS or self.values.ndim < 2:
            raise UserError(
                f"split: values {tuple(self.values.shape)} of {self.values.dtype}; allowed: integers or real numbers "
                "(N, d), (N, C, L), (N, C, H, W) or (N, C, D, H, W)"
            )
        labels = self.labels
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != (len(self),)):
            raise UserError(
                f"split: labels {tuple(labels.shape)} of {labels.dtype}; allowed: int64 ({len(self)},) or None"
            )

    def __len__(self) -> int:
        return len(self.values) if self.rows is None else len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example."""
        return tuple(self.values.shape[1:])

    @property
    def is_real(self) -> bool:
        """Whether examples are real numbers, not integer levels."""
        return self.real or self.values.dtype in REALS

    def take(self, which: Rows) -> Tensor:
        """Return the examples with these numbers: levels uint8 or int32, or real numbers of the file's type.

        NumPy gathers in the calling thread. With torch each thread would have its own OpenMP team, whose idle threads
        spin on the cores that train (measured on two cores: 197 ms a step instead of 131).
        """
        values = self._raw(which)
        if self.values.dtype in REALS or (self.values.dtype == torch.uint8 and self.lowest == 0 and not self.real):
            return torch.from_numpy(values)
        if self.real:
            return torch.from_numpy(values.astype(real_type(values.dtype)))
        return torch.from_numpy((values.astype(np.int64) - self.lowest).astype(np.int32))

    def all(self) -> Tensor:
        """Return all examples, as ``take`` does."""
        return self.take(slice(None))

    def labels_of(self, which: Rows) -> Tensor | None:
        """Return the labels of the examples with these numbers, or None."""
        return None if self.labels is None else torch.from_numpy(self.labels.numpy()[_index(which)])

    def part(self, which: Rows) -> "Split":
        """Return the split of the examples with these numbers. A slice copies nothing."""
        rows = np.arange(len(self.values)) if self.rows is None else self.rows
        if self.rows is None and isinstance(which, slice):
            return replace(self, values=self.values[which], labels=self.labels_of(which))
        return replace(self, labels=self.labels_of(which), rows=rows[_index(which)])

    def in_file_order(self) -> "Split":
        """Return the same examples in the order of the file, without labels: a pass over them reads it once."""
        return self if self.rows is None else replace(self, labels=None, rows=np.sort(self.rows))

    def blocks(self) -> Iterator[tuple[int, Tensor]]:
        """Yield (number of the first example, examples) of ``BLOCK`` numbers at a time, for arrays of any size."""
        size = max(1, BLOCK // max(1, int(np.prod(self.shape))))
        for first in range(0, len(self), size):
            yield first, self.take(slice(first, first + size))

    def _raw(self, which: Rows) -> np.ndarray:
        index = _index(which)
        return self.values.numpy()[index if self.rows is None else self.rows[index]]


def _index(which: Rows) -> slice | np.ndarray:
    """Return what NumPy can index with: a sequence of numbers is an array, also an empty one."""
    if isinstance(which, slice):
        return which
    if isinstance(which, Tensor):
        return which.cpu().numpy()
    return np.asarray(which, dtype=None if isinstance(which, np.ndarray) else np.int64)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What tells a split from another one without keeping it.

    Args:
        examples: their number.
        blake2b: a hash of the examples and the labels, 32 hexadecimal digits.
    """

    examples: int
    blake2b: str


WHOLE, SAMPLE = 2**28, 1024  # bytes that are hashed whole; examples that stand for a larger split


def fingerprint(split: Split) -> Fingerprint:
    """Return the fingerprint of a split: type, shape, labels and examples.

    All examples count, unless they have more than ``WHOLE`` bytes. Then ``SAMPLE`` of them count, at equal distances
    from the first to the last, because to read a large file that is mapped into memory takes minutes.
    """
    n, shape, dtype = len(split), split.shape, split.values.dtype
    hashed = hashlib.blake2b(f"{dtype} {(n, *shape)} {split.labels is not None}".encode(), digest_size=16)
    size = n * int(np.prod(shape)) * split.values.element_size()
    rows = torch.linspace(0, n - 1, SAMPLE, dtype=torch.float64).long().numpy() if size > WHOLE else slice(None)
    for part in (split._raw(rows), None if split.labels is None else split.labels.numpy()):
        if part is not None and len(part):
            hashed.update(np.ascontiguousarray(part).data)
    return Fingerprint(examples=n, blake2b=hashed.hexdigest())
