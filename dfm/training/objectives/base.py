"""Objectives: what training minimises, a loss for each sample at random noise levels. The trainer takes the mean."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.seeding import GeneratorDraws
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.training.objectives.densities import Density

# Of the levels of a few-step model's training, this share must lie within a factor of 2 of the sampler's start. The
# recipes of papers pass: the log-normal (-1.1, 2) of consistency models has 0.8 % there at 80, a uniform t on the
# straight path 0.1 %. EDM's (-1.2, 1.2), which is for a sampler of many steps, has 0.002 % at 80.
LEAST_AT_START = 5e-4
CHECKED = 2**16


@dataclass(frozen=True, kw_only=True)
class Loss:
    """The losses of a batch and the noise levels at which they were computed.

    Args:
        value: the losses to minimise, (B,), float32 or wider.
        error: the losses before importance and uncertainty rescale them, (B,).
        u: the noise levels as quantiles of the density, float64 (B,).
        group: the group of each loss, int64 (B,), for an objective that keeps a mean of each; or None.
    """

    value: Tensor
    error: Tensor
    u: Tensor
    group: Tensor | None = None

    def to(self, device: torch.device) -> "Loss":
        """Return the same losses on a device."""
        return self._each(lambda tensor: tensor.to(device))

    def detached(self) -> "Loss":
        """Return the same losses without their graph."""
        return self._each(Tensor.detach)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Loss":
        group = None if self.group is None else change(self.group)
        return Loss(value=change(self.value), error=change(self.error), u=change(self.u), group=group)

    @staticmethod
    def joined(parts: Sequence["Loss"]) -> "Loss":
        """Return the losses of the parts of a batch as those of the batch, in the order of the parts."""
        groups = [part.group for part in parts if part.group is not None]
        return Loss(
            value=torch.cat([part.value for part in parts]),
            error=torch.cat([part.error for part in parts]),
            u=torch.cat([part.u for part in parts]),
            group=torch.cat(groups) if groups else None,
        )


Model = NetworkDenoiser | NoisyClassifier


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The model that a run of an objective leaves: what it can compute, and how it is sampled.

    Args:
        has_ode: whether the model gives E[data | x_t], so that it has an ODE, latents and a density.
        independent: whether data and noise are still independent, if the coupling keeps them so.
        few_steps: whether the model is made for a sampler of its own, of few steps.
        steps: the number of sampling steps that the model is made for, if it is one number.
    """

    has_ode: bool = True
    independent: bool = True
    few_steps: bool = False
    steps: int | None = None


class Rounds:
    """The rounds of a run, each with its own target: here a single round, from the first step to the last.

    Attributes:
        count: the number of rounds; each has the same share of the optimiser steps.
        directory: where a round may store files, or None if it may store none.
    """

    count: int = 1
    directory: Path | None = None

    def start_if_due(self, denoiser: Any, progress: float) -> dict[str, float] | None:
        """Start the next round if the next step is its first; the trainer calls this before each step.

        Args:
            denoiser: the denoiser in training.
            progress: the share of the run that is done, from 0 to 1.

        Returns:
            The measurements of the new round at its start, for the metrics; None if no round starts. The average of the
            weights starts again with a round, since the target changes.
        """
        return None

    def lr_progress(self, progress: float) -> float:
        """Return how far the learning rate has come on its way down, from 0 to 1."""
        return progress

    def finish(self, denoiser: Any) -> dict[str, float]:
        """Return the measurements of the trained denoiser at the end of the run, for the metrics."""
        return {}


