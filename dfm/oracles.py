"""Denoisers known in closed form, against which everything else is measured."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.broadcast import per_sample
from dfm.denoiser import Denoiser
from dfm.mixtures import GaussianMixture


@dataclass(frozen=True, kw_only=True)
class MixtureDenoiser(Denoiser):
    """The exact denoiser of a Gaussian mixture on any schedule.

    x_t/a = data + nsr noise, so E[data | x_t] is the mixture's own, at y = x_t/a and nsr = b/a.
    """

    mixture: GaussianMixture

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.schedule.ab(t)
        data = self.mixture.denoise(x / per_sample(a, x), b / a)
        return data, (x - per_sample(a, x) * data) / per_sample(b, x)

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """log p_t(x) of x (B, d): that of the smoothed mixture at x/a, minus d log a."""
        a, b = self.schedule.ab(torch.tensor(t, dtype=torch.float64))
        return self.mixture.smoothed(float(b / a)).log_prob(x / float(a)) - x.shape[1] * float(a.log())
