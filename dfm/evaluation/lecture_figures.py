"""The numbers of the lecture's figures, for a denoiser of points in the plane. ``scripts/gallery.py`` draws them.

Each function computes one figure. It takes a denoiser, the data points (n, 2) and a seed, and returns dataclasses whose
tensors are float64 or float32 on the CPU. Times are chosen by their nsr in units of S, the standard deviation of the
data, because the picture dissolves between nsr = S/8 and 8 S on every schedule.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import NumberedDraws, Purpose, normal
from dfm.denoising.denoiser import Denoiser
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_preserving import VariancePreserving
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.base import Stepper
from dfm.sampling.steppers.ode import Heun
from dfm.sampling.steppers.stochastic import EulerMaruyama
from dfm.training.objectives.couplings import Coupling, IndependentCoupling, OptimalTransport

Extent = tuple[float, float, float, float]

# Frames whose sizes differ by less than this factor become one frame, so that the figures can be compared by eye.
COMPARABLE = 4.0


class Oracle(Protocol):
    """A denoiser with a known density."""

    def log_density(self, x: Tensor, t: float) -> Tensor:
        """Return log p_t(x) of x (B, 2), in nats, (B,)."""


@dataclass(frozen=True, kw_only=True)
class Cloud:
    """Points x_t (n, 2) at time t, with the frame (left, right, bottom, top) of the figure in the unit of x_t."""

    t: float
    nsr: float
    x: Tensor
    extent: Extent


@dataclass(frozen=True, kw_only=True)
class DenoisedCloud(Cloud):
    """Points x_t together with E[data | x_t] (n, 2) of each."""

    data: Tensor


@dataclass(frozen=True, kw_only=True)
class VectorField(Cloud):
    """Vectors (m, 2) at the points ``at`` (m, 2), together with draws x (n, 2) of the law that they belong to."""

    at: Tensor
    vectors: Tensor


@dataclass(frozen=True, kw_only=True)
class Heat:
    """log p_t, float64 (rows, columns), at the centres of the cells of a raster; the first row is the lowest."""

    t: float
    nsr: float
    log_density: Tensor
    extent: Extent


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Trajectories x (moves + 1, n, 2) from the noise end to the data end, with the nsr (moves + 1,) of each state."""

    name: str
    x: Tensor
    nsr: Tensor
    extent: Extent

    @property
    def bend(self) -> float:
        """Their length divided by the distance of their ends, both summed over n: 1 for straight lines."""
        return float(self.x.diff(dim=0).norm(dim=2).sum() / (self.x[-1] - self.x[0]).norm(dim=1).sum())


def times_between(denoiser: Denoiser, count: int, low: float, high: float) -> Tensor:
    """Return times with equal steps of log nsr, float64 (count,), from nsr = low S to high S inside the schedule."""
    ends = torch.tensor([denoiser.t_min, denoiser.t_max], dtype=torch.float64)
    first, last = denoiser.schedule.log_nsr(ends)
    bounds = torch.tensor([low, high], dtype=torch.float64).mul(denoiser.spec.std).log().clamp(first, last)
    log_nsr = torch.linspace(float(bounds[0]), float(bounds[1]), count, dtype=torch.float64)
    return denoiser.schedule.time_of_log_nsr(log_nsr).clamp(denoiser.t_min, denoiser.t_max)


def frames(schedule: Schedule, points: Tensor, times: Tensor) -> list[Extent]:
    """Return frames around x_t: a c +- sqrt((1.1 a r)^2 + (3.2 b)^2) in each coordinate, for data that fill c +- r.

    If their sizes are comparable (``COMPARABLE``), all frames are the smallest one that holds them all.
    """
    low, high = points.double().aminmax(dim=0)
    a, b = (c[:, None] for c in schedule.ab(times))
    centre, half = a * (low + high) / 2, torch.hypot(1.1 * a * (high - low) / 2, 3.2 * b)
    lower, upper = centre - half, centre + half
    if float(half.amax(1).max()) < COMPARABLE * float(half.amax(1).min()):
        lower, upper = lower.amin(0).expand(len(times), 2), upper.amax(0).expand(len(times), 2)
    return [
        (left, right, bottom, top) for (left, bottom), (right, top) in zip(lower.tolist(), upper.tolist(), strict=True)
    ]


