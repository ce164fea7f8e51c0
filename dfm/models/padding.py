"""Data of any size in a network that halves it: longer sides on the way in, the old ones on the way out."""

import math
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from dfm.basics.errors import UserError, unknown
from dfm.models.dimensions import KINDS

Padding = Literal["reflect", "zeros", "refuse"]
MOST = 4096  # times as many places after padding: more is a mistake, or a hostile checkpoint


def pad(x: Tensor, factor: int, padding: Padding) -> Tensor:
    """Return x (B, C, *sides) with each side at the next multiple of ``factor``; one that is a multiple stays.

    Half of the new places stand at each end, one more at the far end if their number is odd. With ``reflect`` they
    mirror x at its first and last place, again and again where x is shorter than they are. A side of one place is
    repeated.

        padding=reflect:  ... x_2 x_1 [x_0 x_1 ... x_{n-1}] x_{n-2} x_{n-3} ...
    """
    for axis in range(2, x.ndim):
        side = x.shape[axis]
        missing = -side % factor
        if missing == 0:
            continue
        before, after = missing // 2, missing - missing // 2
        if padding == "zeros":
            x = functional.pad(x, (0, 0) * (x.ndim - 1 - axis) + (before, after))
        else:
            x = x.index_select(axis, _mirrored(side, before, after, x.device))
    return x


def crop(x: Tensor, sides: torch.Size) -> Tensor:
    """Return the part of x (B, C, *longer sides) from which ``pad`` made it."""
    for axis, side in enumerate(sides, 2):
        missing = x.shape[axis] - side
        if missing:
            x = x.narrow(axis, missing // 2, side)
    return x


def _mirrored(side: int, before: int, after: int, device: torch.device) -> Tensor:
    """Return the places -before, ..., side + after - 1, mirrored into 0, ..., side - 1."""
    period = max(2 * (side - 1), 1)
    places = torch.arange(-before, side + after, device=device).remainder(period)
    return torch.minimum(places, period - places)


def check_sides(shape: tuple[int, ...], resolutions: int, patch: int, padding: str) -> None:
    """Refuse sizes that patches and resolutions do not divide, with ``padding=refuse``, or that need absurd padding.

    Args:
        shape: (C, *sides) of one example.

    Raises:
        UserError: as said, or the padding has another name.
    """
    if padding not in get_args(Padding):
        raise unknown("model.padding", padding, get_args(Padding))
    kind, sides = KINDS[len(shape) - 1], shape[1:]
    factor = patch * 2 ** (resolutions - 1)
    size = f"{kind.name} of {'x'.join(map(str, sides))}"
    if padding != "refuse":
        longer = [side + -side % factor for side in sides]
        if math.prod(longer) > MOST * math.prod(sides):
            raise UserError(
                f"{size}, patch={patch} and {resolutions} resolutions need padding to {'x'.join(map(str, longer))}; "
                f"allowed: to {MOST} times the size; try model.patch=1 model.channel_multipliers=[1,2]"
            )
        return
    if all(side % factor == 0 for side in sides):
        return
    common = math.gcd(*sides)
    if common % patch:
        raise UserError(f"{size} and patch={patch}; allowed: {kind.divisor}; try model.patch={math.gcd(common, patch)}")
    common //= patch
    most = ",".join("12222222222222222222"[: (common & -common).bit_length()])
    raise UserError(
        f"{size} and {resolutions} resolutions; allowed: {kind.sides} divisible by {factor}; "
        f"try model.channel_multipliers=[{most}], or another size"
    )
