"""The loss of a noisy classifier."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.per_sample import per_sample
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.training.objectives.base import Loss, Objective
from dfm.training.objectives.densities import Density


@dataclass(frozen=True, kw_only=True)
class Classification(Objective):
    """-log p(c | x_t) of a noisy classifier at x_t = a data + b noise, c the class of the data, t from a density."""

    density: Density

    trains: ClassVar[str] = "classifier"

    def loss(self, denoiser: NoisyClassifier, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        assert denoiser.label is not None
        u = self.density.uniforms(len(data), generator)
        t = self.density.time(u, denoiser.trained_schedule)
        noise = torch.randn(data.shape, generator=generator, device=data.device, dtype=data.dtype)
        a, b = denoiser.trained_schedule.ab(t)
        found = denoiser.log_probabilities(per_sample(a, data) * data + per_sample(b, data) * noise, t)
        error = -found.gather(1, denoiser.label[:, None])[:, 0]
        return Loss(value=error * self.density.importance(u).to(error), error=error, u=u)

    def density_of_times(self) -> Density:
        return self.density
