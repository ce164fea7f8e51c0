"""The third term of a stochastic interpolant: x_t = a data + b noise + c z (Albergo et al. 2023)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.schedule import Schedule


class InterpolantLatent(ABC):
    """c(t) as a function of the schedule, of the form that c/a depends on b/a alone: schedules can then be swapped."""

    outputs: ClassVar[int] = 2  # of a network on this path: the prediction, and E[z | x_t]

    @abstractmethod
    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        """c(t) >= 0, float64 of the shape of t."""

    @abstractmethod
    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        """c'(t)."""


@dataclass(frozen=True, kw_only=True)
class NoLatent(InterpolantLatent):
    """c = 0."""

    outputs: ClassVar[int] = 1

    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class RootLatent(InterpolantLatent):
    """c = scale sqrt(2 a b), which on the linear path is their sqrt(2 t (1 - t)); c' = scale^2 (a' b + a b')/c.

    Raises:
        UserError: scale is not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(f"latent root: scale={self.scale}; allowed: a number above 0, or latent=none")

    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        a, b = schedule.ab(t)
        return self.scale * (2 * a * b).sqrt()

    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        (a, b), (da, db) = schedule.ab(t), schedule.derivatives(t)
        return self.scale**2 * (da * b + a * db) / self.c(schedule, t)
