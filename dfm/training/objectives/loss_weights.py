"""Weights of the training loss at each noise level. A weight multiplies the squared error of the network's own target.

The squared error of ``out`` times (b/det)^2 is the squared error of data; times (a/det)^2 it is the squared error of
noise. So the determinant of the prediction's row converts the weights that papers give for data or noise.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.denoising.predictions import Prediction
from dfm.paths.schedule import Schedule


class LossWeight(ABC):
    """The weight w(t) >= 0 in loss = w(t) |out - target|^2 / d."""

    @abstractmethod
    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        """Return w, float64 (B,), at t, float64 (B,); ``std`` is the standard deviation of the data."""


@dataclass(frozen=True, kw_only=True)
class UniformWeight(LossWeight):
    """The weight 1: in the unit of the target, all noise levels count the same."""

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        return torch.ones_like(t)


@dataclass(frozen=True, kw_only=True)
class NoiseVarianceWeight(LossWeight):
    """The weight b^2, which turns the score's error into the noise's error (Song and Ermon 2019, section 4.2)."""

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        return schedule.ab(t)[1] ** 2


@dataclass(frozen=True, kw_only=True)
class LikelihoodWeight(LossWeight):
    """The weight g^2 of the score's error, as in the evidence bound.

    (Song et al. 2021, Maximum likelihood training, eq. 7.) The score's error is the noise's error divided by b, so the
    weight of the target's error is g^2 (a/det)^2 / b^2, for every prediction.
    """

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        a, b = schedule.ab(t)
        return schedule.diffusion_squared(t) * (a / (b * prediction.determinant(schedule, t, std))) ** 2


@dataclass(frozen=True, kw_only=True)
class EdmWeight(LossWeight):
    """The weight (nsr^2 + S^2)/(nsr S)^2 of the data's error, which is 1 for prediction=edm.

    (Karras et al. 2022, table 1.)
    """

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        a, b = schedule.ab(t)
        to_data = b / prediction.determinant(schedule, t, std)
        return (b * b + a * a * std * std) / (b * std) ** 2 * to_data**2


@dataclass(frozen=True, kw_only=True)
class MinSnrWeight(LossWeight):
    """The weight min(1/nsr^2, gamma) of the data's error (Hang et al. 2023, eq. 8).

    Args:
        gamma: the largest weight; None: no bound, so that the loss is the noise's error.

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
        weight = snr if self.gamma is None else snr.clamp_max(self.gamma)
        return weight * (b / prediction.determinant(schedule, t, std)) ** 2


@dataclass(frozen=True, kw_only=True)
class SigmoidWeight(LossWeight):
    """The weight sigmoid(2 log nsr + bias) of the noise's error (Kingma and Gao 2023, section 5).

    It is small where there is little noise.
    """

    bias: float = 0.0

    def __call__(self, t: Tensor, schedule: Schedule, prediction: Prediction, std: float) -> Tensor:
        a, _ = schedule.ab(t)
        share = torch.sigmoid(2 * schedule.log_nsr(t) + self.bias)
        return share * (a / prediction.determinant(schedule, t, std)) ** 2
