"""Training batches as a function of the step: batch k is known from (seed, k) alone, so nothing need be stored."""

from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, stream, training_generator
from dfm.data.dataset import Split


@dataclass(frozen=True)
class Batch:
    """values (B, *D) as in the split (integer levels or points), labels (B,) or None, and their indices (B,)."""

    values: Tensor
    labels: Tensor | None
    indices: Tensor

    def to(self, device: torch.device) -> "Batch":
        """Values and labels on a device; from pinned memory without waiting for what the device still has to do."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return Batch(self.values.to(device, non_blocking=True), labels, self.indices)

    def pinned(self) -> "Batch":
        """The same in memory that a card can copy from by itself."""
        return Batch(self.values.pin_memory(), None if self.labels is None else self.labels.pin_memory(), self.indices)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """What training does to a batch, each example by itself, as a function of (seed, step).

    Args:
        flip: mirror images left to right with chance 1/2.
        label_dropout: chance that the class is hidden, that is, replaced by ``num_classes`` (Ho and Salimans 2022).
        num_classes: of the model.

    Raises:
        UserError: a chance outside [0, 1), or above 0 for a model without classes.
    """

    flip: bool = False
    label_dropout: float = 0.0
    num_classes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout < 1 or (self.label_dropout and not self.num_classes):
            raise UserError(
                f"label_dropout={self.label_dropout:g}; allowed: at least 0 and below 1, and 0 unless conditional=true"
            )

    def __call__(self, batch: Batch, seed: int, step: int) -> Batch:
        """The batch as training sees it."""
        values, labels = batch.values, batch.labels
        if self.flip:
            mirror = self._chosen(0.5, len(values), seed, step, Purpose.FLIP).to(values.device)
            values = torch.where(mirror.reshape(-1, 1, 1, 1), values.flip(-1), values)
        if self.label_dropout and labels is not None:
            hidden = self._chosen(self.label_dropout, len(labels), seed, step, Purpose.HIDDEN_LABEL).to(labels.device)
            labels = torch.where(hidden, self.num_classes, labels)
        return Batch(values, labels, batch.indices)

    @staticmethod
    def _chosen(chance: float, n: int, seed: int, step: int, purpose: Purpose) -> Tensor:
        """Which of n examples: bool (n,)."""
        generator = training_generator(torch.device("cpu"), seed, step, 0, purpose)
        return torch.rand(n, generator=generator) < chance  # on the CPU: the same whatever the device


@dataclass
class Batches:
    """Examples in an endless stream of epochs, each a fresh permutation of the split; batch k is the k-th piece of it.

    Args:
        split: the training examples, in memory.
        size: examples a batch; may exceed the split.
        seed: of the order.
        pinned: put batches into memory that a card can copy from by itself.
    """

    split: Split
    size: int
    seed: int
    pinned: bool = False
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.split) == 0:
            raise UserError("the training split is empty; try a smaller share for validation and test")
        if self.size < 1:
            raise UserError(f"trainer.batch_size={self.size}; allowed: a whole number of at least 1")

    def indices(self, k: int) -> Tensor:
        """Which examples make batch k, int64 (size,)."""
        place = np.arange(k * self.size, (k + 1) * self.size)
        epochs, offsets = np.divmod(place, len(self.split))
        picked = [self._order(int(e))[offsets[epochs == e]] for e in np.unique(epochs)]
        return torch.from_numpy(np.concatenate(picked))

    def batch(self, k: int) -> Batch:
        """Batch k."""
        indices = self.indices(k)
        # NumPy gathers in the calling thread. torch would give each worker thread an OpenMP team of its own, whose
        # idle members spin on the cores that train (measured on two cores: 197 ms a step instead of 131).
        values = torch.from_numpy(self.split.values.numpy()[indices.numpy()])
        labels = None if self.split.labels is None else torch.from_numpy(self.split.labels.numpy()[indices.numpy()])
        batch = Batch(values, labels, indices)
        return batch.pinned() if self.pinned else batch

    def stream(self, first: int, workers: int) -> Generator[Batch, None, None]:
        """Batches first, first + 1, ..., prepared ahead by ``workers`` threads (0: when asked for).

        Whichever thread makes batch k, it is the same batch.
        """
        if workers == 0:
            yield from (self.batch(k) for k in _count(first))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
            ahead: list[Future[Batch]] = [pool.submit(self.batch, first + i) for i in range(2 * workers)]
            for k in _count(first + len(ahead)):
                ahead.append(pool.submit(self.batch, k))
                yield ahead.pop(0).result()

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            order = stream(self.seed, 0, Purpose.DATA_ORDER, epoch).permutation(len(self.split))
            # Two epochs can meet in a batch, and threads run a little ahead: a few orders are kept, not all.
            for old in [e for e in list(self._orders) if abs(e - epoch) > 2]:
                self._orders.pop(old, None)
            self._orders[epoch] = order
        return order


def _count(first: int) -> Iterator[int]:
    while True:
        yield first
        first += 1
