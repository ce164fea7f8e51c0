"""Denoisers known exactly, on every schedule, and the rows and times that tests go through."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor

from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.data.numbers.units import moments
from dfm.denoising import predictions
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.exact import EmpiricalDenoiser, MixtureDenoiser
from dfm.paths.custom import Custom
from dfm.paths.interpolating import Linear, Polynomial, Trigonometric
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm, RandomWalk, VarianceExploding
from dfm.paths.variance_preserving import Cosine, Ddpm, OrnsteinUhlenbeck, SubVariancePreserving, VariancePreserving
from dfm.sampling import grids

SCHEDULES: dict[str, Schedule] = {
    "ou": OrnsteinUhlenbeck(),
    "vp": VariancePreserving(),
    "linear": Linear(),
    "edm": Edm(),
    "trig": Trigonometric(),
    "subvp": SubVariancePreserving(),
    "ve": VarianceExploding(),
    "cosine": Cosine(),
    "polynomial": Polynomial(),
    "random_walk": RandomWalk(),
    "ddpm": Ddpm(),
    "custom": Custom(drift="1 + t", diffusion="2 - t/2", t_max=3.0),
    "langevin": OrnsteinUhlenbeck(t_min=1e-3, t_max=4.0),
}


# For a test that takes long: the fixture ``schedule`` is three of them in the quick tests, all in the wide ones.
on_every_schedule = pytest.mark.parametrize(
    "schedule",
    [pytest.param(n, marks=[] if n in ("edm", "linear", "vp") else pytest.mark.wide) for n in sorted(SCHEDULES)],
    indirect=True,
)


def oracle(mixture: GaussianMixture, schedule: Schedule) -> MixtureDenoiser:
    """The exact denoiser, with a spec whose moments are the mixture's."""
    d = mixture.means.shape[1]
    spec = DatasetSpec(
        name="mixture", shape=(d,), levels=None, num_classes=0,
        mean=float(mixture.mean.mean()), std=mixture.variance**0.5,
    )  # fmt: skip
    return MixtureDenoiser(spec=spec, schedule=schedule, mixture=mixture)


def quick(seed: int) -> Callable[[int, int, torch.Tensor], torch.Tensor]:
    """Standard normals from one generator: many at once, where no test asks which sample got which."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step, part, x: torch.randn(x.shape, dtype=x.dtype, generator=generator)


STD = 0.6
PREDICTIONS = {
    "data": predictions.Data(),
    "noise": predictions.Noise(),
    "score": predictions.Score(),
    "velocity": predictions.Velocity(),
    "v": predictions.V(),
    "edm": predictions.Edm(),
}


def times(schedule: Schedule, n: int = 41) -> Tensor:
    """Times over the whole range, evenly spaced in log nsr, ends included."""
    return grids.LogNsrGrid().times(n - 1, schedule, schedule.t_min, schedule.t_max)


@dataclass(frozen=True, kw_only=True)
class Labelled(Denoiser):
    """The exact denoiser of a mixture whose class is its component; without a label, of the whole."""

    mixture: GaussianMixture

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        whole = replace(oracle(self.mixture, self.schedule), label=None)
        if self.label is None:
            return whole.expectations(x, t)
        each = [oracle(component(self.mixture, k), self.schedule).expectations(x, t) for k in range(3)]
        rows = torch.arange(len(x))
        data, noise = (torch.stack(part)[self.label, rows] for part in zip(*each, strict=True))
        return data, noise


def component(mixture: GaussianMixture, k: int) -> GaussianMixture:
    return mixture_of([mixture.means[k].tolist()], [mixture.covariances[k].tolist()])


def empirical(points: Tensor, schedule: Schedule) -> EmpiricalDenoiser:
    mean, std = moments(points, None)
    spec = DatasetSpec(name="points", shape=tuple(points.shape[1:]), levels=None, num_classes=0, mean=mean, std=std)
    return EmpiricalDenoiser(spec=spec, schedule=schedule, points=points)


def drawn(n: int, seed: int = 0, shape: tuple[int, ...] = (2,)) -> Tensor:
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.3
