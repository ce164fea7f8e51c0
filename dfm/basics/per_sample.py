"""The one function that brings a number per sample into the shape of a tensor of samples."""

import torch
from torch import Tensor

from dfm.basics.errors import UserError


def per_sample(value: Tensor | float, like: Tensor) -> Tensor:
    """Return ``value``, of shape () or (B,), with the type and device of ``like`` (B, *D) and a shape to multiply it.

    Raises:
        UserError: ``value`` has another shape.
    """
    # A Python number goes directly to the type of the samples: through float32 it would lose digits of float64.
    value = value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype)
    if value.ndim == 0:
        return value.to(like)
    if value.shape != like.shape[:1]:
        raise UserError(
            f"a number per sample has shape {tuple(value.shape)}, the samples have {tuple(like.shape)}; "
            f"allowed: () or ({like.shape[0] if like.ndim else 'B'},)"
        )
    return value.to(like).reshape(-1, *([1] * (like.ndim - 1)))
