"""What depends on the number of dimensions: kinds of data, convolutions, pooling, and patches that become channels.

A tensor is (B, C, L) for signals, (B, C, H, W) for images, or (B, C, D, H, W) for volumes. All functions read the
number of dimensions from it, so a network has the same code for each kind of data.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from dfm.basics.errors import UserError

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


@dataclass(frozen=True)
class Kind:
    """Data of one number of dimensions.

    Args:
        name: what such data are called.
        shape: of one example, in words.
        sides: names of the sides.
        divisor: what a number is that divides every side.
        largest_patch: a limit for hostile checkpoints: each patch becomes patch^dimensions channels.
        convolution, convolve, pool: torch's layer and functions.
    """

    name: str
    shape: str
    sides: str
    divisor: str
    largest_patch: int
    convolution: type[Convolution]
    convolve: Callable[..., Tensor]
    pool: Callable[..., Tensor]


KINDS = {
    1: Kind(
        "signals", "(C, L)", "length", "a divisor", 64,
        nn.Conv1d, functional.conv1d, functional.avg_pool1d,
    ),
    2: Kind(
        "images", "(C, H, W)", "height and width", "a divisor of both", 64,
        nn.Conv2d, functional.conv2d, functional.avg_pool2d,
    ),
    3: Kind(
        "volumes", "(C, D, H, W)", "depth, height and width", "a divisor of all", 16,
        nn.Conv3d, functional.conv3d, functional.avg_pool3d,
    ),
}  # fmt: skip


def dimensions_of(shape: tuple[int, ...], network: str) -> int:
    """Return the number of dimensions of one example (C, *sides).

    Raises:
        UserError: ``network``, a noun, has no convolutions for such data.
    """
    if len(shape) - 1 not in KINDS:
        allowed = ", ".join(f"{kind.name} {kind.shape}" for kind in KINDS.values())
        raise UserError(f"the {network} got data of shape {tuple(shape)}; allowed: {allowed}; try model=mlp")
    return len(shape) - 1


def kind_of(x: Tensor) -> Kind:
    """Return the kind of the data in a batch (B, C, *sides)."""
    return KINDS[x.ndim - 2]


def at_every_place(values: Tensor, x: Tensor) -> Tensor:
    """Return values (B, C) with a shape to add to x (B, C, *sides), or to multiply it."""
    return values[(..., *[None] * (x.ndim - 2))]


def patches_to_channels(x: Tensor, patch: int) -> Tensor:
    """Return (B, C patch^k, *smaller sides) of x (B, C, *sides), k the number of sides.

    Channel c patch^k + i of the result has the entries at place i of each patch, the last side running fastest (Shi et
    al. 2016, in torch ``pixel_unshuffle``).
    """
    if x.ndim == 4:
        return functional.pixel_unshuffle(x, patch)  # of torch's own, which keeps the memory format
    k, sides = x.ndim - 2, [side // patch for side in x.shape[2:]]
    split = x.reshape(*x.shape[:2], *(size for side in sides for size in (side, patch)))
    within, across = range(3, 3 + 2 * k, 2), range(2, 2 + 2 * k, 2)
    return split.permute(0, 1, *within, *across).reshape(len(x), x.shape[1] * patch**k, *sides)


def channels_to_patches(x: Tensor, patch: int) -> Tensor:
    """Return the inverse of ``patches_to_channels``: (B, C, *larger sides) of x (B, C patch^k, *sides)."""
    if x.ndim == 4:
        return functional.pixel_shuffle(x, patch)
    k, sides = x.ndim - 2, x.shape[2:]
    channels = x.shape[1] // patch**k
    split = x.reshape(len(x), channels, *[patch] * k, *sides)
    order = (axis for i in range(k) for axis in (2 + k + i, 2 + i))
    return split.permute(0, 1, *order).reshape(len(x), channels, *(side * patch for side in sides))
