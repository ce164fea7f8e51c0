"""Integer pixel levels and real numbers: dequantisation, its exact inverse, and the bits/dim constant.

A level v of 0 .. K-1 becomes data = 2 (v + u)/K - 1 with u ~ U[0, 1). Each level has a cell of width 2/K in [-1, 1],
and a real number goes back to the level of its cell: the exact inverse.

If p is the model's density of data, the density of v + u is p(data) (2/K)^d, and by Jensen's inequality (Theis et al.
2016, section 3.1)

    -log P(v) <= E_u[ -log p(data) ] - d log(2/K)            bits/dim = nats/(d log 2)

For K = 256 the constant is the familiar 7 bits/dim.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.numbers.units import scale_levels
from dfm.data.spec import DatasetSpec


def dequantize(values: Tensor, levels: int, u: Tensor) -> Tensor:
    """Return 2 (v + u)/K - 1.

    Args:
        values: integer levels v, any shape.
        levels: K.
        u: numbers in [0, 1), same shape; the result has their type.
    """
    return scale_levels(values.to(u) + u, levels)


def centres(values: Tensor, levels: int) -> Tensor:
    """Return the centre of each level's cell, 2 (v + 1/2)/K - 1, float64."""
    return scale_levels(values.double() + 0.5, levels)


def quantize(data: Tensor, levels: int) -> Tensor:
    """Return the level of the cell of each number, floor(K (data + 1)/2) clamped to 0 .. K-1: uint8 for K <= 256."""
    return ((data + 1) * (levels / 2)).floor().clamp(0, levels - 1).to(_type_of(levels))


def _type_of(levels: int) -> torch.dtype:
    return torch.uint8 if levels <= 256 else torch.int32


def to_eight_bits(values: Tensor, levels: int) -> Tensor:
    """Spread levels 0 .. K-1 over 0 .. 255, as uint8, to view them; one to one for K <= 256, which can be stored so."""
    if levels == 256:
        return values.to(torch.uint8)
    return (values.double() * (255 / (levels - 1))).round().to(torch.uint8)


def from_eight_bits(pixels: Tensor, levels: int) -> Tensor:
    """Return the exact levels that ``to_eight_bits`` spread: uint8 of the same shape.

    Raises:
        UserError: a number belongs to no level, so these are not images of K levels.
    """
    spread = to_eight_bits(torch.arange(levels), levels)
    table = torch.full((256,), -1)
    table[spread.long()] = torch.arange(levels)
    values = table[pixels.long()]
    if bool((values < 0).any()):
        raise UserError(
            f"a pixel of {int(pixels[values < 0][0])}; allowed: {levels} levels spread over 0 to 255, that is "
            f"{int(spread[0])}, {int(spread[1])}, ..., {int(spread[-1])}; are these images of another data set?"
        )
    return values.to(torch.uint8)


def bits_per_dimension(nats: Tensor | float, dimensions: int) -> Tensor | float:
    """Return nats/(d log 2)."""
    return nats / (dimensions * math.log(2))


@dataclass(frozen=True, kw_only=True)
class Unit:
    """The unit in which a likelihood is reported.

    Args:
        name: ``bits/dim`` or ``nats``.
        dimensions: d of the data for bits/dim; None for nats.
    """

    name: str
    dimensions: int | None = None

    def of(self, nats: float) -> float:
        """Convert a number of nats to this unit."""
        return nats if self.dimensions is None else float(bits_per_dimension(nats, self.dimensions))

    @property
    def per_nat(self) -> float:
        """The value of one nat in this unit."""
        return self.of(1.0)


def unit_of(spec: DatasetSpec) -> Unit:
    """Return bits/dim for data with integer levels, and nats for points."""
    if spec.levels is None:
        return Unit(name="nats")
    return Unit(name="bits/dim", dimensions=math.prod(spec.shape))
