"""Steppers of the probability-flow ODE dx/dt = u(x, t) that need only the velocity u."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.denoising.denoiser import Denoiser
from dfm.sampling.adaptive_solver import DORMAND_PRINCE, combine
from dfm.sampling.steppers.base import LONGEST_MEMORY, Field, OdeStepper, Stepper, Trajectory


@dataclass(frozen=True, kw_only=True)
class Euler(OdeStepper):
    """Euler's method: x + h u(x, t) with h = s - t; one evaluation."""

    order: ClassVar[int] = 1

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        return x + float(s - t) * field(x, t)


@dataclass(frozen=True, kw_only=True)
class Midpoint(OdeStepper):
    """The midpoint rule: x + h u(x + h/2 u(x, t), t + h/2); two evaluations."""

    order: ClassVar[int] = 2

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = float(s - t)
        return x + h * field(x + h / 2 * field(x, t), (t + s) / 2)


@dataclass(frozen=True, kw_only=True)
class Heun(OdeStepper):
    """The trapezoidal rule with an Euler predictor (Karras et al. 2022, algorithm 1); two evaluations."""

    order: ClassVar[int] = 2

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = float(s - t)
        at_t = field(x, t)
        return x + h / 2 * (at_t + field(x + h * at_t, s))


@dataclass(frozen=True, kw_only=True)
class RK4(OdeStepper):
    """The classical Runge-Kutta method; four evaluations."""

    order: ClassVar[int] = 4

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h, middle = float(s - t), (t + s) / 2
        k1 = field(x, t)
        k2 = field(x + h / 2 * k1, middle)
        k3 = field(x + h / 2 * k2, middle)
        k4 = field(x + h * k3, s)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)


@dataclass(frozen=True, kw_only=True)
class RK5(OdeStepper):
    """The fifth-order formula of Dormand and Prince 1980 without step size control; six evaluations."""

    order: ClassVar[int] = 5

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h, slopes = float(s - t), [field(x, t)]
        for node, weights in zip(DORMAND_PRINCE.nodes[1:-1], DORMAND_PRINCE.stages[1:-1], strict=True):
            slopes.append(field(x + h * combine(weights, slopes), t + node * (s - t)))
        return x + h * combine(DORMAND_PRINCE.stages[-1], slopes)


@dataclass(frozen=True, kw_only=True)
class AdamsBashforth(Stepper):
    """A multistep method: x + int_t^s of the polynomial through the last ``order`` velocities.

    (Hairer, Norsett and Wanner 1993, section III.5.) It works on any grid and takes one evaluation per
    move. RK4 makes the first order - 1 moves, because the error of a lower order there would remain until the end.
    (With equal steps, order 4 is the multistep rule of PNDM, Liu et al. 2022.)

    Raises:
        UserError: order is not 1 to 4.
    """

    order: int = 3  # type: ignore[misc]

    def __post_init__(self) -> None:
        if not 1 <= self.order <= LONGEST_MEMORY:
            raise UserError(f"adams_bashforth: order={self.order}; allowed: 1 to {LONGEST_MEMORY}")

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        trajectory.past.append((float(t), denoiser.velocity(x, t)))
        past = list(trajectory.past)[-self.order :]
        if len(past) < self.order:
            return RK4().step(denoiser.velocity, x, t, s)
        h, nodes = float(s - t), np.array([time - float(t) for time, _ in past])
        moments = [h ** (k + 1) / (k + 1) for k in range(self.order)]  # int_0^h v^k dv
        weights = np.linalg.solve(
            np.vander(nodes / h, increasing=True).T, np.array(moments) / h ** np.arange(self.order)
        )
        return x + sum(w * u for w, (_, u) in zip(weights, past, strict=True))


ODE_STEPPERS: dict[str, type[OdeStepper]] = {"euler": Euler, "midpoint": Midpoint, "heun": Heun, "rk4": RK4, "rk5": RK5}
