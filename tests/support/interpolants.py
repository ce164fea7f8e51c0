"""The exact interpolant denoiser of a Gaussian."""

import torch
from torch import Tensor

from dfm.data.dataset import DatasetSpec
from dfm.denoising.interpolant import InterpolantDenoiser
from dfm.denoising.predictions import Velocity
from dfm.paths.interpolant_latents import RootLatent
from dfm.paths.schedule import Schedule

M, S = 0.4, 0.6
SPEC = DatasetSpec(name="g", shape=(2,), levels=None, num_classes=0, mean=M, std=S)
LATENT = RootLatent(scale=0.8)


def moments(schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_t = a data + b noise + c z."""
    (a, b), c = schedule.ab(t), LATENT.c(schedule, t)
    return a * M, a**2 * S**2 + b**2 + c**2


def exact(schedule: Schedule) -> InterpolantDenoiser:
    """All three parts are jointly Gaussian with x, so their expectations are linear in it."""

    def network(x: Tensor, c_time: Tensor, label: Tensor | None) -> Tensor:
        t = schedule.time_of_log_nsr(c_time.double())
        (a, b), (da, db), c = schedule.ab(t), schedule.derivatives(t), LATENT.c(schedule, t)
        mean, variance = moments(schedule, t)
        x_t = x * variance.sqrt()[:, None]
        rest = (x_t - mean[:, None]) / variance[:, None]
        data, noise, z = M + (a * S**2)[:, None] * rest, b[:, None] * rest, c[:, None] * rest
        scale = (da**2 * S**2 + db**2).sqrt()
        row = (da[:, None] * data + db[:, None] * noise) / scale[:, None]
        return torch.cat([row, z], 1)

    return InterpolantDenoiser(
        spec=SPEC, schedule=schedule, trained_schedule=schedule, prediction=Velocity(), network=network, latent=LATENT
    )
