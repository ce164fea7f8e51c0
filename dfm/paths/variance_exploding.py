"""Paths that add noise and do not shrink the data: a = 1, b grows."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.schedule import Coefficients, Schedule


@dataclass(frozen=True, kw_only=True)
class Edm(Schedule):
    """The path a = 1, b = t: time is the noise level (Karras et al. 2022, table 1)."""

    t_min: float = 0.002
    t_max: float = 80.0

    def ab(self, t: Tensor) -> Coefficients:
        return torch.ones_like(t), t

    def derivatives(self, t: Tensor) -> Coefficients:
        return torch.zeros_like(t), torch.ones_like(t)

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return log_nsr.exp()


@dataclass(frozen=True, kw_only=True)
class VarianceExploding(Schedule):
    """The path a = 1, b = s_min (s_max/s_min)^t: noise grows geometrically (Song et al. 2021, eq. 30).

    Equal steps in t give the geometric noise levels of noise-conditional score networks (Song and Ermon 2019).

    Raises:
        UserError: 0 < sigma_min < sigma_max does not hold.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0
    t_min: float = 0.0
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.sigma_min < self.sigma_max:
            raise UserError(
                f"schedule ve: sigma_min={self.sigma_min}, sigma_max={self.sigma_max}; allowed: 0 < sigma_min < "
                "sigma_max"
            )
        super().__post_init__()

    @property
    def _rate(self) -> float:
        return math.log(self.sigma_max / self.sigma_min)

    def ab(self, t: Tensor) -> Coefficients:
        return torch.ones_like(t), self.sigma_min * (self._rate * t).exp()

    def derivatives(self, t: Tensor) -> Coefficients:
        return torch.zeros_like(t), self._rate * self.ab(t)[1]

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return (log_nsr - math.log(self.sigma_min)) / self._rate


@dataclass(frozen=True, kw_only=True)
class RandomWalk(Schedule):
    """The path a = 1, b = eps sqrt(k): the lecture's discrete noising x_k = x_{k-1} + eps z_k.

    Time counts the steps, k = 1 .. t_max. Between whole steps the path is Brownian motion; ``grid=integers`` uses whole
    steps only.

    Raises:
        UserError: eps is not positive.
    """

    eps: float = 0.02
    t_min: float = 1.0
    t_max: float = 40_000.0

    def __post_init__(self) -> None:
        if not self.eps > 0:
            raise UserError(f"schedule random_walk: eps={self.eps}; allowed: a number above 0")
        super().__post_init__()

    def ab(self, t: Tensor) -> Coefficients:
        return torch.ones_like(t), self.eps * t.sqrt()

    def derivatives(self, t: Tensor) -> Coefficients:
        return torch.zeros_like(t), self.eps / (2 * t.sqrt())

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return (2 * (log_nsr - math.log(self.eps))).exp()
