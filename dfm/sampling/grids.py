"""Time grids for sampling and likelihood: decreasing from t_max to t_min, both ends exact."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.schedule import Schedule


class Grid(ABC):
    """A rule that places times. ``share`` is the fraction of the way from the noise end to the data end, 0 to 1."""

    @property
    def name(self) -> str:
        """The grid's name in results."""
        return type(self).__name__.removesuffix("Grid").lower()

    @abstractmethod
    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        """Return times float64 (N,), decreasing from t_max to t_min, for shares float64 (N,) increasing in [0, 1]."""

    def times(self, steps: int, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        """Return the steps + 1 times between which a sampler moves, float64, decreasing.

        Raises:
            UserError: steps is below 1 or above a million.
        """
        if not 1 <= steps <= 10**6:
            raise UserError(f"steps={steps}; allowed: a whole number from 1 to 1,000,000")
        times = self.place(torch.linspace(0, 1, steps + 1, dtype=torch.float64), schedule, t_min, t_max)
        times[0], times[-1] = t_max, t_min
        return times


@dataclass(frozen=True, kw_only=True)
class UniformGrid(Grid):
    """A grid with equal steps in t."""

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        return t_max + (t_min - t_max) * share


@dataclass(frozen=True, kw_only=True)
class LogNsrGrid(Grid):
    """A grid with equal steps in log(b/a): each step divides the noise-to-signal ratio by the same factor."""

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        high, low = schedule.log_nsr(torch.tensor([t_max, t_min], dtype=torch.float64))
        return schedule.time_of_log_nsr(high + (low - high) * share)


@dataclass(frozen=True, kw_only=True)
class NoiseShareGrid(Grid):
    """A grid with equal steps in b^p/(a^p + b^p): most steps are where data and noise are mixed, on every schedule.

    ``power`` p = 1 gives equal steps in t on the linear schedule. A smaller power puts more steps at both ends.

    Raises:
        UserError: power is not above 0.
    """

    power: float = 1.0

    def __post_init__(self) -> None:
        if not self.power > 0:
            raise UserError(f"grid noise_share: power={self.power}; allowed: a number above 0")

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        ends = torch.tensor([t_max, t_min], dtype=torch.float64)
        high, low = (self.power * schedule.log_nsr(ends)).sigmoid()
        return schedule.time_of_log_nsr((high + (low - high) * share).logit() / self.power)


@dataclass(frozen=True, kw_only=True)
class RhoGrid(Grid):
    """A grid with equal steps in nsr^(1/rho) (Karras et al. 2022, eq. 5, rho = 7).

    It lies between equal steps in nsr (rho = 1) and equal steps in log nsr (rho to infinity).

    Raises:
        UserError: rho is not above 0.
    """

    rho: float = 7.0

    def __post_init__(self) -> None:
        if not self.rho > 0:
            raise UserError(f"grid rho: rho={self.rho}; allowed: a number above 0")

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        ends = torch.tensor([t_max, t_min], dtype=torch.float64)
        high, low = (schedule.log_nsr(ends) / self.rho).exp()
        return schedule.time_of_log_nsr(self.rho * (high + (low - high) * share).log())


@dataclass(frozen=True, kw_only=True)
class QuadraticGrid(Grid):
    """A grid with equal steps in sqrt(t - t_min): short steps near the data (Song et al. 2021, DDIM, appendix D.2)."""

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        return t_min + (t_max - t_min) * (1 - share) ** 2


@dataclass(frozen=True, kw_only=True)
class CosineGrid(Grid):
    """The grid t_min + (t_max - t_min) (1 + cos(pi share))/2: short steps at both ends (Chebyshev points)."""

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        return t_min + (t_max - t_min) * (1 + (math.pi * share).cos()) / 2


@dataclass(frozen=True, kw_only=True)
class IntegersGrid(Grid):
    """A grid with equal steps in t, rounded to whole numbers.

    It is for the schedules whose time counts steps: ddpm and random_walk.

    Raises:
        UserError: (by ``place``) more steps than there are whole numbers between t_min and t_max.
    """

    def place(self, share: Tensor, schedule: Schedule, t_min: float, t_max: float) -> Tensor:
        whole = max(0, math.floor(t_max) - math.ceil(t_min) + 1)
        if len(share) > whole:
            way = f"sampler.steps={whole - 1}" if whole > 1 else "schedule=ddpm or random_walk, whose time counts steps"
            raise UserError(
                f"grid integers: {len(share)} times; allowed: at most {whole}, the whole numbers from {t_min:g} to "
                f"{t_max:g}; try {way}, or another grid"
            )
        return (t_max + (t_min - t_max) * share).round()
