"""A density that adapts sees the losses of a whole batch at once, however the batch is divided."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from support.trainers import trainer
from torch import Tensor

from dfm.basics.processes import World
from dfm.training.objectives.base import Loss
from dfm.training.objectives.densities import LossAwareDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression

BINS, DECAY, BATCH = 4, 0.9, 8
U = (torch.arange(BATCH, dtype=torch.float64) + 0.5) / BATCH  # two in each bin of the fresh density
LOSSES = torch.tensor([100.0, 100.0, 0.1, 0.3, 1.0, 2.0, 0.2, 0.2])


def by_hand() -> Tensor:
    """0.9^2 of the start, 1, and the rest the mean square of the bin's two losses."""
    squares = LOSSES.double().square().reshape(BINS, 2).mean(1)
    return DECAY**2 + (1 - DECAY**2) * squares


class Given(Regression):
    """A loss of given losses at given levels, of which the parts of a batch take their turn."""

    def loss(self, denoiser: Any, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        rows = slice(TURN[0], TURN[0] + len(data))
        TURN[0] += len(data)
        value = 0 * denoiser.output(data, torch.full((len(data),), 0.5, dtype=torch.float64)).flatten(1).mean(1)
        return Loss(value=value, error=LOSSES[rows], u=U[rows])


TURN = [0]


class Other(World):
    """One of two processes; the other one has the losses of the second half."""

    def own_parts(self, parts: Sequence[Any]) -> Sequence[Any]:
        return parts[: len(parts) // 2]

    def all_gather(self, mine: Any) -> list[Any]:
        if not isinstance(mine, list):
            return [mine]
        half = BATCH // 2
        return [mine, [Loss(value=LOSSES[half:], error=LOSSES[half:], u=U[half:])]]


@pytest.mark.parametrize(("accumulate", "world"), [(1, World()), (2, World()), (4, World()), (2, Other())])
def test_the_note_of_a_step_is_that_of_its_whole_batch(accumulate: int, world: World) -> None:
    density = LossAwareDensity(bins=BINS, decay=DECAY, floor=0.1)
    run = trainer(batch_size=BATCH, accumulate=accumulate)
    run.objective, run.world, TURN[0] = Given(density=density, weight=UniformWeight()), world, 0
    next(run.steps())
    assert torch.allclose(density.running.squares, by_hand(), rtol=1e-6)
