"""The parts of a U-Net: residual blocks that are told the time, self-attention, changes of resolution.

Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3 and appendix A. Everything maps (B, C, H, W) to the same kind of
tensor and keeps the memory format that it is given, channels_last included.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from dfm.basics.errors import UserError
from dfm.models.fused_norm import norm_silu

Resize = Literal["down", "up"]
Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """What the residual blocks of a network have in common; ``UNet`` says what each option means.

    Raises:
        UserError: num_heads and head_channels are both given, or dropout is no probability below 1.
    """

    time_channels: int
    groups: int
    attention_groups: int
    norm_eps: float
    dropout: float
    scale_shift: bool
    num_heads: int | None
    head_channels: int | None
    zero_init: bool
    divisor: float = 1.0

    def __post_init__(self) -> None:
        if self.num_heads is not None and self.head_channels is not None:
            raise UserError(
                f"num_heads={self.num_heads} and head_channels={self.head_channels}; allowed: one of them; "
                "try num_heads=null"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout:g}; allowed: from 0 to below 1; try 0.1")

    def heads(self, channels: int) -> int:
        """How many heads attend where there are ``channels`` channels.

        Raises:
            UserError: the channels cannot be shared out evenly.
        """
        name = "num_heads" if self.head_channels is None else "head_channels"
        given = getattr(self, name)
        if given is None:
            return 1
        if given < 1 or channels % given:
            hint = math.gcd(channels, max(given, 1))
            raise UserError(f"{name}={given} where attention has {channels} channels; allowed: a divisor; try {hint}")
        return given if name == "num_heads" else channels // given


class ResidualBlock(nn.Module):
    """h = conv_1(silu(norm_1(x))), told the time, then x + conv_2(dropout(silu(.))); attention follows if asked for.

        additive:    norm_2(h + W e)                      scale_shift:  norm_2(h) (1 + s) + b,  (s, b) = W e

    with e the silu of the embedding, (B, time_channels). With ``resize`` both x and silu(norm_1(x)) are halved (mean
    of 2 by 2) or doubled (nearest) in height and width before the convolutions. x passes a 1x1 convolution where the
    number of channels changes. The sums are divided by ``options.divisor``.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        options: BlockOptions,
        *,
        attention: bool = False,
        resize: Resize | None = None,
    ) -> None:
        super().__init__()
        self.options, self.resize = options, resize
        self.recompute = False  # set by ``dfm.basics.devices.recompute``
        self.norm_1 = nn.GroupNorm(options.groups, inputs, eps=options.norm_eps)
        self.conv_1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time = nn.Linear(options.time_channels, 2 * outputs if options.scale_shift else outputs)
        self.norm_2 = nn.GroupNorm(options.groups, outputs, eps=options.norm_eps)
        self.dropout = nn.Dropout(options.dropout)
        self.conv_2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1), options.zero_init)
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)
        self.attention = SelfAttention(outputs, options) if attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, inputs, H, W), e (B, time_channels) -> (B, outputs, H', W')."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._through, x, e, use_reentrant=False)
        return self._through(x, e)

    def _through(self, x: Tensor, e: Tensor) -> Tensor:
        h = norm_silu(x, self.norm_1)
        if self.resize is not None:
            x, h = resized(x, self.resize), resized(h, self.resize)
        h = self.conv_2(self.dropout(self._timed(self.conv_1(h), e)))
        return self.attention(divided(self.shortcut(x) + h, self.options.divisor))

    def _timed(self, h: Tensor, e: Tensor) -> Tensor:
        time = self.time(e)
        if not self.options.scale_shift:
            return norm_silu(h + time[:, :, None, None], self.norm_2)
        scale, shift = time.chunk(2, dim=1)
        return norm_silu(h, self.norm_2, (scale, shift))


