"""Integer levels, real numbers and bytes: each the inverse of the other, and the constant of bits/dim."""

import math

import pytest
import torch

from dfm.basics.errors import UserError
from dfm.data.numbers.dequantization import UniformDequantization as UniformNoise
from dfm.data.numbers.pixel_levels import bits_per_dimension, dequantize, from_eight_bits, quantize, to_eight_bits


@pytest.mark.parametrize("levels", [2, 17, 255, 256])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_quantisation_inverts_dequantisation(levels: int, dtype: torch.dtype) -> None:
    """For every level, wherever in its cell: random places, and near its edges as far as the type can tell."""
    v = torch.arange(levels)
    edge = 4e-5 if dtype == torch.float32 else 1e-12
    for u in (torch.full((levels,), edge), torch.full((levels,), 1 - edge), torch.rand(levels), torch.rand(levels)):
        assert torch.equal(quantize(dequantize(v, levels, u.to(dtype).clamp(edge, 1 - edge)), levels).long(), v)


def log_q(d: int, levels: int) -> float:
    """What uniform dequantisation adds to -log p of an example of d numbers."""
    values, u = torch.zeros(1, d, dtype=torch.uint8), torch.zeros(1, d, dtype=torch.float64)
    return float(UniformNoise().draw(values, levels, u, -4.0)[1])


def test_bits_of_the_uniform_density_are_log2_of_the_levels() -> None:
    """A density of 2^-d on [-1, 1]^d makes every level equally likely: log2 K bits per dimension, whatever d."""
    for levels in (2, 17, 256):
        for d in (1, 64, 3072):
            nats = log_q(d, levels) + d * math.log(2.0)
            assert float(bits_per_dimension(nats, d)) == pytest.approx(math.log2(levels), rel=1e-12)


def test_the_constant_for_bytes_is_seven_bits() -> None:
    """A density of one on [-1, 1]: the 7 that public tools add to the bits of 8-bit data."""
    assert float(bits_per_dimension(log_q(10, 256), 10)) == pytest.approx(7.0)


def test_eight_bits_are_one_to_one() -> None:
    for levels in (2, 17, 100, 256):
        stored = to_eight_bits(torch.arange(levels), levels)
        assert len(set(stored.tolist())) == levels
        assert (int(stored[0]), int(stored[-1])) == (0, 255)
        assert torch.equal(from_eight_bits(stored, levels), torch.arange(levels, dtype=torch.uint8))
    with pytest.raises(UserError, match="a pixel of 15; allowed: 17 levels"):
        from_eight_bits(torch.tensor([[0, 16], [15, 255]], dtype=torch.uint8), 17)
