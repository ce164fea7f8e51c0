"""Every random number from (seed, index, step): against NumPy's Philox, and their moments."""

import math

import numpy as np
import pytest
import torch

from dfm.basics import seeding
from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose


def test_draws_depend_on_their_arguments_alone() -> None:
    draw = seeding.normal(3, [5, 1, 9], (4,), Purpose.STEP, 2)
    assert torch.equal(draw[1], seeding.normal(3, [1], (4,), Purpose.STEP, 2)[0])
    others = [
        seeding.normal(4, [1], (4,), Purpose.STEP, 2),
        seeding.normal(3, [2], (4,), Purpose.STEP, 2),
        seeding.normal(3, [1], (4,), Purpose.START, 2),
        seeding.normal(3, [1], (4,), Purpose.STEP, 3),
    ]
    assert all(not torch.equal(other[0], draw[1]) for other in others)


def test_each_row_is_a_fresh_philox_of_its_own() -> None:
    """By NumPy's generator, made anew with key (seed, index) and counter (0, part, step, purpose) for each."""
    shapes, last = {"normal": (3,), "uniform": (5,), "rademacher": (7,)}, 2**63 - 1
    for name, shape in shapes.items():
        found = getattr(seeding, name)(last, [5, 0, 2**40], shape, Purpose.PROBE, 6)
        for row, index in zip(found, [5, 0, 2**40], strict=True):
            counter = np.array([0, 0, 6, 3], dtype=np.uint64)
            own = np.random.Generator(np.random.Philox(key=np.array([last, index], dtype=np.uint64), counter=counter))
            one = {
                "normal": lambda g: g.standard_normal(3), "uniform": lambda g: g.random(5),
                "rademacher": lambda g: g.integers(0, 2, 7) * 2.0 - 1,
            }[name](own)  # fmt: skip
            assert np.array_equal(row.numpy(), one)


def test_draws_have_their_moments() -> None:
    """20,000 numbers over many indices: mean and variance within 4.5 standard errors, neighbours uncorrelated."""
    for kind, mean, variance in ((seeding.normal, 0, 1), (seeding.rademacher, 0, 1), (seeding.uniform, 0.5, 1 / 12)):
        x = kind(0, range(2000), (10,), Purpose.PROBE)
        assert abs(float(x.mean()) - mean) < 4.5 * math.sqrt(variance / x.numel())
        assert float(x.var()) == pytest.approx(variance, rel=4.5 * math.sqrt(2 / x.numel()))
        assert abs(float(torch.corrcoef(x[:2].repeat(1, 1))[0, 1])) < 1
        neighbours = torch.stack([x[:-1].flatten(), x[1:].flatten()])
        assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 4.5 / math.sqrt(x.numel())


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_out_of_range_are_refused(seed: int) -> None:
    with pytest.raises(UserError, match="seed="):
        seeding.stream(seed, 0, Purpose.START)


def test_a_lent_seed_is_given_back() -> None:
    torch.manual_seed(1)
    expected = torch.rand(2)
    torch.manual_seed(1)
    with seeding.seeded(torch.device("cpu"), 0, 7, 0, Purpose.DROPOUT):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(2), expected)
    with seeding.seeded(torch.device("cpu"), 0, 7, 0, Purpose.DROPOUT):
        assert torch.equal(torch.rand(3), inside)
