"""The regression loss: of the exact network it is the Bayes risk, on every row and schedule."""

import math
from typing import Any

import pytest
import torch
from support.oracles import PREDICTIONS, STD, on_every_schedule

from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.schedule import Schedule
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Regression


def posterior_network(schedule: Schedule, prediction: Any, mean: float) -> Any:
    """The exact network for data N(mean, STD^2) per coordinate, written out for one Gaussian."""

    def network(x: torch.Tensor, c_time: torch.Tensor, label: torch.Tensor | None) -> torch.Tensor:
        t = schedule.time_of_log_nsr(c_time.double())
        (a, b), (p, q) = schedule.ab(t), prediction.row(schedule, t, STD)
        spread = a**2 * STD**2 + b**2
        x_t = x * spread.sqrt()[:, None]
        data = mean + (a * STD**2 / spread)[:, None] * (x_t - a[:, None] * mean)
        noise = (x_t - a[:, None] * data) / b[:, None]
        return (p[:, None] * data + q[:, None] * noise) / prediction.scale(schedule, t, STD)[:, None]

    return network


@on_every_schedule
@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_the_loss_of_the_exact_network_is_the_bayes_risk(name: str, schedule: Schedule) -> None:
    """Var(p data + q noise | x_t) = (det)^2 S^2/(a^2 S^2 + b^2) for one Gaussian; within 4.5 standard errors."""
    prediction, n, mean = PREDICTIONS[name], 4000, 0.3
    spec = DatasetSpec(name="g", shape=(4,), levels=None, num_classes=0, mean=mean, std=STD)
    network = posterior_network(schedule, prediction, mean)
    denoiser = NetworkDenoiser(
        spec=spec, schedule=schedule, trained_schedule=schedule, prediction=prediction, network=network
    )
    objective = Regression(density=UniformDensity(), weight=UniformWeight())
    generator = torch.Generator().manual_seed(2)
    for level in (-2.0, 0.0, 1.5):
        t = schedule.time_of_log_nsr(torch.full((n,), level, dtype=torch.float64))
        data = mean + STD * torch.randn(n, 4, dtype=torch.float64, generator=generator)
        noise = torch.randn(n, 4, dtype=torch.float64, generator=generator)
        losses = objective.errors_at(denoiser, data, noise, t)
        assert losses.shape == (n,)
        (a, b), (p, q) = schedule.ab(t[0]), prediction.row(schedule, t[0], STD)
        risk = float((a * q - b * p) ** 2 * STD**2 / (a**2 * STD**2 + b**2))
        assert float(losses.mean()) == pytest.approx(risk, abs=4.5 * float(losses.std()) / math.sqrt(n))
