"""Evidence bounds against quadrature, Gaussian algebra and brute force; never against the code that they test."""

import dataclasses
import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from support.oracles import SCHEDULES, oracle
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.data.numbers.dequantization import (
    ImportanceDequantization,
    TruncatedNormalDequantization,
    UniformDequantization,
)
from dfm.denoising.exact import MixtureDenoiser
from dfm.likelihood.decoders import DECODERS
from dfm.likelihood.evidence_bound import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood
from dfm.paths.schedule import Schedule
from dfm.paths.variance_preserving import VariancePreserving
from dfm.sampling.grids import LogNsrGrid

PATH = dataclasses.replace(SCHEDULES["linear"], t_min=0.01, t_max=0.99)
# Data are N(0.3, 0.8^2) in three dimensions; the model believes N(-0.2, 0.5^2).
TRUE, MODEL, D = (0.3, 0.8), (-0.2, 0.5), 3


def believer(schedule: Schedule = PATH) -> MixtureDenoiser:
    """The denoiser that is exact for ``MODEL``, linear in x."""
    return oracle(mixture_of([[MODEL[0]] * D], MODEL[1] ** 2), schedule)


def examples(n: int) -> Tensor:
    return TRUE[0] + TRUE[1] * torch.randn(n, D, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def expected_error(nsr: float) -> float:
    """E|noise - E_model[noise | y]|^2 per dimension at y = data + nsr noise, for data of the law ``TRUE``.

    E_model[noise | y] = nsr (y - m)/(s^2 + nsr^2), so the error is linear in data and noise.
    """
    m, s = MODEL
    share = nsr / (s * s + nsr * nsr)
    return (1 - share * nsr) ** 2 + share**2 * (TRUE[1] ** 2 + (TRUE[0] - m) ** 2)


def within(found: Tensor, expected: float, errors: float = 4.0) -> bool:
    """Whether the mean of (n,) is the expected value to so many of its standard errors."""
    return abs(float(found.mean()) - expected) < errors * float(found.std()) / math.sqrt(len(found))


def test_every_part_of_a_misled_models_bound() -> None:
    """Levels against scipy's quadrature of the error in closed form; prior and decoder by Gaussian algebra."""
    denoiser, data = believer(), examples(4000)
    budget = EvidenceBound(steps=10, decoder="gaussian").log_density(denoiser, data).budget
    assert budget is not None
    edges = budget.edges.tolist()
    assert edges[0] == pytest.approx(math.log(0.01 / 0.99))
    assert edges[-1] == pytest.approx(math.log(0.99 / 0.01))
    for j, (low, high) in enumerate(pairwise(edges)):
        exact = D * scipy.integrate.quad(lambda u: expected_error(math.exp(u)), low, high)[0]
        assert within(budget.bins[:, j], exact), j
    mean, std = denoiser.noise_end.moments
    a, b = 0.01, 0.99
    kl = kl_divergence(Normal(a * data, torch.tensor(b).double()), Normal(mean, std)).sum(1)
    assert torch.allclose(budget.prior, kl)
    nsr = 0.01 / 0.99
    # the decoder's mean is E_model[data | y] = data + nsr (noise - E_model[noise | y])
    decoder = D * (expected_error(nsr) / 2 + math.log(2 * math.pi) / 2 + math.log(nsr))
    assert within(budget.decoder, decoder)


def test_the_bound_is_above_the_models_own_nats_by_the_path_divergence() -> None:
    """E[bound] - E[-log p_model] for a misled Gaussian: by quadrature 0 <= gap, and the estimate finds it.

    The model's reverse SDE starts at the law of its own marginal, so its samples have its own density; both
    expectations are in closed form.
    """
    denoiser, data = believer(), examples(4000)
    low, high = math.log(0.01 / 0.99), math.log(99.0)
    levels = D * scipy.integrate.quad(lambda u: expected_error(math.exp(u)), low, high)[0]
    mean, std = denoiser.noise_end.moments
    second = (0.01 * TRUE[1]) ** 2 + (0.01 * TRUE[0] - mean) ** 2 + 0.99**2
    prior = D * (second / std**2 - 1 - 2 * math.log(0.99 / std)) / 2
    nsr = 0.01 / 0.99
    bound = levels + prior + D * (expected_error(nsr) / 2 + math.log(2 * math.pi) / 2 + math.log(nsr))
    spread = MODEL[1] ** 2 + nsr**2
    own = D * (math.log(2 * math.pi * spread) + (TRUE[1] ** 2 + (TRUE[0] - MODEL[0]) ** 2) / spread) / 2
    assert bound > own
    assert within(-EvidenceBound(steps=16, decoder="gaussian").log_density(denoiser, data).value, bound)


@pytest.mark.parametrize(
    "name", ["linear", *(pytest.param(n, marks=pytest.mark.wide) for n in ("edm", "vp", "trig", "subvp", "cosine"))]
)
def test_with_the_true_score_nothing_is_lost(name: str, mixture: GaussianMixture) -> None:
    """On every kind of path: for the exact denoiser the bound's mean is that of -log p, to 3 errors of the difference.

    What is left open are the prior's gap (1/nsr^2 at t_max) and the decoder's, of order nsr^2 times the curvature of
    log p: below 0.02 nats for components of variance 0.05 at the nsr of 0.005 and less where these paths begin.
    """
    denoiser = oracle(mixture, SCHEDULES[name])
    data = mixture.sample(3000, torch.Generator().manual_seed(0))[0]
    bound = EvidenceBound(steps=64, decoder="gaussian").log_density(denoiser, data, start=math.log(0.005)).value
    ode = OdeLikelihood(steps=16, divergence="exact").log_density(denoiser, data).value
    gap = ode - bound
    stderr = float(gap.std()) / math.sqrt(len(gap))
    exact = float((-mixture.log_prob(data)).mean())
    assert -3 * stderr - 0.01 < float(gap.mean()) < 3 * stderr + 0.02, "the bound is above the ODE's value"
    assert float(-bound.mean()) > exact - 3 * stderr - 0.01


def test_any_number_of_levels_has_the_same_mean() -> None:
    denoiser, data = believer(), examples(4000)
    one, many = (-EvidenceBound(steps=n, decoder="gaussian").log_density(denoiser, data).value for n in (1, 64))
    stderr = math.hypot(float(one.std()), float(many.std())) / math.sqrt(len(data))
    assert abs(float(one.mean() - many.mean())) < 4 * stderr
    assert float(many.std()) < float(one.std()) / 2, "what more levels are for"


def reverse_step(data: Tensor, x: Tensor, believed: Tensor, s: float, t: float, variance: str) -> Tensor:
    """KL(q(x_s | x_t, data) || p(x_s | x_t)) by DDPM's own formulas (Ho et al. 2020, eqs. 6-8), alpha-bar and beta."""
    path = VariancePreserving()
    a_s, a_t = (float(path.ab(torch.tensor(u, dtype=torch.float64))[0]) for u in (s, t))
    bar_s, bar_t = a_s**2, a_t**2
    alpha = bar_t / bar_s
    beta = 1 - alpha
    posterior = (1 - bar_s) / (1 - bar_t) * beta

    def mean(of: Tensor) -> Tensor:
        return math.sqrt(bar_s) * beta / (1 - bar_t) * of + math.sqrt(alpha) * (1 - bar_s) / (1 - bar_t) * x

    spread = posterior if variance == "posterior" else beta
    own, other = Normal(mean(data), math.sqrt(posterior)), Normal(mean(believed), math.sqrt(spread))
    return kl_divergence(own, other).sum(1)


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_discrete_steps_are_ddpms(variance: str) -> None:
    """Expected KL of each of 6 steps, from 4,000 draws of q(x_t | data) made here: within 4 errors."""
    path = VariancePreserving(t_min=0.02)
    denoiser, data = believer(path), examples(4000)
    likelihood = EvidenceBound(steps=6, time="discrete", decoder="gaussian", variance=variance)  # type: ignore[arg-type]
    budget = likelihood.log_density(denoiser, data).budget
    assert budget is not None
    times = LogNsrGrid().times(6, path, path.t_min, path.t_max).flip(0).tolist()
    generator = torch.Generator().manual_seed(7)
    for j, (s, t) in enumerate(pairwise(times)):
        a, b = (float(c) for c in path.ab(torch.tensor(t, dtype=torch.float64)))
        x = a * data + b * torch.randn(data.shape, generator=generator, dtype=torch.float64)
        nsr = b / a
        believed = MODEL[0] + MODEL[1] ** 2 / (MODEL[1] ** 2 + nsr**2) * (x / a - MODEL[0])
        exact = reverse_step(data, x, believed, s, t, variance)
        stderr = math.hypot(float(exact.std()), float(budget.bins[:, j].std())) / math.sqrt(len(data))
        assert abs(float(exact.mean() - budget.bins[:, j].mean())) < 4 * stderr, j
        # the forward variance's own cost does not depend on x: it must not hide in the noise
        assert stderr < 0.1 * float(exact.mean()) + 0.01


@pytest.mark.wide
def test_more_reverse_steps_are_tighter() -> None:
    """VDM's proposition: more steps, a lower bound; its excess over continuous time falls as 1/T.

    A step of width w in log nsr costs expm1(2 w)/(2 w) of its integral: 1.16 at T = 64 and 1.037 at T = 256, a ratio
    of the excesses of 4.3.
    """
    denoiser, data = believer(), examples(400)

    def bound(steps: int, time: str) -> float:
        likelihood = EvidenceBound(steps=steps, time=time, decoder="gaussian")  # type: ignore[arg-type]
        return float(-likelihood.log_density(denoiser, data).value.mean())

    excess = [bound(n, "discrete") - bound(256, "continuous") for n in (16, 64, 256)]
    assert excess == sorted(excess, reverse=True)
    assert excess[1] / excess[2] == pytest.approx(4.3, abs=0.6)


def pixels(levels: int, std: float = 0.3) -> MixtureDenoiser:
    """One pixel of so many levels, whose model is N(0.1, std^2)."""
    spec = DatasetSpec(name="pixel", shape=(1, 1, 1), levels=levels, num_classes=0, mean=0.1, std=std)
    return MixtureDenoiser(spec=spec, schedule=SCHEDULES["linear"], mixture=mixture_of([[0.1]], std**2))


@pytest.mark.parametrize("name", ["vdm", "ddpm"])
@pytest.mark.parametrize("nsr", [0.01, 0.1, 1.0])
def test_decoders_are_probabilities(name: str, nsr: float) -> None:
    """Over all levels they sum to one, and each is what scipy says."""
    levels, denoiser = 9, pixels(9)
    t = denoiser.schedule.time_of_log_nsr(torch.tensor(math.log(nsr), dtype=torch.float64))
    a = float(denoiser.schedule.ab(t)[0])
    y = 0.37
    x = torch.full((levels, 1, 1, 1), a * y, dtype=torch.float64)
    values = torch.arange(levels).reshape(levels, 1, 1, 1)
    found = (-DECODERS[name].nats(denoiser, values, x, t)).exp().numpy()
    assert found.sum() == pytest.approx(1, abs=1e-9)
    centres = (2 * np.arange(levels) + 1) / levels - 1
    if name == "vdm":
        expected = scipy.stats.norm.pdf(y, centres, nsr)
        expected /= expected.sum()
    else:
        mean = 0.1 + 0.09 / (0.09 + nsr**2) * (y - 0.1)
        inner = scipy.stats.norm.cdf(np.linspace(-1, 1, levels + 1)[1:-1], mean, nsr)
        expected = np.diff(np.concatenate([[0.0], inner, [1.0]]))
    assert np.allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_a_decoder_keeps_its_digits_far_out() -> None:
    """Thirty deviations away the probability is some 1e-200: its logarithm must still be right, on either side."""
    denoiser = pixels(256)
    t = denoiser.schedule.time_of_log_nsr(torch.tensor(math.log(0.02), dtype=torch.float64))
    a = float(denoiser.schedule.ab(t)[0])
    for level, y in ((30, 0.2), (220, -0.2)):
        x = torch.full((1, 1, 1, 1), a * y, dtype=torch.float64)
        found = -float(DECODERS["ddpm"].nats(denoiser, torch.full((1, 1, 1, 1), level), x, t))
        mean = 0.1 + 0.09 / (0.09 + 0.02**2) * (y - 0.1)
        low, high = (2 * level / 256 - 1 - mean) / 0.02, (2 * (level + 1) / 256 - 1 - mean) / 0.02
        sign = 1 if low < 0 else -1
        tails = sorted(scipy.stats.norm.logcdf([sign * low, sign * high]))
        assert found == pytest.approx(tails[1] + math.log1p(-math.exp(tails[0] - tails[1])), rel=1e-6)
        assert found < -300


@pytest.mark.parametrize("decoder", ["vdm", "ddpm"])
def test_a_discrete_bound_is_above_the_entropy(decoder: str) -> None:
    """Levels drawn with known chances: no model's mean bound is below their entropy, whatever it believes."""
    chances = torch.tensor([0.05, 0.2, 0.4, 0.2, 0.1, 0.05], dtype=torch.float64)
    values = torch.multinomial(chances, 1500, replacement=True, generator=torch.Generator().manual_seed(0))
    entropy = float(-(chances * chances.log()).sum())
    middle = (2 * torch.arange(6, dtype=torch.float64) + 1) / 6 - 1
    spec = DatasetSpec(name="pixel", shape=(1, 1, 1), levels=6, num_classes=0, mean=-0.05, std=0.4)
    exact = mixture_of(middle[:, None].tolist(), 1e-8, chances.tolist())
    denoiser = MixtureDenoiser(spec=spec, schedule=SCHEDULES["linear"], mixture=exact)
    likelihood = EvidenceBound(steps=200, time="discrete", decoder=decoder)  # type: ignore[arg-type]
    found = -likelihood.log_density(denoiser, values.reshape(-1, 1, 1, 1)).value
    stderr = float(found.std()) / math.sqrt(len(found))
    assert float(found.mean()) > entropy - 3 * stderr
    # the model knows the law: what is left is the price of 200 steps and of the decoder
    assert float(found.mean()) < entropy + 0.1


def test_parts_add_up_and_other_repeats_are_other_noise() -> None:
    denoiser, data = believer(), examples(6)
    likelihood = EvidenceBound(steps=8, decoder="gaussian")
    found = likelihood.log_density(denoiser, data, seed=1)
    assert found.budget is not None
    total = found.budget.bins.sum(1) + found.budget.prior + found.budget.decoder
    assert torch.allclose(total, -found.value)
    assert found.nfe == 9
    assert torch.equal(found.value, likelihood.log_density(denoiser, data, seed=1).value)
    assert float((found.value - likelihood.log_density(denoiser, data, seed=1, repeat=1).value).abs().min()) > 0


@pytest.mark.parametrize(
    ("make", "word"),
    [
        (lambda: EvidenceBound(time="discreet"), "did you mean 'discrete'"),  # type: ignore[arg-type]
        (lambda: EvidenceBound(decoder="vmd"), "did you mean 'vdm'"),  # type: ignore[arg-type]
        (lambda: EvidenceBound(variance="prior"), "posterior"),  # type: ignore[arg-type]
        (lambda: EvidenceBound(steps=0), "at least 1"),
        (lambda: EvidenceBound(decoder="vdm").adapt(believer().spec, UniformDequantization()), "no integer levels"),
        (lambda: EvidenceBound().adapt(pixels(9).spec, ImportanceDequantization()), "not an estimate"),
    ],
)
def test_refusals(make: object, word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


def test_the_decoder_that_suits() -> None:
    """Trained on the centres of cells: VDM's; with noise in the cells, or points: Gaussian."""
    spec = pixels(9).spec
    assert EvidenceBound().adapt(spec, TruncatedNormalDequantization()).decoder == "vdm"
    assert EvidenceBound().adapt(spec, UniformDequantization()).decoder == "gaussian"
    assert EvidenceBound().adapt(believer().spec, UniformDequantization()).decoder == "gaussian"
