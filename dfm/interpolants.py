"""Stochastic interpolants: x_t = a data + b noise + c z with a latent z ~ N(0, I) of its own (Albergo et al. 2023).

Noise may have any prior and any coupling: the latent alone makes x_t smooth enough to have a score,

    velocity u = a' E[data|x_t] + b' E[noise|x_t] + c' E[z|x_t]        score s = -E[z|x_t] / c

so the same model samples by the ODE and by any SDE with its marginals.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.broadcast import per_sample
from dfm.errors import UserError
from dfm.networks import NetworkDenoiser
from dfm.predictions import data_and_noise
from dfm.schedules import Schedule


class Latent(ABC):
    """c(t) as a function of the schedule, of the form that c/a depends on b/a alone: schedules can then be swapped."""

    @abstractmethod
    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        """c(t) >= 0, float64 of the shape of t."""

    @abstractmethod
    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        """c'(t)."""


@dataclass(frozen=True, kw_only=True)
class NoLatent(Latent):
    """c = 0."""

    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class RootLatent(Latent):
    """c = scale sqrt(2 a b), which on the linear path is their sqrt(2 t (1 - t)); c' = scale^2 (a' b + a b')/c.

    Raises:
        UserError: scale is not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"latent root: scale={self.scale}; allowed: a number above 0, or latent=none")

    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        a, b = schedule.ab(t)
        return self.scale * (2 * a * b).sqrt()

    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        (a, b), (da, db) = schedule.ab(t), schedule.derivatives(t)
        return self.scale**2 * (da * b + a * db) / self.c(schedule, t)


@dataclass(frozen=True, kw_only=True)
class InterpolantDenoiser(NetworkDenoiser):
    """A network with two outputs: the prediction's row p data + q noise, and E[z | x_t].

    With E[z] known, x - c E[z] = a E[data] + b E[noise], and the row gives the two apart as always.
    """

    latent: Latent

    def heads(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """On the trained path: (row/scale, E[z | x_t]), each (B, *D)."""
        row, z = self.output(x, t).chunk(2, 1)
        return row, z

    def input_variance(self, t: Tensor) -> Tensor:
        return super().input_variance(t) + self.latent.c(self.trained, t) ** 2

    def data_noise_latent(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(E[data|x_t], E[noise|x_t], E[z|x_t]) on the schedule in use."""
        x, tau = self.on_trained_path(x, t)
        out, z = self.heads(x, tau)
        row = self.prediction.row(self.trained, tau, self.spec.std)
        rest = x - per_sample(self.latent.c(self.trained, tau), x) * z
        data, noise = data_and_noise(row, self.trained.ab(tau), rest, out * per_sample(self.scale(tau), x))
        return data, noise, z

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError(
            "this model's path has a latent beside data and noise, which samplers that move along data and noise "
            "(ddim, ancestral, dpmpp, unipc) do not know; try sampler=heun, dopri5 or euler_maruyama"
        )

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        return self.data_noise_latent(x, t)[0]

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return self.velocity_and_score(x, t)[0]

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        data, noise, z = self.data_noise_latent(x, t)
        (da, db), dc = self.schedule.derivatives(t), self.latent.derivative(self.schedule, t)
        velocity = per_sample(da, x) * data + per_sample(db, x) * noise + per_sample(dc, x) * z
        return velocity, per_sample(-1 / self.latent.c(self.schedule, t), x) * z

    @property
    def mixes(self) -> bool:
        return False

    def check_score(self) -> None:
        """The latent gives a score whatever prior and coupling are."""

    def start_moments(self) -> tuple[float, float]:
        mean, std = super().start_moments()
        c = float(self.latent.c(self.schedule, torch.tensor(self.t_max, dtype=torch.float64)))
        return mean, (std**2 + c**2) ** 0.5
