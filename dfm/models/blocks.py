"""The parts of a U-Net: residual blocks with time, self-attention, and changes of resolution.

Dhariwal and Nichol 2021 (arXiv:2105.05233), section 3 and appendix A. All parts map a tensor (B, C, *S) to another of
this kind, with one, two or three sides S, and keep its memory format, channels_last included.
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.forward_ad import unpack_dual
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from dfm.basics.errors import UserError
from dfm.models.dimensions import KINDS, Convolution, at_every_place, kind_of
from dfm.models.fused_norm import norm_silu

Resize = Literal["down", "up"]
Layer = TypeVar("Layer", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class BlockOptions:
    """The options that all residual blocks of a network share; ``UNet`` explains each of them.

    Args:
        divisor: number by which each sum of a block is divided.
        dimensions: number of sides of the data: 1, 2 or 3.

    Raises:
        UserError: both num_heads and head_channels are set, or dropout is no probability below 1.
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
    dimensions: int = 2

    def __post_init__(self) -> None:
        if self.num_heads is not None and self.head_channels is not None:
            raise UserError(
                f"num_heads={self.num_heads} and head_channels={self.head_channels}; allowed: one of them; "
                "try model.num_heads=null"
            )
        if not 0 <= self.dropout < 1:
            raise UserError(f"dropout={self.dropout:g}; allowed: from 0 to below 1; try model.dropout=0.1")

    def convolution(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, padding: int | None = None
    ) -> Convolution:
        """Return torch's convolution with ``kernel`` places along each side; sides stay as they are by default."""
        padding = kernel // 2 if padding is None else padding
        return KINDS[self.dimensions].convolution(inputs, outputs, kernel, stride=stride, padding=padding)

    def heads(self, channels: int) -> int:
        """Return the number of attention heads for ``channels`` channels.

        Raises:
            UserError: the channels cannot be divided evenly.
        """
        name = "num_heads" if self.head_channels is None else "head_channels"
        count = getattr(self, name)
        if count is None:
            return 1
        if count < 1 or channels % count:
            hint = math.gcd(channels, max(count, 1))
            raise UserError(
                f"{name}={count} where attention has {channels} channels; allowed: a divisor; try model.{name}={hint}"
            )
        return count if name == "num_heads" else channels // count


class ResidualBlock(nn.Module):
    """A residual block with time, then self-attention if ``attention`` is true.

        h = conv_1(silu(norm_1(x)))
        y = x + conv_2(dropout(silu(n))),    n = norm_2(h + W e)                             time is added, or
                                             n = norm_2(h) (1 + s) + b,  (s, b) = W e        with scale_shift

    with e the silu of the embedding, (B, time_channels). With ``resize``, the sides of both x and silu(norm_1(x)) are
    halved (mean of neighbours) or doubled (nearest) before the convolutions. If the number of channels changes, x goes
    through a 1x1 convolution. Sums are divided by ``options.divisor``.
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
        self.conv_1 = options.convolution(inputs, outputs)
        self.time = nn.Linear(options.time_channels, 2 * outputs if options.scale_shift else outputs)
        self.norm_2 = nn.GroupNorm(options.groups, outputs, eps=options.norm_eps)
        self.dropout = nn.Dropout(options.dropout)
        self.conv_2 = zero_out(options.convolution(outputs, outputs), options.zero_init)
        self.shortcut = nn.Identity() if inputs == outputs else options.convolution(inputs, outputs, kernel=1)
        self.attention = SelfAttention(outputs, options) if attention else nn.Identity()

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Map x (B, inputs, *S) and e (B, time_channels) to (B, outputs, *S')."""
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._compute, x, e, use_reentrant=False)
        return self._compute(x, e)

    def _compute(self, x: Tensor, e: Tensor) -> Tensor:
        h = norm_silu(x, self.norm_1)
        if self.resize is not None:
            x, h = resample(x, self.resize), resample(h, self.resize)
        h = self.conv_2(self.dropout(self._add_time(self.conv_1(h), e)))
        return self.attention(divide(self.shortcut(x) + h, self.options.divisor))

    def _add_time(self, h: Tensor, e: Tensor) -> Tensor:
        """Return silu(n), with n as above."""
        time = self.time(e)
        if not self.options.scale_shift:
            return norm_silu(h + at_every_place(time, h), self.norm_2)
        scale, shift = time.chunk(2, dim=1)
        return norm_silu(h, self.norm_2, (scale, shift))


