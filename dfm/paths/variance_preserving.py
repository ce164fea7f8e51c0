"""Paths that preserve variance: a = e^-h, b = sqrt(1 - e^-2h) for an increasing ``damping`` h(t).

They are all one path, the Ornstein-Uhlenbeck process, with different clocks h. A new one needs its clock h, the rate h'
and the inverse of h. ``SubVariancePreserving`` has the clock of ``VariancePreserving`` but b = 1 - a^2.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.schedule import Coefficients, Schedule

BISECTIONS = 54


@dataclass(frozen=True, kw_only=True)
class Preserving(Schedule):
    """The path a = e^-h, b = sqrt(1 - a^2), so that a' = -h' a and b' = h' a^2/b."""

    @abstractmethod
    def damping(self, t: Tensor) -> Tensor:
        """Return h(t) = -log a, which increases from 0."""

    @abstractmethod
    def rate(self, t: Tensor) -> Tensor:
        """Return h'(t)."""

    @abstractmethod
    def time_of_damping(self, h: Tensor) -> Tensor:
        """Return the t with h(t) = h."""

    def ab(self, t: Tensor) -> Coefficients:
        h = self.damping(t)
        return (-h).exp(), (-torch.expm1(-2 * h)).sqrt()

    def derivatives(self, t: Tensor) -> Coefficients:
        a, b = self.ab(t)
        dh = self.rate(t)
        return -dh * a, dh * a * a / b

    def log_nsr(self, t: Tensor) -> Tensor:
        # We do not use a: it underflows long before its logarithm does.
        h = self.damping(t)
        return h + (-torch.expm1(-2 * h)).log() / 2

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        # h = log(1 + nsr^2)/2, written as a softplus, which does not overflow
        return self.time_of_damping(torch.nn.functional.softplus(2 * log_nsr) / 2)


@dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeck(Preserving):
    """The lecture's process dx = -x dt + sqrt2 dB (its eq. 1): h = t, a = e^-t, b = sqrt(1 - e^-2t)."""

    has_langevin_time: ClassVar[bool] = True

    t_min: float = 5e-7
    t_max: float = 10.0

    def damping(self, t: Tensor) -> Tensor:
        return t

    def rate(self, t: Tensor) -> Tensor:
        return torch.ones_like(t)

    def time_of_damping(self, h: Tensor) -> Tensor:
        return h


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(Preserving):
    """The path of Song et al. 2021 (Score SDE), eq. 33: h = t^2 (B - b0)/4 + t b0/2.

    The noise rate beta grows linearly from b0 = beta_min to B = beta_max.

    Raises:
        UserError: 0 <= beta_min <= beta_max does not hold, or beta_max is 0.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    t_min: float = 1e-5
    t_max: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.beta_min <= self.beta_max or self.beta_max == 0:
            raise UserError(
                f"schedule vp: beta_min={self.beta_min}, beta_max={self.beta_max}; "
                "allowed: 0 <= beta_min <= beta_max, beta_max > 0"
            )
        super().__post_init__()

    def damping(self, t: Tensor) -> Tensor:
        return t * t * (self.beta_max - self.beta_min) / 4 + t * self.beta_min / 2

    def rate(self, t: Tensor) -> Tensor:
        return t * (self.beta_max - self.beta_min) / 2 + self.beta_min / 2

    def time_of_damping(self, h: Tensor) -> Tensor:
        # This form of the root of the quadratic does not cancel near t = 0.
        linear = self.beta_min / 2
        return 2 * h / (linear + (linear**2 + (self.beta_max - self.beta_min) * h).sqrt())


@dataclass(frozen=True, kw_only=True)
class SubVariancePreserving(VariancePreserving):
    """The path with a as in ``vp`` and b = 1 - a^2: less noise than ``vp`` at every time (Song et al. 2021, eq. 29)."""

    t_min: float = 1e-3

    def ab(self, t: Tensor) -> Coefficients:
        h = self.damping(t)
        return (-h).exp(), -torch.expm1(-2 * h)

    def derivatives(self, t: Tensor) -> Coefficients:
        a, _ = self.ab(t)
        dh = self.rate(t)
        return -dh * a, 2 * dh * a * a

    def log_nsr(self, t: Tensor) -> Tensor:
        h = self.damping(t)
        return h + (-torch.expm1(-2 * h)).log()

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return self.time_of_damping((log_nsr.exp() / 2).asinh())  # nsr = 1/a - a = 2 sinh h


@dataclass(frozen=True, kw_only=True)
class Cosine(Preserving):
    """The path a = cos(phi)/cos(phi_0), phi = (t + s)/(1 + s) pi/2, phi_0 = phi(0) (Nichol and Dhariwal 2021, eq. 17).

    Raises:
        UserError: s is not positive.
    """

    s: float = 0.008
    t_min: float = 1e-4
    t_max: float = 0.999

    def __post_init__(self) -> None:
        if not self.s > 0:
            raise UserError(f"schedule cosine: s={self.s}; allowed: a number above 0; try schedule.s=0.008")
        super().__post_init__()

    @property
    def _turn(self) -> float:
        return math.pi / 2 / (1 + self.s)

    def damping(self, t: Tensor) -> Tensor:
        # We write cos phi_0 - cos phi as a product of sines: the difference would cancel at small t.
        start, half = self.s * self._turn, t * (self._turn / 2)
        return -torch.log1p(-2 * (start + half).sin() * half.sin() / math.cos(start))

    def rate(self, t: Tensor) -> Tensor:
        return self._turn * ((t + self.s) * self._turn).tan()

    def time_of_damping(self, h: Tensor) -> Tensor:
        return ((-h).exp() * math.cos(self.s * self._turn)).acos() / self._turn - self.s


@dataclass(frozen=True, kw_only=True)
class Ddpm(Preserving):
    """The chain a_k = sqrt(prod_{j<=k} (1 - beta_j)), b_k = sqrt(1 - a_k^2), k = 1 .. N (Ho et al. 2020, section 2).

    Between whole steps h is a monotone cubic (Fritsch and Butland 1984), so the noise levels of the chain are points of
    a smooth path. If the rate of noise jumped at every step, ODE solvers would lose their order. ``grid=integers`` uses
    whole steps only.

    Args:
        beta: ``linear`` from beta_min to beta_max (Ho et al.), ``cosine`` (Nichol and Dhariwal, at most 0.999), or
            ``sigmoid`` from beta_min to beta_max (over -6 .. 6).
        steps: N.

    Raises:
        UserError: betas are outside (0, 1), or times are outside (0, steps].
    """

    beta: Literal["linear", "cosine", "sigmoid"] = "linear"
    steps: int = 1000
    beta_min: float = 1e-4
    beta_max: float = 0.02
    t_min: float = 1.0
    t_max: float = 1000.0

    def __post_init__(self) -> None:
        if not 0 < self.beta_min <= self.beta_max < 1:
            raise UserError(
                f"schedule ddpm: beta_min={self.beta_min}, beta_max={self.beta_max}; "
                "allowed: 0 < beta_min <= beta_max < 1"
            )
        if not 0 < self.t_min < self.t_max <= self.steps:
            raise UserError(
                f"schedule ddpm: t_min={self.t_min:g}, t_max={self.t_max:g} with steps={self.steps}; "
                "allowed: 0 < t_min < t_max <= steps"
            )
        super().__post_init__()

    @cached_property
    def betas(self) -> Tensor:
        """beta_1 .. beta_N, float64 (N,)."""
        if self.beta == "linear":
            return torch.linspace(self.beta_min, self.beta_max, self.steps, dtype=torch.float64)
        if self.beta == "sigmoid":
            rise = torch.linspace(-6, 6, self.steps, dtype=torch.float64).sigmoid()
            return self.beta_min + (self.beta_max - self.beta_min) * rise
        share = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        alpha_bar = ((share + 0.008) / 1.008 * (math.pi / 2)).cos() ** 2
        return (1 - alpha_bar[1:] / alpha_bar[:-1]).clamp_max(0.999)

    @cached_property
    def _knots(self) -> Tensor:
        """h at k = 0 .. N."""
        return torch.cat([torch.zeros(1, dtype=torch.float64), (-torch.log1p(-self.betas) / 2).cumsum(0)])

    @cached_property
    def _slopes(self) -> Tensor:
        """h' at k = 0 .. N: the harmonic means of the rates on both sides, so that the cubics increase."""
        rates = self._knots.diff()
        inner = 2 / (1 / rates[1:] + 1 / rates[:-1])
        return torch.cat([rates[:1], inner, rates[-1:]])

    def damping(self, t: Tensor) -> Tensor:
        k = self._interval(t)
        return self._cubic(k, t - k)

    def rate(self, t: Tensor) -> Tensor:
        k = self._interval(t)
        s, (_, rise, left, right) = t - k, self._piece(k)
        return left + s * (2 * (3 * rise - 2 * left - right) + 3 * s * (left + right - 2 * rise))

    def time_of_damping(self, h: Tensor) -> Tensor:
        """Return the t with h(t) = h, by bisection inside its interval."""
        k = (torch.searchsorted(self._knots.to(h.device), h.contiguous()) - 1).clamp(0, self.steps - 1)
        low, high = torch.zeros_like(h), torch.ones_like(h)
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            above = self._cubic(k, middle) > h
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return k + (low + high) / 2

    def _interval(self, t: Tensor) -> Tensor:
        """Return the k with k <= t <= k + 1."""
        return t.floor().long().clamp(0, self.steps - 1)

    def _piece(self, k: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return h(k), h(k + 1) - h(k), h'(k), h'(k + 1)."""
        knots, slopes = self._knots.to(k.device), self._slopes.to(k.device)
        return knots[k], knots[k + 1] - knots[k], slopes[k], slopes[k + 1]

    def _cubic(self, k: Tensor, s: Tensor) -> Tensor:
        """Return h(k + s): the cubic with the values and slopes of h at both ends of [k, k + 1]."""
        low, rise, left, right = self._piece(k)
        return low + s * (left + s * (3 * rise - 2 * left - right + s * (left + right - 2 * rise)))
