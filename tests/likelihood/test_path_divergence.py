"""Girsanov's path divergence in closed form."""

import math

import pytest
import torch
from support.oracles import SCHEDULES, oracle

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.likelihood.path_divergence import path_divergence


@pytest.mark.parametrize("name", ["edm", "vp", "linear"])
def test_path_divergence_between_two_gaussians_in_closed_form(name: str) -> None:
    """For N(0, c^2) and N(0, d^2), with r = nsr: E|noise_c - noise_d|^2 = dim (r/(c^2 + r^2) - r/(d^2 + r^2))^2
    (c^2 + r^2), integrated over log nsr by scipy.
    """
    from scipy.integrate import quad

    c, d, schedule = 0.7, 1.1, SCHEDULES[name]
    true, model = (oracle(mixture_of([[0.0, 0.0]], v * v), schedule) for v in (c, d))
    data = c * torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = path_divergence(true, model, data, noise_levels=200)

    def rate(level: float) -> float:
        r = math.exp(2 * level)
        return 2 * r * (1 / (c * c + r) - 1 / (d * d + r)) ** 2 * (c * c + r)

    ends = schedule.log_nsr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    exact = quad(rate, float(ends[0]), float(ends[1]), epsabs=1e-12)[0]
    assert found.total == pytest.approx(exact, abs=4.5 * found.stderr + 1e-3 * exact)
    assert path_divergence(true, true, data[:10]).total == 0.0


def test_path_divergence_is_the_divergence_of_the_data_where_both_are_diffused_laws(mixture: GaussianMixture) -> None:
    """With both scores exact, KL(path) = KL(data) but for what is left at t_max (Song et al. 2021, theorem 2)."""
    c, d = 0.7, 1.1
    true, model = (oracle(mixture_of([[0.0, 0.0]], v * v), SCHEDULES["edm"]) for v in (c, d))
    data = c * torch.randn(4000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    kl = 2 * (math.log(d / c) + c * c / (2 * d * d) - 0.5)
    found = path_divergence(true, model, data, noise_levels=200)
    assert found.total == pytest.approx(kl, abs=4.5 * found.stderr + 1e-3)
    with pytest.raises(UserError, match="two different schedules"):
        path_divergence(true, oracle(mixture, SCHEDULES["vp"]), data)
