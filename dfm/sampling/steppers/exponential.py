"""Steppers that solve the linear part of the reverse process exactly; the denoiser gives them E[data | x_t].

With l = -log nsr, D = E[data | x_t], k = 1 + strength^2 and h = l_s - l_t > 0, the reverse SDE with w = strength g has
the solution (Lu et al. 2022, DPM-Solver++, eq. 9, and its SDE form; here for any path a, b)

    x_s = (b_s/b_t) e^{-strength^2 h} x_t + a_s int_0^h k e^{k (v - h)} D(l_t + v) dv
          + b_s sqrt(1 - e^{-2 strength^2 h}) z

The methods differ in the polynomial that approximates D. Strength 0 is the ODE, strength 1 the exact time reversal.
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
from dfm.sampling.steppers.stochastic import Strength, check_strength, strength_at

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(24)
Node = tuple[float, Tensor]  # l, and D at this l


@dataclass(frozen=True, kw_only=True)
class Move:
    """The coefficients of one move: x_s = keep x_t + data (the integral of D) + noise z.

    Args:
        keep, data, noise: these coefficients.
        h: l_s - l_t.
        k: 1 + strength^2.
    """

    keep: float
    data: float
    noise: float
    h: float
    k: float

    @classmethod
    def between(cls, schedule: Schedule, t: Tensor, s: Tensor, strength: float) -> "Move":
        """Return the coefficients for a move from t to s."""
        (_, b_t), (a_s, b_s) = schedule.ab(t), schedule.ab(s)
        h, square = float(schedule.log_nsr(t) - schedule.log_nsr(s)), strength**2
        return cls(
            keep=float(b_s / b_t) * math.exp(-square * h),
            data=float(a_s),
            noise=float(b_s) * math.sqrt(-math.expm1(-2 * square * h)),
            h=h,
            k=1 + square,
        )

    def apply(self, x: Tensor, integral: Tensor, trajectory: Trajectory) -> Tensor:
        """Return x at s, given int_0^h k e^{k (v - h)} D dv. Noise is drawn only if its coefficient is not zero."""
        mean = self.keep * x + self.data * integral
        return mean + self.noise * trajectory.noise() if self.noise else mean

    @property
    def weight(self) -> float:
        """The integral of D = 1: 1 - e^{-k h}."""
        return -math.expm1(-self.k * self.h)

    def integral(self, nodes: Sequence[Node], start: float) -> Tensor:
        """Return the integral of the polynomial through ``nodes``, with l measured from ``start`` = l_t.

        It is sum_j c_j D_j with sum_j c_j v_j^m = int_0^h k e^{k (v - h)} v^m dv; the right side by Gauss-Legendre
        quadrature.
        """
        v = (_NODES + 1) / 2
        density = self.k * self.h * np.exp(self.k * self.h * (v - 1)) * _WEIGHTS / 2
        moments = [float(density @ v**m) for m in range(len(nodes))]  # in units of h^m
        places = np.array([(log_snr - start) / self.h for log_snr, _ in nodes])
        weights = np.linalg.solve(np.vander(places, increasing=True).T, np.array(moments))
        total = float(weights[0]) * nodes[0][1]
        for c, (_, data) in zip(weights[1:], nodes[1:], strict=True):
            total = total + float(c) * data
        return total


@dataclass(frozen=True, kw_only=True)
class Ddim(Stepper):
    """DDIM: a_s D + sqrt(b_s^2 - r^2) E[noise|x_t] + r z with r = eta b_s sqrt(1 - (nsr_s/nsr_t)^2).

    (Song et al. 2021, DDIM, eqs. 12 and 16.) eta = 0 is deterministic, and is the first step of DPM-Solver++. eta = 1
    is the posterior of DDPM, that is, ancestral sampling. The move to a = 1, b = 0 gives D, so N steps start from N
    noise levels, and 1000 steps of ancestral sampling are the 1000 evaluations of DDPM.

    Raises:
        UserError: eta is not in [0, 1].
    """

    order: ClassVar[int] = 1
    ends_in_data: ClassVar[bool] = True
    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"ddim: eta={self.eta}; allowed: 0 (deterministic) to 1 (ancestral)")

    @property
    def stochastic(self) -> bool:
        return self.eta > 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        data, noise = denoiser.expectations(x, t)
        a, b = (float(c) for c in denoiser.schedule.ab(s))
        ratio = float((2 * (denoiser.schedule.log_nsr(s) - denoiser.schedule.log_nsr(t))).exp())
        fresh = self.eta**2 * (1 - ratio)  # r^2/b_s^2
        mean = a * data + b * math.sqrt(1 - fresh) * noise
        if not self.eta:
            return mean
        denoiser.check_score()
        return mean + b * math.sqrt(fresh) * trajectory.noise()


@dataclass(frozen=True, kw_only=True)
class DpmSolver2M(Stepper):
    """DPM-Solver++(2M): D + (D - D_before) h/(2 h_before) in place of D (Lu et al. 2022, algorithm 2); one evaluation.

    With strength above 0 it is SDE-DPM-Solver++(2M). Its mean and variance on Gaussian data are of order 2, too.
    """

    order: ClassVar[int] = 2
    strength: Strength = 0.0

    def __post_init__(self) -> None:
        check_strength(self.strength, "dpmpp_2m")

    @property
    def stochastic(self) -> bool:
        return self.strength != 0

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        strength = float(strength_at(self.strength, denoiser.schedule, t))
        move = Move.between(denoiser.schedule, t, s, strength)
        if strength:
            denoiser.check_score()
        log_snr, data = -float(denoiser.schedule.log_nsr(t)), denoiser.data(x, t)
        estimate = data
        if trajectory.past:
            log_snr_before, data_before = trajectory.past[-1]
            estimate = data + move.h / (2 * (log_snr - log_snr_before)) * (data - data_before)
        trajectory.past.append((log_snr, data))
        return move.apply(x, move.weight * estimate, trajectory)


@dataclass(frozen=True, kw_only=True)
class DpmSolver3M(Stepper):
    """DPM-Solver++(3M): the exact integral of the quadratic polynomial through the last three D; one evaluation.

    The published update gives the second difference half of its weight. It therefore has order 2, with a small
    constant; on grids whose last steps are long in log nsr, its error can be smaller than the error of this method. The
    first move takes a second evaluation, because its error would remain until the end.
    """

    order: ClassVar[int] = 3

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        move, log_snr = Move.between(denoiser.schedule, t, s, 0.0), -float(denoiser.schedule.log_nsr(t))
        trajectory.past.append((log_snr, denoiser.data(x, t)))
        nodes = list(trajectory.past)[-3:]
        x_s = move.apply(x, move.integral(nodes, log_snr), trajectory)
        if len(nodes) > 1:
            return x_s
        ahead = (log_snr + move.h, denoiser.data(x_s, s))
        return move.apply(x, move.integral([*nodes, ahead], log_snr), trajectory)


@dataclass(frozen=True, kw_only=True)
class UniPC(Stepper):
    """UniPC: predict with the last ``depth`` values of D, then correct with the D at the new x; one evaluation.

    (Zhao et al. 2023.) The next move evaluates D at the new x in any case, and the correction waits for it. So it costs
    nothing. All weights are solved for exactly, so their choice of B(h) has no effect, and the order is depth + 1.

    Raises:
        UserError: depth is not 1 or 2 (depth 3 would need a more accurate first move).
    """

    depth: int = 2

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= 2:
            raise UserError(f"unipc: depth={self.depth}; allowed: 1 or 2")

    @property
    def order(self) -> int:  # type: ignore[override]
        """The order of the method, depth + 1."""
        return self.depth + 1

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        log_snr, data = -float(denoiser.schedule.log_nsr(t)), denoiser.data(x, t)
        past = list(trajectory.past)[-self.depth :]
        if past:
            t_before, x_before, (log_snr_before, _) = past[-1]
            nodes = [node for _, _, node in past]
            move = Move.between(denoiser.schedule, t_before, t, 0.0)
            x = move.apply(x_before, move.integral([*nodes, (log_snr, data)], log_snr_before), trajectory)
        trajectory.past.append((t, x, (log_snr, data)))
        nodes = [node for _, _, node in list(trajectory.past)[-self.depth :]]
        move = Move.between(denoiser.schedule, t, s, 0.0)
        return move.apply(x, move.integral(nodes, log_snr), trajectory)
