"""The base classes of all steppers, and what a stepper knows about its trajectory."""

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
    """One trajectory of a batch, as its stepper sees it.

    Args:
        steps: the total number of moves.
        noise: returns a fresh standard normal tensor of the shape of x at each call.
        past: what a multistep stepper keeps from earlier moves, the newest last; at most four entries.
    """

    steps: int
    noise: Callable[[], Tensor]
    past: deque[Any] = field(default_factory=lambda: deque(maxlen=LONGEST_MEMORY))


class Stepper(ABC):
    """A method that moves x (B, *D) from time t to time s, both float64 scalars.

    Attributes:
        order: the power of the step size in the error: in the solution for an ODE method, in its law (weak order) for
            an SDE method.
        ends_in_data: whether the method's own step from any time to the data gives E[data | x_t]. The denoising at the
            end is then the last of its N steps, as in DDPM and DDIM: N steps are N evaluations. For the other methods
            the denoising comes after the N steps.
    """

    order: ClassVar[int]
    ends_in_data: ClassVar[bool] = False

    @property
    def stochastic(self) -> bool:
        """Whether a move draws fresh noise."""
        return False

    @abstractmethod
    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        """Return x at s."""

    def end(self, denoiser: Denoiser, x: Tensor, t: Tensor, trajectory: Trajectory) -> Tensor:
        """Return the data for x at the last time t, in one call of the denoiser: E[data | x_t]."""
        return denoiser.data(x, t)


class OdeStepper(Stepper):
    """A stepper for dx/dt = field(x, t), in either direction of time."""

    @abstractmethod
    def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
        """Return x at s."""

    def move(self, denoiser: Denoiser, x: Tensor, t: Tensor, s: Tensor, trajectory: Trajectory) -> Tensor:
        return self.step(denoiser.velocity, x, t, s)
