"""Integer levels and the real line: dequantisation, its exact inverse, and the one home of the bits/dim constant.

Levels v = 0 .. K-1 are uniformly dequantised to data = 2 (v + u)/K - 1 with u ~ U[0, 1), so that each level owns a cell
of width 2/K of [-1, 1], and a sample is quantised by the cell it falls in: the exact inverse.

With p the model's density of data, the density of v + u is p(data) (2/K)^d, and by Jensen's inequality (Theis et al.
2016, section 3.1)

    -log P(v) <= E_u[ -log p(data) ] - d log(2/K)            bits/dim = nats/(d log 2)

For K = 256 the constant is the familiar 7 bits/dim.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec, scale_levels


def dequantize(values: Tensor, levels: int, u: Tensor) -> Tensor:
    """2 (v + u)/K - 1.

    Args:
        values: integer levels, any shape.
        u: of the same shape, in [0, 1); its type is the result's.
    """
    return scale_levels(values.to(u) + u, levels)


def centres(values: Tensor, levels: int) -> Tensor:
    """The middle of each level's cell, 2 (v + 1/2)/K - 1, float64."""
    return scale_levels(values.double() + 0.5, levels)


def quantize(data: Tensor, levels: int) -> Tensor:
    """The level whose cell holds each value, floor(K (data + 1)/2) clamped to 0 .. K-1, as uint8."""
    return ((data + 1) * (levels / 2)).floor().clamp(0, levels - 1).to(torch.uint8)


def to_eight_bits(values: Tensor, levels: int) -> Tensor:
    """Levels 0 .. K-1 spread over 0 .. 255 as uint8, for viewing and storing; one to one for K <= 256."""
    if levels == 256:
        return values.to(torch.uint8)
    return (values.double() * (255 / (levels - 1))).round().to(torch.uint8)


def from_eight_bits(stored: Tensor, levels: int) -> Tensor:
    """The levels that ``to_eight_bits`` spread, exactly: uint8 of the same shape.

    Raises:
        UserError: a number that no level is spread to, so that these are not images of so many levels.
    """
    spread = to_eight_bits(torch.arange(levels), levels)
    table = torch.full((256,), -1)
    table[spread.long()] = torch.arange(levels)
    values = table[stored.long()]
    if bool((values < 0).any()):
        raise UserError(
            f"pixels of {int(stored[values < 0][0])}; allowed: those of {levels} levels spread over 0 to 255, "
            f"{int(spread[0])}, {int(spread[1])}, ..., {int(spread[-1])}; are these images of another data set?"
        )
    return values.to(torch.uint8)


def bits_per_dimension(nats: Tensor | float, dimensions: int) -> Tensor | float:
    """nats/(d log 2)."""
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
        """How many of this unit one nat is."""
        return self.of(1.0)


def unit_of(spec: DatasetSpec) -> Unit:
    """Return bits/dim for data with integer levels, and nats for points."""
    if spec.levels is None:
        return Unit(name="nats")
    return Unit(name="bits/dim", dimensions=math.prod(spec.shape))
