"""What training minimises: a loss per sample at random noise levels. Only the trainer reduces it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dfm.basics.seeding import GeneratorDraws
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.training.objectives.densities import Density


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Losses to minimise and where they were taken.

    Args:
        value: (B,), float32 or wider.
        error: (B,), what ``value`` was before importance and uncertainty rescaled it.
        u: quantiles of the density, float64 (B,).
    """

    value: Tensor
    error: Tensor
    u: Tensor

    def to(self, device: torch.device) -> "Loss":
        """The same on a device."""
        return Loss(value=self.value.to(device), error=self.error.to(device), u=self.u.to(device))


Model = NetworkDenoiser | NoisyClassifier


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the run of an objective leaves: which questions its model answers, and how it is sampled.

    Args:
        has_ode: the model is E[data | x_t], so it has an ODE, latents and a density.
        independent: training left data and noise independent, the coupling apart.
        few_steps: the model is made for a sampler of its own, of few steps.
        steps: the number of sampling steps that it is made for, where it is one number.
    """

    has_ode: bool = True
    independent: bool = True
    few_steps: bool = False
    steps: int | None = None


class Rounds:
    """The rounds of a run, each towards a target of its own: here a single one, from the first step to the last.

    Attributes:
        count: the number of rounds; each has the same share of the optimiser steps.
        directory: where a round may keep files; None: nowhere.
    """

    count: int = 1
    directory: Path | None = None

    def start_if_due(self, denoiser: Any, progress: float) -> dict[str, float] | None:
        """Start the next round if its first step is the coming one; the trainer asks before each step.

        Args:
            denoiser: in training.
            progress: the done share of the run.

        Returns:
            What the new round measured at its start, for the metrics; None where no round starts. The average of the
            weights starts again with a round, since the target is another one.
        """
        return None

    def lr_progress(self, progress: float) -> float:
        """Return the done share of the learning rate's fall, from 0 to 1."""
        return progress

    def finish(self, denoiser: Any) -> dict[str, float]:
        """Return what is measured of the trained denoiser at the end of the run, for the metrics."""
        return {}


class Objective(ABC):
    """A loss of a model's network on a batch of data.

    Attributes:
        trains: ``denoiser`` or ``classifier``: the part that the network plays.
        times: the number of times that the network takes: 1, or 2 for a flow map.
        needs_teacher: whether a run must start from another one, ``init=RUN``.
        own_pairs: whether its pairs of data and noise are its own, so that a teacher may have any coupling.
        shardable: whether processes may share the weights: it keeps no copy of them, and calls the network equally
            often in all.
        validates: whether its loss on held-out data says more than its loss in training.
    """

    trains: ClassVar[str] = "denoiser"
    times: ClassVar[int] = 1
    needs_teacher: ClassVar[bool] = False
    own_pairs: ClassVar[bool] = False
    shardable: ClassVar[bool] = True
    validates: ClassVar[bool] = True

    def denoiser(self, plain: NetworkDenoiser) -> NetworkDenoiser:
        """Return the denoiser that this objective trains, made of the plain one with the same network.

        Raises:
            UserError: the parts of the configuration do not suit this objective.
        """
        return plain

    def check_teacher(self, denoiser: NetworkDenoiser) -> None:  # noqa: B027, most teachers will do
        """Refuse a teacher that cannot teach this objective.

        Raises:
            UserError: as it says.
        """

    def outcome(self, state: Mapping[str, Tensor]) -> Outcome:
        """Return what a run leaves.

        Args:
            state: of ``module()``, as its checkpoint has it; empty where it is not known.
        """
        return Outcome()

    @property
    def rounds(self) -> Rounds:
        """The rounds in which it trains."""
        return Rounds()

    def density_of_times(self) -> Density | None:
        """Return the density from which its times come, if it has one."""
        return None

    @abstractmethod
    def loss(self, denoiser: Any, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Return the losses of data (B, *D); all randomness comes from ``generator``, on the device of the data.

        Args:
            progress: the done share of the run, for an objective that changes on the way.
        """

    def observe(self, loss: Loss) -> None:
        """Take note of a training loss, for a density that adapts to it."""
        density = self.density_of_times()
        if density is not None:
            density.observe(loss.u, loss.error)

    def module(self, network: nn.Module) -> nn.Module:
        """Return what the objective itself learns or keeps: parameters to train, frozen ones, and buffers.

        Args:
            network: the one to be trained.
        """
        return nn.ModuleDict(density_memory(self.density_of_times()))


def draw_noise(denoiser: Denoiser, data: Tensor, generator: torch.Generator) -> Tensor:
    """Draw noise of the denoiser's prior for a batch of data (B, *D)."""
    return denoiser.prior.draw(GeneratorDraws(len(data), generator, data.dtype), tuple(data.shape[1:]))


def density_memory(density: Density | None) -> dict[str, nn.Module]:
    """Return what a density remembers, if it does, as a part of an objective's module."""
    memory = None if density is None else density.memory()
    return {} if memory is None else {"density": memory}
