"""The lecture's general prior exp(-f)/Z: Langevin dynamics lead from data to it, and the learned score leads back.

    dX = -grad f(X) dt + sqrt2 dB                                 from data to exp(-f)/Z
    velocity u = -grad f - s,    g^2 = 2                          probability-flow ODE and reverse SDE as always

For f = |x|^2/2 this is the Ornstein-Uhlenbeck process. The network takes log nsr of that process (``schedule=ou``) as
its time, for every f.
"""

from dataclasses import dataclass
from typing import Self, cast

from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noise_end import NoiseEnd
from dfm.paths.potentials import Potential
from dfm.paths.schedule import Schedule


@dataclass(frozen=True, kw_only=True)
class LangevinDenoiser(NetworkDenoiser):
    """A network whose output is b (score + grad f), with b of the Ornstein-Uhlenbeck process at the same time.

    So u = -output/b. The output vanishes when the law of x_t reaches exp(-f)/Z, and a steep grad f never has to be
    balanced by a network in a place that it has not seen. ``prior`` is a ``Potential``. This path has no a and b of
    data and noise, so samplers can use its velocity and its score only.

    Raises:
        UserError: the schedule is not ``ou``.
    """

    def __post_init__(self) -> None:
        if not self.schedule.has_langevin_time:
            raise UserError(
                f"a prior that is a potential needs the time of schedule=ou, this is {type(self.schedule).__name__}; "
                "allowed: schedule=langevin or ou; try objective=langevin, which chooses it"
            )

    @property
    def potential(self) -> Potential:
        """The potential f, which is the prior."""
        assert self.prior.is_potential
        return cast("Potential", self.prior)

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        raise UserError(
            "a path to exp(-f) is no mixture of data and noise, so ddim, ancestral, dpmpp and unipc cannot follow it; "
            "try sampler=euler_maruyama, heun or dopri5"
        )

    def velocity_and_score(self, x: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        velocity = self.velocity(x, t)
        return velocity, -self.potential.gradient(x) - velocity

    def velocity(self, x: Tensor, t: Tensor | float) -> Tensor:
        t = self.time(t, x)
        return -self.output(x, t) / per_sample(self.schedule.ab(t)[1], x)

    def data(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Return E[data | x_t = x] to first order in t: x + t (grad f + 2 s)."""
        t = self.time(t, x)
        score = self.score(x, t)
        return x + per_sample(t, x) * (self.potential.gradient(x) + 2 * score)

    def check_score(self) -> None:
        """Accept every prior: the network itself gives the score."""

    @property
    def noise_end(self) -> NoiseEnd:
        return NoiseEnd(prior=self.prior, mean=self.prior.mean, std=self.prior.std)

    @property
    def can_change_schedule(self) -> bool:
        return False

    @property
    def is_linear_path(self) -> bool:
        return False

    def on_schedule(self, schedule: Schedule) -> Self:
        if schedule != self.schedule:
            raise UserError(
                "a path to exp(-f) cannot be rescaled to another schedule; allowed: the schedule it was trained on"
            )
        return self
