"""What ``dfm check`` measures on laws known exactly, against other ways to the same number."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.oracles import SCHEDULES, oracle
from torch.distributions import MultivariateNormal, kl_divergence

from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.evaluation.known_law import (
    ProjectedLaw,
    exact_end,
    kolmogorov_tail,
    law_at,
    likelihood_bias,
    order_between,
    start_gap,
)
from dfm.likelihood.ode import OdeLikelihood
from dfm.paths.variance_exploding import RandomWalk
from dfm.sampling.samplers import start

# ---- laws ------------------------------------------------------------------------------------------------------------


def test_projected_distribution_functions(mixture: GaussianMixture) -> None:
    """Against frequencies of 100,000 draws, and for one Gaussian against scipy's normal."""
    law = law_at(oracle(mixture, SCHEDULES["vp"]), 0.4)
    draws, _ = law.mixture.sample(100_000, torch.Generator().manual_seed(0))
    place = torch.tensor([[0.3, -0.2], [1.0, 1.0]], dtype=torch.float64)
    lines, cuts = draws @ law.directions.T, place @ law.directions.T
    frequency = torch.stack([(lines < cut).double().mean(0) for cut in cuts])
    assert torch.allclose(law.cdf(place), frequency, atol=4.5 * 0.5 / math.sqrt(100_000))
    one = ProjectedLaw(mixture=mixture_of([[1.0]], 4.0), directions=torch.ones(1, 1, dtype=torch.float64))
    assert float(one.cdf(torch.tensor([[2.5]]))) == pytest.approx(stats.norm.cdf(2.5, 1, 2))


def test_kolmogorov_smirnov_is_scipys_in_one_dimension() -> None:
    law = ProjectedLaw(mixture=mixture_of([[0.0]], 1.0), directions=torch.ones(1, 1, dtype=torch.float64))
    x = torch.randn(300, 1, dtype=torch.float64)
    found = law.kolmogorov_smirnov(x)
    theirs = stats.kstest(x[:, 0].numpy(), stats.norm.cdf, method="asymp")
    assert found[0] == pytest.approx(theirs.statistic, rel=1e-9)
    assert found[1] == pytest.approx(theirs.pvalue, rel=1e-6)
    assert kolmogorov_tail(1.0) == pytest.approx(stats.kstwobign.sf(1.0), rel=1e-9)


def test_the_distance_of_laws_is_scipys_wasserstein() -> None:
    """A sample against the law: close to that against a large sample of the law."""
    law = ProjectedLaw(mixture=mixture_of([[0.0]], 1.0), directions=torch.ones(1, 1, dtype=torch.float64))
    x = 0.7 + 1.3 * torch.randn(500, 1, dtype=torch.float64)
    big = stats.norm.ppf((np.arange(100_000) + 0.5) / 100_000)
    assert law.distance(x) == pytest.approx(stats.wasserstein_distance(x[:, 0].numpy(), big), rel=5e-3)


def test_right_samples_pass_and_wrong_ones_do_not(mixture: GaussianMixture) -> None:
    law = law_at(oracle(mixture, SCHEDULES["edm"]), 0.5)
    draws, _ = law.mixture.sample(1000, torch.Generator().manual_seed(0))
    assert law.kolmogorov_smirnov(draws)[1] > 1e-3
    assert law.kolmogorov_smirnov(1.2 * draws)[1] < 1e-3


# ---- bias, gap, order ------------------------------------------------------------------------------------------------


def test_likelihood_bias_finds_a_coarse_solver(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["vp"])
    data, _ = mixture.sample(60, torch.Generator().manual_seed(0))
    fine = likelihood_bias(denoiser, OdeLikelihood(solver="rk4", steps=64, divergence="exact"), data, 0)
    coarse = likelihood_bias(denoiser, OdeLikelihood(solver="euler", steps=8, divergence="exact"), data, 0)
    assert abs(fine.mean) < 5e-3
    assert abs(coarse.mean) > 20 * abs(fine.mean)


def test_the_start_gap_of_one_gaussian_is_zero_and_of_a_short_path_is_not(mixture: GaussianMixture) -> None:
    """A Gaussian is met exactly; a mixture seen through nsr 1 is not Gaussian yet."""
    data, _ = mixture.sample(4000, torch.Generator().manual_seed(0))
    walk = start_gap(oracle(mixture, RandomWalk(t_max=2500.0)), data, 0)
    assert walk.mean > 4.5 * walk.stderr
    gaussian = mixture_of([[0.3, 0.3]], 0.5)
    same = start_gap(oracle(gaussian, SCHEDULES["random_walk"]), gaussian.sample(500, torch.Generator())[0], 0)
    assert abs(same.mean) < 1e-9


def test_the_start_gap_of_one_gaussian_in_closed_form(mixture: GaussianMixture) -> None:
    """Against torch's divergence of two normal laws, and the sampled one beside it; of a mixture it is not known."""
    covariance = torch.tensor([[2.0, 0.9], [0.9, 0.6]], dtype=torch.float64)
    gaussian = mixture_of([[1.5, -0.5]], [covariance.tolist()])
    path = RandomWalk(t_max=2500.0)
    model = oracle(gaussian, path)
    gap = start_gap(model, gaussian.sample(4000, torch.Generator().manual_seed(0))[0], 0)
    a, b = (float(c) for c in path.ab(torch.tensor(path.t_max, dtype=torch.float64)))
    mean, std = model.noise_end.moments
    eye = torch.eye(2, dtype=torch.float64)
    laws = [
        MultivariateNormal(a * gaussian.means[0], a * a * covariance + b * b * eye),
        MultivariateNormal(torch.full((2,), mean, dtype=torch.float64), std**2 * eye),
    ]
    assert gap.exact == pytest.approx(float(kl_divergence(*laws)), rel=1e-9)
    assert abs(gap.mean - gap.exact) < 4.5 * gap.stderr
    assert gap.exact > 10 * gap.stderr
    assert start_gap(oracle(mixture, path), mixture.sample(9, torch.Generator())[0], 0).exact is None


def test_orders_from_errors() -> None:
    assert order_between([8, 16, 64], [1.0, 0.25, 0.25 / 16]) == [None, pytest.approx(2.0), pytest.approx(2.0)]
    assert order_between([8, 16], [1.0, 0.0]) == [None, None]


def test_the_exact_end_returns(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["linear"])
    x = start(denoiser, 0, range(3), double=True)
    from dfm.sampling.adaptive_solver import DormandPrince

    end = exact_end(denoiser, x, 0.2)
    *_, back = DormandPrince(rtol=1e-9, atol=1e-9).solve(lambda rows: denoiser.velocity, end, 0.2, denoiser.t_max)
    assert torch.allclose(back.x, x, atol=1e-5)
