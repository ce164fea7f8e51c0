"""What a network is told of each example beside x, time and class: the keyword ``condition`` of its call."""

from dataclasses import dataclass
from typing import Self

from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class Condition:
    """What a network is told of each example of a batch.

    Training passes it to a network that was made for it. Sampling and scoring pass none, which is the same as zeros.

    Args:
        change: the numbers that say how each picture was changed (``dfm.training.warps``), (B, changes); all zero: it
            was not.
    """

    change: Tensor

    def __len__(self) -> int:
        return len(self.change)

    def select(self, index: Tensor) -> Self:
        """Return the condition of the examples ``index`` (int64)."""
        return type(self)(change=self.change[index.to(self.change.device)])
