"""Embeddings of the noise level and of the class, summed into the vector that conditions every block."""

import math

import torch
from torch import Tensor, nn

from dfm.errors import UserError


class Sinusoid(nn.Module):
    """Cosines and sines of c_time at geometrically spaced frequencies (Vaswani et al. 2017, section 3.5).

    omega_i = time_scale * max_period^(-i/(half - frequency_shift)),  i = 0 .. half-1,  half = channels/2

    Args:
        channels: even.
        time_scale: angular frequency of the fastest wave, in radians per unit of c_time.
        max_period: ratio of the fastest to the slowest frequency (but for the shift).
        cos_first: cosines before sines.
        frequency_shift: 0 (ADM) or 1 (DDPM).
    """

    def __init__(
        self, channels: int, *, time_scale: float, max_period: float, cos_first: bool, frequency_shift: float
    ) -> None:
        super().__init__()
        if channels % 2:
            raise UserError(f"a sinusoidal embedding of {channels} channels; allowed: an even number")
        half = channels // 2
        exponent = torch.arange(half) / (half - frequency_shift)
        self.register_buffer("frequencies", time_scale * torch.exp(-math.log(max_period) * exponent), persistent=False)
        self.cos_first = cos_first

    def forward(self, c_time: Tensor) -> Tensor:
        """(B,) -> (B, channels)."""
        angle = c_time[:, None] * self.frequencies
        waves = (angle.cos(), angle.sin()) if self.cos_first else (angle.sin(), angle.cos())
        return torch.cat(waves, 1)


class Conditioning(nn.Module):
    """SiLU(MLP(sinusoid(c_time)) + class embedding): (B,), (B,) or None -> (B, channels).

    The class table has a last row for 'no label', used where ``label`` is None or equals ``num_classes``.

    Raises:
        UserError: a label is given and there are no classes.
    """

    def __init__(self, waves: Sinusoid, waves_channels: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.waves = waves
        self.linear1 = nn.Linear(waves_channels, channels)
        self.linear2 = nn.Linear(channels, channels)
        self.num_classes = num_classes
        self.classes = nn.Embedding(num_classes + 1, channels) if num_classes else None

    def forward(self, c_time: Tensor, label: Tensor | None) -> Tensor:
        """Every block starts with SiLU of the sum, so it is taken here, once."""
        embedded = self.linear2(nn.functional.silu(self.linear1(self.waves(c_time))))
        if self.classes is None:
            if label is not None:
                raise UserError("a label was given to a model without classes; try conditional=true in training")
        else:
            none = torch.full(c_time.shape, self.num_classes, dtype=torch.long, device=c_time.device)
            embedded = embedded + self.classes(none if label is None else label)
        return nn.functional.silu(embedded)
