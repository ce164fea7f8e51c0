"""The probability-flow ODE as a map between data and latents, in both directions.

    encode: x_{t_min} = a(t_min) data -> x_{t_max} -> latent, in the unit of the prior        decode: its inverse

No noise is added, and there is no denoising at the end, so decode(encode(x)) = x up to the solver's error.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor

from dfm.basics.errors import UserError, unknown
from dfm.denoising.arguments import check_denoiser, check_finite, check_real, computable, device_of
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.paths.schedule import Schedule
from dfm.sampling.adaptive_solver import DormandPrince, FieldOf
from dfm.sampling.draw import check_count
from dfm.sampling.grids import Grid, LogNsrGrid
from dfm.sampling.steppers.base import OdeStepper
from dfm.sampling.steppers.ode import ODE_STEPPERS


@dataclass(frozen=True, kw_only=True)
class OdeMap:
    """The settings for solving an ODE along the path (config group ``flow``).

    Args:
        solver: ``euler``, ``midpoint``, ``heun``, ``rk4`` or ``rk5`` along the grid, or ``dopri5``, which controls the
            error of each sample.
        steps: number of moves of a grid solver (no effect on ``dopri5``).
        grid: places the times between the moves.
        rtol, atol: tolerances of ``dopri5``.

    Raises:
        UserError: the solver is unknown, steps is below one, or a tolerance of ``dopri5`` is not positive.
    """

    solver: str = "dopri5"
    steps: int = 64
    grid: Grid = field(default_factory=LogNsrGrid)
    rtol: float = 1e-5
    atol: float = 1e-5

    def __post_init__(self) -> None:
        if self.solver not in (*ODE_STEPPERS, "dopri5"):
            raise unknown("flow.solver", self.solver, (*ODE_STEPPERS, "dopri5"))
        if self.steps < 1:
            raise UserError(f"flow.steps={self.steps}; allowed: a whole number of at least 1")
        if self.adaptive:
            self._pair()  # to refuse bad tolerances now, before data and network are read

    @property
    def adaptive(self) -> bool:
        """Whether the solver chooses its own steps."""
        return self.solver == "dopri5"

    def unused_settings(self) -> dict[str, str]:
        """Return {setting: why it has no effect} for the settings of the other kind of solver."""
        if self.adaptive:
            reason = "on flow.solver=dopri5, which chooses its steps by flow.rtol and flow.atol"
            return dict.fromkeys(("steps", "grid"), reason)
        return dict.fromkeys(("rtol", "atol"), f"on flow.solver={self.solver}, which moves along flow.grid")

    def instead(self, setting: str) -> str:
        """Return the setting beside which this one, without effect here, has one."""
        return "solver=heun" if self.adaptive else "solver=dopri5"

    def carry(self, field_of: FieldOf, x: Tensor, schedule: Schedule, t_start: float, t_end: float) -> Tensor:
        """Return x (B, *D) at t_end, from x at t_start, along dx/dt = field(x, t), in either direction of time.

        Args:
            field_of: takes rows (int64) of the batch and returns the field of these samples.
        """
        if self.adaptive:
            *_, last = self._pair().solve(field_of, x, t_start, t_end)
            return last.x
        stepper: OdeStepper = ODE_STEPPERS[self.solver]()
        times = self.grid.times(self.steps, schedule, min(t_start, t_end), max(t_start, t_end))
        whole = field_of(torch.arange(len(x), device=x.device))
        for t, s in pairwise(times if t_start > t_end else times.flip(0)):
            x = stepper.step(whole, x, t, s)
        return x

    def _pair(self) -> DormandPrince:
        return DormandPrince(rtol=self.rtol, atol=self.atol)


@dataclass(frozen=True, kw_only=True)
class OdeEnd:
    """The end x (B, *D) of the ODE for a batch, and the mean number of evaluations per sample."""

    x: Tensor
    nfe: float


def encode_batch(denoiser: Denoiser, data: Tensor, flow: OdeMap) -> OdeEnd:
    """Return latents of data (B, *D), in the unit of the prior: they have its law if the model is right.

    If the data require a gradient, so do the latents.

    Raises:
        UserError: the data have another shape than the model, or are integer levels that were not dequantised; or the
            model is a few-step model without an ODE.
    """
    check_real(denoiser, "data", data)
    x, nfe = _along(denoiser, data * _data_scale(denoiser), flow, lambda d: (d.t_min, d.t_max))
    return OdeEnd(x=denoiser.noise_end.to_latent(x), nfe=nfe)


def decode_batch(denoiser: Denoiser, latent: Tensor, flow: OdeMap) -> OdeEnd:
    """Return data of latents (B, *D): the inverse of ``encode_batch``.

    Raises:
        UserError: the latents have another shape than the model, or are no real numbers; or the model is a few-step
            model without an ODE.
    """
    check_real(denoiser, "latents", latent)
    x, nfe = _along(denoiser, denoiser.noise_end.from_latent(latent), flow, lambda d: (d.t_max, d.t_min))
    return OdeEnd(x=x / _data_scale(denoiser), nfe=nfe)


def slerp(first: Tensor, second: Tensor, share: float) -> Tensor:
    """Return (sin((1 - s) w) z_0 + sin(s w) z_1)/sin w, with w the angle between z_0 and z_1 (Shoemake 1985).

    In many dimensions, points on the straight line between two normal draws have too small a norm; points on this arc
    are as typical as the ends. Where sin w is near zero, the straight line is used instead.

    Args:
        first, second: z_0 and z_1, (B, *D) each.
        share: s, from 0 to 1.
    """
    a, b = first.flatten(1).double(), second.flatten(1).double()
    cosine = (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)).clamp_min(1e-300)
    angle = cosine.clamp(-1, 1).acos()[:, None]
    small = angle.sin().abs() < 1e-6
    weights = [
        torch.where(small, torch.full_like(angle, part), (part * angle).sin() / torch.where(small, 1.0, angle.sin()))
        for part in (1 - share, share)
    ]
    return (weights[0] * a + weights[1] * b).reshape(first.shape).to(first)


def _along(
    denoiser: Denoiser, x: Tensor, flow: OdeMap, ends: Callable[[Denoiser], tuple[float, float]]
) -> tuple[Tensor, float]:
    """Solve the ODE from x (B, *D); return its end and the mean number of evaluations per sample."""
    calls = EvaluationCount()
    counted = denoiser.counted(calls)
    with torch.set_grad_enabled(torch.is_grad_enabled() and x.requires_grad):
        end = flow.carry(lambda rows: counted.select(rows).velocity, x, denoiser.schedule, *ends(denoiser))
    return end, calls.samples / len(x)


def _data_scale(denoiser: Denoiser) -> float:
    """Return a(t_min)."""
    return float(denoiser.schedule.ab(torch.tensor(denoiser.t_min, dtype=torch.float64))[0])


def encode(denoiser: Denoiser, data: Tensor, flow: OdeMap | None = None, batch_size: int = 256) -> Tensor:
    """Return latents (n, *D) of data (n, *D) along the probability-flow ODE, of the type of the data.

    The data are in the unit in which the model was trained; integer images must be dequantised. For a conditional
    model, pass ``denoiser.with_labels(labels)`` with the classes of the data. If the data require a gradient, so do the
    latents. The solver works in the type of the data, the network in that of its weights; so all is float64 for float64
    data and ``denoiser.double()``.

    Args:
        flow: how to solve the ODE; the default is Dormand-Prince with tolerances of 1e-5.

    Raises:
        UserError: the data have another shape than the model, are integer levels, or are not finite; there is not one
            label for each; or the model is a few-step model without an ODE.
    """
    return _public(encode_batch, denoiser, "data", data, flow, batch_size)


def decode(denoiser: Denoiser, latents: Tensor, flow: OdeMap | None = None, batch_size: int = 256) -> Tensor:
    """Return data (n, *D) of latents (n, *D): the inverse of ``encode``, with the same arguments and errors."""
    return _public(decode_batch, denoiser, "latents", latents, flow, batch_size)


def _public(
    follow: Callable[[Denoiser, Tensor, OdeMap], OdeEnd],
    denoiser: Denoiser,
    what: str,
    x: Tensor,
    flow: OdeMap | None,
    batch_size: int,
) -> Tensor:
    """Check the arguments of a public function, and return the ends of the ODE in the type of x."""
    check_denoiser(denoiser)
    check_real(denoiser, what, x)
    check_finite(what, x)
    check_count(len(x) or 1, batch_size)
    return in_batches(follow, denoiser, computable(x), flow or OdeMap(), batch_size).x.to(x.dtype)


def in_batches(
    follow: Callable[[Denoiser, Tensor, OdeMap], OdeEnd],
    denoiser: Denoiser,
    x: Tensor,
    flow: OdeMap,
    batch_size: int,
    advance: Callable[[int], None] = lambda count: None,
) -> OdeEnd:
    """Solve the ODE from x (n, *D), a batch at a time on the denoiser's device; return the ends on the CPU.

    Args:
        advance: is called with the number of rows done after each batch.
    """
    device, ends, evaluations = device_of(denoiser), [], 0.0
    for first in range(0, len(x), batch_size):
        index = torch.arange(first, min(first + batch_size, len(x)))
        part = denoiser.select(index)
        part = part if part.label is None else part.with_labels(part.label.to(device))
        end = follow(part, x[first : first + batch_size].to(device), flow)
        ends.append(end.x.cpu())
        evaluations += end.nfe * len(index)
        advance(len(index))
    return OdeEnd(x=torch.cat(ends), nfe=evaluations / len(x)) if ends else OdeEnd(x=x.clone(), nfe=0.0)
