"""Densities of the training times: each maps a uniform u in [0, 1] to a time, by its inverse CDF.

Since all of them take u, one function stratifies them all (``stratified_uniform``).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.paths.schedule import Schedule
from dfm.sampling.grids import Grid

PLACES = 2**12 + 1  # where the distribution function of a density of two laws is computed


def stratified_uniform(offset: Tensor, n: int) -> Tensor:
    """Return n points u_i = (offset + i/n) mod 1, float64 (n,): each is uniform, and together they cover [0, 1] evenly.

    This lowers the variance of a batch's loss over the noise levels (Kingma et al. 2021, VDM, appendix I.1).

    Args:
        offset: () float64, uniform in [0, 1).
    """
    return (offset + torch.arange(n, dtype=torch.float64, device=offset.device) / n) % 1


@dataclass(frozen=True, kw_only=True)
class Density(ABC):
    """A distribution of training times on a schedule's [t_min, t_max].

    Args:
        stratified: whether the times of a batch are spread evenly (low discrepancy) and not independent.
    """

    stratified: bool = True

    @abstractmethod
    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        """Return the u-quantile: t float64 (B,) in [t_min, t_max] for u float64 (B,) in [0, 1]."""

    def draw(self, n: int, schedule: Schedule, generator: torch.Generator) -> Tensor:
        """Draw n times, float64 (n,), on the generator's device."""
        return self.time(self.uniforms(n, generator), schedule)

    def uniforms(self, n: int, generator: torch.Generator) -> Tensor:
        """Draw n arguments u of ``time``, float64 (n,)."""
        count = 1 if self.stratified else n
        u = torch.rand(count, generator=generator, dtype=torch.float64, device=generator.device)
        return stratified_uniform(u[0], n) if self.stratified else u

    def importance(self, u: Tensor) -> Tensor:
        """Return the factor of a loss at ``time(u)``, float64 (B,).

        A density that draws its times from another law keeps the mean of its objective by this factor.
        """
        return torch.ones_like(u)

    def observe(self, u: Tensor, loss: Tensor) -> None:  # noqa: B027
        """Record the losses (B,) at ``time(u)``, in a density that adapts to them."""

    def memory(self) -> nn.Module | None:
        """Return the density's record of losses, as buffers for the checkpoints; None if it has none."""
        return None


@dataclass(frozen=True, kw_only=True)
class UniformDensity(Density):
    """The uniform density in t (the integral over time in the lecture's losses)."""

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        return schedule.t_min + (schedule.t_max - schedule.t_min) * u


@dataclass(frozen=True, kw_only=True)
class LogNsrDensity(Density):
    """The uniform density in log(b/a): every factor of noise gets as many draws."""

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = _at_ends(schedule.log_nsr, u, schedule)
        return _inside(schedule.time_of_log_nsr(low + (high - low) * u), schedule)


@dataclass(frozen=True, kw_only=True)
class LogNormalDensity(Density):
    """The density with log nsr ~ N(mean, std^2), cut to the schedule's range (Karras et al. 2022, table 1: -1.2, 1.2).

    Args:
        mean, std: of log nsr.
        floor: the share of draws that are uniform in log nsr instead, so that every level of the schedule is visited.

    Raises:
        UserError: std is not above 0, or floor is outside [0, 1].
    """

    mean: float = -1.2
    std: float = 1.2
    floor: float = 0.0

    def __post_init__(self) -> None:
        _check_positive(self.std, "density lognormal")
        if not 0 <= self.floor <= 1:
            raise UserError(f"density lognormal: floor={self.floor:g}; allowed: from 0 to 1")

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = _at_ends(schedule.log_nsr, u, schedule)
        log_nsr = self._of_both(u, low, high) if self.floor else _normal_between(u, self.mean, self.std, low, high)
        return _inside(schedule.time_of_log_nsr(log_nsr), schedule)

    def _of_both(self, u: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Return the u-quantile of both laws together, by their distribution function at ``PLACES`` levels."""
        share = torch.linspace(0, 1, PLACES, dtype=torch.float64, device=u.device)
        levels = low + (high - low) * share
        below = torch.special.ndtr((levels - self.mean) / self.std)
        normal = (below - below[0]) / (below[-1] - below[0])
        both = self.floor * share + (1 - self.floor) * normal
        k = torch.searchsorted(both, u).clamp(1, PLACES - 1)
        return levels[k - 1] + (levels[k] - levels[k - 1]) * (u - both[k - 1]) / (both[k] - both[k - 1])


@dataclass(frozen=True, kw_only=True)
class LogitNormalDensity(Density):
    """The density with logit t ~ N(mean, std^2), t in (0, 1), cut to the schedule's range (Esser et al. 2024, eq. 19).

    Raises:
        UserError: std is not above 0; or (on use) the times of the schedule are not inside (0, 1).
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self) -> None:
        _check_positive(self.std, "density logit_normal")

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        if schedule.t_min < 0 or schedule.t_max > 1:
            raise UserError(
                f"density logit_normal: the schedule's times are [{schedule.t_min:g}, {schedule.t_max:g}]; "
                "allowed: times in [0, 1]; try schedule=linear, trig or vp, or density=lognormal"
            )
        low, high = _at_ends(torch.logit, u, schedule)
        return _inside(_normal_between(u, self.mean, self.std, low, high).sigmoid(), schedule)


