"""Priors against scipy: draws, densities, moments; and what a prior without a score can still do."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from support.oracles import SCHEDULES, oracle

from dfm.basics.errors import UserError
from dfm.basics.seeding import GeneratorDraws, NumberedDraws
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import mixture_of
from dfm.data.published.digits import Digits
from dfm.data.toys import EightGaussians, Moons
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.paths.interpolating import Linear
from dfm.paths.potentials import Potential
from dfm.paths.priors import DatasetPrior, GaussianPrior, LaplacePrior, MixturePrior, Prior, UniformPrior
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.exponential import Ddim
from dfm.sampling.steppers.ode import Heun
from dfm.sampling.steppers.stochastic import EulerMaruyama

MIXTURE = MixturePrior(means=[[-2.0, 0.0], [1.0, 1.0]], covariances=[0.3, [[0.5, 0.2], [0.2, 0.4]]], weights=[1, 3])


LINE: dict[str, tuple[Prior, object]] = {
    "gaussian": (GaussianPrior(), stats.norm()),
    "uniform": (UniformPrior(), stats.uniform(-math.sqrt(3), 2 * math.sqrt(3))),
    "laplace": (LaplacePrior(), stats.laplace(scale=math.sqrt(0.5))),
}


@pytest.mark.parametrize("name", sorted(LINE))
@pytest.mark.parametrize("numbered", [True, False])
def test_draws_and_densities_are_scipys(name: str, numbered: bool) -> None:
    prior, law = LINE[name]
    n = 4000
    draws = NumberedDraws(1, range(n)) if numbered else GeneratorDraws(n, torch.Generator().manual_seed(0))
    x = prior.draw(draws, (1,))
    assert stats.kstest(x[:, 0].numpy(), law.cdf).pvalue > 1e-3  # type: ignore[attr-defined]
    assert (prior.mean, prior.std) == pytest.approx((law.mean(), law.std()), abs=1e-12)  # type: ignore[attr-defined]
    pair = x[:10].reshape(5, 2).double()
    expected = law.logpdf(pair.numpy()).sum(1)  # type: ignore[attr-defined]
    assert np.allclose(prior.log_prob(pair).numpy(), expected, atol=1e-6)


def test_the_uniform_prior_ends() -> None:
    assert float(UniformPrior().log_prob(torch.tensor([[0.0, 5.0]]))) == -math.inf


def test_the_mixture_prior_has_its_moments_and_density() -> None:
    n = 20_000
    x = MIXTURE.draw(GeneratorDraws(n, torch.Generator().manual_seed(0), torch.float64), (2,))
    law = MIXTURE.mixture
    assert torch.allclose(x.mean(0), law.mean, atol=4.5 * float(x.std()) / math.sqrt(n))
    assert float(x.var(0).mean()) == pytest.approx(law.variance, rel=0.03)
    share = float((x[:, 0] < -0.75).double().mean())
    exact = sum(
        float(w) * stats.norm.cdf(-0.75, float(m[0]), math.sqrt(float(c[0, 0])))
        for w, m, c in zip(law.weights, law.means, law.covariances, strict=True)
    )
    assert share == pytest.approx(exact, abs=4.5 * math.sqrt(exact * (1 - exact) / n))
    assert torch.equal(MIXTURE.log_prob(x[:5]), law.log_prob(x[:5]))


def test_a_data_set_as_prior() -> None:
    """Training draws from the train split, sampling from the test split; images are dequantised."""
    data = EightGaussians(n_train=50, n_test=7)
    prior = DatasetPrior(dataset=data)
    for draws, split in ((GeneratorDraws(30, torch.Generator().manual_seed(0)), "train"),
                         (NumberedDraws(0, range(30)), "test")):  # fmt: skip
        known = data.split(split).values
        for point in prior.draw(draws, (2,)):
            assert bool((known == point.float()).all(1).any())
    with pytest.raises(UserError, match="shape"):
        prior.draw(NumberedDraws(0, range(3)), (3,))
    images = DatasetPrior(dataset=Digits()).draw(GeneratorDraws(4, torch.Generator().manual_seed(0)), (1, 8, 8))
    assert float(images.min()) >= -1
    assert float(images.max()) < 1
    with pytest.raises(UserError, match="no density"):
        prior.log_prob(torch.zeros(1, 2))


def test_numbered_draws_do_not_depend_on_the_batch() -> None:
    for prior in (GaussianPrior(), LaplacePrior(), MIXTURE, Potential(f="r2/2", chain_steps=20)):
        together = prior.draw(NumberedDraws(3, range(6)), (2,))
        alone = prior.draw(NumberedDraws(3, [4]), (2,))
        assert torch.allclose(together[4], alone[0], atol=1e-12)


def network(source: Prior, independent: bool = True) -> NetworkDenoiser:
    spec = DatasetSpec(name="x", shape=(2,), levels=None, num_classes=0, mean=0.1, std=0.5)
    return NetworkDenoiser(
        spec=spec, schedule=Linear(), trained_schedule=Linear(), prediction=Velocity(),
        network=lambda x, t, label: 0 * x, prior=source, independent=independent,
    )  # fmt: skip


@pytest.mark.parametrize("case", [network(LaplacePrior()), network(GaussianPrior(), independent=False)])
def test_without_a_score_there_is_no_sde_but_an_ode(case: NetworkDenoiser) -> None:
    x = start(case, 0, range(3))
    assert GridSampler(stepper=Heun(), steps=3).run(case, x).x.shape == (3, 2)
    assert GridSampler(stepper=Ddim(), steps=3).run(case, x).x.shape == (3, 2)
    for stepper in (EulerMaruyama(), Ddim(eta=0.5)):
        with pytest.raises(UserError, match="score is not known"):
            GridSampler(stepper=stepper, steps=3).run(case, x)


def test_start_and_latent_are_inverse_and_have_the_moments_of_x() -> None:
    for source in (GaussianPrior(), LaplacePrior(), MIXTURE):
        case = network(source)
        y = source.draw(NumberedDraws(0, range(4000)), (2,))
        x = case.noise_end.from_latent(y)
        assert torch.allclose(case.noise_end.to_latent(x), y, atol=1e-12)
        a, b = (float(c) for c in Linear().ab(torch.tensor(case.t_max, dtype=torch.float64)))
        spread = math.hypot(a * 0.5, b * source.std)
        assert float(x.var(0).mean().sqrt()) == pytest.approx(spread, rel=0.06)


def test_the_likelihood_under_a_laplace_prior_integrates_to_one() -> None:
    """A zero velocity network on points: the density of the data is the prior's, moved and scaled."""
    case = replace(network(LaplacePrior()), network=lambda x, t, label: 0 * x)
    axis = torch.linspace(-12, 12, 241, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    density = OdeLikelihood(solver="rk4", steps=8, divergence="exact").log_density(case, grid).value.exp()
    assert float(density.sum()) * float(axis[1] - axis[0]) ** 2 == pytest.approx(1.0, abs=0.01)


def test_flow_from_eight_gaussians_to_moons_keeps_to_its_splits() -> None:
    case = network(DatasetPrior(dataset=EightGaussians(n_train=20, n_test=5)))
    assert start(case, 0, range(9)).shape == (9, 2)
    assert Moons(n_train=5).split("train").values.shape == (5, 2)


def test_an_oracle_is_not_touched_by_the_new_prior() -> None:
    """The Gaussian prior's start is a m + sqrt(a^2 V + b^2) z, as it always was."""
    denoiser = oracle(mixture_of([[0.3, 0.3]], 0.25), SCHEDULES["vp"])
    a, b = (float(c) for c in SCHEDULES["vp"].ab(torch.tensor(1.0, dtype=torch.float64)))
    z = GaussianPrior().draw(NumberedDraws(5, range(2)), (2,))
    assert torch.allclose(start(denoiser, 5, range(2), double=True), a * 0.3 + math.hypot(a * 0.5, b) * z)
