"""Gaussian mixtures against scipy, quadrature, autograd and Tweedie's formula."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture


def tensor(value: object) -> torch.Tensor:
    return torch.tensor(value, dtype=torch.float64)


def plane() -> GaussianMixture:
    """Three tilted Gaussians in the plane, some overlapping."""
    return GaussianMixture(
        weights=tensor([0.5, 0.3, 0.2]),
        means=tensor([[-1.5, 0.0], [1.0, 1.0], [1.0, -1.5]]),
        covariances=tensor([[[0.3, 0.2], [0.2, 0.4]], [[0.5, -0.1], [-0.1, 0.05]], [[0.1, 0.0], [0.0, 0.1]]]),
    )


def space(k: int = 4, d: int = 5) -> GaussianMixture:
    """A random mixture in d dimensions."""
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(k, d, d))
    return GaussianMixture(
        weights=tensor(rng.dirichlet(np.ones(k)).tolist()),
        means=tensor(rng.normal(size=(k, d)).tolist()),
        covariances=tensor((factors @ factors.transpose(0, 2, 1) / d + 0.05 * np.eye(d)).tolist()),
    )


def points(mixture: GaussianMixture, n: int = 50, spread: float = 2.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return spread * torch.randn(n, mixture.means.shape[1], generator=generator, dtype=torch.float64)


def board(low: float = -7.0, high: float = 7.0, n: int = 561) -> tuple[torch.Tensor, float]:
    """A grid of points in the plane and the area that each stands for."""
    axis = torch.linspace(low, high, n, dtype=torch.float64)
    return torch.cartesian_prod(axis, axis), ((high - low) / (n - 1)) ** 2


@pytest.mark.parametrize("mixture", [plane(), space(), space(1, 3)])
def test_log_prob_is_scipys(mixture):
    x = points(mixture)
    parts = [
        np.log(w) + multivariate_normal(m, c).logpdf(x.numpy())
        for w, m, c in zip(mixture.weights.numpy(), mixture.means.numpy(), mixture.covariances.numpy(), strict=True)
    ]
    np.testing.assert_allclose(mixture.log_prob(x).numpy(), logsumexp(parts, axis=0), rtol=1e-11)


def test_density_integrates_to_one():
    x, area = board()
    assert plane().log_prob(x).exp().sum().item() * area == pytest.approx(1, abs=1e-9)


def test_moments_are_those_of_the_density():
    x, area = board()
    weight = plane().log_prob(x).exp() * area
    mean = weight @ x
    torch.testing.assert_close(plane().mean, mean, atol=1e-9, rtol=0)
    assert plane().variance == pytest.approx((weight @ (x - mean).square()).mean().item(), abs=1e-8)


def test_entropy_of_one_gaussian_is_scipys():
    mixture = space(1, 4)
    expected = multivariate_normal(mixture.means[0].numpy(), mixture.covariances[0].numpy()).entropy()
    assert mixture.entropy == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mixture", [plane(), space()])
def test_score_is_the_gradient_of_log_prob(mixture):
    x = points(mixture).requires_grad_()
    (gradient,) = torch.autograd.grad(mixture.log_prob(x).sum(), x)
    torch.testing.assert_close(mixture.score(x), gradient, rtol=1e-10, atol=1e-10)


def test_smoothed_is_the_law_of_data_plus_noise():
    """A convolution by quadrature: integral of p(x) N(y; x, nsr^2 I) dx."""
    x, area = board()
    y, nsr = points(plane(), 5, 1.0), 0.7
    kernel = torch.exp(-torch.cdist(y, x).square() / (2 * nsr**2)) / (2 * math.pi * nsr**2)
    expected = kernel @ plane().log_prob(x).exp() * area
    torch.testing.assert_close(plane().smoothed(nsr).log_prob(y).exp(), expected, rtol=1e-8, atol=0)


@pytest.mark.parametrize("nsr", [0.01, 0.3, 1.0, 10.0])
@pytest.mark.parametrize("mixture", [plane(), space()])
def test_denoise_is_tweedies_formula(mixture, nsr):
    """E[data|y] = y + nsr^2 grad log p_nsr(y); the right side never uses the eigendecomposition at this nsr."""
    y = points(mixture)
    expected = y + nsr**2 * mixture.smoothed(nsr).score(y)
    torch.testing.assert_close(mixture.denoise(y, nsr), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("nsr", [0.2, 1.0, 5.0])
def test_denoise_is_the_posterior_mean_by_quadrature(nsr):
    x, _ = board()
    y = points(plane(), 6, 1.5)
    log_joint = plane().log_prob(x) - torch.cdist(y, x).square() / (2 * nsr**2)
    torch.testing.assert_close(plane().denoise(y, nsr), log_joint.softmax(1) @ x, rtol=1e-7, atol=1e-7)


def test_denoise_of_one_gaussian_is_linear():
    """m + C (C + nsr^2 I)^-1 (y - m), solved directly."""
    mixture, nsr = space(1, 4), 0.6
    y, mean, covariance = points(mixture), mixture.means[0], mixture.covariances[0]
    gain = torch.linalg.solve(covariance + nsr**2 * torch.eye(4, dtype=torch.float64), covariance).T
    torch.testing.assert_close(mixture.denoise(y, nsr), mean + (y - mean) @ gain.T, rtol=1e-10, atol=1e-10)


def test_denoise_takes_an_nsr_for_each_sample():
    y = points(space(), 7)
    nsr = torch.logspace(-2, 2, 7, dtype=torch.float64)
    alone = torch.cat([space().denoise(y[i : i + 1], nsr[i]) for i in range(7)])
    torch.testing.assert_close(space().denoise(y, nsr), alone, rtol=1e-12, atol=1e-12)


def test_denoise_at_the_ends():
    """No noise: the data is what is seen. Only noise: the data is anywhere."""
    y = points(plane())
    torch.testing.assert_close(plane().denoise(y, 0.0), y, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(plane().denoise(y, 1e8), plane().mean.expand(50, 2), rtol=0, atol=1e-7)


def test_far_from_all_mass_nothing_overflows():
    """At 10^6 deviations every density underflows; the nearest component's own score is left."""
    x = tensor([[1e6, 0.0], [-1e6, 3.0]])
    offsets = [x.numpy() - mean for mean in plane().means.numpy()]
    alone = [-np.linalg.solve(c, o.T).T for c, o in zip(plane().covariances.numpy(), offsets, strict=True)]
    distances = [-(o * s).sum(1) for o, s in zip(offsets, alone, strict=True)]
    expected = [alone[k][row] for row, k in enumerate(np.argmin(distances, axis=0))]
    np.testing.assert_allclose(plane().score(x).numpy(), expected, rtol=1e-9)
    assert plane().log_prob(x).isfinite().all()
    assert plane().denoise(x, 0.5).isfinite().all()


