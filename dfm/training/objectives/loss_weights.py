"""Weights of the training loss over noise levels. Each multiplies the squared error in the network's own target.

A squared error in ``out`` times (b/det)^2 is the squared error in data, times (a/det)^2 that in noise: so weights that
are usually stated for data or noise convert by one scalar, the determinant of the prediction's row.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.denoising.predictions import Prediction
from dfm.paths.schedule import Schedule


class LossWeight(ABC):
    """w(t) >= 0 in loss = w(t) |out - target|^2 / d."""

    @abstractmethod
    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        """t float64 (B,) -> w float64 (B,); ``std`` is that of the data."""


@dataclass(frozen=True, kw_only=True)
class UniformWeight(LossWeight):
    """1: every level counts alike in the unit of the target."""

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class NoiseVarianceWeight(LossWeight):
    """b^2: on the score's error it gives the loss of noise prediction (Song and Ermon 2019, section 4.2)."""

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        return schedule.ab(t)[1] ** 2


@dataclass(frozen=True, kw_only=True)
class LikelihoodWeight(LossWeight):
    """g^2 of the score's error: the evidence bound's weight (Song et al. 2021, Maximum likelihood training, eq. 7).

    The score's error is the noise's divided by b, so in the unit of any target it is g^2 (a/det)^2 / b^2.
    """

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        a, b = schedule.ab(t)
        return schedule.diffusion_squared(t) * (a / (b * prediction.determinant(schedule, t, std))) ** 2


@dataclass(frozen=True, kw_only=True)
class EdmWeight(LossWeight):
    """(nsr^2 + S^2)/(nsr S)^2 of the data's error: 1 in the unit of the ``edm`` row (Karras et al. 2022, table 1)."""

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        a, b = schedule.ab(t)
        to_data = b / prediction.determinant(schedule, t, std)
        return (b * b + a * a * std * std) / (b * std) ** 2 * to_data**2


@dataclass(frozen=True, kw_only=True)
class MinSnrWeight(LossWeight):
    """min(1/nsr^2, gamma) of the data's error (Hang et al. 2023, eq. 8); without gamma 1/nsr^2, the noise's error.

    Raises:
        UserError: gamma is not positive.
    """

    gamma: float | None = 5.0

    def __post_init__(self) -> None:
        if self.gamma is not None and not self.gamma > 0:
            raise UserError(f"weight min_snr: gamma={self.gamma}; allowed: a number above 0, or null for no clip")

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        b = schedule.ab(t)[1]
        snr = (-2 * schedule.log_nsr(t)).exp()
        clipped = snr if self.gamma is None else snr.clamp_max(self.gamma)
        return clipped * (b / prediction.determinant(schedule, t, std)) ** 2


@dataclass(frozen=True, kw_only=True)
class SigmoidWeight(LossWeight):
    """sigmoid(2 log nsr + bias) of the noise's error (Kingma and Gao 2023, section 5): low noise counts little."""

    bias: float = 0.0

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        a, _ = schedule.ab(t)
        share = torch.sigmoid(2 * schedule.log_nsr(t) + self.bias)
        return share * (a / prediction.determinant(schedule, t, std)) ** 2
