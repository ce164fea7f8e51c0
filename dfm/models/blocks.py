"""The pieces of a U-Net. Each takes (h (B, C, H, W), e (B, E)), where e is the conditioning vector."""

from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from dfm.errors import UserError

Resampling = Literal["none", "up", "down"]
ModuleT = TypeVar("ModuleT", bound=nn.Module)


def group_norm(channels: int, groups: int, eps: float) -> nn.GroupNorm:
    """Group normalisation (Wu and He 2018).

    Raises:
        UserError: the channels cannot be shared out among the groups.
    """
    if channels % groups:
        raise UserError(f"model: {channels} channels in {groups} groups; allowed: groups that divide the channels")
    return nn.GroupNorm(groups, channels, eps=eps)


def zeroed(module: ModuleT) -> ModuleT:
    """A layer whose output is zero at the start, so that its block begins as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module


def resampled(h: Tensor, how: Resampling) -> Tensor:
    """Twice (nearest) or half (2x2 mean) the resolution, without parameters."""
    if how == "up":
        return F.interpolate(h, scale_factor=2.0, mode="nearest")
    return F.avg_pool2d(h, 2) if how == "down" else h


class ResidualBlock(nn.Module):
    """(skip(h) + conv(silu(norm(conv(silu(norm h))) [+] e)))/residual_scale (Ho et al. 2020; Dhariwal and Nichol 2021).

    The conditioning is added before the second norm, or, with ``scale_shift``, scales and shifts its output (FiLM).

    Args:
        resampling: changes the resolution between the first activation and the first convolution, and on the skip.
        residual_scale: what the sum is divided by.
    """

    def __init__(
        self,
        channels: int,
        out_channels: int,
        embedding: int,
        *,
        groups: int,
        eps: float,
        dropout: float,
        scale_shift: bool,
        resampling: Resampling = "none",
        residual_scale: float = 1.0,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        self.norm1 = group_norm(channels, groups, eps)
        self.conv1 = nn.Conv2d(channels, out_channels, 3, padding=1)
        self.embedding = nn.Linear(embedding, out_channels * (2 if scale_shift else 1))
        self.norm2 = group_norm(out_channels, groups, eps)
        self.dropout = nn.Dropout(dropout)
        conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.conv2 = zeroed(conv2) if zero_init else conv2
        self.skip = nn.Conv2d(channels, out_channels, 1) if channels != out_channels else nn.Identity()
        self.resampling, self.scale_shift, self.residual_scale = resampling, scale_shift, residual_scale

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """(B, channels, H, W), (B, embedding) -> (B, out_channels, H', W')."""
        inner = self.conv1(resampled(F.silu(self.norm1(h)), self.resampling))
        conditioning = self.embedding(e)[:, :, None, None]
        if self.scale_shift:
            scale, shift = conditioning.chunk(2, dim=1)
            inner = torch.addcmul(shift, self.norm2(inner), 1 + scale)
        else:
            inner = self.norm2(inner + conditioning)
        inner = self.conv2(self.dropout(F.silu(inner)))
        out = self.skip(resampled(h, self.resampling)) + inner
        return out if self.residual_scale == 1 else out / self.residual_scale


class SelfAttention(nn.Module):
    """h + proj(softmax(q k^T/sqrt(d_head)) v) over the H W positions (Vaswani et al. 2017).

    ``qkv`` gives all queries, then keys, then values; each head is a run of ``channels/heads`` rows. In channels_last
    layout the reshapes are views, no copies.

    Args:
        norm: normalise h first.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        *,
        groups: int,
        eps: float,
        norm: bool = True,
        residual_scale: float = 1.0,
        zero_init: bool = True,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise UserError(f"model: {channels} channels in {heads} attention heads; allowed: a divisor of the channels")
        self.heads, self.residual_scale = heads, residual_scale
        self.norm = group_norm(channels, groups, eps) if norm else nn.Identity()
        self.qkv = nn.Linear(channels, 3 * channels)
        proj = nn.Linear(channels, channels)
        self.proj = zeroed(proj) if zero_init else proj

    def forward(self, h: Tensor) -> Tensor:
        """(B, C, H, W) -> the same."""
        b, c, height, width = h.shape
        tokens = self.norm(h).permute(0, 2, 3, 1).reshape(b, height * width, c)
        q, k, v = self.qkv(tokens).reshape(b, -1, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, c)
        out = h + self.proj(mixed).reshape(b, height, width, c).permute(0, 3, 1, 2)
        return out if self.residual_scale == 1 else out / self.residual_scale


class Stage(nn.Module):
    """A residual block and, at some levels, self-attention behind it."""

    def __init__(self, block: ResidualBlock, attention: SelfAttention | None) -> None:
        super().__init__()
        self.block, self.attention = block, attention

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """(B, C, H, W), (B, E) -> (B, C', H, W)."""
        h = self.block(h, e)
        return h if self.attention is None else self.attention(h)


class Resample(nn.Module):
    """A change of resolution by a factor of two with a convolution (or none).

    Down: a 3x3 convolution of stride 2, padded all round (``padding`` 1) or right and bottom only (0, as in DDPM).
    Up: nearest neighbour, then a 3x3 convolution. Without ``conv``: 2x2 means, or nearest neighbour alone.
    """

    def __init__(self, channels: int, how: Literal["up", "down"], *, conv: bool, padding: int = 1) -> None:
        super().__init__()
        self.how, self.padding = how, padding
        stride, pad = (1, 1) if how == "up" else (2, padding)
        self.conv = nn.Conv2d(channels, channels, 3, stride=stride, padding=pad) if conv else None

    def forward(self, h: Tensor, e: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, 2H, 2W) or (B, C, H/2, W/2); e has no effect."""
        if self.conv is None:
            return resampled(h, "up" if self.how == "up" else "down")
        if self.how == "up":
            return self.conv(resampled(h, "up"))
        return self.conv(h if self.padding else F.pad(h, (0, 1, 0, 1)))
