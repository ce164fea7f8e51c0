"""Samplers: from x at t_max to data, along a time grid or with adaptive steps.

A sampler yields after each move, so that progress bars and pictures are the caller's work. Samples are numbered: the
random numbers of sample k are a function of (seed, k, move), in whichever batch it is drawn.
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
    """The state of a batch during sampling.

    Args:
        x: (B, *D). In the final state it is E[data | x_t] at the last time, in the unit of the data.
        t: the time of x. Where samples have different times, the largest of them.
        step: how many moves were made.
        nfe: how many times the denoiser was evaluated, the mean over the samples.
        final: whether this is the last state of the trajectory.
    """

    x: Tensor
    t: float
    step: int
    nfe: float
    final: bool = False


def start(
    denoiser: Denoiser, seed: int, indices: Sequence[int], device: torch.device | None = None, double: bool = False
) -> Tensor:
    """Draw x at t_max for the samples numbered ``indices``: (B, *D), from the denoiser's prior.

    Args:
        double: return float64 instead of float32.
    """
    latent = denoiser.prior.draw(NumberedDraws(seed, indices), denoiser.spec.shape)
    return denoiser.noise_end.from_latent(latent).to(device, torch.float64 if double else torch.float32)


class Sampler(ABC):
    """A way from x at t_max to data (config group ``sampler``).

    Attributes:
        jumps: whether the sampler moves only by ``Denoiser.jump``, for which few-step models are made.
    """

    jumps: ClassVar[bool] = False

    @property
    def adaptive(self) -> bool:
        """Whether the sampler chooses its own step sizes."""
        return False

    @property
    def stochastic(self) -> bool:
        """Whether the sampler adds fresh noise."""
        return False

    def start_time(self, denoiser: Denoiser) -> float:
        """Return the time of the x from which the sampler starts."""
        return denoiser.t_max

    def with_steps(self, steps: int) -> "Sampler":
        """Return the same sampler with another number of steps.

        Raises:
            UserError: the sampler chooses its own steps.
        """
        raise UserError(f"{type(self).__name__} chooses its own steps; allowed: a sampler along a grid, e.g. heun")

    @abstractmethod
    def path(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
        """Yield (x, t) after each move from t_max down to t_min, without the last denoising."""

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
        """Return the data for x at the last time t, in one call of the denoiser: E[data | x_t]."""
        return denoiser.data(x, t)

    def trajectory(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[State]:
        """Yield all states from x (B, *D) at t_max to the samples, E[data | x_{t_min}].

        Args:
            seed, indices: the noise of a stochastic sampler is a function of these; indices[i] is the number of
                sample i.
        """
        calls = EvaluationCount()
        counted = denoiser.counted(calls)
        step, t = 0, denoiser.t_max
        for step, (x, t) in enumerate(self.path(counted, x, seed, indices), start=1):  # noqa: B020
            yield State(x=x, t=t, step=step, nfe=calls.samples / len(x))
        data = self.end(counted, x, torch.tensor(t, dtype=torch.float64), seed, indices)
        yield State(x=data, t=t, step=step, nfe=calls.samples / len(x), final=True)

    def run(self, denoiser: Denoiser, x: Tensor, seed: int = 0, indices: Sequence[int] | None = None) -> State:
        """Return the last state of ``trajectory``. Without ``indices``, samples are numbered 0, 1, ..."""
        numbers = range(len(x)) if indices is None else indices
        (last,) = deque(self.trajectory(denoiser, x, seed, numbers), maxlen=1)  # no other state stays in memory
        return last


@dataclass(frozen=True, kw_only=True)
class GridSampler(Sampler):
    """A stepper along a time grid.

    Args:
        stepper: makes one move.
        steps: number of steps. The denoising at the end is the last of them if the stepper ``ends_in_data``; else it
            comes after them (docs/groups.md has the number of evaluations of each sampler).
        grid: places the times between the steps.
        times: explicit times instead of grid and steps. They decrease inside [t_min, t_max] of the denoiser; the
            sampler starts from x at the first of them.
        noise: from Python only: your own standard normal draws for stochastic steppers, instead of those of the seed.
            noise(step, part, x) returns a tensor like x; ``part`` counts the draws within a move.
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
        denoiser, times = denoiser.unchecked(), self.time_grid(denoiser)
        noise = StepNoise(seed, indices, self.noise)
        trajectory = Trajectory(steps=len(times) - 1, noise=lambda: noise.draw(x))
        for step, (t, s) in enumerate(pairwise(times)):
            noise.step, noise.part = step, 0
            x = self.stepper.move(denoiser, x, t, s, trajectory)
            yield x, float(s)

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
        moves = len(self.time_grid(denoiser)) - 1
        noise = StepNoise(seed, indices, self.noise, step=moves)
        return self.stepper.end(denoiser, x, t, Trajectory(steps=moves, noise=lambda: noise.draw(x)))

    def time_grid(self, denoiser: Denoiser) -> Tensor:
        """Return the times of the states, float64, decreasing.

        Raises:
            UserError: explicit times do not decrease, or lie outside the denoiser's range.
        """
        if self.times is None:
            ends_in_data = self.stepper.ends_in_data
            if ends_in_data and self.steps == 1:
                return torch.tensor([denoiser.t_max], dtype=torch.float64)
            moves = self.steps - 1 if ends_in_data and self.steps > 1 else self.steps
            return self.grid.times(moves, denoiser.schedule, denoiser.t_min, denoiser.t_max)
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
    """A sampler for few-step models: jumps of the denoiser along a grid, the last of them to the data.

    Each jump is one call of ``Denoiser.jump``: the step of DDIM for an ordinary denoiser, the flow map for a MeanFlow.

    Args:
        steps: number of jumps, and of calls of the network.
        grid: places the times between the jumps.
        renoise: whether every jump goes to the data f(x_t, t), and from there back to the next time s with fresh
            noise z: x_s = a f(x_t, t) + b z (consistency models: Song et al. 2023, algorithm 1).
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

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor, seed: int, indices: Sequence[int]) -> Tensor:
        return denoiser.jump(x, t)


@dataclass(frozen=True, kw_only=True)
class AdaptiveSampler(Sampler):
    """A sampler that solves the probability-flow ODE with an adaptive step size for each sample.

    Args:
        solver: the embedded pair and its tolerances.
        steps: must be null. It exists so that every sampler has this key.

    Raises:
        UserError: steps is set.
    """

    solver: EmbeddedPair
    steps: int | None = None

    @property
    def adaptive(self) -> bool:
        return True

    def __post_init__(self) -> None:
        if self.steps is not None:
            raise UserError(
                f"sampler.steps={self.steps} has no effect on an adaptive sampler; try without it, or "
                "sampler=heun for a fixed number of steps"
            )

    def path(self, denoiser: Denoiser, x: Tensor, seed: int, indices: Sequence[int]) -> Iterator[tuple[Tensor, float]]:
        denoiser = denoiser.unchecked()
        solution = self.solver.solve(lambda rows: denoiser.select(rows).velocity, x, denoiser.t_max, denoiser.t_min)
        for progress in solution:
            yield progress.x, float(progress.t.max())


@dataclass
class StepNoise:
    """The noise of a sampler: a function of (seed, sample number, step, part), or the user's own (``own``)."""

    seed: int
    indices: Sequence[int]
    own: Callable[[int, int, Tensor], Tensor] | None
    step: int = 0
    part: int = 0

    def draw(self, x: Tensor) -> Tensor:
        """Draw the next part of the current step: a tensor like x."""
        part, self.part = self.part, self.part + 1
        if self.own is not None:
            return self.own(self.step, part, x)
        return normal(self.seed, self.indices, tuple(x.shape[1:]), Purpose.STEP, self.step, part).to(x)
