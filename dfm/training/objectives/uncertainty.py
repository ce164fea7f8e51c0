"""The model's uncertainty at each noise level: it is learned and makes all levels count the same in the gradient."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from dfm.basics.errors import UserError


class Uncertainty(nn.Module, ABC):
    """A scale for the losses of each noise level; its parameters, if any, are trained with the network."""

    @abstractmethod
    def forward(self, loss: Tensor, log_nsr: Tensor) -> Tensor:
        """Return the losses to minimise, (B,), for losses (B,) at log_nsr (B,)."""


class FixedUncertainty(Uncertainty):
    """No scale: the loss stays as it is."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, loss: Tensor, log_nsr: Tensor) -> Tensor:
        return loss


class LearnedUncertainty(Uncertainty):
    """The loss/e^u + u, with u(log_nsr) a linear map of random Fourier features (Karras et al. 2024, EDM2).

    At the minimum over u, e^u is the expected loss of the noise level, so every level has a loss of one.

    Args:
        features: number of cosines. Their frequencies are quantiles of the standard normal law and not random.

    Raises:
        UserError: features is below one.
    """

    frequencies: Tensor
    phases: Tensor

    def __init__(self, *, features: int = 64) -> None:
        super().__init__()
        if features < 1:
            raise UserError(f"uncertainty learned: features={features}; allowed: a whole number of at least 1")
        share = (torch.arange(features, dtype=torch.float64) + 0.5) / features
        golden = (
            torch.arange(features, dtype=torch.float64) * 0.6180339887498949
        ) % 1  # phases that do not depend on the frequencies
        self.register_buffer("frequencies", torch.special.ndtri(share).float(), persistent=False)
        self.register_buffer("phases", (2 * torch.pi * golden).float(), persistent=False)
        self.linear = nn.Linear(features, 1)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def log_variance(self, log_nsr: Tensor) -> Tensor:
        """Return u, (B,), at log_nsr (B,)."""
        angle = log_nsr.float()[:, None] * self.frequencies + self.phases
        return self.linear(angle.cos() * 2**0.5)[:, 0]

    def forward(self, loss: Tensor, log_nsr: Tensor) -> Tensor:
        u = self.log_variance(log_nsr)
        return loss / u.exp() + u
