"""The flow map, from x_t to x_s in one call, by a network of two times."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity


@dataclass(frozen=True, kw_only=True)
class FlowMapDenoiser(NetworkDenoiser):
    """A denoiser whose network takes a second time and whose jump is the flow map.

    The network takes both times as 2 tanh(log nsr/2) = 2 (b - a)/(b + a). This number is near log nsr where data and
    noise are mixed, and it stays bounded. Training differentiates the network in time, and log nsr changes without
    bound near t = 0 and 1. (On a Gaussian of standard deviation 0.5, the mean error of one call was 0.03 with this
    number and 0.14 with log nsr itself.) As a plain denoiser it gives the network the same time twice.
    """

    times: ClassVar[int] = 2
    own_jump: ClassVar[bool] = True

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mean_output(x, t, t)

    def mean_output(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return u(x_t, t, s), (B, *D), in units of the velocity's scale at t, on the network's own path."""
        self.check_input(x)
        times = [(2 * (self.trained_schedule.log_nsr(time) / 2).tanh()).to(x).expand(len(x)) for time in (t, s)]
        return self.call(x, self.unit_variance(x, t), times[0], self.label, times[1])

    def mean_velocity(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return u(x_t, t, s), (B, *D), on the network's own path: of data - m, and m (a(t) - a(s))/(t - s) of m."""
        velocity = self.mean_velocity_of_centred(x, t, s)
        if not self.spec.centre:
            return velocity
        path, apart = self.trained_schedule, t != s
        slope = (path.ab(t)[0] - path.ab(s)[0]) / torch.where(apart, t - s, 1.0)
        slope = torch.where(apart, slope, path.derivatives(t)[0])
        return velocity + per_sample(slope * self.spec.centre, x)

    def mean_velocity_of_centred(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return the mean velocity from t to s of x_t - a(t) m, (B, *D), with m the centre of the data."""
        return self.mean_output(x, t, s) * per_sample(self.scale(t), x)

    def jump(self, x: Tensor, t: Tensor | float, s: Tensor | float | None = None) -> Tensor:
        """Return x_s = x_t - (t - s) u(x_t, t, s); the data are x/a at t_min."""
        s = None if s is None else self.time(s, x)
        x, tau = self.on_trained_path(x, self.time(t, x))
        path = self.trained_schedule
        end = torch.tensor(path.t_min, dtype=torch.float64)
        if s is not None:
            end = path.time_of_log_nsr(self.schedule.log_nsr(s)).clamp(path.t_min, path.t_max)
        x_end = x - per_sample(tau - end, x) * self.mean_velocity(x, tau, end)
        scale = 1.0 if s is None else self.schedule.ab(s)[0]
        return x_end * per_sample(scale / path.ab(end)[0], x)


def flow_map(plain: NetworkDenoiser) -> FlowMapDenoiser:
    """Return the denoiser of two times with the network and the path of ``plain``.

    Raises:
        UserError: ``plain`` does not predict the velocity, or its path is no mixture of data and noise alone.
    """
    if not isinstance(plain.prediction, Velocity):
        raise UserError(
            f"prediction={plain.prediction.name}: objective=meanflow learns an average velocity; "
            "allowed: prediction=velocity"
        )
    if type(plain) is not NetworkDenoiser:
        raise UserError(
            "objective=meanflow needs a path of data and noise alone; "
            "allowed: latent=none and a prior that is no potential"
        )
    return FlowMapDenoiser(**vars(plain))
