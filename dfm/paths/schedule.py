"""The path from data to noise: x_t = a(t) data + b(t) noise, noise ~ N(0, I).

Time grows with noise: ``t_min`` is the data side, ``t_max`` the prior side. A schedule has three functions: a and b,
their derivatives, and the inverse of the noise-to-signal ratio (nsr). Everything else follows from them, here:

    nsr = b / a                                   log_nsr(t) is strictly increasing
    f   = a'/a,   g^2 = 2 b (b' - f b)            dx = f x dt + g dB has the marginals of x_t

At equal nsr, two schedules differ only by a factor of x: x / a is the same variable. Times are float64.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample

Coefficients = tuple[Tensor, Tensor]

CHECKED_TIMES = 257


@dataclass(frozen=True, kw_only=True)
class Schedule(ABC):
    """The path x_t = a(t) data + b(t) noise for t in [t_min, t_max]; t and results are float64 of shape () or (B,).

    Attributes:
        has_langevin_time: whether t is the time of dX = -grad f(X) dt + sqrt2 dB, f = |x|^2/2 on this path.

    Raises:
        UserError: the range of times is empty, or among 257 times there is one where log_nsr is not finite (at an end)
            or does not increase.
    """

    has_langevin_time: ClassVar[bool] = False

    t_min: float
    t_max: float

    def __post_init__(self) -> None:
        if not self.t_min < self.t_max:
            raise UserError(f"{self._name}: t_min={self.t_min} and t_max={self.t_max}; allowed: t_min < t_max")
        t = torch.linspace(self.t_min, self.t_max, CHECKED_TIMES, dtype=torch.float64)
        noise_levels = self.log_nsr(t)
        for end, place in (("t_min", 0), ("t_max", -1)):
            if not bool(torch.isfinite(noise_levels[place])):
                inside = t[torch.isfinite(noise_levels)]
                way = f"schedule.{end}={float(inside[place]):.6g}" if len(inside) else "another schedule"
                raise UserError(
                    f"{self._name}: log(b/a) at {end}={float(t[place]):g} is {float(noise_levels[place])}; "
                    f"allowed: finite values; try {way}"
                )
        falls = (~(noise_levels.diff() > 0)).nonzero().flatten().tolist()
        if falls:
            k = falls[0]
            raise UserError(
                f"{self._name}: log(b/a) goes from {float(noise_levels[k]):g} at t={float(t[k]):g} to "
                f"{float(noise_levels[k + 1]):g} at t={float(t[k + 1]):g}; allowed: strictly increasing, "
                "so that more time is more noise"
            )

    @property
    def _name(self) -> str:
        return f"schedule {type(self).__name__}"

    @abstractmethod
    def ab(self, t: Tensor) -> Coefficients:
        """Return (a(t), b(t)), the factors of data and noise."""

    @abstractmethod
    def derivatives(self, t: Tensor) -> Coefficients:
        """Return (a'(t), b'(t))."""

    @abstractmethod
    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        """Return the t with log(b(t)/a(t)) = log_nsr."""

    def log_nsr(self, t: Tensor) -> Tensor:
        """Return log(b/a), the natural logarithm of the noise-to-signal ratio: the time that the network sees."""
        a, b = self.ab(t)
        return b.log() - a.log()

    def drift_coefficient(self, t: Tensor) -> Tensor:
        """Return f = a'/a of the noising equation dx = f x dt + g dB."""
        return self.derivatives(t)[0] / self.ab(t)[0]

    def diffusion_squared(self, t: Tensor) -> Tensor:
        """Return g^2 = 2 b (b' - f b) of the noising equation dx = f x dt + g dB."""
        _, b = self.ab(t)
        _, db = self.derivatives(t)
        return 2 * b * (db - self.drift_coefficient(t) * b)

    def mix(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return x_t = a(t) data + b(t) noise.

        Args:
            data, noise: (B, *D), or shapes that broadcast to it.
            t: () or (B,).

        Raises:
            UserError: t has any other shape.
        """
        return weighted_sum(self.ab(t), data, noise)

    def velocity(self, data: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """Return dx_t/dt = a'(t) data + b'(t) noise; arguments and errors as for ``mix``."""
        return weighted_sum(self.derivatives(t), data, noise)


def weighted_sum(coefficients: Coefficients, data: Tensor, noise: Tensor) -> Tensor:
    """Return p data + q noise, (B, *D), for coefficients (p, q) of shape () or (B,).

    Each coefficient is cast to the type and device of the tensor that it multiplies.

    Raises:
        UserError: a coefficient has any other shape.
    """
    p, q = coefficients
    return per_sample(p, data) * data + per_sample(q, noise) * noise
