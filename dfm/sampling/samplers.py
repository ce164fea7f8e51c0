"""Drawing samples: the one loop over a time grid, and its adaptive sister.

A sampler yields after each step, so that progress bars and pictures live with the caller. Samples are numbered: all
that is random in sample k is a function of (seed, k, step), whatever the batch it is drawn in.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.seeding import NumberedDraws, Purpose, normal
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.sampling.adaptive_solver import EmbeddedPair
from dfm.sampling.grids import Grid, LogNsrGrid, NoiseShareGrid
from dfm.sampling.steppers.base import Stepper, Trajectory


@dataclass(frozen=True, kw_only=True)
class State:
    """A batch on its way: x (B, *D) after ``step`` steps, at time t (the slowest sample's if they differ).

    ``nfe`` is the number of evaluations of the denoiser so far, per sample on average. The last state of a trajectory
    has ``final`` set: its x is E[data | x_t] at the last time, in the unit of the data.
    """

    x: Tensor
    t: float
    step: int
    nfe: float
    final: bool = False


def start(
    denoiser: Denoiser, seed: int, indices: Sequence[int], device: torch.device | None = None, double: bool = False
) -> Tensor:
    """x at t_max of the samples ``indices`` (B, *D): draws of the denoiser's prior, float32 unless ``double``."""
    latent = denoiser.prior.draw(NumberedDraws(seed, indices), denoiser.spec.shape)
    return denoiser.from_latent(latent).to(device, torch.float64 if double else torch.float32)


class Sampler(ABC):
    """From x at t_max to data.

    Attributes:
        jumps: whether it moves by ``Denoiser.jump`` alone, as few-step models are made for.
    """

    jumps: ClassVar[bool] = False

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its own steps."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether fresh noise enters on the way."""
        return False

    def start_time(self, denoiser: Denoiser) -> float:
        """The time to which the x that the sampler starts from belongs."""
        return denoiser.t_max

    def with_steps(self, steps: int) -> "Sampler":
        """The same sampler with another number of steps.

        Raises:
            UserError: it chooses its own.
        """
        raise UserError(f"{type(self).__name__} chooses its own steps; allowed: a sampler along a grid")

    @abstractmethod
    def path(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
        """(x, t) after each step from t_max down to t_min, without the last denoising."""

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
        """The data that x at the last time t leads to, in one call: E[data | x_t]."""
        return denoiser.data(x, t)

    def trajectory(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[State]:
        """All states from x (B, *D) at t_max to the samples, E[data | x_{t_min}].

        Args:
            seed, indices: what the noise of a stochastic sampler depends on; indices[i] numbers sample i.
        """
        calls = EvaluationCount()
        counted = denoiser.counted(calls)
        step, t = 0, denoiser.t_max
        for step, (x, t) in enumerate(self.path(counted, x, seed, indices), start=1):  # noqa: B020
            yield State(x=x, t=t, step=step, nfe=calls.samples / len(x))
        data = self.end(counted, x, torch.tensor(t, dtype=torch.float64))
        yield State(x=data, t=t, step=step, nfe=calls.samples / len(x), final=True)

    def run(self, denoiser: Denoiser, x: Tensor, seed: int = 0, indices: Sequence[int] | None = None) -> State:
        """The last state of ``trajectory``; samples are numbered 0, 1, ... unless ``indices`` says otherwise."""
        numbers = range(len(x)) if indices is None else indices
        (last,) = deque(self.trajectory(denoiser, x, seed, numbers), maxlen=1)  # keeps no other state alive
        return last


@dataclass(frozen=True, kw_only=True)
class GridSampler(Sampler):
    """A stepper along a grid of ``steps`` moves.

    Args:
        times: explicit times in place of grid and steps, decreasing inside [t_min, t_max] of the denoiser; the x that
            the sampler starts from belongs to the first of them.
        noise: from Python, your own standard normals for stochastic steppers in place of the seed's:
            noise(step, part, x) -> a tensor like x; ``part`` counts the draws within a step.
    """

    stepper: Stepper
    steps: int
    grid: Grid = field(default_factory=LogNsrGrid)
    times: Sequence[float] | None = None
    noise: Callable[[int, int, Tensor], Tensor] | None = None

    @property
    def stochastic(self) -> bool:
        return self.stepper.stochastic

    def start_time(self, denoiser: Denoiser) -> float:
        return denoiser.t_max if self.times is None else float(self.times[0])

    def with_steps(self, steps: int) -> "GridSampler":
        return replace(self, steps=steps, times=None)

    def path(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
        times = self.time_grid(denoiser)
        noise = StepNoise(seed, indices, self.noise)
        trip = Trajectory(steps=len(times) - 1, noise=lambda: noise.draw(x))
        for step, (t, s) in enumerate(pairwise(times)):
            noise.step, noise.part = step, 0
            x = self.stepper.move(denoiser, x, t, s, trip)
            yield x, float(s)

    def time_grid(self, denoiser: Denoiser) -> Tensor:
        """The times that the sampler visits, float64, decreasing.

        Raises:
            UserError: explicit times that do not decrease or leave the denoiser's range.
        """
        if self.times is None:
            return self.grid.times(self.steps, denoiser.schedule, denoiser.t_min, denoiser.t_max)
        times = torch.tensor(list(self.times), dtype=torch.float64)
        inside = len(times) > 1 and float(times[0]) <= denoiser.t_max and float(times[-1]) >= denoiser.t_min
        if not inside or not bool((times[1:] < times[:-1]).all()):
            raise UserError(
                f"times={list(self.times)}; allowed: at least two, decreasing, inside "
                f"[{denoiser.t_min:g}, {denoiser.t_max:g}]"
            )
        return times


@dataclass(frozen=True, kw_only=True)
class JumpSampler(Sampler):
    """``steps`` jumps of the denoiser along the grid, the last of them to the data: as many calls as steps.

    For few-step models. Each jump is ``Denoiser.jump``: of an ordinary denoiser DDIM's step, of a flow map the map's.

    Args:
        renoise: jump to the data every time and from there back to the next time with fresh noise z,
            x_s = a f(x_t, t) + b z (consistency models: Song et al. 2023, algorithm 1).
    """

    jumps: ClassVar[bool] = True

    steps: int
    grid: Grid = field(default_factory=NoiseShareGrid)
    renoise: bool = False

    @property
    def stochastic(self) -> bool:
        return self.renoise and self.steps > 1

    def with_steps(self, steps: int) -> "JumpSampler":
        return replace(self, steps=steps)

    def path(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
        times = self.grid.times(self.steps, denoiser.schedule, denoiser.t_min, denoiser.t_max)[:-1]
        noise = StepNoise(seed, indices, None)
        for step, (t, s) in enumerate(pairwise(times)):
            if self.renoise:
                denoiser.require_linear_path("sampler.renoise=true beyond one step")
                noise.step, noise.part = step, 0
                x = denoiser.schedule.mix(denoiser.jump(x, t), noise.draw(x), s)
            else:
                x = denoiser.jump(x, t, s)
            yield x, float(s)

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor) -> Tensor:
        return denoiser.jump(x, t)


@dataclass(frozen=True, kw_only=True)
class AdaptiveSampler(Sampler):
    """The probability-flow ODE by an embedded pair, with a step size for each sample; ``steps`` has no effect.

    Args:
        solver: the pair and its tolerances.
        steps: accepted so that every sampler has the key; must be left null.
    """

    solver: EmbeddedPair
    steps: int | None = None

    @property
    def adaptive(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if self.steps is not None:
            raise UserError(
                f"sampler.steps={self.steps} has no effect on an adaptive sampler; try sampler.solver.rtol, or "
                "sampler=heun for a given number of steps"
            )

    def path(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
        for now in self.solver.solve(lambda rows: denoiser.select(rows).velocity, x, denoiser.t_max, denoiser.t_min):
            yield now.x, float(now.t.max())


@dataclass
class StepNoise:
    """The noise of step ``step``: a function of (seed, sample index, step, part), or what the user gives."""

    seed: int
    indices: Sequence[int]
    own: Callable[[int, int, Tensor], Tensor] | None
    step: int = 0
    part: int = 0

    def draw(self, x: Tensor) -> Tensor:
        """The next part, like x."""
        part, self.part = self.part, self.part + 1
        if self.own is not None:
            return self.own(self.step, part, x)
        return normal(self.seed, self.indices, tuple(x.shape[1:]), Purpose.STEP, self.step, part).to(x)
