"""The loss of a noisy classifier."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.training.objectives.base import Loss, Objective
from dfm.training.objectives.densities import Density


@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """The loss -log p(c | x_t) of a noisy classifier at x_t = a data + b noise.

    Args:
        density: of the times t; c is the class of the data.
    """

    density: Density

    trains: ClassVar[str] = "classifier"

    def loss(self, denoiser: NoisyClassifier, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        assert denoiser.label is not None
        u = self.density.uniforms(len(data), generator)
        t = self.density.time(u, denoiser.trained_schedule)
        noise = torch.randn(data.shape, generator=generator, device=data.device, dtype=data.dtype)
        log_p = denoiser.log_probabilities(denoiser.trained_schedule.mix(data, noise, t), t)
        error = -log_p.gather(1, denoiser.label[:, None])[:, 0]
        return Loss(value=error * self.density.importance(u).to(error), error=error, u=u)

    def density_of_times(self) -> Density:
        return self.density
