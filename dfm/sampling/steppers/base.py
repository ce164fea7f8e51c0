"""What every stepper is, and what it may know of the trajectory that it moves along."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from dfm.denoising.denoiser import Denoiser

Field = Callable[[Tensor, Tensor], Tensor]
LONGEST_MEMORY = 4


@dataclass(frozen=True, kw_only=True)
class Trajectory:
    """One trajectory of a batch.

    Args:
        steps: moves in all.
        noise: gives a fresh standard normal of the shape of x at every call.
        past: what a multistep stepper keeps, the newest last; it holds four entries at most, however long the trip.
    """

    steps: int
    noise: Callable[[], Tensor]
    past: deque[Any] = field(default_factory=lambda: deque(maxlen=LONGEST_MEMORY))


class Stepper(ABC):
    """Moves x (B, *D) from t to s, both float64 scalars.

    Attributes:
        order: of the error in the step: of the solution for an ODE method, of its law (weak) for an SDE method.
    """

    order: ClassVar[int]

    @property
    def stochastic(self) -> bool:
        """Whether a move draws fresh noise."""
        return False

    @abstractmethod
    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        """x at s."""


class OdeStepper(Stepper):
    """A step of dx/dt = field(x, t), in either direction of time."""

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """x at s."""

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trip: Trajectory) -> Tensor:
        return self.step(denoiser.velocity, x, t, s)
