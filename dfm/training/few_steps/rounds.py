"""Rounds with a teacher: a student learns from it, and each round has the same number of optimiser steps.

The first teacher is the network with which the run starts (``init=RUN``). At the start of each later round the student
becomes the teacher. The checkpoint has the teacher's weights and the number of the round, so a resumed run has the same
teacher.
"""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.training.objectives.base import Rounds
from dfm.training.objectives.regression import Regression


class Teacher(nn.Module):
    """A frozen network and the number of its round, -1 before the first."""

    round: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.network: nn.Module | None = None
        self.register_buffer("round", torch.tensor(-1))

    def as_denoiser(self, denoiser: NetworkDenoiser) -> NetworkDenoiser:
        """Return the teacher as a denoiser for the same batch as ``denoiser``."""
        assert self.network is not None
        return replace(denoiser, network=self.network)


class TeacherRounds(Rounds):
    """Rounds at whose start the student becomes the teacher.

    In each round the learning rate falls to zero by a cosine (if the run has one) and the average of the weights starts
    again. (In the paper on progressive distillation the rate falls linearly in each round.)

    Args:
        count: the number of rounds.
        on_start: a function of the teacher and the number of a round that starts; it returns measurements.
        measure: a function of the trained denoiser at the end; it returns measurements.
    """

    def __init__(
        self,
        count: int,
        on_start: Callable[[NetworkDenoiser, int], dict[str, float]] = lambda teacher, number: {},
        measure: Callable[[NetworkDenoiser], dict[str, float]] = lambda denoiser: {},
    ) -> None:
        self.count, self.teacher = count, Teacher()
        self._on_start, self._measure = on_start, measure

    @property
    def number(self) -> int:
        """The number of the round, counted from 0; it is 0 before the first round too."""
        return max(int(self.teacher.round), 0)

    def start_if_due(self, denoiser: NetworkDenoiser, progress: float) -> dict[str, float] | None:
        if min(int(progress * self.count), self.count - 1) <= int(self.teacher.round):
            return None
        assert self.teacher.network is not None
        self.teacher.network.load_state_dict(denoiser.module().state_dict())
        self.teacher.round += 1
        return self._on_start(self.teacher.as_denoiser(denoiser), int(self.teacher.round))

    def lr_progress(self, progress: float) -> float:
        rounds_done = progress * self.count
        return rounds_done - min(int(rounds_done), self.count - 1)

    def finish(self, denoiser: NetworkDenoiser) -> dict[str, float]:
        return self._measure(denoiser)


@dataclass(frozen=True, kw_only=True)
class TaughtInRounds(Regression):
    """A regression on the output of a frozen copy of the network, in rounds.

    A subclass defines ``make_rounds``: the number of rounds, and what happens at the start of each.
    """

    teacher_rounds: TeacherRounds = field(init=False, repr=False, compare=False)

    needs_teacher: ClassVar[bool] = True
    shardable: ClassVar[bool] = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "teacher_rounds", self.make_rounds())

    @abstractmethod
    def make_rounds(self) -> TeacherRounds:
        """Return the rounds of a run."""

    @property
    def rounds(self) -> TeacherRounds:
        return self.teacher_rounds

    @property
    def teacher(self) -> Teacher:
        """The teacher of the round."""
        return self.rounds.teacher

    def check_teacher(self, denoiser: NetworkDenoiser) -> None:
        if not denoiser.prediction.knows_data_at_t_max:
            raise UserError(
                f"prediction={denoiser.prediction.name} tells nothing about the data at t_max, where a student's jump "
                "begins; allowed: a teacher with prediction=velocity, v, data or edm"
            )
        if next(denoiser.module().parameters(), None) is None:
            raise UserError("a network without parameters cannot learn; allowed: model=unet... or mlp")

    def module(self, network: nn.Module) -> nn.ModuleDict:
        self.teacher.network = copy.deepcopy(network).eval().requires_grad_(False)
        return nn.ModuleDict({**super().module(network), "teacher": self.teacher})


def round_of(state: Mapping[str, Tensor]) -> int | None:
    """Return the number of the round from the state of an objective's module; None if it has no rounds."""
    number = state.get("teacher.round")
    return None if number is None else max(int(number), 0)