def raster(extent: Extent, side: int) -> Tensor:
    """Return the centres of square cells in a frame, float64 (rows, columns, 2); the first row is the lowest.

    Args:
        side: the number of cells on the frame's longer side.
    """
    left, right, bottom, top = extent
    cell = max(right - left, top - bottom) / side
    columns, rows = max(1, round((right - left) / cell)), max(1, round((top - bottom) / cell))
    x = left + (right - left) * (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    y = bottom + (top - bottom) * (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)


def noising(denoiser: Denoiser, points: Tensor, seed: int = 0, count: int = 6) -> list[Cloud]:
    """Compute a noising chain of each point: at t_min, at count - 2 times where the picture dissolves, and at t_max.

    In y = x_t/a it is the lecture's chain y' = y + sqrt(nsr'^2 - nsr^2) z with fresh z, so every x_t has the law of
    a data + b z.
    """
    _check(denoiser, points)
    ends = torch.tensor([denoiser.t_min, denoiser.t_max], dtype=torch.float64)
    times = torch.cat([ends[:1], times_between(denoiser, count - 2, 1 / 8, 8), ends[1:]])
    y, nsr_before, clouds = points.double(), 0.0, []
    for k, (t, extent) in enumerate(zip(times, frames(denoiser.schedule, points, times), strict=True)):
        nsr = _nsr(denoiser.schedule, t)
        y = y + math.sqrt(max(0.0, nsr**2 - nsr_before**2)) * _noise(seed, len(points), k)
        clouds.append(Cloud(t=float(t), nsr=nsr, x=denoiser.schedule.ab(t)[0] * y, extent=extent))
        nsr_before = nsr
    return clouds


def reversal(denoiser: Denoiser, points: Tensor, seed: int = 0, count: int = 12, steps: int = 300) -> list[Paths]:
    """Compute trajectories from the same latents to data by the ODE (Heun) and by the reverse SDE (Euler-Maruyama)."""
    _check(denoiser, points)
    return [
        _paths(name, denoiser, stepper, _both_ends(denoiser, points), seed, count, steps)
        for name, stepper in (("ODE", Heun()), ("reverse SDE", EulerMaruyama()))
    ]


def flows(
    denoiser: Denoiser, points: Tensor, seed: int = 0, count: int = 3, side: int = 17, target: int = 0
) -> tuple[list[VectorField], list[VectorField]]:
    """Compute the velocity conditional on the point ``target`` and the marginal velocity, at times from noise to data.

    The conditional velocity is u = a' y + b' (x - a y)/b, with draws of N(a y, b^2). The marginal velocity is its
    posterior average, with draws of p_t. Both point from data to noise; samplers move against them.
    """
    _check(denoiser, points)
    times = times_between(denoiser, count, 1 / 3, 3).flip(0)
    conditional: list[VectorField] = []
    marginal: list[VectorField] = []
    for t, extent in zip(times, _frames_with_data(denoiser, points, times), strict=True):
        at, y = raster(extent, side).flatten(0, 1), points[target].double()
        (a, b), (da, db) = denoiser.schedule.ab(t), denoiser.schedule.derivatives(t)
        noise = _noise(seed, len(points), 0)
        for fields, draws, u in (
            (conditional, denoiser.schedule.mix(y, noise, t), da * y + db * (at - a * y) / b),
            (marginal, denoiser.schedule.mix(points, noise, t), denoiser.velocity(at, t)),
        ):
            nsr = _nsr(denoiser.schedule, t)
            fields.append(VectorField(t=float(t), nsr=nsr, x=draws, extent=extent, at=at, vectors=u))
    return conditional, marginal


def densities(denoiser: Denoiser, oracle: Oracle, points: Tensor, count: int = 6, side: int = 140) -> list[Heat]:
    """Compute log p_t as heat maps, from data to noise.

    Args:
        oracle: knows the law of the denoiser: a mixture, or the kernel density of a finite set.
    """
    _check(denoiser, points)
    times = times_between(denoiser, count, 1 / 12, 4)
    return [
        _heat(denoiser, oracle, t, extent, side)
        for t, extent in zip(times, frames(denoiser.schedule, points, times), strict=True)
    ]


def scores(
    denoiser: Denoiser, oracle: Oracle, points: Tensor, count: int = 3, fine: int = 140, side: int = 19
) -> list[tuple[Heat, VectorField]]:
    """Compute log p_t and its gradient, the score, from noise to data."""
    _check(denoiser, points)
    times, figures = times_between(denoiser, count, 1 / 6, 1.5).flip(0), []
    for t, extent in zip(times, frames(denoiser.schedule, points, times), strict=True):
        heat, at = _heat(denoiser, oracle, t, extent, fine), raster(extent, side).flatten(0, 1)
        vectors = denoiser.score(at, t)
        figures.append((heat, VectorField(t=heat.t, nsr=heat.nsr, x=at[:0], extent=extent, at=at, vectors=vectors)))
    return figures


def denoising(denoiser: Denoiser, points: Tensor, seed: int = 0, count: int = 4) -> list[DenoisedCloud]:
    """Compute noisy points x_t and E[data | x_t]: at little noise the points themselves, at much noise their mean."""
    _check(denoiser, points)
    times, figures = times_between(denoiser, count, 1 / 6, 2.5), []
    for t, extent in zip(times, _frames_with_data(denoiser, points, times), strict=True):
        x = denoiser.schedule.mix(points.double(), _noise(seed, len(points), 0), t)
        data, nsr = denoiser.data(x, t), _nsr(denoiser.schedule, t)
        figures.append(DenoisedCloud(t=float(t), nsr=nsr, x=x, extent=extent, data=data))
    return figures


def straightness(
    denoiser: Denoiser, points: Tensor, seed: int = 0, count: int = 30, batch: int = 512, steps: int = 200
) -> list[Paths]:
    """Compute how straight the trajectories from the same ``count`` latents are, for pairs and for flows.

    Pairs are straight lines from noise to data: independent pairs, and pairs by the exact transport plan of a batch of
    ``batch``. The flows solve the ODE on the linear path, whose velocity is the average of the crossing lines, and on
    the variance-preserving path.
    """
    _check(denoiser, points)
    linear, curved = denoiser.on_schedule(Linear()), denoiser.on_schedule(VariancePreserving())
    extent = _both_ends(linear, points)
    data = points[:batch].double()
    return [
        _pairs("independent pairs", IndependentCoupling(), denoiser, data, extent, seed, count),
        _paths("flow, linear path", linear, Heun(), extent, seed, count, steps),
        _paths("flow, variance preserving", curved, Heun(), extent, seed, count, steps),
        _pairs("optimal-transport pairs", OptimalTransport(), denoiser, data, extent, seed, count),
    ]


def _pairs(
    name: str, coupling: Coupling, denoiser: Denoiser, data: Tensor, extent: Extent, seed: int, count: int
) -> Paths:
    """Return the lines from the first ``count`` latents to their data, in a batch as large as the data."""
    latent = denoiser.prior.draw(NumberedDraws(seed, range(len(data))), (2,))
    row_of_latent = coupling.partners(data, latent, None, torch.Generator().manual_seed(seed)).argsort()[:count]
    ends = torch.tensor([torch.inf, 0.0], dtype=torch.float64)
    return Paths(name=name, x=torch.stack([latent[:count], data[row_of_latent]]), nsr=ends, extent=extent)


def _paths(name: str, denoiser: Denoiser, stepper: Stepper, extent: Extent, seed: int, count: int, steps: int) -> Paths:
    """Return the trajectories of a stepper from the first ``count`` latents, with equal steps of log nsr."""
    indices, sampler = range(count), GridSampler(stepper=stepper, steps=steps)
    states = [(start(denoiser, seed, indices, double=True), denoiser.t_max)]
    states += sampler.path(denoiser, states[0][0], seed, indices)
    times = torch.tensor([t for _, t in states], dtype=torch.float64)
    nsr = denoiser.schedule.log_nsr(times).exp()
    return Paths(name=name, x=torch.stack([x for x, _ in states]), nsr=nsr, extent=extent)


def _heat(denoiser: Denoiser, oracle: Oracle, t: Tensor, extent: Extent, side: int) -> Heat:
    """Return log p_t on the raster of a frame."""
    at = raster(extent, side)
    values = oracle.log_density(at.flatten(0, 1), float(t)).reshape(at.shape[:2])
    return Heat(t=float(t), nsr=_nsr(denoiser.schedule, t), log_density=values, extent=extent)


def _both_ends(denoiser: Denoiser, points: Tensor) -> Extent:
    """Return a frame for whole trajectories, or the frame of the data if the noise end is much larger."""
    ends = torch.tensor([denoiser.t_max, denoiser.t_min], dtype=torch.float64)
    return frames(denoiser.schedule, points, ends)[-1]


def _frames_with_data(denoiser: Denoiser, points: Tensor, times: Tensor) -> list[Extent]:
    """Return frames for x_t; they hold the data, too, if the sizes are comparable."""
    return frames(denoiser.schedule, points, torch.cat([times, times.new_tensor([denoiser.t_min])]))[:-1]


def _noise(seed: int, n: int, step: int) -> Tensor:
    """Draw standard normal noise float64 (n, 2); row i is a function of (seed, i, step)."""
    return normal(seed, range(n), (2,), Purpose.STEP, step)


def _nsr(schedule: Schedule, t: Tensor) -> float:
    """Return b/a at time t."""
    return float(schedule.log_nsr(t).exp())


def _check(denoiser: Denoiser, points: Tensor) -> None:
    """Refuse a denoiser or points that cannot be drawn in the plane.

    Raises:
        UserError: the denoiser or the points are not two-dimensional.
    """
    if denoiser.spec.shape != (2,) or points.ndim != 2 or points.shape[1] != 2 or len(points) == 0:
        raise UserError(
            f"figures: a denoiser of shape {denoiser.spec.shape} and points {tuple(points.shape)}; allowed: points in "
            "the plane, (2,) and (n, 2); try dataset=moons, checkerboard, eight_gaussians, swiss_roll or mixture"
        )