class Objective(ABC):
    """A loss of a model's network on a batch of data.

    Attributes:
        trains: the role of the network, ``denoiser`` or ``classifier``.
        times: number of times that the network takes: 1, or 2 for a flow map.
        needs_teacher: whether a run must start from another run, ``init=RUN``.
        own_pairs: whether the objective makes its own pairs of data and noise, so that a teacher may have any coupling.
        shardable: whether processes may share the weights. The objective must then keep no copy of them, and call the
            network equally often in all processes.
        validates: whether the loss on held-out data tells more than the loss in training.
    """

    trains: ClassVar[str] = "denoiser"
    times: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = False
    own_pairs: ClassVar[bool] = False
    shardable: ClassVar[bool] = True
    validates: ClassVar[bool] = True

    def denoiser(self, plain: NetworkDenoiser) -> NetworkDenoiser:
        """Return the denoiser that this objective trains, with the network of the plain one.

        Raises:
            UserError: this objective cannot train such a denoiser.
        """
        return plain

    def check_teacher(self, denoiser: NetworkDenoiser) -> None:  # noqa: B027, most objectives accept every teacher
        """Refuse a teacher that cannot teach this objective.

        Raises:
            UserError: the teacher has no parameters, or its prediction does not suit.
        """

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        """Return the outcome of a run.

        Args:
            state: the state of ``module()`` in the checkpoint; empty if it is unknown.
        """
        return Outcome()

    @property
    def rounds(self) -> Rounds:
        """The rounds of a run."""
        return Rounds()

    def density_of_times(self) -> Density | None:
        """Return the density of the training times, if there is one."""
        return None

    @abstractmethod
    def loss(self, denoiser: Any, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Return the losses of data (B, *D).

        Args:
            generator: on the device of the data; all random numbers come from it.
            progress: the share of the run that is done, for an objective that changes during the run.
        """

    def levels_of_jumps(self, u: Tensor, denoiser: Any) -> Tensor | None:
        """Return the times from which a few-step model learns to jump, at the quantiles u (B,) of their density.

        None for an objective without such times.
        """
        density = self.density_of_times()
        return None if density is None else density.time(u, denoiser.trained_schedule)

    def share_at_start(self, denoiser: Any) -> float:
        """Return the share of the training's levels whose nsr is at least half of that at t_max."""
        path, u = denoiser.trained_schedule, (torch.arange(CHECKED, dtype=torch.float64) + 0.5) / CHECKED
        t = self.levels_of_jumps(u, denoiser)
        if t is None:
            return 1.0
        start = path.log_nsr(torch.tensor(path.t_max, dtype=torch.float64))
        return float((path.log_nsr(t) >= start - math.log(2)).double().mean())

    def check_start(self, denoiser: Any) -> None:
        """Refuse a few-step model whose training hardly reaches the level at which its sampler starts.

        The first jump is made from t_max. A network that never learned there gives anything: on a Gaussian in the plane
        it was wrong by 25 to 64 deviations.

        Raises:
            UserError: ``share_at_start`` is below ``LEAST_AT_START``.
        """
        if self.outcome({}).few_steps and (share := self.share_at_start(denoiser)) < LEAST_AT_START:
            path = denoiser.trained_schedule
            nsr = float(path.log_nsr(torch.tensor(path.t_max, dtype=torch.float64)).exp())
            raise UserError(
                f"objective {type(self).__name__.lower()}: samples start at nsr={nsr:.3g}, and {share:.2%} of the "
                f"training's levels lie within a factor of 2 of it; allowed: at least {LEAST_AT_START:.2%}; "
                f"try {self.start_remedy(denoiser)}"
            )

    def start_remedy(self, denoiser: Any) -> str:
        """Return what to set so that ``check_start`` accepts."""
        return "density=log_nsr"

    @property
    def adapts(self) -> bool:
        """Whether ``observe`` must see the losses."""
        return bool(density_memory(self.density_of_times()))

    def observe(self, loss: Loss) -> None:
        """Give the losses of a whole batch, of all its parts and processes, to the density, which may adapt to them.

        This happens once a step, and never between two parts: the levels ``loss.u`` are quantiles of the density as it
        was when they were drawn.
        """
        density = self.density_of_times()
        if density is not None:
            density.observe(loss.u, loss.error)

    def module(self, network: nn.Module) -> nn.Module:
        """Return the objective's own parameters, trained and frozen, and its buffers, as a torch module.

        Args:
            network: the network that will be trained.
        """
        return nn.ModuleDict(density_memory(self.density_of_times()))


def draw_noise(denoiser: Denoiser, data: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noise of the denoiser's prior for a batch of data (B, *D)."""
    return denoiser.prior.draw(GeneratorDraws(len(data), generator, data.dtype), tuple(data.shape[1:]))


def density_memory(density: Density | None) -> dict[str, nn.Module]:
    """Return the memory of a density by its name in an objective's module; empty if it has none."""
    memory = None if density is None else density.memory()
    return {} if memory is None else {"density": memory}
