"""The distance of two reverse processes in nats, by Girsanov's theorem in the variable log nsr."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, normal
from dfm.denoising.denoiser import Denoiser


@dataclass(frozen=True, kw_only=True)
class PathDivergence:
    """The KL divergence between the path laws of two reverse SDEs with w = g, without the part of their starts.

        KL = 1/2 int g^2 E|s_true - s_model|^2 dt = int E|noise_true - noise_model|^2 d(log nsr)

    The two forms are equal because g^2 dt = 2 b^2 d(log nsr) and s = -noise/b. The expectation is over x_t of the first
    model.

    Args:
        log_nsr: the noise levels, float64 (L,), increasing.
        density: E|noise_true - noise_model|^2 at each of them, in nats per unit of log nsr, (L,).
        total: the integral by the trapezoidal rule, in nats.
        stderr: the standard error of ``total`` over the examples.
    """

    log_nsr: Tensor
    density: Tensor
    total: float
    stderr: float


@torch.no_grad()
def path_divergence(
    true: Denoiser, model: Denoiser, data: Tensor, *, noise_levels: int = 64, seed: int = 0, noise: Tensor | None = None
) -> PathDivergence:
    """Return the path divergence of ``model`` from ``true`` on x_t = a data + b noise, exact if ``true`` is an oracle.

    Args:
        data: examples (n, *D) of the law of ``true``, in the unit of the model.
        noise_levels: number of noise levels of the quadrature, with equal steps of log nsr from t_min to t_max.
        noise: (n, *D); the default is drawn from ``seed``.

    Raises:
        UserError: fewer than two examples or noise levels; different schedules; or the noise is not standard normal or
            depends on the data.
    """
    z = normal(seed, range(len(data)), tuple(data.shape[1:]), Purpose.STEP) if noise is None else noise

    def square(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        return _square(true.noise(x, t) - model.noise(x, t))

    return _integrate(true, model, data, z.to(data), noise_levels, square)


@torch.no_grad()
def path_gain(
    first: Denoiser, second: Denoiser, data: Tensor, *, noise_levels: int = 64, seed: int = 0
) -> PathDivergence:
    """Return by how many nats ``second`` is nearer to the data's path than ``first``.

    It is the difference of their evidence bounds,

        int E|noise - noise_1|^2 - E|noise - noise_2|^2 d(log nsr) = KL(path, first) - KL(path, second)

    without the parts of their starts. The unknown true score is in both bounds and cancels.

    Args:
        data: examples (n, *D) of the true law, in the unit of the models.
        noise_levels: as in ``path_divergence``.

    Raises:
        UserError: as in ``path_divergence``.
    """
    z = normal(seed, range(len(data)), tuple(data.shape[1:]), Purpose.STEP).to(data)

    def difference(x: Tensor, t: Tensor, z: Tensor) -> Tensor:
        return _square(z - first.noise(x, t)) - _square(z - second.noise(x, t))

    return _integrate(first, second, data, z, noise_levels, difference)


def _integrate(
    first: Denoiser, second: Denoiser, data: Tensor, z: Tensor, count: int, value: Callable[..., Tensor]
) -> PathDivergence:
    """Return the integral over log nsr of value(x_t, t, noise), (B,), at ``count`` noise levels."""
    if len(data) < 2 or count < 2:
        raise UserError(f"path divergence of {len(data)} examples at {count} noise levels; allowed: at least 2 of each")
    if first.schedule != second.schedule:
        raise UserError("path divergence: two different schedules; try model.on_schedule(true.schedule)")
    for denoiser in (first, second):
        denoiser.require_linear_path("a path divergence")
    schedule = first.schedule
    t_min, t_max = max(first.t_min, second.t_min), min(first.t_max, second.t_max)
    ends = schedule.log_nsr(torch.tensor([t_min, t_max], dtype=torch.float64))
    log_nsr = torch.linspace(float(ends[0]), float(ends[1]), count, dtype=torch.float64)
    rows = []
    for t in schedule.time_of_log_nsr(log_nsr).clamp(t_min, t_max):
        rows.append(value(schedule.mix(data, z, t), t, z).cpu())
    values = torch.stack(rows)
    integrals = torch.trapezoid(values, log_nsr, dim=0)
    return PathDivergence(
        log_nsr=log_nsr,
        density=values.mean(1),
        total=float(integrals.mean()),
        stderr=float(integrals.std()) / len(integrals) ** 0.5,
    )


def _square(x: Tensor) -> Tensor:
    """Return |x|^2, float64 (B,)."""
    return x.double().square().flatten(1).sum(1)
