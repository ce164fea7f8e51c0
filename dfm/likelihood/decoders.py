"""Decoders, the last step of an evidence bound: the probability of the data given x at the smallest noise."""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from dfm.data.numbers.pixel_levels import centres
from dfm.denoising.denoiser import Denoiser


class Decoder(ABC):
    """A model of p(data | x_{t_0}).

    Attributes:
        discrete: whether p is a probability of integer pixel levels, and not a density of real data.
        calls: how many times the denoiser is evaluated.
    """

    discrete: bool
    calls: int = 1

    @abstractmethod
    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        """Return -log p(data | x) in nats, float64 (B,).

        Args:
            target: the data (B, *D), or their integer levels if ``discrete``.
            x: x_t at time t, (B, *D).
            t: float64 ().
        """


class GaussianDecoder(Decoder):
    """The decoder N(E[data | x], nsr^2): its variance is exact where the data's density is flat on the scale of nsr."""

    discrete = False

    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        log_nsr = float(denoiser.schedule.log_nsr(t))
        z = (target.double() - denoiser.data(x, t).double()) / math.exp(log_nsr)
        return z.square().flatten(1).sum(1) / 2 + target[0].numel() * (math.log(2 * math.pi) / 2 + log_nsr)


class VdmDecoder(Decoder):
    """The decoder P(v | x) ~ N(x; a centre(v), b^2), normalised over the levels v of each pixel.

    (Kingma et al. 2021, eq. 23.)
    """

    discrete = True
    calls = 0

    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        levels = denoiser.spec.levels
        assert levels is not None
        a, b = (float(c) for c in denoiser.schedule.ab(t))
        place = x.double() / a
        true = ((place - centres(target, levels)) / (b / a)).square() / 2
        # One level at a time, because a table of all levels of all pixels would be K times as large as the batch.
        total = torch.full_like(place, -math.inf)
        for centre in centres(torch.arange(levels, device=x.device), levels).tolist():
            total = torch.logaddexp(total, -((place - centre) / (b / a)).square() / 2)
        return (true + total).flatten(1).sum(1)


class DdpmDecoder(Decoder):
    """The decoder that integrates N(E[data | x], nsr^2) over the cell of each level (Ho et al. 2020, eq. 13).

    The cells of the lowest and the highest level extend to infinity.
    """

    discrete = True

    def nats(self, denoiser: Denoiser, target: Tensor, x: Tensor, t: Tensor) -> Tensor:
        levels = denoiser.spec.levels
        assert levels is not None
        nsr = math.exp(float(denoiser.schedule.log_nsr(t)))
        middle = centres(target, levels) - denoiser.data(x, t).double()
        low, high = (middle - 1 / levels) / nsr, (middle + 1 / levels) / nsr
        low = torch.where(target == 0, -math.inf, low)
        high = torch.where(target == levels - 1, math.inf, high)
        # By symmetry, use the side where the distribution function is small: far from the mean it keeps its digits.
        swap = low > 0
        low, high = torch.where(swap, -high, low), torch.where(swap, -low, high)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return -(log_high + torch.log(-torch.expm1(log_low - log_high))).flatten(1).sum(1)


DECODERS: dict[str, Decoder] = {"gaussian": GaussianDecoder(), "vdm": VdmDecoder(), "ddpm": DdpmDecoder()}
