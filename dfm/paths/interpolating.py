"""Paths that interpolate: a falls from 1 to 0 while b rises from 0 to 1."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.schedule import Coefficients, Schedule


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """Straight lines from data to noise: a = 1 - t, b = s + (1 - s) t (Lipman et al. 2023, eq. 22; Liu et al. 2023).

    ``s`` is ``sigma_min``, the noise that stays on the data. By default the path ends at nsr = 1/999 and 999, where the
    log nsr that the network sees is still finite. The law at ``t_max`` takes the missing part into
    account.
    """

    sigma_min: float = 0.0
    t_min: float = 1e-3
    t_max: float = 0.999

    def ab(self, t: Tensor) -> Coefficients:
        return 1 - t, self.sigma_min + (1 - self.sigma_min) * t

    def derivatives(self, t: Tensor) -> Coefficients:
        return -torch.ones_like(t), torch.full_like(t, 1 - self.sigma_min)

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        # t = (nsr - s)/(nsr + 1 - s); we divide numerator and denominator by nsr so that a large nsr does not overflow.
        inverse = (-log_nsr).exp()
        return (1 - self.sigma_min * inverse) / (1 + (1 - self.sigma_min) * inverse)


@dataclass(frozen=True, kw_only=True)
class Trigonometric(Schedule):
    """The trigonometric interpolant a = cos(pi t/2), b = sin(pi t/2) (Albergo and Vanden-Eijnden 2023)."""

    t_min: float = 1e-3
    t_max: float = 0.999

    def ab(self, t: Tensor) -> Coefficients:
        angle = t * (math.pi / 2)
        return angle.cos(), angle.sin()

    def derivatives(self, t: Tensor) -> Coefficients:
        a, b = self.ab(t)
        return -b * (math.pi / 2), a * (math.pi / 2)

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return log_nsr.exp().atan() * (2 / math.pi)


@dataclass(frozen=True, kw_only=True)
class Polynomial(Schedule):
    """The path a = (1 - t)^n, b = 1 - (1 - t)^n, as in the flow_matching library; n = 1 is ``linear``.

    Raises:
        UserError: n is not positive.
    """

    n: float = 2.0
    t_min: float = 5e-4
    t_max: float = 0.97

    def __post_init__(self) -> None:
        if not self.n > 0:
            raise UserError(f"schedule polynomial: n={self.n}; allowed: a number above 0")
        super().__post_init__()

    def ab(self, t: Tensor) -> Coefficients:
        log_a = self.n * torch.log1p(-t)
        return log_a.exp(), -torch.expm1(log_a)

    def derivatives(self, t: Tensor) -> Coefficients:
        da = -self.n * ((self.n - 1) * torch.log1p(-t)).exp()
        return da, -da

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        # nsr = 1/a - 1, so a = 1/(1 + nsr)
        return -torch.expm1(-torch.nn.functional.softplus(log_nsr) / self.n)


@dataclass(frozen=True, kw_only=True)
class UnitVariance(Schedule):
    """The path a = cos(w)/S, b = sin(w)/N with tan(w) = tan(t)^rho: x_t has variance one at every time.

    S and N are the deviations of data and noise. For Gaussian data the probability-flow ODE does not move on this path,
    so a solver spends its steps on the part of the data that is not Gaussian. The clock t = arctan((nsr N/S)^(1/rho))
    lies between uniform in the angle w (rho = 1) and uniform in log nsr (large rho). This path is for solvers, not for
    training: ``Denoiser.on_schedule`` puts any model on it.

    Raises:
        UserError: std, noise_std or rho is not positive.
    """

    std: float
    noise_std: float = 1.0
    rho: float = 2.5

    def __post_init__(self) -> None:
        if not (self.std > 0 and self.noise_std > 0 and self.rho > 0):
            raise UserError(
                f"schedule UnitVariance: std={self.std}, noise_std={self.noise_std}, rho={self.rho}; "
                "allowed: numbers above 0"
            )
        super().__post_init__()

    @classmethod
    def between(cls, low: float, high: float, std: float, noise_std: float = 1.0, rho: float = 2.5) -> "UnitVariance":
        """Return the path from log nsr = low to high."""
        ends = [math.atan(math.exp((log_nsr - math.log(std / noise_std)) / rho)) for log_nsr in (low, high)]
        return cls(t_min=ends[0], t_max=ends[1], std=std, noise_std=noise_std, rho=rho)

    def ab(self, t: Tensor) -> Coefficients:
        w = self._angle(t)
        return w.cos() / self.std, w.sin() / self.noise_std

    def derivatives(self, t: Tensor) -> Coefficients:
        # d log tan(y) = dy/(sin y cos y) on both sides of tan(w) = tan(t)^rho
        w = self._angle(t)
        speed = self.rho * (2 * w).sin() / (2 * t).sin()
        return -speed * w.sin() / self.std, speed * w.cos() / self.noise_std

    def log_nsr(self, t: Tensor) -> Tensor:
        return math.log(self.std / self.noise_std) + self.rho * t.tan().log()

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return ((log_nsr - math.log(self.std / self.noise_std)) / self.rho).exp().atan()

    def _angle(self, t: Tensor) -> Tensor:
        return (t.tan() ** self.rho).atan()
