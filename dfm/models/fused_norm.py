"""Group norm and the silu after it, in one pass forward and one backward where torch's own is several times slower.

Convolutions want channels_last tensors. On a CPU, torch's group norm is up to nine times slower for them than for
contiguous tensors. Here it is a few operations on (B, places, C), as fast as the memory allows. On other devices and
for other layouts we use torch's own group norm.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dfm.models.dimensions import at_every_place


def norm_silu(x: Tensor, norm: nn.GroupNorm, scale_shift: tuple[Tensor, Tensor] | None = None) -> Tensor:
    """Return silu(norm(x)), or silu(norm(x) (1 + s) + b), of x (B, C, *S).

    Args:
        x: the input.
        norm: the group norm.
        scale_shift: s and b, (B, C) each.
    """
    if not _is_slow_in_torch(x):
        y = norm(x)
        if scale_shift is not None:
            scale, shift = (at_every_place(part, x) for part in scale_shift)
            y = y * (1 + scale) + shift
        return functional.silu(y)
    weight, bias = norm.weight.expand(len(x), -1), norm.bias.expand(len(x), -1)
    if scale_shift is not None:
        scale, shift = scale_shift
        weight, bias = weight * (1 + scale), bias * (1 + scale) + shift
    if torch.is_grad_enabled():
        return _NormSilu.apply(x, weight, bias, norm.num_groups, norm.eps)[0]
    centre, spread = moments(x, norm.num_groups, norm.eps)
    return functional.silu(affine(x, *_fold(weight, bias, centre, spread)), inplace=True)


def moments(x: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor]:
    """Return (mean, 1/sqrt(variance + eps)) of each sample's groups, repeated for each channel: (B, C)."""
    v = _rows(x)
    mean = _group_means(v.mean(1), groups)
    deviation = v - mean[:, None]
    # in place where it can be: vmap, which works with gradients on, would take it apart into loops
    squares = deviation.square() if torch.is_grad_enabled() else deviation.square_()
    return mean, (_group_means(squares.mean(1), groups) + eps).rsqrt()


def affine(x: Tensor, factor: Tensor, offset: Tensor) -> Tensor:
    """Return x factor + offset of x (B, C, *S), with factor and offset (B, C)."""
    return _image(torch.addcmul(offset[:, None], _rows(x), factor[:, None]), x)


class _NormSilu(torch.autograd.Function):
    """The function silu(xhat w + b), xhat = (x - mean)/sqrt(variance + eps), which keeps x and small tensors only.

    It has a rule for each direction (``backward`` and ``jvp``) and for batches of itself, so ``torch.func`` works on
    it. The mean and the inverse deviation are outputs, because only inputs and outputs can be kept. A derivative of a
    derivative needs them as functions of x; where one may be wanted, they are computed again.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        """Compute it for x (B, C, *S) channels_last; weight and bias are (B, C)."""
        centre, spread = moments(x, groups, eps)
        return functional.silu(affine(x, *_fold(weight, bias, centre, spread)), inplace=True), centre, spread

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        x, weight, bias, ctx.groups, ctx.eps = inputs
        kept = (x, weight, bias, *output[1:])
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept)
        ctx.save_for_forward(*kept)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, *unused: Any) -> tuple[Tensor | None, ...]:
        """Return dx = (h w - mean(h w) - xhat mean(h w xhat))/sqrt(variance + eps), h the gradient before the silu."""
        if gradient is None:
            return (None,) * 5
        x, weight, bias, centre, spread = ctx.saved_tensors
        if torch.is_grad_enabled():
            centre, spread = moments(x, ctx.groups, ctx.eps)
        factor, offset = _fold(weight, bias, centre, spread)
        h = _rows(_silu_backward(gradient, affine(x, factor, offset)))
        xhat = _rows(affine(x, spread, -centre * spread))
        d_bias, d_weight = h.sum(1), (h * xhat).sum(1)
        mean = -spread * _group_means(weight * d_bias, ctx.groups) / h.shape[1]
        slope = -spread * _group_means(weight * d_weight, ctx.groups) / h.shape[1]
        dx = torch.addcmul(mean[:, None], xhat, slope[:, None])
        add = torch.addcmul if torch.is_grad_enabled() else Tensor.addcmul_
        dx = add(dx, h, factor[:, None])
        return _image(dx, x), d_weight, d_bias, None, None

    @staticmethod
    def jvp(
        ctx: Any, dx: Tensor | None, d_weight: Tensor | None, d_bias: Tensor | None, *unused: Any
    ) -> tuple[Tensor, None, None]:
        """Return silu'(z) dz, with dz = w (dx - mean(dx) - xhat mean(xhat dx))/sqrt(variance + eps) + xhat dw + db."""
        x, weight, bias, *_ = ctx.saved_tensors
        centre, spread = moments(x, ctx.groups, ctx.eps)
        z = _rows(affine(x, *_fold(weight, bias, centre, spread)))
        xhat = _rows(affine(x, spread, -centre * spread))
        dz = torch.zeros_like(z)
        if dx is not None:
            v = _rows(dx)
            mean, slope = (_group_means(part.mean(1), ctx.groups)[:, None] for part in (v, xhat * v))
            dz = dz + (weight * spread)[:, None] * (v - mean - xhat * slope)
        if d_weight is not None:
            dz = dz + xhat * d_weight[:, None]
        if d_bias is not None:
            dz = dz + d_bias[:, None]
        return _image(_silu_backward(dz, z), x), None, None


def _silu_backward(gradient: Tensor, z: Tensor) -> Tensor:
    """Return gradient silu'(z), in one pass where no derivative of it is wanted: torch's operation has none."""
    if not torch.is_grad_enabled():
        return torch.ops.aten.silu_backward(gradient, z)
    share = z.sigmoid()
    return gradient * share * (1 + z * (1 - share))


def _fold(weight: Tensor, bias: Tensor, centre: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """Return (factor, offset) with xhat w + b = x factor + offset."""
    factor = weight * spread
    return factor, bias - centre * factor


def _group_means(values: Tensor, groups: int) -> Tensor:
    """Replace the value of each channel, (B, C), by the mean over its group."""
    shape, size = values.shape, values.shape[1] // groups
    means = values.reshape(-1, groups, size).sum(2, keepdim=True) / size
    return means.expand(-1, groups, size).reshape(shape)


# These functions, and those above, use only operations that torch's batched gradients (is_grads_batched) support.


def _rows(x: Tensor) -> Tensor:
    """Return x (B, C, *S) as (B, places, C): a view of a channels_last tensor."""
    return x.movedim(1, -1).reshape(len(x), -1, x.shape[1])


def _image(rows: Tensor, like: Tensor) -> Tensor:
    """Return rows (B, places, C) as (B, C, *S): a channels_last view."""
    return rows.reshape(len(like), *like.shape[2:], -1).movedim(-1, 1)


def _is_slow_in_torch(x: Tensor) -> bool:
    """Whether x is a channels_last tensor on a CPU, for which torch's own norm is slow."""
    if torch.compiler.is_compiling() or x.device.type != "cpu" or x.ndim < 4:
        return False
    if x.dtype not in (torch.float32, torch.float64):
        return False
    # x.is_contiguous(memory_format=...) does not work inside vmap, so we compare the strides
    strides, step = [1], x.shape[1]
    for size in reversed(x.shape[2:]):
        strides.insert(1, step)
        step *= size
    ours = all(size == 1 or a == b for size, a, b in zip(x.shape, x.stride(), (step, *strides), strict=True))
    return ours and not x.is_contiguous()
