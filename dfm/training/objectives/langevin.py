"""The objective that learns the score of a Langevin process from its transitions."""

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.langevin import LangevinDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.paths.potentials import Potential
from dfm.training.objectives.base import Loss, Objective


def chain(potential: Potential, data: Tensor, edges: Tensor, noise: Tensor) -> Tensor:
    """Return the states x_0 .. x_K of x_{k+1} = x_k - h_k grad f(x_k) + sqrt(2 h_k) z_k, (K + 1, B, d).

    Args:
        data: x_0, (B, d).
        edges: the times t_0 = 0 < .. < t_K, h_k = t_{k+1} - t_k.
        noise: z (K, B, d).
    """
    states = [data]
    for h, z in zip(edges.diff().tolist(), noise, strict=True):
        x = states[-1]
        states.append(x - h * potential.gradient(x) + (2 * h) ** 0.5 * z)
    return torch.stack(states)


@dataclass(frozen=True, kw_only=True)
class LangevinMatching(Objective):
    """A loss that fits the score of dX = -grad f dt + sqrt2 dB to the process's transitions (lecture, general prior).

    The chain x_{k+1} = x_k - h grad f(x_k) + sqrt(2 h) z starts from the data. At random steps of each sample

        score target    grad log N(x_{k+1}; x_k - h grad f(x_k), 2 h I) = -z/sqrt(2 h)

    and the loss is |sqrt(2 h) s(x_{k+1}, t_{k+1}) + z|^2/d, which weights every step by its noise. The times are
    t_max (k/K)^2: the steps are short where the law is still near the data. The law of the chain differs from the law
    of the SDE by O(h f''), so a steep potential needs many steps (with h f'' = 0.8 the variance of the chain in a well
    is 1.7 times too large).

    Args:
        steps: the number K of steps of a chain.
        transitions: number of steps of each sample's chain that enter the loss.

    Raises:
        UserError: steps is below 2 or transitions below 1; or (on use) the prior has no potential.
    """

    steps: int = 400
    transitions: int = 8

    def __post_init__(self) -> None:
        if self.steps < 2 or self.transitions < 1:
            raise UserError(
                f"objective langevin: steps={self.steps}, transitions={self.transitions}; allowed: at least 2 and 1"
            )

    def denoiser(self, plain: NetworkDenoiser) -> NetworkDenoiser:
        return _check_potential(plain)

    def loss(self, denoiser: NetworkDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        model = _check_potential(denoiser)
        edges = denoiser.trained_schedule.t_max * torch.linspace(0, 1, self.steps + 1, dtype=torch.float64) ** 2
        u = torch.rand(self.transitions * len(data), generator=generator, device=data.device, dtype=torch.float64)
        k = self._steps_inside(edges, denoiser.trained_schedule.t_min, u).to(data.device)
        noise = torch.randn(self.steps, *data.shape, generator=generator, device=data.device, dtype=data.dtype)
        rows = torch.arange(len(data), device=data.device).repeat(self.transitions)
        x = chain(model.potential, data, edges, noise)[k + 1, rows]
        t, h = (edges.to(data.device)[k + 1], edges.diff().to(data.device)[k])
        _, score = denoiser.select(rows).velocity_and_score(x, t)
        error = (per_sample((2 * h).sqrt(), x) * score + noise[k, rows]).square().flatten(1).mean(1)
        mean = error.reshape(self.transitions, len(data)).mean(0)
        return Loss(value=mean, error=mean, u=u[: len(data)])

    def _steps_inside(self, edges: Tensor, t_min: float, u: Tensor) -> Tensor:
        """Return a step k for each u, among those with t_{k+1} >= t_min, all with equal chances."""
        first = int((edges[1:] < t_min).sum())
        return first + (u * (self.steps - first)).long().clamp_max(self.steps - first - 1)


def _check_potential(denoiser: NetworkDenoiser) -> LangevinDenoiser:
    """Return the denoiser; refuse one whose prior has no potential."""
    if not denoiser.prior.is_potential:
        raise UserError("objective=langevin needs a potential; allowed: prior=double_well or prior=potential")
    return cast("LangevinDenoiser", denoiser)