def test_float32_is_answered_in_float32_with_float64_accuracy():
    y = points(plane())
    low = y.float()
    for function in (plane().log_prob, plane().score, lambda x: plane().denoise(x, 0.3)):
        assert function(low).dtype == torch.float32
        torch.testing.assert_close(function(low), function(low.double()).float(), rtol=0, atol=0)


def test_denoise_is_differentiable_in_the_point_and_in_nsr():
    y = points(plane(), 4, 1.0).requires_grad_()
    nsr = tensor([0.3, 0.5, 1.0, 2.0]).requires_grad_()
    assert torch.autograd.gradcheck(lambda y, nsr: plane().denoise(y, nsr), (y, nsr))
    assert torch.autograd.gradcheck(plane().score, (y,))


@pytest.mark.parametrize("mixture", [plane(), space()])
def test_samples_have_the_mixtures_moments(mixture):
    n = 40_000
    x, labels = mixture.sample(n, torch.Generator().manual_seed(3))
    assert x.shape == (n, mixture.means.shape[1])
    assert x.dtype == torch.float64
    for k, weight in enumerate(mixture.weights.tolist()):
        own = x[labels == k]
        assert abs(len(own) / n - weight) < 4 * math.sqrt(weight * (1 - weight) / n)
        variances = mixture.covariances[k].diagonal()
        assert ((own.mean(0) - mixture.means[k]).abs() < 4.5 * (variances / len(own)).sqrt()).all()
        # Var of an entry of the sample covariance of Gaussians: (C_ii C_jj + C_ij^2) / n
        error = ((variances[:, None] * variances + mixture.covariances[k].square()) / len(own)).sqrt()
        assert ((own.T.cov() - mixture.covariances[k]).abs() < 4.5 * error).all()


def test_samples_are_a_function_of_the_seed():
    first, again, other = (plane().sample(10, torch.Generator().manual_seed(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def one(**changed: object) -> dict[str, torch.Tensor]:
    good = {"weights": [0.5, 0.5], "means": [[0.0, 0.0], [1.0, 1.0]], "covariances": [np.eye(2).tolist()] * 2}
    return {name: tensor(value) for name, value in (good | changed).items()}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (one(weights=[1.0]), "allowed: weights (K,)"),
        (one(means=[0.0, 1.0]), "allowed: weights (K,)"),
        (one(covariances=np.eye(2).tolist()), "allowed: weights (K,)"),
        (one(weights=[0.5, 0.6]), "positive numbers of sum 1"),
        (one(weights=[1.5, -0.5]), "positive numbers of sum 1"),
        (one(means=[[0.0, math.nan], [1.0, 1.0]]), "finite"),
        (one(covariances=[[[1.0, 0.5], [0.0, 1.0]]] * 2), "not symmetric"),
        (one(covariances=[np.eye(2).tolist(), [[1.0, 1.0], [1.0, 1.0]]]), "component 1"),
        ({name: value.float() for name, value in one().items()}, "float64"),
    ],
)
def test_what_is_no_mixture_is_refused_in_one_line(arguments, words):
    with pytest.raises(UserError) as error:
        GaussianMixture(**arguments)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "ask",
    [
        lambda: plane().log_prob(torch.zeros(3, 5)),
        lambda: plane().score(torch.zeros(2)),
        lambda: plane().denoise(torch.zeros(3, 2), torch.zeros(4)),
        lambda: plane().denoise(torch.zeros(3, 2), torch.zeros(3, 1)),
        lambda: plane().entropy,
    ],
)
def test_what_has_no_answer_is_refused_in_one_line(ask):
    with pytest.raises(UserError, match="allowed") as error:
        ask()
    assert "\n" not in str(error.value)
