"""One move of a sampler from time t to the earlier time s. Each states its order: the power of the step in its error.

``move`` is what the sampling loop calls. Methods for a plain ODE dx/dt = field(x, t) need no more than the field, and
write ``step`` instead; the likelihood integrates its own field with the same steppers.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dfm.broadcast import per_sample
from dfm.denoiser import Denoiser
from dfm.errors import UserError

Field = Callable[[Tensor, Tensor], Tensor]


class Stepper(ABC):
    """Moves x (B, *D) from t to s, both float64 scalars.

    Attributes:
        order: strong order for an ODE method, weak order for an SDE method.
    """

    order: ClassVar[int]

    @abstractmethod
    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        """x at s; ``noise()`` gives a fresh standard normal of the shape of x."""


class OdeStepper(Stepper):
    """A step of dx/dt = field(x, t), in either direction of time."""

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s."""

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        return self.step(denoiser.velocity, x, t, s)


@dataclass(frozen=True, kw_only=True)
class Euler(OdeStepper):
    """x + h u(x, t) with h = s - t: one evaluation."""

    order: ClassVar[int] = 1

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + float(s - t) * field(x, t)


@dataclass(frozen=True, kw_only=True)
class Midpoint(OdeStepper):
    """x + h u(x + h/2 u(x, t), t + h/2): two evaluations."""

    order: ClassVar[int] = 2

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = float(s - t)
        return x + h * field(x + h / 2 * field(x, t), (t + s) / 2)


@dataclass(frozen=True, kw_only=True)
class Heun(OdeStepper):
    """The trapezoidal rule with an Euler predictor (Karras et al. 2022, algorithm 1): two evaluations."""

    order: ClassVar[int] = 2

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = float(s - t)
        at_t = field(x, t)
        return x + h / 2 * (at_t + field(x + h * at_t, s))


@dataclass(frozen=True, kw_only=True)
class RK4(OdeStepper):
    """The classical Runge-Kutta method: four evaluations."""

    order: ClassVar[int] = 4

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h, middle = float(s - t), (t + s) / 2
        k1 = field(x, t)
        k2 = field(x + h / 2 * k1, middle)
        k3 = field(x + h / 2 * k2, middle)
        k4 = field(x + h * k3, s)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@dataclass(frozen=True, kw_only=True)
class EulerMaruyama(Stepper):
    """dx = (u - w^2/2 score) dt + w dB_reverse with w = strength * g: one evaluation.

    Any w(t) >= 0 keeps the marginals: strength 1 is the time reversal (Anderson 1982; the lecture's eq. 4), 0 the ODE.
    """

    order: ClassVar[int] = 1
    strength: float = 1.0

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise UserError(f"euler_maruyama: strength={self.strength}; allowed: a number of at least 0")

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, noise: Callable[[], Tensor]) -> Tensor:
        velocity, score = denoiser.velocity_and_score(x, t)
        w_squared = self.strength**2 * denoiser.schedule.diffusion_squared(t)
        drift = velocity - per_sample(w_squared / 2, x) * score
        return x + float(s - t) * drift + per_sample((w_squared * (t - s)).sqrt(), x) * noise()


ODE_STEPPERS: dict[str, type[OdeStepper]] = {"euler": Euler, "midpoint": Midpoint, "heun": Heun, "rk4": RK4}
