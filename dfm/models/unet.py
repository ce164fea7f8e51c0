"""The U-Net (Ronneberger et al. 2015) of diffusion models: time at every scale, convolutions with self-attention.

Its options span two published topologies, so that weights of either can be copied one to one: diffusers'
``UNet2DModel`` (DDPM; Ho et al. 2020) and the ADM U-Net of guided-diffusion and torchcfm (Dhariwal and Nichol 2021).
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dfm.errors import UserError
from dfm.models.blocks import Resample, ResidualBlock, SelfAttention, Stage, group_norm, zeroed
from dfm.models.embed import Conditioning, Sinusoid


class UNet(nn.Module):
    """x (B, C, H, W), c_time (B,), label (B,) or None -> (B, C, H, W).

    Down: ``blocks_per_level`` stages a level, each level but the last followed by a halving; the output of each of
    these (and of the first convolution) is kept. Middle: block, attention, block. Up: ``blocks_per_level + 1`` stages
    a level, each fed one of the kept outputs beside its input; each level but the first (level 0) ends in a doubling.

    Args:
        shape: (C, H, W); H and W divisible by 2^(levels - 1).
        num_classes: 0 for an unconditional model.
        channels: of the time embedding's waves, and the unit of the multipliers.
        channel_multipliers: one a level, level 0 at full resolution.
        blocks_per_level: residual blocks at each level on the way down.
        attention_levels: levels with self-attention after each block; ``up_attention_levels`` where it differs up.
        heads: attention heads, unless ``head_channels`` gives the channels of a head (0: all channels, one head).
        mid_attention, mid_attention_norm: attention in the middle, and a norm before it.
        groups, norm_eps: of group normalisation.
        dropout: inside residual blocks.
        scale_shift: conditioning scales and shifts (ADM) instead of being added.
        resample: ``conv``, ``resblock`` (ADM's resblock_updown), or ``plain`` (no parameters).
        downsample_padding: 1, or 0 for padding right and bottom only (DDPM).
        mid_scale: what sums in the middle are divided by.
        time_channels: size of the conditioning vector, default 4 channel_multipliers[0] channels for ``None``.
        time_scale, max_period, cos_first, frequency_shift: of ``Sinusoid``.
        zero_init: start blocks as the identity, and the output at zero.

    Raises:
        UserError: a size that cannot be halved often enough, or options that do not fit together.
    """

    def __init__(
        self,
        *,
        shape: tuple[int, ...],
        num_classes: int = 0,
        channels: int = 128,
        channel_multipliers: tuple[int, ...] = (1, 2, 2, 2),
        blocks_per_level: int = 2,
        attention_levels: tuple[int, ...] = (1,),
        up_attention_levels: tuple[int, ...] | None = None,
        heads: int = 1,
        head_channels: int | None = None,
        mid_attention: bool = True,
        mid_attention_norm: bool = True,
        groups: int = 32,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        scale_shift: bool = False,
        resample: Literal["conv", "resblock", "plain"] = "conv",
        downsample_padding: int = 1,
        mid_scale: float = 1.0,
        time_channels: int | None = None,
        time_scale: float = 10.0,
        max_period: float = 100.0,
        cos_first: bool = True,
        frequency_shift: float = 0.0,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        _check_shape(shape, len(channel_multipliers))
        _check_levels(attention_levels, len(channel_multipliers))
        embedding = time_channels or 4 * channels
        waves = Sinusoid(
            channels,
            time_scale=time_scale,
            max_period=max_period,
            cos_first=cos_first,
            frequency_shift=frequency_shift,
        )
        self.conditioning = Conditioning(waves, channels, embedding, num_classes)
        norm = {"groups": groups, "eps": norm_eps}

        def block(c_in: int, c_out: int, how: Literal["none", "up", "down"] = "none", scale: float = 1.0) -> ResidualBlock:
            return ResidualBlock(
                c_in, c_out, embedding, groups=groups, eps=norm_eps, dropout=dropout, scale_shift=scale_shift,
                resampling=how, residual_scale=scale, zero_init=zero_init,
            )  # fmt: skip

        def attention(c: int, normed: bool = True, scale: float = 1.0) -> SelfAttention:
            count = heads if head_channels is None else c // (head_channels or c)
            return SelfAttention(
                c, count, groups=groups, eps=norm_eps, norm=normed, residual_scale=scale, zero_init=zero_init
            )

        def change(c: int, how: Literal["up", "down"]) -> nn.Module:
            if resample == "resblock":
                return block(c, c, how)
            return Resample(c, how, conv=resample == "conv", padding=downsample_padding)

        widths = [channels * m for m in channel_multipliers]
        deepest = len(widths) - 1
        width = widths[0]
        self.conv_in = nn.Conv2d(shape[0], width, 3, padding=1)
        kept = [width]
        self.down = nn.ModuleList()
        for level, wide in enumerate(widths):
            for _ in range(blocks_per_level):
                self.down.append(Stage(block(width, wide), attention(wide) if level in attention_levels else None))
                width = wide
                kept.append(width)
            if level < deepest:
                self.down.append(change(width, "down"))
                kept.append(width)

        self.middle = nn.ModuleList(
            [
                Stage(
                    block(width, width, scale=mid_scale),
                    attention(width, mid_attention_norm, mid_scale) if mid_attention else None,
                ),
                Stage(block(width, width, scale=mid_scale), None),
            ]
        )

        self.up = nn.ModuleList()
        up_levels = attention_levels if up_attention_levels is None else up_attention_levels
        for level, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks_per_level + 1):
                self.up.append(
                    Stage(block(width + kept.pop(), wide), attention(wide) if level in up_levels else None)
                )
                width = wide
            if level > 0:
                self.up.append(change(width, "up"))

        self.norm_out = group_norm(width, **norm)
        conv_out = nn.Conv2d(width, shape[0], 3, padding=1)
        self.conv_out = zeroed(conv_out) if zero_init else conv_out

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None = None) -> Tensor:
        """See the class."""
        e = self.conditioning(c_time, label)
        h = self.conv_in(x)
        kept = [h]
        for layer in self.down:
            h = layer(h, e)
            kept.append(h)
        for layer in self.middle:
            h = layer(h, e)
        for layer in self.up:
            h = layer(torch.cat([h, kept.pop()], 1) if isinstance(layer, Stage) else h, e)
        return self.conv_out(F.silu(self.norm_out(h)))


def _check_shape(shape: tuple[int, ...], levels: int) -> None:
    divisor = 2 ** (levels - 1)
    if len(shape) != 3:
        raise UserError(f"the U-Net takes images (C, H, W), the data have shape {shape}; try model=mlp")
    if shape[1] % divisor or shape[2] % divisor:
        raise UserError(
            f"the U-Net with {levels} levels cannot take {shape[1]}x{shape[2]}; allowed: sides divisible by {divisor}; "
            "try fewer model.channel_multipliers, or another size of the images"
        )


def _check_levels(attention_levels: tuple[int, ...], levels: int) -> None:
    if any(not 0 <= level < levels for level in attention_levels):
        raise UserError(f"model.attention_levels={attention_levels}; allowed: levels 0 to {levels - 1}")
