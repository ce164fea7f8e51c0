"""The third term of a stochastic interpolant: x_t = a data + b noise + c z (Albergo et al. 2023)."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.schedule import Schedule


class InterpolantLatent(ABC):
    """The factor c(t) of z, as a function of the schedule; c/a depends on b/a only, so the schedule can be replaced."""

    outputs: ClassVar[int] = 2  # outputs of a network on this path: the prediction, and E[z | x_t]

    @abstractmethod
    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return c(t) >= 0, float64 of the shape of t."""

    @abstractmethod
    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Return c'(t), float64 of the shape of t."""


@dataclass(frozen=True, kw_only=True)
class NoLatent(InterpolantLatent):
    """No third term: c = 0."""

    outputs: ClassVar[int] = 1

    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.zeros_like(t)

    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class RootLatent(InterpolantLatent):
    """The factor c = scale sqrt(2 a b), with c' = scale^2 (a' b + a b')/c.

    On the linear path and with scale=1 it is the paper's sqrt(2 t (1 - t)).

    Raises:
        UserError: scale is not positive.
    """

    scale: float = 1.0

    def __post_init__(self) -> None:
        if not self.scale > 0:
            raise UserError(
                f"latent root: scale={self.scale}; allowed: a number above 0; try latent.scale=1, or latent=none"
            )

    def c(self, schedule: Schedule, t: Tensor) -> Tensor:
        a, b = schedule.ab(t)
        return self.scale * (2 * a * b).sqrt()

    def derivative(self, schedule: Schedule, t: Tensor) -> Tensor:
        (a, b), (da, db) = schedule.ab(t), schedule.derivatives(t)
        return self.scale**2 * (da * b + a * db) / self.c(schedule, t)
