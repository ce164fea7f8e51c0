"""The inputs of a network beside x: time, as sinusoids of c_time = log nsr, the class, and how a picture was changed.

    angle_k = time_scale c_time max_period^(-k / (K - frequency_shift)),   k = 0 .. K-1
    e = W2 silu(W1 [sin angle, cos angle]) + table[label] + M change

(Vaswani et al. 2017, section 3.5, for the sinusoids; Ho et al. 2020, appendix B, for their use; Karras et al. 2022,
appendix F.2, for M.) A time in 0..1000
needs time_scale=1 and max_period=10000. c_time lies in about [-7, 7]. With the defaults (10, 100 and frequency_shift=1)
the angular frequencies fall geometrically from 10 to 0.1 rad per unit. The fastest wave distinguishes times that differ
by a tenth, and the slowest does not complete a period within the range.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfm.basics.errors import UserError
from dfm.models.blocks import zero_out
from dfm.models.condition import Condition


def frequencies(count: int, *, time_scale: float, max_period: float, frequency_shift: float) -> Tensor:
    """Return the frequencies time_scale max_period^(-k/(count - frequency_shift)) in rad per unit of c_time, (count,).

    Raises:
        UserError: max_period is not above 1, or frequency_shift is not below count.
    """
    if max_period <= 1:
        raise UserError(f"max_period={max_period:g}; allowed: above 1; try 100")
    if count <= frequency_shift:
        raise UserError(f"frequency_shift={frequency_shift:g} with {count} frequencies; allowed: below {count}; try 0")
    k = torch.arange(count, dtype=torch.float64)
    return (time_scale * torch.exp(-math.log(max_period) * k / (count - frequency_shift))).float()


class Embedding(nn.Module):
    """The embedding e(c_time, label): (B,) float and (B,) int64 -> (B, channels).

    The table has a row for each class and a last row, number ``num_classes``, for 'no label'. That row is used if the
    label is None. Training also passes its number for single samples, to hide their labels (Ho and Salimans 2022).

    Args:
        features: 2K, the number of sines and cosines; even.
        channels: channels of the result.
        num_classes: 0 for a network without classes.
        time_scale: factor of c_time.
        max_period: ratio of the highest to the lowest frequency (exactly, if frequency_shift is 1).
        frequency_shift: 0 (Dhariwal and Nichol) or 1 (Ho et al.) in the formula above.
        flip_sin_to_cos: whether cosines come before sines.
        two_times: whether a second time is embedded in the same way and added, for flow maps.
        changes: how many numbers tell the network how a picture was changed (``Condition.change``); 0: it is not told.

    Raises:
        UserError: features is odd, or ``frequencies`` refuses an option.
    """

    frequencies: Tensor

    def __init__(
        self,
        *,
        features: int,
        channels: int,
        num_classes: int = 0,
        time_scale: float = 10.0,
        max_period: float = 100.0,
        frequency_shift: float = 1.0,
        flip_sin_to_cos: bool = False,
        two_times: bool = False,
        changes: int = 0,
    ) -> None:
        super().__init__()
        if features < 2 or features % 2:
            raise UserError(
                f"{features} sines and cosines of time (a U-Net's channels, an MLP's time_features); "
                f"allowed: an even number; try {max(features + 1, 2)}"
            )
        angular = frequencies(
            features // 2, time_scale=time_scale, max_period=max_period, frequency_shift=frequency_shift
        )
        # The options determine it, so it is not a part of the weights.
        self.register_buffer("frequencies", angular, persistent=False)
        self.flip_sin_to_cos = flip_sin_to_cos
        self.linear_1 = nn.Linear(features, channels)
        self.linear_2 = nn.Linear(channels, channels)
        self.table = nn.Embedding(num_classes + 1, channels) if num_classes else None
        self.second = SecondTime(features, channels) if two_times else None
        self.change = ToldChange(changes, channels) if changes else None

    def forward(
        self,
        c_time: Tensor,
        label: Tensor | None = None,
        c_end: Tensor | None = None,
        condition: Condition | None = None,
    ) -> Tensor:
        """Return e, (B, channels); ``c_end`` is the second time of a network of two times.

        Raises:
            UserError: a label for a network without classes, or a change for one that is not told of changes.
        """
        time = self.linear_2(functional.silu(self.linear_1(self.sinusoids(c_time))))
        if self.second is not None:
            time = time + self.second(self.sinusoids(c_time if c_end is None else c_end))
        if condition is not None:
            if self.change is None:
                raise UserError("a change was told to a network that takes none; allowed: a network with changes > 0")
            time = time + self.change(condition.change.to(self.change.weight.dtype))
        if self.table is not None:
            return time + (self.table.weight[-1] if label is None else self.table(label))
        if label is not None:
            raise UserError(
                "a label was given to a model without classes; allowed: no label; or train with conditional=true"
            )
        return time

    def sinusoids(self, c_time: Tensor) -> Tensor:
        """Return [sin angle, cos angle] of c_time (B,): (B, features)."""
        angle = c_time.to(self.frequencies.dtype)[:, None] * self.frequencies
        waves = angle.sin(), angle.cos()
        return torch.cat(waves[::-1] if self.flip_sin_to_cos else waves, dim=1)


class SecondTime(nn.Sequential):
    """The embedding of a second time. Its last layer starts at zero, so the network starts as one with a single time.

    Attributes:
        adds_nothing_at_first: true, so the weights of a network without it can start one with it
            (``Trainer.start_from``).
    """

    adds_nothing_at_first = True

    def __init__(self, features: int, channels: int) -> None:
        # We make the last layer first: the order in which layers draw their weights is a part of the meaning of a seed.
        last = zero_out(nn.Linear(channels, channels), True)
        super().__init__(nn.Linear(features, channels), nn.SiLU(), last)


class ToldChange(nn.Linear):
    """The linear map of the numbers that tell how a picture was changed, (B, changes) -> (B, channels), without a bias.

    It starts at zero and takes no random number for that, so the other weights are those of a network without it.

    Attributes:
        adds_nothing_at_first: true, so the weights of a network without it can start one with it.
        adds_nothing_untold: true. Sampling tells nothing, so without it the network makes the same samples
            (``dfm.training.warps``).
    """

    adds_nothing_at_first = True
    adds_nothing_untold = True

    def __init__(self, changes: int, channels: int) -> None:
        super().__init__(changes, channels, bias=False)

    def reset_parameters(self) -> None:
        """Set the weights to zero."""
        nn.init.zeros_(self.weight)


class PixelFourier(nn.Module):
    """The map x -> (x, sin(w_j x), cos(w_j x)) along the channels, w_j = pi K S/2^j (Kingma et al. 2021, appendix C).

    At little noise, x is the data divided by their deviation S, and pixel levels are 2/(K S) apart. The first period is
    one level, and each next period is twice as long. Without these sinusoids a network must learn a saw of K teeth to
    find the level of a pixel.

    Args:
        octaves: number of frequencies; 0: x alone.
        grey_levels: K.
        std: S.

    Raises:
        UserError: octaves is negative or above 64, or above 0 for data without levels.
    """

    def __init__(self, octaves: int, grey_levels: int | None, std: float) -> None:
        super().__init__()
        if not 0 <= octaves <= 64 or (octaves and grey_levels is None):
            raise UserError(
                f"model.fourier={octaves}; allowed: a whole number from 0 to 64, and 0 for data without pixel levels"
            )
        self.frequencies = [torch.pi * (grey_levels or 0) * std / 2**j for j in range(octaves)]

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, *S) to (B, C (1 + 2 octaves), *S)."""
        waves = [wave for w in self.frequencies for wave in ((w * x).sin(), (w * x).cos())]
        return torch.cat([x, *waves], 1) if waves else x
