"""The noise end of a path: how a latent, which is a draw of the prior, and x at t_max give each other."""

import math
from dataclasses import dataclass

from torch import Tensor

from dfm.paths.priors import Prior


@dataclass(frozen=True, kw_only=True)
class NoiseEnd:
    """The law of x at t_max: the prior, shifted and scaled so that it has the moments of x.

        x = mean + std/s (latent - m),    m and s the mean and standard deviation of the prior

    Args:
        mean, std: mean and standard deviation of x at t_max, over all coordinates.
    """

    prior: Prior
    mean: float
    std: float

    @property
    def moments(self) -> tuple[float, float]:
        """The mean and standard deviation of x at t_max."""
        return self.mean, self.std

    def from_latent(self, latent: Tensor) -> Tensor:
        """Return x at t_max, (B, *D), from a draw of the prior."""
        return self.mean + self.std / self.prior.std * (latent - self.prior.mean)

    def to_latent(self, x: Tensor) -> Tensor:
        """Return the latent of x at t_max: the inverse of ``from_latent``."""
        return self.prior.mean + self.prior.std / self.std * (x - self.mean)

    def log_density(self, x: Tensor) -> Tensor:
        """Return the log-density of x (B, *D) in nats, float64 (B,): log p(latent) - d log(std/s).

        Raises:
            UserError: the prior has no density in closed form.
        """
        scale = self.std / self.prior.std
        return self.prior.log_prob(self.to_latent(x.double())) - x[0].numel() * math.log(scale)
