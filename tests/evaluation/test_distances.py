"""Energy and Wasserstein distances, by brute force and by sorting."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from dfm.basics.errors import UserError
from dfm.evaluation.distances import energy_distance, energy_spread, wasserstein_2


def test_energy_distance_by_brute_force() -> None:
    x, y = torch.randn(40, 3), 0.5 + torch.randn(60, 3)
    cross, own_x, own_y = cdist(x, y).mean(), cdist(x, x).sum() / (40 * 39), cdist(y, y).sum() / (60 * 59)
    assert energy_distance(x, y) == pytest.approx((2 * cross - own_x - own_y) / math.sqrt(3), rel=1e-5)
    line = energy_distance(x[:, :1], y[:, :1])
    biased = stats.energy_distance(x[:, 0].numpy(), y[:, 0].numpy()) ** 2
    assert line == pytest.approx(biased, abs=0.1)


def test_energy_distance_scatters_about_zero_for_equal_laws_and_grows_otherwise() -> None:
    generator = torch.Generator().manual_seed(0)
    same = [energy_distance(*torch.randn(2, 100, 4, generator=generator)) for _ in range(60)]
    assert abs(np.mean(same)) < 4.5 * np.std(same) / math.sqrt(60)
    x, y = torch.randn(2, 400, 4, generator=generator)
    assert energy_distance(x, y + 0.5) > 10 * energy_spread(x, y)


def test_wasserstein_in_one_dimension_is_sorting() -> None:
    x, y = torch.randn(50, 1), 2 * torch.randn(50, 1)
    assert wasserstein_2(x, y) == pytest.approx(float((x.sort(0)[0] - y.sort(0)[0]).square().mean().sqrt()), rel=1e-5)
    shift = torch.tensor([3.0, 4.0])
    points = torch.randn(30, 2)
    assert wasserstein_2(points, points.flip(0) + shift) == pytest.approx(5.0, rel=1e-5)
    with pytest.raises(UserError, match="equally many"):
        wasserstein_2(points, points[:5])
