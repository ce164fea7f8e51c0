"""The lecture's general prior exp(-f)/Z: data are carried to it by Langevin dynamics, and back by the learned score.

    dX = -grad f(X) dt + sqrt2 dB                                 from data to exp(-f)/Z
    velocity u = -grad f - s,    g^2 = 2                          probability-flow ODE and reverse SDE as always

For f = |x|^2/2 this is the Ornstein-Uhlenbeck process, whose clock (``schedule=ou``) the network is told the time by.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from dfm.broadcast import per_sample
from dfm.errors import UserError
from dfm.networks import NetworkDenoiser
from dfm.potentials import Potential
from dfm.schedules import OrnsteinUhlenbeck, Schedule


@dataclass(frozen=True, kw_only=True)
class LangevinDenoiser(NetworkDenoiser):
    """A network whose output is b (score + grad f), b of the Ornstein-Uhlenbeck clock.

    So u = -output/b: what the network is asked for vanishes as exp(-f)/Z is reached, and the steep grad f is never
    balanced against a network that has not seen the place. ``source`` is a ``Potential``. There are no weights of data
    and noise on this path, so samplers must ask for velocity and score alone.

    Raises:
        UserError: the schedule is not ``ou``.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.schedule, OrnsteinUhlenbeck):
            raise UserError(
                "a prior given by its potential runs on the clock of schedule=ou; "
                "allowed: schedule=langevin or ou; try objective=langevin, which chooses it"
            )

    @property
    def potential(self) -> Potential:
        """f."""
        assert isinstance(self.source, Potential)
        return self.source

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError(
            "a path to exp(-f) is no mixture of data and noise, so ddim, ancestral, dpmpp and unipc cannot move along "
            "it; try sampler=euler_maruyama, heun or dopri5"
        )

    def velocity_and_score(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        velocity = self.velocity(x, t)
        return velocity, -self.potential.gradient(x) - velocity

    def velocity(self, x: Tensor, t: Tensor) -> Tensor:
        return -self.output(x, t) / per_sample(self.schedule.ab(t)[1], x)

    def data(self, x: Tensor, t: Tensor) -> Tensor:
        """E[data | x_t = x] to first order in t: x + t (grad f + 2 s)."""
        score = self.score(x, t)
        return x + per_sample(t, x) * (self.potential.gradient(x) + 2 * score)

    def check_score(self) -> None:
        """The score is what the network gives."""

    def start_moments(self) -> tuple[float, float]:
        return self.source.mean, self.source.std

    @property
    def movable(self) -> bool:
        return False

    @property
    def mixes(self) -> bool:
        return False

    def on(self, schedule: Schedule) -> Self:
        if schedule != self.schedule:
            raise UserError("a path to exp(-f) is not a rescaling of another; allowed: the schedule it was trained on")
        return self


def chain(potential: Potential, data: Tensor, edges: Tensor, noise: Tensor) -> Tensor:
    """All states x_0 .. x_K of x_{k+1} = x_k - h_k grad f(x_k) + sqrt(2 h_k) z_k, (K + 1, B, d).

    Args:
        edges: times t_0 = 0 < .. < t_K, h_k = t_{k+1} - t_k.
        noise: z (K, B, d).
    """
    states = [data]
    for h, z in zip(edges.diff().tolist(), noise, strict=True):
        x = states[-1]
        states.append(x - h * potential.gradient(x) + (2 * h) ** 0.5 * z)
    return torch.stack(states)
