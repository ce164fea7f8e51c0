"""Denoisers of one Gaussian that are affine in x, and students trained on them: what tests of few steps share."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from dfm.data.dataset import DatasetSpec, Split
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Data
from dfm.paths.schedule import Schedule
from dfm.training.few_steps.progressive import Progressive
from dfm.training.few_steps.reflow import Reflow
from dfm.training.few_steps.rounds import TaughtInRounds
from dfm.training.objectives.densities import LogNsrDensity, UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.step_report import StepReport
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

MEAN, STD = 0.4, 0.5
SPEC = DatasetSpec(name="line", shape=(1,), levels=None, num_classes=0, mean=MEAN, std=STD)
CPU = torch.device("cpu")
Slope = Callable[[Tensor], Tensor]


class Affine(nn.Module):
    """E[data | x_t] = m + k (x_t/a - m) with k a function of log nsr: k = S^2/(S^2 + nsr^2) is exact for N(m, S^2)."""

    def __init__(self, slope: Slope) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        c = c_time.double()
        y = x * (STD**2 + (2 * c).exp()).sqrt()[:, None]
        return ((MEAN + self.slope(c)[:, None] * (y - MEAN)) / STD).to(x.dtype)


class Bent(nn.Module):
    """k = sigmoid(bend (log S - log nsr) + shift): bend 2 is the exact denoiser of N(m, S^2), bend 1 its reflow."""

    def __init__(self) -> None:
        super().__init__()
        self.bend, self.shift = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.tensor(0.0))

    def forward(self, c: Tensor) -> Tensor:
        return torch.sigmoid(self.bend * (math.log(STD) - c) + self.shift)


class Table(nn.Module):
    """k as a number for each of a few places, the nearest of which counts."""

    def __init__(self, places: Tensor, values: Tensor) -> None:
        super().__init__()
        self.register_buffer("places", places)
        self.values = nn.Parameter(values)

    def forward(self, c: Tensor) -> Tensor:
        return self.values[(c[:, None] - self.places[None]).abs().argmin(1)]


def exact(c: Tensor) -> Tensor:
    return STD**2 / (STD**2 + (2 * c).exp())


def denoiser(schedule: Schedule, slope: Slope) -> NetworkDenoiser:
    return NetworkDenoiser(
        spec=SPEC, schedule=schedule, trained_schedule=schedule, prediction=Data(), network=Affine(slope)
    )  # fmt: skip


def progressive(start: int, steps: int = 1, **more: object) -> Progressive:
    return Progressive(density=UniformDensity(), weight=UniformWeight(), start=start, steps=steps, **more)  # type: ignore[arg-type]


def reflow(**more: object) -> Reflow:
    return Reflow(density=LogNsrDensity(), weight=UniformWeight(), **more)  # type: ignore[arg-type]


def trained(
    objective: TaughtInRounds,
    model: NetworkDenoiser,
    steps: int,
    reports: list[StepReport] | None = None,
    lr: float = 0.02,
) -> Trainer:
    """Train a student on Gaussian data; what the trainer says of each step is added to ``reports``."""
    points = MEAN + STD * torch.randn(4096, 1, generator=torch.Generator().manual_seed(0))
    config = TrainerConfig(
        max_steps=steps, batch_size=128, lr=lr, ema_decay=0.999, warmup_steps=1, clip_grad=None, betas=(0.9, 0.95)
    )
    trainer = Trainer(config, model, objective, Split(values=points, labels=None), device=CPU)
    steps_taken = list(trainer.steps())
    if reports is not None:
        reports += steps_taken
    return trainer
