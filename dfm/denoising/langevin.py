"""The lecture's general prior exp(-f)/Z: data are carried to it by Langevin dynamics, and back by the learned score.

    dX = -grad f(X) dt + sqrt2 dB                                 from data to exp(-f)/Z
    velocity u = -grad f - s,    g^2 = 2                          probability-flow ODE and reverse SDE as always

For f = |x|^2/2 this is the Ornstein-Uhlenbeck process, whose clock (``schedule=ou``) the network is told the time by.
"""

from dataclasses import dataclass
from typing import Self

from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noise_end import NoiseEnd
from dfm.paths.potentials import Potential
from dfm.paths.schedule import Schedule
from dfm.paths.variance_preserving import OrnsteinUhlenbeck


@dataclass(frozen=True, kw_only=True)
class LangevinDenoiser(NetworkDenoiser):
    """A network whose output is b (score + grad f), b of the Ornstein-Uhlenbeck clock.

    So u = -output/b: what the network is asked for vanishes as exp(-f)/Z is reached, and the steep grad f is never
    balanced against a network that has not seen the place. ``prior`` is a ``Potential``. There are no weights of data
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
        assert isinstance(self.prior, Potential)
        return self.prior

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
            raise UserError("a path to exp(-f) is not a rescaling of another; allowed: the schedule it was trained on")
        return self
