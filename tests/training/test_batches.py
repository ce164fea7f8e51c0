"""Batch k from (seed, k): permutations, whatever the workers."""

import pytest
import torch

from dfm.data.dataset import Split
from dfm.training.batches import Augmentation, Batch, Batches


def numbered(n: int) -> Split:
    return Split(values=torch.arange(n, dtype=torch.float32)[:, None], labels=torch.arange(n))


@pytest.mark.parametrize(("n", "size"), [(10, 3), (10, 10), (7, 16), (1, 4)])
def test_every_epoch_is_a_permutation(n: int, size: int) -> None:
    batches = Batches(numbered(n), size, 0)
    stream = torch.cat([batches.indices(k) for k in range(-(-3 * n // size))])[: 3 * n]
    epochs = stream.reshape(3, n)
    assert all(sorted(epoch.tolist()) == list(range(n)) for epoch in epochs)
    if n == 10:
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_batch_k_does_not_depend_on_how_it_was_reached(workers: int) -> None:
    stream = Batches(numbered(10), 4, 5).stream(6, workers)
    found = [next(stream) for _ in range(20)]
    stream.close()
    for k, batch in enumerate(found, start=6):
        alone = Batches(numbered(10), 4, 5).batch(k)
        assert torch.equal(batch.values, alone.values)
        assert torch.equal(batch.labels, alone.labels)


def test_orders_do_not_pile_up() -> None:
    batches = Batches(numbered(4), 4, 0)
    for k in range(1000):
        batches.indices(k)
    assert len(batches._orders) <= 3


@pytest.mark.parametrize("sides", [(6,), (4, 6), (2, 4, 6)])
def test_examples_are_mirrored_along_their_last_side(sides: tuple[int, ...]) -> None:
    """Signals in time, images left to right, volumes likewise."""
    values = torch.randn(16, 2, *sides)
    batch = Augmentation(flip=True)(Batch(values, None, torch.arange(16)), seed=3, step=1)
    backwards = torch.stack([values[..., i] for i in range(5, -1, -1)], -1)
    mirrored = [bool(torch.equal(new, old)) for new, old in zip(batch.values, backwards, strict=True)]
    kept = [bool(torch.equal(new, old)) for new, old in zip(batch.values, values, strict=True)]
    assert [a != b for a, b in zip(mirrored, kept, strict=True)] == [True] * 16
    assert 3 < sum(mirrored) < 13
