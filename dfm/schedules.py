"""The path from data to noise: x_t = a(t) data + b(t) noise, noise ~ N(0, I).

Time grows with noise: ``t_min`` is the data side, ``t_max`` the prior side. A schedule has four verbs (a, b and their
derivatives) and the inverse of its noise-to-signal ratio; all else follows from them here, once:

    nsr = b / a                                   log_nsr(t) strictly increasing
    f   = a'/a,   g^2 = 2 b (b' - f b)            dx = f x dt + g dB has the marginals of x_t

Two schedules at equal nsr differ by a rescaling of x only: x / a is the same variable. Times are float64.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.errors import UserError

Coefficients = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """x_t = a(t) data + b(t) noise for t in [t_min, t_max]; t and results are float64 of shape () or (B,).

    Raises:
        UserError: when built with an empty or singular range of times, naming the end that is wrong.
    """

    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        if not self.t_min < self.t_max:
            raise UserError(f"schedule: t_min={self.t_min} and t_max={self.t_max}; allowed: t_min < t_max")
        ends = torch.tensor([self.t_min, self.t_max], dtype=torch.float64)
        for name, t, level in zip(("t_min", "t_max"), ends, self.log_nsr(ends), strict=True):
            if not bool(torch.isfinite(level)):
                raise UserError(
                    f"schedule: log(b/a) at {name}={float(t):g} is {float(level)}; allowed: finite values; "
                    f"try a {name} a little further inside the range"
                )

    @abstractmethod
    def ab(self, t: Tensor) -> Coefficients:
        """(a(t), b(t)): what multiplies data and noise."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> Coefficients:
        """(a'(t), b'(t))."""

    @abstractmethod
    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        """The t with log(b(t)/a(t)) = log_nsr."""

    def log_nsr(self, t: Tensor) -> Tensor:
        """log(b/a), the network's measure of time: natural logarithm of the noise-to-signal ratio."""
        a, b = self.ab(t)
        return b.log() - a.log()

    def drift(self, t: Tensor) -> Tensor:
        """f = a'/a of the noising equation dx = f x dt + g dB."""
        return self.derivatives(t)[0] / self.ab(t)[0]

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """g^2 = 2 b (b' - f b) of the noising equation dx = f x dt + g dB."""
        _, b = self.ab(t)
        _, db = self.derivatives(t)
        return 2 * b * (db - self.drift(t) * b)


@dataclass(frozen=True, kw_only=True)
class OrnsteinUhlenbeck(Schedule):
    """a = e^-t, b = sqrt(1 - e^-2t): the lecture's process dx = -x dt + sqrt2 dB (its eq. 1)."""

    t_min: float = 5e-7
    t_max: float = 10.0

    def ab(self, t: Tensor) -> Coefficients:
        return (-t).exp(), (-torch.expm1(-2 * t)).sqrt()

    def derivatives(self, t: Tensor) -> Coefficients:
        a, b = self.ab(t)
        return -a, a * a / b

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return torch.nn.functional.softplus(2 * log_nsr) / 2


@dataclass(frozen=True, kw_only=True)
class VariancePreserving(Schedule):
    """a = e^-h, b = sqrt(1 - a^2) with h(t) = t^2 (B - b0)/4 + t b0/2: Song et al. 2021 (Score SDE), eq. 33."""

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

    def _h(self, t: Tensor) -> Tensor:
        return t * t * (self.beta_max - self.beta_min) / 4 + t * self.beta_min / 2

    def ab(self, t: Tensor) -> Coefficients:
        h = self._h(t)
        return (-h).exp(), (-torch.expm1(-2 * h)).sqrt()

    def derivatives(self, t: Tensor) -> Coefficients:
        a, b = self.ab(t)
        dh = t * (self.beta_max - self.beta_min) / 2 + self.beta_min / 2
        return -dh * a, dh * a * a / b

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        # h = log(1 + nsr^2)/2 (as softplus, which does not overflow), then the root of a quadratic in the form that
        # does not cancel near t = 0.
        h = torch.nn.functional.softplus(2 * log_nsr) / 2
        linear = self.beta_min / 2
        return 2 * h / (linear + (linear**2 + (self.beta_max - self.beta_min) * h).sqrt())


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
class Edm(Schedule):
    """a = 1, b = t: time is the noise level (Karras et al. 2022, table 1)."""

    t_min: float = 0.002
    t_max: float = 80.0

    def ab(self, t: Tensor) -> Coefficients:
        return torch.ones_like(t), t

    def derivatives(self, t: Tensor) -> Coefficients:
        return torch.zeros_like(t), torch.ones_like(t)

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return log_nsr.exp()


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
