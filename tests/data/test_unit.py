"""The unit of a reported likelihood: bits/dim for integer levels, nats for points."""

import math

import pytest

from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.pixel_levels import unit_of


def spec(shape: tuple[int, ...], levels: int | None) -> DatasetSpec:
    return DatasetSpec(name="x", shape=shape, levels=levels, num_classes=0, mean=0.0, std=1.0)


def test_images_are_in_bits_per_dimension() -> None:
    unit = unit_of(spec((3, 2, 2), 256))
    assert unit.name == "bits/dim"
    assert unit.of(12 * math.log(256)) == pytest.approx(8.0)
    assert unit.per_nat == unit.of(1.0)


def test_points_are_in_nats() -> None:
    unit = unit_of(spec((2,), None))
    assert (unit.name, unit.of(3.5), unit.per_nat) == ("nats", 3.5, 1.0)
