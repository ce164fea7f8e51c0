"""A stochastic sampler on N(0, C^2): its path, and the numbers that its exact recursions are made of."""

from torch import Tensor

from dfm.data.gaussian_mixture import mixture_of
from dfm.paths.schedule import Schedule
from dfm.sampling.grids import LogNsrGrid
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.base import Stepper
from support.oracles import oracle

C = 0.7
GAUSSIAN = mixture_of([[0.0, 0.0]], C * C)


def coefficients(schedule: Schedule, t: Tensor) -> tuple[float, float, float]:
    """(a, b, variance of x_t)."""
    a, b = (float(c) for c in schedule.ab(t))
    return a, b, a * a * C * C + b * b


def run(
    stepper: Stepper, schedule: Schedule, steps: int, n: int, noise: object = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(x at t_max, x at t_min, times)."""
    denoiser = oracle(GAUSSIAN, schedule)
    sampler = GridSampler(stepper=stepper, grid=LogNsrGrid(), steps=steps, noise=noise)  # type: ignore[arg-type]
    x = start(denoiser, 1, range(n), double=True)
    *_, (end, _) = sampler.path(denoiser, x, 1, range(n))
    return x, end, sampler.time_grid(denoiser)
