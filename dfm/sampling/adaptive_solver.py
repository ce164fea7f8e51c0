"""An embedded Runge-Kutta pair with a step size of its own for every sample.

A sample's trajectory does not depend on its neighbours: each has its own time, step and error norm, all float64, and
leaves the batch when it arrives. (One step size for a whole batch, the usual way, makes an image's likelihood depend
on the images it is scored with, and costs every sample the steps of the hardest.)
"""

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
    """An explicit embedded pair: stage i is at t + nodes[i] h, and the last row of ``stages`` makes the new x.

    Args:
        error: weights of the new x minus those of its companion of order one less.
        order: of the new x.
        last_is_first: whether the last stage is evaluated at the new x, so that it is the first of the next step.
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
# Heun's method with Euler's inside it.
HEUN_EULER = Tableau(
    nodes=(0.0, 1.0), stages=((), (1.0,), (1 / 2, 1 / 2)), error=(-1 / 2, 1 / 2), order=2, last_is_first=False
)


@dataclass
class Progress:
    """State of a solve: x (B, *D), times t float64 (B,), and how many samples have arrived."""

    x: Tensor
    t: Tensor
    arrived: int


@dataclass(frozen=True, kw_only=True)
class EmbeddedPair:
    """dx/dt = field(x, t) with local error below atol + rtol |x| (root mean square per sample).

    Attributes:
        tableau: the pair.
        name: as in configurations.

    Args:
        rtol, atol: relative and absolute tolerance.
        max_steps: attempts after which the solve is given up.

    Raises:
        UserError: a tolerance is not positive; or, on use, ``max_steps`` attempts or a vanishing step did not suffice.
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
        """Integrate from t_start to t_end, yielding after every attempt; the last yield has all samples at t_end.

        Args:
            field_of: rows (int64) of the batch -> their field, (x, t) -> dx/dt with t float64 (len(rows),).
            x: (B, *D), not modified.
        """
        x, t = x.clone(), torch.full((len(x),), t_start, dtype=torch.float64, device=x.device)
        active = torch.arange(len(x), device=x.device)
        slope = field_of(active)(x, t)
        h = self._first_step(field_of(active), x, slope, t, t_end)
        for _ in range(self.max_steps):
            h[active] = _clip_to_end(h[active], t[active], t_end)
            new, new_slope, error = self._attempt(field_of(active), x[active], slope[active], t[active], h[active])
            accept = error <= 1
            moved = active[accept]
            x[moved] = new[accept]
            t[moved] = _arrive(t[moved] + h[moved], t_end)
            h[active] *= (0.9 * error.clamp_min(1e-10) ** (-1 / self.tableau.order)).clamp(0.2, 5.0)
            active = active[t[active] != t_end]
            self._next_slopes(field_of, x, t, slope, moved, None if new_slope is None else new_slope[accept], t_end)
            yield Progress(x=x, t=t, arrived=len(x) - len(active))
            if len(active) == 0:
                return
            self._refuse_vanishing(h[active], t[active], t_end - t_start)
        raise UserError(
            f"{self.name}: {len(active)} of {len(x)} samples did not arrive in max_steps={self.max_steps} attempts; "
            "try a larger rtol and atol"
        )

    def _attempt(
        self, field: Field, x: Tensor, slope: Tensor, t: Tensor, h: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor]:
        """One step of every sample: the new x, the slope there where the pair has it, and the error as a share of what
        is tolerated (B,).
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
        self, field_of: FieldOf, x: Tensor, t: Tensor, slope: Tensor, moved: Tensor, known: Tensor | None, t_end: float
    ) -> None:
        """Put the slopes at the new points of the samples ``moved`` into ``slope``, asking for them if need be."""
        if known is not None:
            slope[moved] = known
            return
        going_on = moved[t[moved] != t_end]
        if len(going_on):
            slope[going_on] = field_of(going_on)(x[going_on], t[going_on])

    def _norm(self, value: Tensor, size: Tensor) -> Tensor:
        """Root mean square of value/(atol + rtol size) over each sample, float64 (B,); infinite where not finite."""
        ratio = (value / (self.atol + self.rtol * size)).flatten(1).double()
        return torch.nan_to_num(ratio.square().mean(1).sqrt(), nan=torch.inf)

    def _first_step(self, field: Field, x: Tensor, slope: Tensor, t: Tensor, t_end: float) -> Tensor:
        """The starting step, signed, float64 (B,) (Hairer, Norsett, Wanner 1993, II.4)."""
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

    def _refuse_vanishing(self, h: Tensor, t: Tensor, span: float) -> None:
        # A step so small that t + h == t can never arrive: float32 noise in the field is larger than the tolerance.
        if bool((h.abs() < 1e-14 * abs(span)).any()):
            where = float(t[h.abs().argmin()])
            raise UserError(
                f"{self.name}: the step vanished at t={where:.6g} with rtol={self.rtol:g}, atol={self.atol:g}; "
                "try larger tolerances or float64"
            )


@dataclass(frozen=True, kw_only=True)
class DormandPrince(EmbeddedPair):
    """Dormand-Prince 5(4): six evaluations a step."""

    tableau: ClassVar[Tableau] = DORMAND_PRINCE
    name: ClassVar[str] = "dopri5"


@dataclass(frozen=True, kw_only=True)
class BogackiShampine(EmbeddedPair):
    """Bogacki-Shampine 3(2): three evaluations a step."""

    tableau: ClassVar[Tableau] = BOGACKI_SHAMPINE
    name: ClassVar[str] = "bosh3"


@dataclass(frozen=True, kw_only=True)
class HeunEuler(EmbeddedPair):
    """Heun-Euler 2(1): two evaluations a step, for wide tolerances."""

    tableau: ClassVar[Tableau] = HEUN_EULER
    name: ClassVar[str] = "heun_euler"


def combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    """sum_i w_i k_i; weights of zero are skipped."""
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        if weight:
            total = total + weight * slope
    return total


def _clip_to_end(h: Tensor, t: Tensor, t_end: float) -> Tensor:
    return torch.where(h.abs() < (t_end - t).abs(), h, t_end - t)


def _arrive(t: Tensor, t_end: float) -> Tensor:
    """Rounding in t + (t_end - t) must not leave a sliver to be stepped again."""
    near = (t - t_end).abs() <= 4e-16 * max(1.0, abs(t_end))
    return torch.where(near, torch.full_like(t, t_end), t)
