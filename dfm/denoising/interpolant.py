"""Stochastic interpolants: x_t = a data + b noise + c z with a latent z ~ N(0, I) (Albergo et al. 2023).

The noise may have any prior and any coupling: the latent z alone makes x_t smooth enough to have a score,

    velocity u = a' E[data|x_t] + b' E[noise|x_t] + c' E[z|x_t]        score s = -E[z|x_t] / c

so one model gives the ODE and every SDE with the same marginals.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noise_end import NoiseEnd
from dfm.paths.interpolant_latents import InterpolantLatent


@dataclass(frozen=True, kw_only=True)
class InterpolantDenoiser(NetworkDenoiser):
    """A network with two outputs: the prediction's row p data + q noise, and E[z | x_t].

    E[z] gives x - c E[z] = a E[data] + b E[noise]; from this and the row, E[data] and E[noise] follow as always.

    Args:
        latent: the coefficient c of z.
    """

    outputs: ClassVar[int] = 2

    latent: InterpolantLatent

    def heads(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Return (row/scale, E[z | x_t]) on the trained path, each (B, *D)."""
        row, z = self.output(x, t).chunk(2, 1)
        return row, z

    def input_variance(self, t: Tensor) -> Tensor:
        return super().input_variance(t) + self.latent.c(self.trained_schedule, t) ** 2

    def data_noise_latent(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (E[data|x_t], E[noise|x_t], E[z|x_t]) on the schedule in use, each (B, *D)."""
        x, tau = self.on_trained_path(x, t)
        out, z = self.heads(x, tau)
        rest = x - per_sample(self.latent.c(self.trained_schedule, tau), x) * z
        data, noise = self.data_and_noise(rest, tau, out * per_sample(self.scale(tau), x))
        return data, noise, z

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError(
            "this model's path has a latent next to data and noise, and ddim, ancestral, dpmpp and unipc know data and "
            "noise only; try sampler=heun, dopri5 or euler_maruyama"
        )

    def data(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.data_noise_latent(x, self.time(t, x))[0]

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        return self.velocity_and_score(x, t)[0]

    def velocity_and_score(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        t = self.time(t, x)
        data, noise, z = self.data_noise_latent(x, t)
        dc = self.latent.derivative(self.schedule, t)
        velocity = self.schedule.velocity(data, noise, t) + per_sample(dc, x) * z
        return velocity, per_sample(-1 / self.latent.c(self.schedule, t), x) * z

    @property
    def is_linear_path(self) -> bool:
        return False

    def check_score(self) -> None:
        """Accept every prior and coupling: the latent gives the score."""

    @property
    def noise_end(self) -> NoiseEnd:
        end = super().noise_end
        c = float(self.latent.c(self.schedule, torch.tensor(self.t_max, dtype=torch.float64)))
        return replace(end, std=(end.std**2 + c**2) ** 0.5)