@dataclass(frozen=True, kw_only=True)
class CosineDensity(Density):
    """The density with nsr = tan(pi u/2), cut to the schedule's range: the noise levels of a cosine schedule.

    log nsr has the density sech(log nsr)/pi.
    """

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        low, high = _at_ends(lambda t: schedule.log_nsr(t).exp().atan(), u, schedule)
        return _inside(schedule.time_of_log_nsr((low + (high - low) * u).tan().log()), schedule)


@dataclass(frozen=True, kw_only=True)
class DiscreteDensity(Density):
    """A choice among the n times of a grid with equal chances, e.g. DDPM's 1000 steps or NCSN's noise levels.

    Args:
        grid: ``uniform`` on schedule=ddpm with n=1000 is Ho et al. 2020; ``log_nsr`` is Song and Ermon 2019.
        n: number of times, both ends of the schedule included.

    Raises:
        UserError: n is below 2.
    """

    grid: Grid
    n: int = 1000

    def __post_init__(self) -> None:
        if self.n < 2:
            raise UserError(f"density levels: n={self.n}; allowed: a whole number of at least 2")

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        times = self.grid.times(self.n - 1, schedule, schedule.t_min, schedule.t_max).to(u.device)
        return times[(u * self.n).long().clamp_max(self.n - 1)]


class RunningLoss(nn.Module):
    """A running mean of the squared loss in equal bins of u, which starts at one."""

    squares: Tensor

    def __init__(self, bins: int) -> None:
        super().__init__()
        self.register_buffer("squares", torch.ones(bins, dtype=torch.float64))


@dataclass(frozen=True, kw_only=True)
class LossAwareDensity(Density):
    """Noise levels in proportion to the root mean square of their loss (Nichol and Dhariwal 2021, eq. 18).

    The bins are equal in the u of a ``base`` density. P(bin) = (1 - floor) sqrt(m_bin)/sum + floor/bins, with m a
    running mean of loss^2. Losses are divided by P(bin) bins, so the objective stays the one of the base density, and
    only its variance falls.

    Args:
        base: the density that gives the objective.
        bins: number of bins of u.
        decay: decay of the running mean, for each observation of a bin.
        floor: the share of draws that come from ``base``.

    Raises:
        UserError: a number out of range.
    """

    base: Density = field(default_factory=UniformDensity)
    bins: int = 50
    decay: float = 0.99
    floor: float = 0.1
    running: RunningLoss = field(init=False, compare=False)

    def __post_init__(self) -> None:
        if not (1 <= self.bins <= 10**6 and 0 < self.decay < 1 and 0 < self.floor <= 1):
            raise UserError(
                f"density loss_aware: bins={self.bins}, decay={self.decay}, floor={self.floor}; "
                "allowed: bins from 1 to 1,000,000, 0 < decay < 1, 0 < floor <= 1"
            )
        object.__setattr__(self, "running", RunningLoss(self.bins))

    def shares(self) -> Tensor:
        """Return P(bin), float64 (bins,)."""
        root = self.running.squares.sqrt()
        return (1 - self.floor) * root / root.sum() + self.floor / self.bins

    def _place(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return the bin of u and the u of the base density, (B,), by the inverse CDF of a step function."""
        shares = self.shares()
        edges = shares.cumsum(0)
        k = torch.searchsorted(edges[:-1].contiguous(), u, right=True)
        return k, ((k + (u - (edges[k] - shares[k])) / shares[k]) / self.bins).clamp(0, 1)

    def time(self, u: Tensor, schedule: Schedule) -> Tensor:
        return self.base.time(self._place(u)[1], schedule)

    def importance(self, u: Tensor) -> Tensor:
        return 1 / (self.bins * self.shares()[self._place(u)[0]])

    def observe(self, u: Tensor, loss: Tensor) -> None:
        k, squares = self._place(u)[0], loss.detach().double().square()
        count = torch.bincount(k, minlength=self.bins)
        mean = torch.zeros_like(self.running.squares).index_add_(0, k, squares) / count.clamp_min(1)
        decay = self.decay**count
        self.running.squares.copy_(decay * self.running.squares + (1 - decay) * mean)

    def memory(self) -> nn.Module:
        return self.running


def _check_positive(std: float, name: str) -> None:
    if not std > 0:
        raise UserError(f"{name}: std={std}; allowed: a number above 0")


def _at_ends(function: Callable[[Tensor], Tensor], u: Tensor, schedule: Schedule) -> tuple[Tensor, Tensor]:
    """Return the values of a function of t at t_min and t_max, on the device of u."""
    low, high = function(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64, device=u.device))
    return low, high


def _normal_between(u: Tensor, mean: float, std: float, low: Tensor, high: Tensor) -> Tensor:
    """Return the u-quantile of N(mean, std^2) restricted to [low, high]."""
    below, above = ((end - mean) / (std * math.sqrt(2)) for end in (low, high))
    cdf_low, cdf_high = (1 + torch.erf(below)) / 2, (1 + torch.erf(above)) / 2
    cut = cdf_low + (cdf_high - cdf_low) * u
    return torch.minimum(torch.maximum(mean + std * torch.special.ndtri(cut), low), high)


def _inside(t: Tensor, schedule: Schedule) -> Tensor:
    """Return t in the schedule's range, which rounding may have left at an end."""
    return t.clamp(schedule.t_min, schedule.t_max)
