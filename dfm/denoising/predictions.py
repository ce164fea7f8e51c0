"""What a network is asked to predict: a row (p, q) with target = p(t) data + q(t) noise.

With x = a data + b noise and det = a q - b p, an output ``out`` of any row gives both expectations back:

    data  = (q x - b out) / det        noise = (a out - p x) / det

Every prediction is therefore two coefficients, and every conversion is these two lines.
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

# Below this share of the target's scale, float32 leaves no digit of the expectation that det divides.
SMALLEST_DETERMINANT = 1e-6


class Prediction(ABC):
    """A row (p, q) as a function of time; ``std`` is S, the standard deviation of the data.

    Attributes:
        knows_data_at_t_max: whether the network's output still says something of the data where x_t is all noise.
    """

    knows_data_at_t_max: ClassVar[bool] = True

    @abstractmethod
    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        """(p, q), each float64 of the shape of t."""

    def scale(self, schedule: Schedule, t: Tensor, std: float, noise_std: float = 1.0) -> Tensor:
        """Deviation of the target, sqrt(p^2 S^2 + q^2 N^2): the unit in which a network gives its output.

        A network that regresses target/scale has a target of variance one at every noise level, whatever the row
        (Karras et al. 2022, section 5, extended from their row to all; it is 1 for ``noise`` and ``edm``). N is the
        deviation of the noise: 1 unless the prior is another than the standard normal.
        """
        p, q = self.row(schedule, t, std)
        return (p * p * std * std + q * q * noise_std * noise_std).sqrt()

    def determinant(self, schedule: Schedule, t: Tensor, std: float) -> Tensor:
        """a q - b p: an error of ``out`` times b/det is the error of data, times a/det that of noise."""
        a, b = schedule.ab(t)
        p, q = self.row(schedule, t, std)
        return a * q - b * p

    def check(self, schedule: Schedule, std: float) -> None:
        """Refuse a row that loses data or noise at an end of the schedule (det -> 0).

        Raises:
            UserError: naming the end at which data and noise cannot be told apart.
        """
        for name, end in (("t_min", schedule.t_min), ("t_max", schedule.t_max)):
            t = torch.tensor(end, dtype=torch.float64)
            share = self.determinant(schedule, t, std).abs() / self.scale(schedule, t, std)
            if not float(share) > SMALLEST_DETERMINANT:
                raise UserError(
                    f"prediction '{type(self).__name__.lower()}' is singular at {name}={end:g} of this schedule, where "
                    f"it says nothing of data or of noise; try another prediction or a {name} further inside"
                )


def data_and_noise(row: Row, ab: Row, x: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Expected data and noise given x_t = x, from an output of the row: (q x - b out)/det, (a out - p x)/det.

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


@dataclass(frozen=True, kw_only=True)
class Data(Prediction):
    """(1, 0): the denoiser E[data | x_t]."""

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return torch.ones_like(t), torch.zeros_like(t)


@dataclass(frozen=True, kw_only=True)
class Noise(Prediction):
    """(0, 1): E[noise | x_t] (Ho et al. 2020, eq. 11)."""

    knows_data_at_t_max: ClassVar[bool] = False

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return torch.zeros_like(t), torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class Score(Prediction):
    """(0, -1/b): grad log p_t(x) = -E[noise | x_t]/b (Vincent 2011; Song et al. 2021)."""

    knows_data_at_t_max: ClassVar[bool] = False

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return torch.zeros_like(t), -1 / schedule.ab(t)[1]


@dataclass(frozen=True, kw_only=True)
class Velocity(Prediction):
    """(a', b'): the velocity of the probability-flow ODE, from data to noise (Lipman et al. 2023, theorem 3)."""

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        return schedule.derivatives(t)


@dataclass(frozen=True, kw_only=True)
class V(Prediction):
    """(-b, a): the v of Salimans and Ho 2022, appendix D."""

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        a, b = schedule.ab(t)
        return -b, a


@dataclass(frozen=True, kw_only=True)
class Edm(Prediction):
    """((1 - c_skip a)/c_out, -c_skip b/c_out): the preconditioned network of Karras et al. 2022, eq. 7, on any path.

    c_skip = a S^2/(a^2 S^2 + b^2) and c_out = b S/sqrt(a^2 S^2 + b^2), so that data = c_skip x + c_out out. Written
    out, p = b/(S r) and q = -a S/r with r = sqrt(a^2 S^2 + b^2): no difference of near numbers is formed.
    """

    def row(self, schedule: Schedule, t: Tensor, std: float) -> Row:
        a, b = schedule.ab(t)
        root = (a * a * std * std + b * b).sqrt()
        return b / (std * root), -a * std / root
