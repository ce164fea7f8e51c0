"""Group norm with what follows it, in one pass forth and one back where torch's own takes several times as long.

On a CPU torch's group norm of channels_last tensors, the layout that convolutions want, is up to nine times slower than
that of contiguous ones. Here it is a few operations on (B, H W, C), which are as fast as memory allows; on other
devices and layouts it is torch's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def norm_silu(x: Tensor, norm: nn.GroupNorm, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """silu(norm(x)), or silu(norm(x) (1 + s) + b), of x (B, C, H, W).

    Args:
        scale_shift: s and b, (B, C) each.
    """
    if not _by_channel(x):
        y = norm(x)
        if scale_shift is not None:
            scale, shift = (part[:, :, None, None] for part in scale_shift)
            y = y * (1 + scale) + shift
        return functional.silu(y)
    weight, bias = norm.weight.expand(len(x), -1), norm.bias.expand(len(x), -1)
    if scale_shift is not None:
        scale, shift = scale_shift
        weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
    if torch.is_grad_enabled():
        return _NormSilu.apply(x, weight, bias, norm.num_groups, norm.eps)
    centre, spread = moments(x, norm.num_groups, norm.eps)
    return functional.silu(affine(x, *_folded(weight, bias, centre, spread)), inplace=True)


def moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """(mean, 1/sqrt(variance + eps)) of each sample's groups, told for each channel, (B, C)."""
    v = _rows(x)
    mean = _by_group(v.mean(1), groups)
    apart = v - mean[:, None]
    return mean, (_by_group(apart.square_().mean(1), groups) + eps).rsqrt()


def affine(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """x factor + offset of x (B, C, H, W), with (B, C) each."""
    return _image(torch.addcmul(offset[:, None], _rows(x), factor[:, None]), x)


class _NormSilu(torch.autograd.Function):
    """silu(xhat w + b), xhat = (x - mean)/sqrt(variance + eps); x alone is kept, and what is small."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        """x (B, C, H, W) channels_last; weight, bias (B, C)."""
        centre, spread = moments(x, groups, eps)
        ctx.groups, ctx.eps = groups, eps
        ctx.save_for_backward(x, weight, bias, centre, spread)
        return functional.silu(affine(x, *_folded(weight, bias, centre, spread)), inplace=True)

    @staticmethod
    def backward(ctx: Any, given: Tensor) -> tuple[Tensor | None, ...]:
        """With h the gradient before the silu: dx = (h w - mean(h w) - xhat mean(h w xhat)) / sqrt(variance + eps)."""
        x, weight, bias, centre, spread = ctx.saved_tensors
        if torch.is_grad_enabled():  # a gradient of the gradient is wanted: by operations that have one
            return (*_again(x, weight, bias, given, ctx), None, None)
        factor, offset = _folded(weight, bias, centre, spread)
        h = _rows(torch.ops.aten.silu_backward(given, affine(x, factor, offset)))
        xhat = _rows(affine(x, spread, -centre * spread))
        d_bias, d_weight = h.sum(1), (h * xhat).sum(1)
        mean = -spread * _by_group(weight * d_bias, ctx.groups) / h.shape[1]
        along = -spread * _by_group(weight * d_weight, ctx.groups) / h.shape[1]
        dx = torch.addcmul(mean[:, None], xhat, along[:, None]).addcmul_(h, factor[:, None])
        return _image(dx, x), d_weight, d_bias, None, None


def _again(x: Tensor, weight: Tensor, bias: Tensor, given: Tensor, ctx: Any) -> list[Tensor | None]:
    plain = functional.group_norm(x, ctx.groups, eps=ctx.eps)
    y = functional.silu(plain * weight[:, :, None, None] + bias[:, :, None, None])
    wanted = [part for part, needed in zip((x, weight, bias), ctx.needs_input_grad, strict=False) if needed]
    found = iter(torch.autograd.grad(y, wanted, given, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:3]]


def _folded(weight: Tensor, bias: Tensor, centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """(factor, offset) with xhat w + b = x factor + offset."""
    factor = weight * spread
    return factor, bias - centre * factor


def _by_group(values: Tensor, groups: int) -> Tensor:
    """The mean over each group's channels in the place of each, (B, C)."""
    shape, each = values.shape, values.shape[1] // groups
    means = values.reshape(-1, groups, each).sum(2, keepdim=True) / each
    return means.expand(-1, groups, each).reshape(shape)


# Operations that torch's batched gradients (is_grads_batched) know are used in these, and above.


def _rows(x: Tensor) -> Tensor:
    """(B, C, H, W) as (B, H W, C): a view of a channels_last tensor."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """(B, H W, C) as (B, C, H, W): a view, channels_last."""
    return rows.reshape(len(like), *like.shape[2:], -1).permute(0, 3, 1, 2)


def _by_channel(x: Tensor) -> bool:
    """Whether this is the case that torch is slow in."""
    return (
        x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and x.ndim == 4
        and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        and not torch.compiler.is_compiling()
    )  # fmt: skip
