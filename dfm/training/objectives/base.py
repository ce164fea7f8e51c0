"""What training minimises: a loss per sample at random noise levels. Only the trainer reduces it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

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


class Objective(ABC):
    """A loss of a model's network on a batch of data.

    Attributes:
        trains: ``denoiser``, or ``classifier``: what the network is.
        taught: whether it needs a teacher, given by ``init=``.
        few_steps: whether what it trains is made for a sampler of its own, of few steps.
        shardable: whether processes may share the weights: it keeps no copy of them, and calls the network equally
            often in all.
    """

    trains: ClassVar[str] = "denoiser"
    taught: ClassVar[bool] = False
    few_steps: ClassVar[bool] = False
    shardable: ClassVar[bool] = True

    @property
    def has_ode(self) -> bool:
        """Whether what it trains is E[data | x_t], and so has an ODE and a density."""
        return True

    @property
    def independent(self) -> bool:
        """Whether it leaves data and noise independent, beyond what its coupling does."""
        return True

    @property
    def rounds(self) -> int:
        """In how many rounds of equally many optimiser steps it goes."""
        return 1

    @property
    def validates(self) -> bool:
        """Whether its loss on held-out data tells more than its loss in training."""
        return True

    def steps_learned(self, density_memory: Mapping[str, Tensor]) -> int | None:
        """For how many sampling steps a few-step model was made, if for a certain number.

        Args:
            noted: the state of ``module()`` in its checkpoint.
        """
        return None

    @abstractmethod
    def loss(self, denoiser: Any, data: Tensor, generator: torch.Generator, progress: float = 1.0) -> Loss:
        """Losses of data (B, *D); all that is random comes from ``generator``, on the device of the data.

        Args:
            progress: the done share of the run, for an objective that changes on the way.
        """

    def observe(self, loss: Loss) -> None:  # noqa: B027
        """Take note of a training loss: only an objective that adapts does."""

    def module(self, network: nn.Module) -> nn.Module:
        """What the objective itself learns or notes: parameters to train, and frozen ones and buffers to keep.

        Args:
            network: that is to be trained.
        """
        return nn.Module()

    def start_round_if_due(self, denoiser: Any, progress: float) -> bool:
        """Called before each optimiser step with the denoiser in training: whether a round begins with this step.

        What is learned in a round is another thing than in the round before, so the weights' average begins anew.
        """
        return False

    def lr_progress(self, progress: float) -> float:
        """The share of the way that the learning rate's fall has come: here that of the run."""
        return progress

    def with_directory(self, directory: Path) -> Self:
        """The same objective in a run directory, where it may keep files."""
        return self

    def measurements(self) -> dict[str, float]:
        """What it measured since it was last asked, for the metrics."""
        return {}

    def final_measurements(self, denoiser: Any) -> dict[str, float]:
        """What is to be measured of the trained denoiser at the end of the run, for the metrics."""
        return {}


def draw_noise(denoiser: Denoiser, data: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of the denoiser's prior for a batch of data (B, *D)."""
    return denoiser.prior.draw(GeneratorDraws(len(data), generator, data.dtype), tuple(data.shape[1:]))


def density_memory(density: Density | None) -> dict[str, nn.Module]:
    """What a density has noted, if it notes anything, as a part of an objective's module."""
    memory = None if density is None else density.memory()
    return {} if memory is None else {"density": memory}