class SelfAttention(nn.Module):
    """Self-attention x + W softmax(q k^T / sqrt(d)) v over all positions, d = channels/heads (Vaswani et al. 2017, eq.
    1).

    The rows of ``qkv`` are q of all heads, then k, then v. If ``options.attention_groups`` is 0, there is no norm.
    """

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.heads, self.divisor = options.heads(channels), options.divisor
        groups = options.attention_groups
        self.norm = nn.GroupNorm(groups, channels, eps=options.norm_eps) if groups else nn.Identity()
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zero_out(nn.Linear(channels, channels), options.zero_init)

    def forward(self, x: Tensor) -> Tensor:
        """Map x (B, C, *S) to (B, C, *S)."""
        # (B, places, C) is a view of a channels_last tensor, and so is the result: a CPU copies nothing. On a card the
        # norm changes the layout, and fused attention needs the channels of a head side by side.
        tokens = pointwise(self.norm(x), self.qkv).flatten(2).transpose(1, 2).contiguous()
        q, k, v = tokens.unflatten(2, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        y = attend(q, k, v)
        y = y.transpose(1, 2).flatten(2).transpose(1, 2).unflatten(2, x.shape[2:])
        return divide(x + pointwise(y, self.out), self.divisor)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Return softmax(q k^T / sqrt(d)) v, fused, except for a derivative in forward mode: fused kernels have none."""
    if torch.compiler.is_compiling() or unpack_dual(q).tangent is None:
        return functional.scaled_dot_product_attention(q, k, v)
    with sdpa_kernel(SDPBackend.MATH):
        return functional.scaled_dot_product_attention(q, k, v)


class Downsample(nn.Module):
    """A convolution of three places and stride 2, which halves the sides.

    Args:
        channels: number of input and of output channels.
        padding: 1 pads both ends of each side; 0 pads the far end only, as the first DDPM code did.
        options: of all blocks.
    """

    def __init__(self, channels: int, padding: int, options: BlockOptions) -> None:
        super().__init__()
        self.pad = (0, 1) * options.dimensions if padding == 0 else None
        self.conv = options.convolution(channels, channels, stride=2, padding=padding)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Map x (B, C, *S) to (B, C, *S/2). The time ``e`` is not used; residual blocks in this place use it."""
        return self.conv(x if self.pad is None else functional.pad(x, self.pad))


class Upsample(nn.Module):
    """A doubling of the sides by the nearest neighbour, then a convolution of three places."""

    def __init__(self, channels: int, options: BlockOptions) -> None:
        super().__init__()
        self.conv = options.convolution(channels, channels)

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Map x (B, C, *S) to (B, C, *2S). The time ``e`` is not used; residual blocks in this place use it."""
        return self.conv(resample(x, "up"))


class PlainResample(nn.Module):
    """A change of the sides without weights: half (down) or double (up)."""

    def __init__(self, resize: Resize) -> None:
        super().__init__()
        self.resize = resize

    def forward(self, x: Tensor, e: Tensor) -> Tensor:
        """Map x (B, C, *S) to (B, C, *S'). The time ``e`` is not used; residual blocks in this place use it."""
        return resample(x, self.resize)


def pointwise(x: Tensor, linear: nn.Linear) -> Tensor:
    """Apply the layer at every place of x (B, C, *S), as a 1x1 convolution.

    On some processors, as AMD's, torch takes matrix products and convolutions from different libraries. There the
    convolution is more than twice as fast.
    """
    return kind_of(x).convolve(x, at_every_place(linear.weight, x), linear.bias)


def resample(x: Tensor, resize: Resize) -> Tensor:
    """Take the mean of two neighbours along each side (down), or repeat each place along each side (up)."""
    if resize == "down":
        return kind_of(x).pool(x, 2)
    return functional.interpolate(x, scale_factor=2.0, mode="nearest")


def check_count(name: str, count: int, hint: int, most: int = 2**20) -> None:
    """Refuse a count below 1 or above ``most``, which only a hostile checkpoint would ask for.

    Raises:
        UserError: the count is not from 1 to ``most``.
    """
    if not 1 <= count <= most:
        raise UserError(f"{name}={count}; allowed: from 1 to {most}; try model.{name}={hint}")


def divide(x: Tensor, divisor: float) -> Tensor:
    """Return x/divisor. Nothing is computed for 1, which nearly all networks use."""
    return x if divisor == 1 else x / divisor


def zero_out(layer: Layer, zero_init: bool) -> Layer:
    """Set all parameters of the layer to 0 if ``zero_init``, so that a residual branch starts as the identity."""
    if zero_init:
        for parameter in layer.parameters():
            nn.init.zeros_(parameter)
    return layer
