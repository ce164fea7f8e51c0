"""Predictions: what a network learns to give, as a row (p, q) with target = p(t) data + q(t) noise.

Let x = a data + b noise and det = a q - b p. Then the output ``out`` of any row gives both expectations:

    data  = (q x - b out) / det        noise = (a out - p x) / det

So a prediction is two coefficients, and these two formulas convert any prediction into any other.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.per_sample import per_sample
from dfm.paths.schedule import Schedule

Row = tuple[Tensor, Tensor]

# If |det| is below this share of the target's scale, a division by det leaves no correct digit in float32.
SMALLEST_DETERMINANT = 1e-6


class Prediction(ABC):
    """A row (p, q) as a function of time; ``std`` is S, the standard deviation of the data.

    Attributes:
        knows_data_at_t_max: whether the network's output still tells something about the data where x_t is all noise.
    """

    knows_data_at_t_max: ClassVar[bool] = True

    @property
    def name(self) -> str:
        """The prediction's name in messages."""
        return type(self).__name__.lower()

    @abstractmethod
    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        """Return (p, q), each float64 of the shape of t."""

    def scale(self, schedule: Schedule, t: Tensor, std: float, noise_std: float = 1.0) -> Tensor:
        """Return the target's standard deviation, sqrt(p^2 S^2 + q^2 N^2): the unit of a network's output.

        A network that learns target/scale has a target of variance one at every noise level, for every row. (Karras et
        al. 2022, section 5, for their row; here for all. It is 1 for ``noise`` and ``edm``.) N is the standard
        deviation of the noise, which is 1 for the standard normal prior.
        """
        p, q = self.row(schedule, t, std)
        return (p * p * std * std + q * q * noise_std * noise_std).sqrt()

    def determinant(self, schedule: Schedule, t: Tensor, std: float) -> Tensor:
        """Return det = a q - b p: an error of ``out`` times b/det is an error of data, times a/det one of noise."""
        a, b = schedule.ab(t)
        p, q = self.row(schedule, t, std)
        return a * q - b * p

    def check(self, schedule: Schedule, std: float) -> None:
        """Refuse a row that loses data or noise at an end of the schedule (det -> 0).

        Raises:
            UserError: at an end the row does not determine both data and noise.
        """
        for name, end in (("t_min", schedule.t_min), ("t_max", schedule.t_max)):
            t = torch.tensor(end, dtype=torch.float64)
            share = self.determinant(schedule, t, std).abs() / self.scale(schedule, t, std)
            if not float(share) > SMALLEST_DETERMINANT:
                raise UserError(
                    f"prediction '{self.name}' is singular at {name}={end:g} of this schedule: it does not give both "
                    f"data and noise; try prediction=edm, or a {name} further inside"
                )


def data_and_noise(row: Row, ab: Row, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Return expected data and noise at x_t = x from an output of the row: (q x - b out)/det and (a out - p x)/det.

    Args:
        row: (p, q), shape () or (B,).
        ab: (a, b) of the schedule at the same time.
        x, out: (B, *D).
    """
    (p, q), (a, b) = row, ab
    det = a * q - b * p
    data = per_sample(q / det, x) * x - per_sample(b / det, x) * out
    noise = per_sample(a / det, x) * out - per_sample(p / det, x) * x
    return data, noise


def noise_at(x: Tensor, data: Tensor, ab: Row) -> Tensor:
    """Return the noise (x - a data)/b of x = a data + b noise, (B, *D).

    Args:
        x, data: (B, *D).
        ab: (a, b), shape () or (B,).
    """
    a, b = ab
    return (x - per_sample(a, x) * data) / per_sample(b, x)


@dataclass(frozen=True, kw_only=True)
class Data(Prediction):
    """The row (1, 0): the denoiser E[data | x_t]."""

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return torch.ones_like(t), torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class Noise(Prediction):
    """The row (0, 1): E[noise | x_t] (Ho et al. 2020, eq. 11)."""

    knows_data_at_t_max: ClassVar[bool] = False

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class Score(Prediction):
    """The row (0, -1/b): the score grad log p_t(x) = -E[noise | x_t]/b (Vincent 2011; Song et al. 2021)."""

    knows_data_at_t_max: ClassVar[bool] = False

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return torch.zeros_like(t), -1 / schedule.ab(t)[1]


@dataclass(frozen=True, kw_only=True)
class Velocity(Prediction):
    """The row (a', b'): the probability-flow ODE's velocity, from data to noise (Lipman et al. 2023, theorem 3)."""

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return schedule.derivatives(t)


@dataclass(frozen=True, kw_only=True)
class V(Prediction):
    """The row (-b, a): the v of Salimans and Ho 2022, appendix D."""

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        a, b = schedule.ab(t)
        return -b, a


@dataclass(frozen=True, kw_only=True)
class Edm(Prediction):
    """The row ((1 - c_skip a)/c_out, -c_skip b/c_out): the network of Karras et al. 2022, eq. 7, on any path.

    c_skip = a S^2/(a^2 S^2 + b^2) and c_out = b S/sqrt(a^2 S^2 + b^2), so that data = c_skip x + c_out out. We compute
    p = b/(S r) and q = -a S/r with r = sqrt(a^2 S^2 + b^2), which subtracts no nearly equal numbers.
    """

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        a, b = schedule.ab(t)
        root = (a * a * std * std + b * b).sqrt()
        return b / (std * root), -a * std / root
