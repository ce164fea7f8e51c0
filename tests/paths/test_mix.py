"""``Schedule.mix`` and ``Schedule.velocity``: the formula, written out with numpy, for both shapes of time."""

import numpy as np
import pytest
import torch

from dfm.basics.errors import UserError
from dfm.paths.schedule import weighted_sum
from dfm.paths.variance_preserving import VariancePreserving


@pytest.mark.parametrize("shape", [(5,), (2, 3, 4)])
@pytest.mark.parametrize("batched", [False, True])
def test_mix_and_velocity_are_the_formula(shape: tuple[int, ...], batched: bool) -> None:
    path, generator = VariancePreserving(), torch.Generator().manual_seed(0)
    data, noise = (torch.randn(6, *shape, generator=generator, dtype=torch.float64) for _ in range(2))
    t = torch.linspace(0.1, 0.9, 6, dtype=torch.float64) if batched else torch.tensor(0.3, dtype=torch.float64)
    for value, (p, q) in (
        (path.mix(data, noise, t), path.ab(t)),
        (path.velocity(data, noise, t), path.derivatives(t)),
    ):
        rows = zip(p.expand(6).tolist(), q.expand(6).tolist(), data.numpy(), noise.numpy(), strict=True)
        expected = np.stack([pk * d + qk * n for pk, qk, d, n in rows])
        np.testing.assert_array_equal(value.numpy(), expected)


def test_the_type_is_that_of_the_samples() -> None:
    """Coefficients are float64; a sum of float32 samples must not become float64."""
    t = torch.linspace(0.1, 0.9, 4, dtype=torch.float64)
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(1))
    assert VariancePreserving().mix(x, x, t).dtype == torch.float32


def test_a_wrong_number_of_times_is_refused() -> None:
    x = torch.zeros(4, 2)
    with pytest.raises(UserError, match=r"allowed: \(\) or \(4,\)"):
        weighted_sum((torch.zeros(3), torch.zeros(3)), x, x)
