"""What training minimises: a loss per sample at random noise levels. Only the trainer reduces it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.broadcast import per_sample
from dfm.denoiser import NetworkDenoiser
from dfm.densities import Density
from dfm.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Weighted losses (B,), float32 or wider, and the times at which they were taken, float64 (B,)."""

    value: Tensor
    t: Tensor


class Objective(ABC):
    """A loss of a denoiser's network on a batch of data."""

    @abstractmethod
    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator) -> Loss:
        """Losses of data (B, *D); all that is random comes from ``generator``, on the device of the data."""


@dataclass(frozen=True, kw_only=True)
class Regression(Objective):
    """w(t) |out(x_t, t) - (p data + q noise)|^2 / d at x_t = a data + b noise, t from a density.

    (p, q) is the denoiser's prediction. Denoising, denoising score matching and flow matching are this loss with other
    rows, densities and weights (lecture, eqs. 6 and 8 and flow matching; Lipman et al. 2023, theorem 2). The error is
    formed in units of the target's scale, which the weight then carries, so that no weight overflows a small target.
    """

    density: Density
    weight: Weight

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator) -> Loss:
        t = self.density.draw(len(data), denoiser.trained, generator)
        noise = torch.randn(data.shape, generator=generator, device=data.device, dtype=data.dtype)
        return Loss(value=self.at(denoiser, data, noise, t), t=t)

    def at(self, denoiser: NetworkDenoiser, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """The losses (B,) at given noise and times."""
        schedule, std = denoiser.trained, denoiser.spec.std
        a, b = schedule.ab(t)
        p, q = denoiser.prediction.row(schedule, t, std)
        scale = denoiser.prediction.scale(schedule, t, std)
        out = denoiser.output(per_sample(a, data) * data + per_sample(b, data) * noise, t)
        target = per_sample(p / scale, data) * data + per_sample(q / scale, data) * noise
        weight = self.weight(t, schedule, denoiser.prediction, std) * scale**2
        return (out - target).square().flatten(1).mean(1) * weight.to(out)
