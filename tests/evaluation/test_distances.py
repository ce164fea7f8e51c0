"""Energy and Wasserstein distances, by brute force and by sorting."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist

from dfm.basics.errors import UserError
from dfm.evaluation.distances import distances, energy_distance, energy_spread, wasserstein_2


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


# ---- far from the origin: against other code on the same points, moved back to the origin ----------------------------


def far(shift: float, n: int, seed: int, d: int = 3) -> tuple[torch.Tensor, np.ndarray]:
    """Points near ``shift`` in every coordinate, float64; and the same points minus ``shift``, which is exact."""
    x = 0.5 * seed + torch.randn(n, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + shift
    return x, (x - shift).numpy()


@pytest.mark.parametrize("shift", [0.0, 1e6, -1e8])
def test_distances_keep_their_digits_far_from_the_origin(shift: float) -> None:
    (x, near_x), (y, near_y) = far(shift, 60, 0), far(shift, 60, 1)
    cross, own_x, own_y = (cdist(a, b).mean() for a, b in ((near_x, near_y), (near_x, near_x), (near_y, near_y)))
    energy = (2 * cross - (own_x + own_y) * 60 / 59) / math.sqrt(3)
    assert energy_distance(x, y) == pytest.approx(energy, rel=1e-9)
    ot, weights = pytest.importorskip("ot"), np.full(60, 1 / 60)
    assert wasserstein_2(x, y) == pytest.approx(
        math.sqrt(ot.emd2(weights, weights, cdist(near_x, near_y) ** 2)), rel=1e-9
    )


@pytest.mark.parametrize("apart", [0.0, 1.0, 1e4, 1e8])
@pytest.mark.parametrize("d", [1, 3, 40])
def test_distances_within_and_between_two_places(apart: float, d: int) -> None:
    """Two clusters, which no centre is near to; equal points; and points that are equal but for the last digits."""
    x = torch.cat([far(apart, 30, 0, d)[0], far(-apart, 30, 1, d)[0]])
    y = torch.cat([x[:10], x[10:20] * (1 + 1e-13), far(apart, 20, 2, d)[0]])
    assert np.allclose(distances(x, y).numpy(), cdist(x.numpy(), y.numpy()), rtol=1e-8, atol=0)
    assert bool((distances(x, x).diagonal() == 0).all())
