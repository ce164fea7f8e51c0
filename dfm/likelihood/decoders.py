"""The last step of an evidence bound: how probable the data are, given x at the least noise of the path."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dfm.data.pixel_levels import centres
from dfm.denoising.denoiser import Denoiser


class Decoder(ABC):
    """-log p(data | x_{t_0}).

    Attributes:
        discrete: whether it is a probability of integer levels, rather than a density of real data.
        calls: evaluations of the denoiser.
    """

    discrete: bool
    calls: int = 1

    @abstractmethod
    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """float64 (B,).

        Args:
            target: data (B, *D), or integer levels if ``discrete``.
            x: a data + b noise at time t, (B, *D).
            t: float64 ().
        """


class GaussianDecoder(Decoder):
    """N(E[data | x], nsr^2): the variance that data given x have where the density is flat over the noise."""

    discrete = False

    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        log_nsr = float(denoiser.schedule.log_nsr(t))
        z = (target.double() - denoiser.data(x, t).double()) / math.exp(log_nsr)
        return z.square().flatten(1).sum(1) / 2 + target[0].numel() * (math.log(2 * math.pi) / 2 + log_nsr)


class VdmDecoder(Decoder):
    """P(v | x) ~ N(x; a centre(v), b^2), normalised over the levels of each pixel (Kingma et al. 2021, eq. 23)."""

    discrete = True
    calls = 0

    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        levels = denoiser.spec.levels
        assert levels is not None
        a, b = (float(c) for c in denoiser.schedule.ab(t))
        place = x.double() / a
        own = ((place - centres(target, levels)) / (b / a)).square() / 2
        # one level at a time: a table of all levels of all pixels would be K times the batch
        total = torch.full_like(place, -math.inf)
        for centre in centres(torch.arange(levels, device=x.device), levels).tolist():
            total = torch.logaddexp(total, -((place - centre) / (b / a)).square() / 2)
        return (own + total).flatten(1).sum(1)


class DdpmDecoder(Decoder):
    """N(E[data | x], nsr^2) integrated over each level's cell, those at the ends unbounded (Ho et al. 2020, eq. 13)."""

    discrete = True

    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        levels = denoiser.spec.levels
        assert levels is not None
        nsr = math.exp(float(denoiser.schedule.log_nsr(t)))
        middle = centres(target, levels) - denoiser.data(x, t).double()
        low, high = (middle - 1 / levels) / nsr, (middle + 1 / levels) / nsr
        low = torch.where(target == 0, -math.inf, low)
        high = torch.where(target == levels - 1, math.inf, high)
        # by symmetry on the side where the distribution function is small, so that no digit is lost far out
        swap = low > 0
        low, high = torch.where(swap, -high, low), torch.where(swap, -low, high)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return -(log_high + torch.log(-torch.expm1(log_low - log_high))).flatten(1).sum(1)


DECODERS: dict[str, Decoder] = {"gaussian": GaussianDecoder(), "vdm": VdmDecoder(), "ddpm": DdpmDecoder()}
