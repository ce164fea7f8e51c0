"""Embedded Runge-Kutta pairs that choose a step size for each sample.

A sample's trajectory does not depend on the other samples of its batch. Each sample has its own time, step size and
error norm, all float64, and leaves the batch when it reaches the end. (The usual way is one step size for the whole
batch. The likelihood of an image then depends on the images scored with it, and every sample needs as many steps as
the hardest one.)
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample

Field = Callable[[Tensor, Tensor], Tensor]
FieldOf = Callable[[Tensor], Field]


@dataclass(frozen=True, kw_only=True)
class Tableau:
    """The coefficients of an explicit embedded Runge-Kutta pair.

    Args:
        nodes: stage i is evaluated at time t + nodes[i] h.
        stages: the weights of the earlier slopes for each stage; the last row gives the new x.
        error: the weights of the new x minus the weights of the companion solution, whose order is one lower.
        order: the order of the new x.
        last_is_first: whether the last stage is evaluated at the new x, so that it is the first stage of the next step.
    """

    nodes: tuple[float, ...]
    stages: tuple[tuple[float, ...], ...]
    error: tuple[float, ...]
    order: int
    last_is_first: bool


# Dormand and Prince 1980, table 2 (RK5(4)7M).
DORMAND_PRINCE = Tableau(
    nodes=(0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0),
    stages=(
        (),
        (1 / 5,),
        (3 / 40, 9 / 40),
        (44 / 45, -56 / 15, 32 / 9),
        (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
        (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
        (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
    ),
    error=(71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40),
    order=5,
    last_is_first=True,
)
# Bogacki and Shampine 1989.
BOGACKI_SHAMPINE = Tableau(
    nodes=(0.0, 1 / 2, 3 / 4, 1.0),
    stages=((), (1 / 2,), (0.0, 3 / 4), (2 / 9, 1 / 3, 4 / 9)),
    error=(-5 / 72, 1 / 12, 1 / 9, -1 / 8),
    order=3,
    last_is_first=True,
)
# Heun's method; the companion solution is Euler's method.
HEUN_EULER = Tableau(
    nodes=(0.0, 1.0), stages=((), (1.0,), (1 / 2, 1 / 2)), error=(-1 / 2, 1 / 2), order=2, last_is_first=False
)


@dataclass
class Progress:
    """The state of a solution: x (B, *D), the times t float64 (B,), and how many samples have reached the end."""

    x: Tensor
    t: Tensor
    arrived: int


@dataclass(frozen=True, kw_only=True)
class EmbeddedPair:
    """A solver of dx/dt = field(x, t) with local error below atol + rtol |x| (root mean square over each sample).

    Attributes:
        tableau: the coefficients of the pair.
        name: the solver's name in configurations.

    Args:
        rtol, atol: relative and absolute tolerance.
        max_steps: how many steps are tried before the solver gives up.

    Raises:
        UserError: a tolerance is not positive. ``solve`` raises it where ``max_steps`` steps do not reach the end, or
            where the step size becomes too small to change the time.
    """

    tableau: ClassVar[Tableau]
    name: ClassVar[str]
    rtol: float = 1e-5
    atol: float = 1e-5
    max_steps: int = 10_000

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0):
            raise UserError(f"{self.name}: rtol={self.rtol}, atol={self.atol}; allowed: numbers above 0")

    def solve(self, field_of: FieldOf, x: Tensor, t_start: float, t_end: float) -> Iterator[Progress]:
        """Integrate from t_start to t_end. Yield after every step tried; at the last yield all samples are at t_end.

        Args:
            field_of: takes rows (int64) of the batch and returns the field of these samples: (x, t) -> dx/dt, with t
                float64 (len(rows),).
            x: (B, *D); it is not modified. If it requires a gradient, so do the solutions; the step sizes are then
                constants of the gradient.
        """
        x, t = x.clone(), torch.full((len(x),), t_start, dtype=torch.float64, device=x.device)
        active = torch.arange(len(x), device=x.device)
        slope = field_of(active)(x, t)
        with torch.no_grad():
            h = self._first_step(field_of(active), x, slope, t, t_end)
        last = torch.zeros_like(h)
        for _ in range(self.max_steps):
            h[active] = _clip_to_end(h[active], t[active], t_end)
            new, new_slope, error = self._attempt(field_of(active), x[active], slope[active], t[active], h[active])
            last[active] = error
            accept = error <= 1
            rows = active[accept]
            x = _with_rows(x, rows, new[accept])
            t[rows] = _arrive(t[rows] + h[rows], t_end)
            h[active] *= (0.9 * error.clamp_min(1e-10) ** (-1 / self.tableau.order)).clamp(0.2, 5.0)
            active = active[t[active] != t_end]
            slope = self._next_slopes(
                field_of, x, t, slope, rows, None if new_slope is None else new_slope[accept], t_end
            )
            yield Progress(x=x, t=t, arrived=len(x) - len(active))
            if len(active) == 0:
                return
            self._refuse_vanishing(h[active], t[active], last[active], abs(t_end - t_start))
        raise UserError(
            f"{self.name}: {len(active)} of {len(x)} samples did not reach the end in max_steps={self.max_steps} "
            f"steps; try max_steps={100 * self.max_steps}, or a larger rtol and atol"
        )

    def _attempt(
        self, field: Field, x: Tensor, slope: Tensor, t: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """Try one step of every sample.

        Returns:
            the new x; the slope there, or None if the pair does not give it; and the error divided by the tolerance,
            float64 (B,).
        """
        pair, slopes, step, new = self.tableau, [slope], per_sample(h, x), x
        for node, weights in zip(pair.nodes[1:], pair.stages[1:], strict=False):
            new = x + step * combine(weights, slopes)
            slopes.append(field(new, t + node * h))
        if not pair.last_is_first:
            new = x + step * combine(pair.stages[-1], slopes)
        error = self._norm(step * combine(pair.error, slopes), torch.maximum(x.abs(), new.abs()))
        return new, slopes[-1] if pair.last_is_first else None, error

    def _next_slopes(
        self,
        field_of: FieldOf,
        x: Tensor,
        t: Tensor,
        slope: Tensor,
        rows: Tensor,
        new_slope: Tensor | None,
        t_end: float,
    ) -> Tensor:
        """Return ``slope`` with the slopes at the new points of the samples ``rows``.

        Args:
            new_slope: these slopes; None: evaluate the field for the samples that are not at t_end.
        """
        if new_slope is not None:
            return _with_rows(slope, rows, new_slope)
        unfinished = rows[t[rows] != t_end]
        if not len(unfinished):
            return slope
        return _with_rows(slope, unfinished, field_of(unfinished)(x[unfinished], t[unfinished]))

    def _norm(self, value: Tensor, size: Tensor) -> Tensor:
        """Return the root mean square of value/(atol + rtol size) over each sample, float64 (B,); infinity for NaN."""
        ratio = (value / (self.atol + self.rtol * size)).detach().flatten(1).double()
        return torch.nan_to_num(ratio.square().mean(1).sqrt(), nan=torch.inf)

    def _first_step(self, field: Field, x: Tensor, slope: Tensor, t: Tensor, t_end: float) -> Tensor:
        """Return the first step size with its sign, float64 (B,) (Hairer, Norsett, Wanner 1993, section II.4)."""
        size, direction = x.abs(), torch.sign(t_end - t)
        position, speed = self._norm(x, size), self._norm(slope, size)
        guess = torch.where((position < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * position / speed)
        guess = torch.minimum(guess, (t_end - t).abs())
        ahead = x + per_sample(direction * guess, x) * slope
        bend = self._norm(field(ahead, t + direction * guess) - slope, size) / guess
        steepest = torch.maximum(speed, bend)
        better = torch.where(
            steepest <= 1e-15, (guess * 1e-3).clamp_min(1e-6), (0.01 / steepest) ** (1 / self.tableau.order)
        )
        return direction * torch.minimum(100 * guess, better)

    def _refuse_vanishing(self, h: Tensor, t: Tensor, error: Tensor, span: float) -> None:
        """Refuse a step so short that t + h == t, from which the solver never reaches the end.

        It happens where the field is not finite, or where the tolerance is below the rounding errors of a float32
        field. Such errors grow as h, which tells the tolerance at which they leave ``max_steps`` equal steps.

        Args:
            error: of the last steps, divided by the tolerance, (B,).
        """
        if not bool((h.abs() < 1e-14 * span).any()):
            return
        row = int(h.abs().argmin())
        where, factor = float(t[row]), float(error[row] * span / (self.max_steps * h[row].abs()))
        if not math.isfinite(factor):
            raise UserError(
                f"{self.name}: the field is not finite near t={where:.6g}, however short the step; allowed: a model "
                "with finite outputs; from Python, try denoiser.double() with x.double()"
            )
        least = type(self).rtol  # for the bends of the field; without an error in the last step there is no more to say
        enough = (max(least, factor * tolerance) for tolerance in (self.rtol, self.atol))
        rtol, atol = (10.0 ** math.ceil(math.log10(tolerance)) for tolerance in enough)
        raise UserError(
            f"{self.name}: the step size became too small at t={where:.6g} with rtol={self.rtol:g}, "
            f"atol={self.atol:g}, which are below the rounding errors; try rtol={rtol:g} and atol={atol:g}, or from "
            "Python denoiser.double() with x.double()"
        )


@dataclass(frozen=True, kw_only=True)
class DormandPrince(EmbeddedPair):
    """The pair of Dormand and Prince, orders 5 and 4: six evaluations per step."""

    tableau: ClassVar[Tableau] = DORMAND_PRINCE
    name: ClassVar[str] = "dopri5"


@dataclass(frozen=True, kw_only=True)
class BogackiShampine(EmbeddedPair):
    """The pair of Bogacki and Shampine, orders 3 and 2: three evaluations per step."""

    tableau: ClassVar[Tableau] = BOGACKI_SHAMPINE
    name: ClassVar[str] = "bosh3"


@dataclass(frozen=True, kw_only=True)
class HeunEuler(EmbeddedPair):
    """The pair of Heun and Euler, orders 2 and 1: two evaluations per step; for large tolerances."""

    tableau: ClassVar[Tableau] = HEUN_EULER
    name: ClassVar[str] = "heun_euler"


def combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """Return sum_i w_i k_i, without the terms whose weight is zero."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total + weight * slope
    return total


def _with_rows(x: Tensor, rows: Tensor, new: Tensor) -> Tensor:
    """Return x with these rows; x itself, changed, if no gradient is wanted."""
    if torch.is_grad_enabled() and (x.requires_grad or new.requires_grad):
        return x.index_copy(0, rows, new)
    x[rows] = new
    return x


def _clip_to_end(h: Tensor, t: Tensor, t_end: float) -> Tensor:
    """Return the step size h, or t_end - t where h would go beyond the end."""
    return torch.where(h.abs() < (t_end - t).abs(), h, t_end - t)


def _arrive(t: Tensor, t_end: float) -> Tensor:
    """Return t, set to t_end where the two differ by rounding only: t + (t_end - t) need not equal t_end."""
    near = (t - t_end).abs() <= 4e-16 * max(1.0, abs(t_end))
    return torch.where(near, torch.full_like(t, t_end), t)
