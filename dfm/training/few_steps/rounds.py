"""None"""

import copy
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Noise, Score
from dfm.training.objectives.regression import Regression


class Teacher(nn.Module):
    """A frozen network and the number of the round that it teaches, -1 before the first."""

    round: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module | None = None
        self.register_buffer("round", torch.tensor(-1))


@dataclass(frozen=True, kw_only=True)
class TaughtInRounds(Regression):
    """A regression on what a frozen copy of the network says, in rounds of equally many optimiser steps.

    A cosine of the learning rate falls to zero in each round and begins again, and so does the average of the weights.
    (The paper on progressive distillation has the rate fall linearly in each round.)
    """

    teacher: Teacher = field(init=False, repr=False, compare=False, default_factory=Teacher)

    taught: ClassVar[bool] = True
    few_steps: ClassVar[bool] = True
    shardable: ClassVar[bool] = False

    @property
    @abstractmethod
    def rounds(self) -> int:
        """How many."""

    def check(self, denoiser: NetworkDenoiser) -> None:
        """Refuse a network that has no parameters or says nothing of the data where there is nothing but noise.

        Raises:
            UserError: it is such a one.
        """
        if isinstance(denoiser.prediction, (Noise, Score)):
            raise UserError(
                f"prediction={type(denoiser.prediction).__name__.lower()} says nothing of the data at t_max, where a "
                "student's jump begins; allowed: a teacher of prediction=velocity, v, data or edm"
            )
        if next(denoiser.module().parameters(), None) is None:
            raise UserError("a network without parameters has nothing to learn; allowed: model=unet... or mlp")

    def module(self, network: nn.Module) -> nn.ModuleDict:
        self.teacher.network = copy.deepcopy(network).eval().requires_grad_(False)
        return nn.ModuleDict({**super().module(network), "teacher": self.teacher})

    def start_round_if_due(self, denoiser: NetworkDenoiser, progress: float) -> bool:
        begins = min(int(progress * self.rounds), self.rounds - 1) > int(self.teacher.round)
        if begins:
            assert self.teacher.network is not None
            self.teacher.network.load_state_dict(denoiser.module().state_dict())
            self.teacher.round += 1
            self.on_round_start(self.teaching(denoiser), int(self.teacher.round))
        return begins

    def on_round_start(self, teacher: NetworkDenoiser, number: int) -> None:
        """Called when a round begins, with its teacher."""

    def teaching(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """The teacher as a denoiser of the same batch."""
        assert self.teacher.network is not None
        return replace(denoiser, network=self.teacher.network)

    def lr_progress(self, progress: float) -> float:
        gone = progress * self.rounds
        return gone - min(int(gone), self.rounds - 1)