class SelfAttention(nn.Module):
    """x + W softmax(q k^T / sqrt(d)) v: every position attends to all, d = channels/heads (Vaswani et al. 2017, eq. 1).

    The rows of ``qkv`` are q of all heads, then k, then v. An ``options.attention_groups`` of 0 leaves the norm out.
    """

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.heads, self.divisor = options.heads(channels), options.divisor
        groups = options.attention_groups
        self.norm = nn.GroupNorm(groups, channels, eps=options.norm_eps) if groups else nn.Identity()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels), options.zero_init)

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        # (B, HW, C) is a view of a channels_last tensor, and the result is one again: nothing is copied on a CPU. On a
        # card the norm changes the layout, and fused attention wants the channels of a head side by side.
        tokens = pointwise(self.norm(x), self.qkv).flatten(2).transpose(1, 2).contiguous()
        q, k, v = tokens.unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        mixed = mixed.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])
        return divided(x + pointwise(mixed, self.out), self.divisor)


class Downsample(nn.Module):
    """Half the height and width by a 3x3 convolution of stride 2.

    Args:
        channels: in and out.
        padding: 1 pads all four sides; 0 pads right and bottom only, as the first DDPM code did.
    """

    def __init__(self, channels: int, padding: int) -> None:
        super().__init__()
        self.pad = (0, 1, 0, 1) if padding == 0 else None
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=padding)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H/2, W/2); the time ``e`` is for resampling residual blocks only."""
        return self.conv(x if self.pad is None else functional.pad(x, self.pad))


class Upsample(nn.Module):
    """Double the height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, 2H, 2W); the time ``e`` is for resampling residual blocks only."""
        return self.conv(resized(x, "up"))


class Resized(nn.Module):
    """Half or double the height and width without weights."""

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H', W'); the time ``e`` is for resampling residual blocks only."""
        return resized(x, self.resize)


class DownLevel(nn.Module):
    """The blocks of one resolution on the way down, and the step to the next resolution (None at the last)."""

    def __init__(self, blocks: list[ResidualBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.resample = nn.ModuleList(blocks), resample

    def forward(self, x: Tensor, e: Tensor) -> list[Tensor]:
        """What each module returned, in order: all of it is kept for the way up."""
        outputs = []
        for block in self.blocks:
            x = block(x, e)
            outputs.append(x)
        return outputs if self.resample is None else [*outputs, self.resample(x, e)]


class UpLevel(nn.Module):
    """The blocks of one resolution on the way up, each shown what the way down kept, and the step to the next."""

    def __init__(self, blocks: list[ResidualBlock], resample: nn.Module | None) -> None:
        super().__init__()
        self.blocks, self.resample = nn.ModuleList(blocks), resample

    def forward(self, x: Tensor, kept: list[Tensor], e: Tensor) -> Tensor:
        """x and, last first, one of ``kept`` for each block."""
        for block, skip in zip(self.blocks, reversed(kept), strict=True):
            x = block(torch.cat([x, skip], dim=1), e)
        return x if self.resample is None else self.resample(x, e)


def pointwise(x: Tensor, linear: nn.Linear) -> Tensor:
    """The layer at every place of x (B, C, H, W), as a 1x1 convolution.

    Where torch's matrix products are another library's than its convolutions, as on AMD's processors, these are twice
    as fast and more.
    """
    return functional.conv2d(x, linear.weight[:, :, None, None], linear.bias)


def resized(x: Tensor, resize: Resize) -> Tensor:
    """Mean of each 2 by 2 (down), or each pixel four times (up)."""
    if resize == "down":
        return functional.avg_pool2d(x, 2)
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def counted(name: str, given: int, hint: int, most: int = 2**20) -> None:
    """Refuse a count below 1, or one that no network has: a file may ask for it.

    Raises:
        UserError: it is.
    """
    if not 1 <= given <= most:
        raise UserError(f"{name}={given}; allowed: from 1 to {most}; try {hint}")


def divided(x: Tensor, divisor: float) -> Tensor:
    """x/divisor; nothing is computed for 1, which nearly all networks use."""
    return x if divisor == 1 else x / divisor


def zeroed(layer: Layer, zero_init: bool) -> Layer:
    """The layer, with all its parameters zero if ``zero_init``: a residual branch then starts as the identity."""
    if zero_init:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return layer
