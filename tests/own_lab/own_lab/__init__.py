"""A user's own parts, which dfm knows nothing of: a path, a data set, a network, a stepper, an objective."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor, nn

from dfm.basics.per_sample import per_sample
from dfm.data import GaussianMixture, Points
from dfm.data.gaussian_mixture import mixture_of
from dfm.denoising import NetworkDenoiser
from dfm.paths import Schedule
from dfm.sampling import OdeStepper
from dfm.sampling.steppers.base import Field
from dfm.training import Coupling, Density, IndependentCoupling, Loss, Objective
from dfm.training.objectives.base import Outcome, draw_noise


@dataclass(frozen=True, kw_only=True)
class Circle(Schedule):
    """a = sqrt(1 - t^2), b = t: on the circle a^2 + b^2 = 1, at a constant speed of the noise."""

    t_min: float = 0.001
    t_max: float = 0.999

    def ab(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return (1 - t * t).sqrt(), t

    def derivatives(self, t: Tensor) -> tuple[Tensor, Tensor]:
        return -t / (1 - t * t).sqrt(), torch.ones_like(t)

    def time_of_log_nsr(self, log_nsr: Tensor) -> Tensor:
        return 1 / (1 + (-2 * log_nsr).exp()).sqrt()


@dataclass(frozen=True, kw_only=True, eq=False)
class TwoBlobs(Points):
    """Two Gaussians on a line, at a distance of the user's choice."""

    distance: float = 2.0
    name = "two_blobs"

    @cached_property
    def mixture(self) -> GaussianMixture:
        """The exact law, so that ``dfm check`` has something to check against."""
        return mixture_of([[-self.distance / 2, 0.0], [self.distance / 2, 0.0]], 0.1)

    def draw(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor | None]:
        return self.mixture.sample(n, generator)[0], None


class SmallNet(nn.Module):
    """A perceptron of x and one or two times. The layer of the second time starts at zero and may be missing."""

    def __init__(
        self, *, shape: tuple[int, ...], width: int = 16, two_times: bool = False, num_classes: int = 0
    ) -> None:
        super().__init__()
        self.first = nn.Linear(shape[0] + 1, width)
        self.end = SecondTime(width) if two_times else None
        self.last = nn.Linear(width, shape[0])

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None, c_end: Tensor | None = None) -> Tensor:
        h = self.first(torch.cat([x, c_time[:, None] / 4], 1))
        if self.end is not None:
            h = h + self.end((c_time if c_end is None else c_end)[:, None] / 4)
        return self.last(torch.tanh(h))


class SecondTime(nn.Linear):
    """The second time of ``SmallNet``."""

    adds_nothing_at_first = True

    def __init__(self, width: int) -> None:
        super().__init__(1, width)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)


@dataclass(frozen=True, kw_only=True)
class Ralston(OdeStepper):
    """x + h/4 (k_1 + 3 k_2), k_2 at two thirds of the step (Ralston 1962): order two."""

    order: ClassVar[int] = 2

    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        h = float(s - t)
        first = field(x, t)
        second = field(x + 2 / 3 * h * first, t + 2 / 3 * (s - t))
        return x + h / 4 * (first + 3 * second)


@dataclass(frozen=True, kw_only=True)
class ShortcutDenoiser(NetworkDenoiser):
    """A network of two times: u(x_t, t, s) is the mean velocity from t to s."""

    times: ClassVar[int] = 2
    own_jump: ClassVar[bool] = True

    def output(self, x: Tensor, t: Tensor) -> Tensor:
        return self.mean_output(x, t, t)

    def mean_output(self, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """u in units of the velocity's scale at t."""
        c_in = 1 / self.input_variance(t).sqrt()
        start, end = (self.trained_schedule.log_nsr(time).to(x).expand(len(x)) for time in (t, s))
        return self.call(x, x * per_sample(c_in, x), start, self.label, end)

    def jump(self, x: Tensor, t: Tensor, s: Tensor | None = None) -> Tensor:
        x, tau = self.on_trained_path(x, t)
        path = self.trained_schedule
        end = torch.tensor(path.t_min, dtype=torch.float64)
        if s is not None:
            end = path.time_of_log_nsr(self.schedule.log_nsr(s)).clamp(path.t_min, path.t_max)
        there = x - per_sample((tau - end) * self.scale(tau), x) * self.mean_output(x, tau, end)
        return there * per_sample((1.0 if s is None else self.schedule.ab(s)[0]) / path.ab(end)[0], x)


@dataclass(frozen=True, kw_only=True)
class Shortcut(Objective):
    """Flow matching where s = t; else one jump from t to s shall lead where two jumps of half its length lead.

    (The idea of shortcut models, Frans et al. 2024.)
    """

    density: Density
    coupling: Coupling = field(default_factory=IndependentCoupling)
    share: float = 0.5

    times: ClassVar[int] = 2

    def denoiser(self, plain: NetworkDenoiser) -> ShortcutDenoiser:
        return ShortcutDenoiser(**vars(plain))

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        return Outcome(few_steps=True, steps=4)

    def density_of_times(self) -> Density:
        return self.density

    def loss(self, denoiser: ShortcutDenoiser, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        u, path = self.density.uniforms(len(data), generator), denoiser.trained_schedule
        t = self.density.time(u, path)
        s = path.t_min + (t - path.t_min) * torch.rand(len(t), generator=generator, dtype=torch.float64)
        s = torch.where(torch.rand(len(t), generator=generator) < self.share, s, t)
        noise = draw_noise(denoiser, data, generator)
        data, noise = self.coupling.pair(data, noise, denoiser.label, generator)
        x, scale = path.mix(data, noise, t), denoiser.scale(t)
        with torch.no_grad():
            middle = (t + s) / 2
            first = per_sample(scale, x) * denoiser.mean_output(x, t, middle)
            half = x - per_sample(t - middle, x) * first
            second = per_sample(denoiser.scale(middle), x) * denoiser.mean_output(half, middle, s)
            mean = (first + second) / 2
            target = torch.where((s < t)[:, None], mean, path.velocity(data, noise, t)) / per_sample(scale, x)
        error = (denoiser.mean_output(x, t, s) - target).square().mean(1)
        return Loss(value=error, error=error, u=u)
