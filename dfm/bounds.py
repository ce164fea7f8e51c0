"""How far two reverse processes are from each other, in nats: Girsanov's theorem on the noise axis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.denoiser import Denoiser
from dfm.errors import UserError
from dfm.seeding import Purpose, normal


@dataclass(frozen=True, kw_only=True)
class PathDivergence:
    """KL between the path laws of two reverse SDEs with w = g, without the part of their starts.

        KL = 1/2 int g^2 E|s_true - s_model|^2 dt = int E|noise_true - noise_model|^2 d(log nsr)

    since g^2 dt = 2 b^2 d(log nsr) and s = -noise/b. The expectation is over x_t of the first model.

    Args:
        log_nsr: levels, float64 (L,), increasing.
        density: E|noise_true - noise_model|^2 at each, nats per unit of log nsr, (L,).
        total: the integral by the trapezoidal rule, nats.
        stderr: of ``total``, over the examples.
    """

    log_nsr: Tensor
    density: Tensor
    total: float
    stderr: float


@torch.no_grad()
def path_divergence(
    true: Denoiser, model: Denoiser, data: Tensor, *, levels: int = 64, seed: int = 0, noise: Tensor | None = None
) -> PathDivergence:
    """The path divergence of ``model`` from ``true`` on x_t = a data + b noise, exact where ``true`` is an oracle.

    Args:
        data: examples (n, *D) of the law of ``true``, in the unit of the model.
        levels: noise levels of the quadrature, equal in log nsr from t_min to t_max.
        noise: (n, *D), drawn from ``seed`` unless given.

    Raises:
        UserError: fewer than two examples or levels, or different schedules.
    """
    if len(data) < 2 or levels < 2:
        raise UserError(f"path divergence of {len(data)} examples at {levels} levels; allowed: at least two of each")
    if true.schedule != model.schedule:
        raise UserError("path divergence: two schedules; try model.on(true.schedule)")
    schedule = true.schedule
    t_min, t_max = max(true.t_min, model.t_min), min(true.t_max, model.t_max)
    ends = schedule.log_nsr(torch.tensor([t_min, t_max], dtype=torch.float64))
    log_nsr = torch.linspace(float(ends[0]), float(ends[1]), levels, dtype=torch.float64)
    z = normal(seed, range(len(data)), tuple(data.shape[1:]), Purpose.STEP) if noise is None else noise
    z = z.to(data)
    rows = []
    for t in schedule.time_of_log_nsr(log_nsr).clamp(t_min, t_max):
        a, b = (float(c) for c in schedule.ab(t))
        x = a * data + b * z
        rows.append((true.noise(x, t) - model.noise(x, t)).double().square().flatten(1).sum(1).cpu())
    square = torch.stack(rows)
    each = torch.trapezoid(square, log_nsr, dim=0)
    return PathDivergence(
        log_nsr=log_nsr, density=square.mean(1), total=float(each.mean()), stderr=float(each.std()) / len(each) ** 0.5
    )
