"""Which noise levels training visits: each density maps a uniform u in [0, 1] to a time, by its inverse CDF.

Because the map takes u, stratification (``stratified_uniform``) is the same few lines for every density.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.errors import UserError
from dfm.schedules import Schedule


def stratified_uniform(offset: Tensor, n: int) -> Tensor:
    """n points u_i = (offset + i/n) mod 1: each is uniform, together they cover [0, 1] evenly.

    The variance of a batch's loss over noise levels falls (Kingma et al. 2021, VDM, appendix I.1).

    Args:
        offset: () float64, uniform in [0, 1).
    """
    return (offset + torch.arange(n, dtype=torch.float64, device=offset.device) / n) % 1


@dataclass(frozen=True, kw_only=True)
class Density(ABC):
    """A distribution of training times on a schedule's [t_min, t_max].

    Args:
        stratified: draw a batch's levels evenly spread (low discrepancy) instead of independently.
    """

    stratified: bool = True

    @abstractmethod
    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The u-quantile: u float64 (B,) in [0, 1] -> t float64 (B,) in [t_min, t_max]."""

    def draw(self, n: int, schedule: Schedule, generator: torch.Generator) -> Tensor:
        """n times, float64 (n,), on the generator's device."""
        count = 1 if self.stratified else n
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        return self.time(stratified_uniform(u[0], n) if self.stratified else u, schedule)


@dataclass(frozen=True, kw_only=True)
class Uniform(Density):
    """Uniform in t (the integral over time in the lecture's losses)."""

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.t_min + (schedule.t_max - schedule.t_min) * u


@dataclass(frozen=True, kw_only=True)
class UniformLogNsr(Density):
    """Uniform in log(b/a): as many draws for each factor of noise."""

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = _ends(schedule.log_nsr, u, schedule)
        return _inside(schedule.time_of_log_nsr(low + (high - low) * u), schedule)


@dataclass(frozen=True, kw_only=True)
class LogNormal(Density):
    """log nsr ~ N(mean, std^2), cut to the schedule's range (Karras et al. 2022, table 1: -1.2, 1.2)."""

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        _positive(self.std, "density lognormal")

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = _ends(schedule.log_nsr, u, schedule)
        return _inside(schedule.time_of_log_nsr(_normal_between(u, self.mean, self.std, low, high)), schedule)


@dataclass(frozen=True, kw_only=True)
class LogitNormal(Density):
    """logit t ~ N(mean, std^2) for t in (0, 1), cut to the schedule's range (Esser et al. 2024, eq. 19).

    Raises:
        UserError: on use with a schedule whose times are not inside (0, 1).
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _positive(self.std, "density logit_normal")

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        if schedule.t_min < 0 or schedule.t_max > 1:
            raise UserError(
                f"density logit_normal needs times in [0, 1], the schedule's are [{schedule.t_min:g}, "
                f"{schedule.t_max:g}]; try schedule=linear, trig or vp, or density=lognormal"
            )
        low, high = _ends(torch.logit, u, schedule)
        return _inside(_normal_between(u, self.mean, self.std, low, high).sigmoid(), schedule)


def _positive(std: float, name: str) -> None:
    if not std > 0:
        raise UserError(f"{name}: std={std}; allowed: a number above 0")


def _ends(function: object, u: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    ends = torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64, device=u.device)
    values = function(ends)  # type: ignore[operator]
    return values[0], values[1]


def _normal_between(u: Tensor, mean: float, std: float, low: Tensor, high: Tensor) -> Tensor:
    """The u-quantile of N(mean, std^2) restricted to [low, high]."""
    below, above = ((end - mean) / (std * math.sqrt(2)) for end in (low, high))
    cdf_low, cdf_high = (1 + torch.erf(below)) / 2, (1 + torch.erf(above)) / 2
    cut = cdf_low + (cdf_high - cdf_low) * u
    return torch.minimum(torch.maximum(mean + std * torch.special.ndtri(cut), low), high)


def _inside(t: Tensor, schedule: Schedule) -> Tensor:
    """Rounding at an end must not leave the range."""
    return t.clamp(schedule.t_min, schedule.t_max)
