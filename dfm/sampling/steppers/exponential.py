"""Steps that solve the linear part of the reverse process exactly and ask the denoiser for E[data | x_t].

With l = -log nsr, D = E[data | x_t], k = 1 + strength^2 and h = l_s - l_t > 0, the reverse SDE with w = strength g has
the solution (Lu et al. 2022, DPM-Solver++, eq. 9, and its SDE form; written here for any path a, b)

    x_s = (b_s/b_t) e^{-strength^2 h} x_t + a_s int_0^h k e^{k (v - h)} D(l_t + v) dv
          + b_s sqrt(1 - e^{-2 strength^2 h}) z

and the methods differ in the polynomial that stands for D. Strength 0 is the ODE, 1 the exact time reversal.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.denoising.denoiser import Denoiser
from dfm.paths.schedule import Schedule
from dfm.sampling.steppers.base import Stepper, Trajectory
from dfm.sampling.steppers.stochastic import Strength, checked_strength, strength_at

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
Known = tuple[float, Tensor]  # l and D there


@dataclass(frozen=True, kw_only=True)
class Move:
    """The linear part of a move: how x, the integral of D and fresh noise enter, and h."""

    keep: float
    data: float
    noise: float
    h: float
    k: float

    @classmethod
    def between(cls, schedule: Schedule, t: Tensor, s: Tensor, strength: float) -> "Move":
        """From t to s."""
        (_, b_t), (a_s, b_s) = schedule.ab(t), schedule.ab(s)
        h, square = float(schedule.log_nsr(t) - schedule.log_nsr(s)), strength**2
        return cls(
            keep=float(b_s / b_t) * math.exp(-square * h),
            data=float(a_s),
            noise=float(b_s) * math.sqrt(-math.expm1(-2 * square * h)),
            h=h,
            k=1 + square,
        )

    def apply(self, x: Tensor, integral: Tensor, trip: Trajectory) -> Tensor:
        """x at s, given int_0^h k e^{k (v - h)} D dv; noise is drawn only if it enters."""
        moved = self.keep * x + self.data * integral
        return moved + self.noise * trip.noise() if self.noise else moved

    @property
    def weight(self) -> float:
        """The integral for D = 1: 1 - e^{-k h}."""
        return -math.expm1(-self.k * self.h)

    def integral(self, known: Sequence[Known], start: float) -> Tensor:
        """The integral of the polynomial through the points ``known``, l counted from ``start`` = l_t.

        Weights c_j with sum_j c_j v_j^m = int_0^h k e^{k (v - h)} v^m dv, the right side by Gauss-Legendre quadrature.
        """
        v = (_NODES + 1) / 2
        density = self.k * self.h * np.exp(self.k * self.h * (v - 1)) * _WEIGHTS / 2
        moments = [float(density @ v**m) for m in range(len(known))]  # in units of h^m
        places = np.array([(level - start) / self.h for level, _ in known])
        weights = np.linalg.solve(np.vander(places, increasing=True).T, np.array(moments))
        total = float(weights[0]) * known[0][1]
        for c, (_, data) in zip(weights[1:], known[1:], strict=True):
            total = total + float(c) * data
        return total


@dataclass(frozen=True, kw_only=True)
class Ddim(Stepper):
    """a_s D + sqrt(b_s^2 - r^2) E[noise|x_t] + r z with r = eta b_s sqrt(1 - (nsr_s/nsr_t)^2) (DDIM, eqs. 12 and 16).

    eta 0 is deterministic (and the first step of DPM-Solver++), 1 the posterior of DDPM: ancestral sampling.

    Raises:
        UserError: eta is not in [0, 1].
    """

    order: ClassVar[int] = 1
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"ddim: eta={self.eta}; allowed: 0 (deterministic) to 1 (ancestral)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        data, noise = denoiser.expectations(x, t)
        a, b = (float(c) for c in denoiser.schedule.ab(s))
        kept = float((2 * (denoiser.schedule.log_nsr(s) - denoiser.schedule.log_nsr(t))).exp())
        fresh = self.eta**2 * (1 - kept)
        moved = a * data + b * math.sqrt(1 - fresh) * noise
        if not self.eta:
            return moved
        denoiser.check_score()
        return moved + b * math.sqrt(fresh) * trip.noise()


@dataclass(frozen=True, kw_only=True)
class DpmSolver2M(Stepper):
    """DPM-Solver++(2M): D + (D - D_before) h/(2 h_before) for the data (Lu et al. 2022, algorithm 2): one evaluation.

    With strength above 0 it is SDE-DPM-Solver++(2M), whose mean and variance on Gaussian data are of order 2 as well.
    """

    order: ClassVar[int] = 2
    strength: Strength = 0.0

    def __post_init__(self) -> None:
        checked_strength(self.strength, "dpmpp_2m")

    @property
    def stochastic(self) -> bool:
        return self.strength != 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        strength = float(strength_at(self.strength, denoiser.schedule, t))
        move = Move.between(denoiser.schedule, t, s, strength)
        if strength:
            denoiser.check_score()
        level, data = -float(denoiser.schedule.log_nsr(t)), denoiser.data(x, t)
        guess = data
        if trip.past:
            before, last = trip.past[-1]
            guess = data + move.h / (2 * (level - before)) * (data - last)
        trip.past.append((level, data))
        return move.apply(x, move.weight * guess, trip)


@dataclass(frozen=True, kw_only=True)
class DpmSolver3M(Stepper):
    """DPM-Solver++(3M): the quadratic through the last three D, integrated exactly: one evaluation.

    The published update gives the second difference half its weight, which makes it of order 2 with a small constant:
    on grids whose last steps are long in log nsr it can be nearer the truth than this one. The first step takes a
    second evaluation, since its error would stay.
    """

    order: ClassVar[int] = 3

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        move, level = Move.between(denoiser.schedule, t, s, 0.0), -float(denoiser.schedule.log_nsr(t))
        trip.past.append((level, denoiser.data(x, t)))
        known = list(trip.past)[-3:]
        moved = move.apply(x, move.integral(known, level), trip)
        if len(known) > 1:
            return moved
        ahead = (level + move.h, denoiser.data(moved, s))
        return move.apply(x, move.integral([*known, ahead], level), trip)


@dataclass(frozen=True, kw_only=True)
class UniPC(Stepper):
    """Predict through the last ``depth`` D, then correct with the D found there (Zhao et al. 2023): one evaluation.

    The corrector of a step is applied when the next one asks for D at its end, so it costs nothing; with all weights
    solved for exactly the choice of their B(h) has no effect, and the method is of order depth + 1.

    Raises:
        UserError: depth is not 1 or 2 (a third needs a better start than this method has).
    """

    depth: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 2:
            raise UserError(f"unipc: depth={self.depth}; allowed: 1 or 2")

    @property
    def order(self) -> int:  # type: ignore[override]
        """depth + 1."""
        return self.depth + 1

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        level, data = -float(denoiser.schedule.log_nsr(t)), denoiser.data(x, t)
        past = list(trip.past)[-self.depth :]
        if past:
            start, came_from, before = past[-1]
            known = [(place, value) for _, _, (place, value) in past]
            move = Move.between(denoiser.schedule, start, t, 0.0)
            x = move.apply(came_from, move.integral([*known, (level, data)], before[0]), trip)
        trip.past.append((t, x, (level, data)))
        known = [value for _, _, value in list(trip.past)[-self.depth :]]
        move = Move.between(denoiser.schedule, t, s, 0.0)
        return move.apply(x, move.integral(known, level), trip)
