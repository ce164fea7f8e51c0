"""Paths that interpolate: a falls from 1 to 0 while b rises from 0 to 1."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.errors import UserError
from dfm.schedules.base import Coefficients, Schedule


@dataclass(frozen=True, kw_only=True)
class Linear(Schedule):
    """a = 1 - t, b = s + (1 - s) t: straight lines from data to noise (Lipman et al. 2023, eq. 22; Liu et al. 2023).

    ``s`` is ``sigma_min``, the noise left on the data. The ends are cut by default at nsr = 1/999 and 999, where
    the log of the nsr that the network sees is still finite; the prior at ``t_max`` accounts for what is cut.
    """

    sigma_min: float = 0.0
    t_min: float = 1e-3
    t_max: float = 0.999

    def ab(self, t: Tensor) -> Coefficients:
        return 1 - t, self.sigma_min + (1 - self.sigma_min) * t

    def derivatives(self, t: Tensor) -> Coefficients:
        return -torch.ones_like(t), torch.full_like(t, 1 - self.sigma_min)

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        # t = (nsr - s)/(nsr + 1 - s), with both sides divided by nsr so that a large nsr does not overflow.
        inverse = (-log_nsr).exp()
        return (1 - self.sigma_min * inverse) / (1 + (1 - self.sigma_min) * inverse)


@dataclass(frozen=True, kw_only=True)
class Trigonometric(Schedule):
    """a = cos(pi t/2), b = sin(pi t/2) (Albergo and Vanden-Eijnden 2023, the trigonometric interpolant)."""

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
    """a = (1 - t)^n, b = 1 - (1 - t)^n (the flow_matching library's polynomial scheduler; n = 1 is ``linear``).

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
