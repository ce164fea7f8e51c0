"""Training batches as a function of the step: (seed, k) determines batch k, so a checkpoint need not store it."""

from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import STREAMS, Purpose, stream, training_generator
from dfm.data.dataset import Split
from dfm.training.warps import NoWarp, Warp


@dataclass(frozen=True)
class Batch:
    """A batch of examples.

    Args:
        values: as in the split, (B, *D): integer levels, or real numbers.
        labels: int64 (B,), or None.
        indices: of the examples in the split, int64 (B,).
        change: what the network is told of each example's warp, (B, numbers); None: there is no warp. The values are
            those before it, since a warp is made of what the model sees.
    """

    values: Tensor
    labels: Tensor | None
    indices: Tensor
    change: Tensor | None = None

    def to(self, device: torch.device) -> "Batch":
        """Return values and labels on a device; pinned memory is copied without waiting for the device."""
        labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        return replace(self, values=self.values.to(device, non_blocking=True), labels=labels)

    def parts(self, count: int) -> list["Batch"]:
        """Return the batch in parts of equal size, in their order."""
        values, indices = self.values.chunk(count), self.indices.chunk(count)
        labels, changes = ([None] * count if each is None else each.chunk(count) for each in (self.labels, self.change))
        return [Batch(*part) for part in zip(values, labels, indices, changes, strict=True)]

    def pinned(self) -> "Batch":
        """Return the batch in pinned memory, from which a GPU copies without the CPU."""
        return Batch(self.values.pin_memory(), None if self.labels is None else self.labels.pin_memory(), self.indices)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """Random changes of each example of a batch, as a function of (seed, step).

    Args:
        flip: whether examples are mirrored along their last side (images: left to right) with probability 1/2.
        label_dropout: the probability that a class is hidden: ``num_classes`` replaces it (Ho and Salimans 2022).
        num_classes: number of classes of the model.
        warp: a change of pictures of which the network is told. ``flip`` is one of which it is not, so a model makes
            mirrored samples too.

    Raises:
        UserError: label_dropout is outside [0, 1), or above 0 for a model without classes.
    """

    flip: bool = False
    label_dropout: float = 0.0
    num_classes: int = 0
    warp: Warp = field(default_factory=NoWarp)

    def __post_init__(self) -> None:
        if not 0 <= self.label_dropout < 1 or (self.label_dropout and not self.num_classes):
            raise UserError(
                f"label_dropout={self.label_dropout:g}; allowed: at least 0 and below 1, and 0 unless conditional=true"
            )

    def __call__(self, batch: Batch, seed: int, step: int, streams: int = STREAMS) -> Batch:
        """Return the batch with the changes of this step; ``warped`` makes those of the warp.

        Args:
            streams: the version of the streams of random numbers.
        """
        values, labels = batch.values, batch.labels
        if self.flip:
            mirror = self._choose(0.5, len(values), seed, step, Purpose.FLIP, streams).to(values.device)
            values = torch.where(mirror.reshape(-1, *[1] * (values.ndim - 1)), values.flip(-1), values)
        if self.label_dropout and labels is not None:
            hidden = self._choose(self.label_dropout, len(labels), seed, step, Purpose.HIDDEN_LABEL, streams)
            labels = torch.where(hidden.to(labels.device), self.num_classes, labels)
        change = None
        if self.warp.numbers:  # drawn on the CPU too
            generator = training_generator(torch.device("cpu"), seed, step, 0, Purpose.WARP, streams)
            change = self.warp.draw(len(values), generator).to(values.device)
        return Batch(values, labels, batch.indices, change)

    def warped(self, data: Tensor, batch: Batch) -> Tensor:
        """Return what the model sees of a batch, (B, *D), after its warp."""
        return data if batch.change is None else self.warp.apply(data, batch.change)

    @staticmethod
    def _choose(chance: float, n: int, seed: int, step: int, purpose: Purpose, streams: int) -> Tensor:
        """Choose each of n examples with this probability: bool (n,)."""
        generator = training_generator(torch.device("cpu"), seed, step, 0, purpose, streams)
        return torch.rand(n, generator=generator) < chance  # on the CPU, so that it is the same for all devices


@dataclass
class Batches:
    """An endless stream of epochs, each a new permutation of the split; batch k is the k-th piece of the stream.

    Args:
        split: the training examples, in memory.
        size: number of examples in a batch; it may be larger than the split.
        seed: of the order.
        pinned: whether batches are put into pinned memory, from which a GPU copies without the CPU.

    Raises:
        UserError: the split is empty, or size is below 1.
    """

    split: Split
    size: int
    seed: int
    pinned: bool = False
    _orders: dict[int, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.split) == 0:
            raise UserError("the training split has no examples; allowed: at least 1")
        if self.size < 1:
            raise UserError(f"trainer.batch_size={self.size}; allowed: a whole number of at least 1")

    def indices(self, k: int) -> Tensor:
        """Return the indices of the examples of batch k, int64 (size,)."""
        places = np.arange(k * self.size, (k + 1) * self.size)
        epochs, offsets = np.divmod(places, len(self.split))
        pieces = [self._order(int(e))[offsets[epochs == e]] for e in np.unique(epochs)]
        return torch.from_numpy(np.concatenate(pieces))

    def batch(self, k: int) -> Batch:
        """Return batch k."""
        indices = self.indices(k)
        batch = Batch(self.split.take(indices), self.split.labels_of(indices), indices)
        return batch.pinned() if self.pinned else batch

    def stream(self, first: int, workers: int) -> Generator[Batch, None, None]:
        """Yield the batches first, first + 1, ...

        Args:
            workers: number of threads that prepare batches ahead; 0: the caller's thread makes each batch when it is
                needed. The batches are the same for every number.
        """
        if workers == 0:
            yield from map(self.batch, count(first))
            return
        with ThreadPoolExecutor(workers, thread_name_prefix="batches") as pool:
            ahead: list[Future[Batch]] = [pool.submit(self.batch, first + i) for i in range(2 * workers)]
            for k in count(first + len(ahead)):
                ahead.append(pool.submit(self.batch, k))
                yield ahead.pop(0).result()

    def _order(self, epoch: int) -> np.ndarray:
        order = self._orders.get(epoch)
        if order is None:
            order = stream(self.seed, 0, Purpose.DATA_ORDER, epoch).permutation(len(self.split))
            # A batch can contain two epochs, and threads run a little ahead. So we keep a few orders, and not all.
            for old in [e for e in list(self._orders) if abs(e - epoch) > 2]:
                self._orders.pop(old, None)
            self._orders[epoch] = order
        return order
