"""From integer levels to real numbers and back to probabilities, against scipy."""

import dataclasses
import math

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from support.oracles import SCHEDULES
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.gaussian_mixture import mixture_of
from dfm.data.numbers.dequantization import (
    Dequantization,
    ImportanceDequantization,
    TruncatedNormalDequantization,
    UniformDequantization,
    sharp,
)
from dfm.denoising.exact import MixtureDenoiser
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import Scoring

K = 5
VALUES = torch.arange(K).repeat_interleave(2000).reshape(-1, 1, 1, 1)


def uniforms(n: int) -> Tensor:
    return torch.rand(n, 1, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def cell(level: int) -> tuple[float, float]:
    """The K cells tile [-1, 1]."""
    return 2 * level / K - 1, 2 * (level + 1) / K - 1


@pytest.mark.parametrize("nsr", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("noise", [UniformDequantization(), TruncatedNormalDequantization()])
def test_draws_and_their_density(noise: Dequantization, nsr: float) -> None:
    """Inside the cell, distributed as scipy's law of the same name (Kolmogorov-Smirnov), and log q is its density."""
    data, log_q = noise.draw(VALUES, K, uniforms(len(VALUES)), math.log(nsr))
    for level in range(K):
        own = VALUES.flatten() == level
        x, (low, high) = data.flatten()[own].numpy(), cell(level)
        assert low <= x.min() < x.max() <= high
        middle = (low + high) / 2
        law = (
            scipy.stats.uniform(low, high - low)
            if isinstance(noise, UniformDequantization)
            else scipy.stats.truncnorm((low - middle) / nsr, (high - middle) / nsr, middle, nsr)
        )
        assert scipy.stats.kstest(x, law.cdf).pvalue > 1e-3
        assert np.allclose(log_q[own].numpy(), law.logpdf(x), rtol=1e-9, atol=1e-9)


def test_the_ends_of_the_uniforms_are_finite() -> None:
    """Also where the cell is 500 deviations wide, so that its edges' probabilities vanish in float64."""
    u = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64).reshape(2, 1, 1, 1)
    values = torch.full((2, 1, 1, 1), 3)
    for nsr in (0.5, 0.02, 1e-3):
        data, log_q = TruncatedNormalDequantization().draw(values, K, u, math.log(nsr))
        assert data.isfinite().all()
        assert log_q.isfinite().all()
        low, high = cell(3)
        assert low - 1e-12 <= float(data.min())
        assert float(data.max()) <= high + 1e-12


def test_what_training_sees() -> None:
    generator = torch.Generator().manual_seed(0)
    centred = TruncatedNormalDequantization().training(VALUES, K, generator)
    assert centred.dtype == torch.float32
    assert torch.equal(centred, ((2 * VALUES.double() + 1) / K - 1).float())
    filled = UniformDequantization().training(VALUES, K, generator)
    assert torch.equal(((filled + 1) * K / 2).floor().long(), VALUES)
    assert float(filled[:2000].std()) == pytest.approx(2 / K / math.sqrt(12), rel=0.05)
    with pytest.raises(UserError, match="allowed in training"):
        ImportanceDequantization().training(VALUES, K, generator)


def test_where_the_density_is_taken() -> None:
    """Truncated noise at nsr = 1/(3 K), or where the model begins if that is more; the others where it begins."""
    assert sharp(17, 3.0) == pytest.approx(math.log(1 / 51))
    assert TruncatedNormalDequantization().start(17, -9.0) == pytest.approx(math.log(1 / 51))
    assert TruncatedNormalDequantization().start(17, -1.0) == -1.0
    assert UniformDequantization().start(17, -9.0) == -9.0
    assert ImportanceDequantization(noise=TruncatedNormalDequantization()).start(
        17, -9.0
    ) == TruncatedNormalDequantization().start(17, -9.0)
    own = TruncatedNormalDequantization(cut=2.0)
    assert ImportanceDequantization().of_run(own).inner == own
    assert UniformDequantization().of_run(own) == UniformDequantization()


@pytest.mark.parametrize(
    "make", [lambda: TruncatedNormalDequantization(cut=0.0), lambda: ImportanceDequantization(samples=0)]
)
def test_refusals(make: object) -> None:
    with pytest.raises(UserError, match="allowed") as caught:
        make()  # type: ignore[operator]
    assert "\n" not in str(caught.value)


# A model of single pixels whose density varies inside the cells.
PEAKS = mixture_of([[-0.55], [0.1], [0.5]], [0.01, 0.02, 0.004], [0.3, 0.4, 0.3])
MODEL = MixtureDenoiser(
    spec=DatasetSpec(name="pixel", shape=(1, 1, 1), levels=K, num_classes=0, mean=0.0, std=0.4),
    schedule=dataclasses.replace(SCHEDULES["linear"], t_max=0.9999),
    mixture=PEAKS,
)
# The chances of the levels in the data, which need not be the model's.
CHANCES = np.array([0.05, 0.25, 0.2, 0.3, 0.2])


def density(x: np.ndarray, nsr: float) -> np.ndarray:
    """The mixture's, blurred by nsr, by scipy."""
    parts = zip(
        PEAKS.weights.tolist(), PEAKS.means.flatten().tolist(), PEAKS.covariances.flatten().tolist(), strict=True
    )
    return sum(w * scipy.stats.norm.pdf(x, m, math.sqrt(v + nsr**2)) for w, m, v in parts)


def exact_nats(nsr: float) -> float:
    """-E log P(v) over the chances, P(v) the model's mass in the cell: what any dequantisation bounds from above."""
    masses = [scipy.integrate.quad(lambda x: float(density(x, nsr)), *cell(level))[0] for level in range(K)]
    return -float((CHANCES * np.log(masses)).sum())


def uniform_nats(nsr: float) -> float:
    """E[-log p(data) - d log(K/2)]... of uniform dequantisation, by quadrature over each cell."""
    means = [
        scipy.integrate.quad(lambda x: math.log(float(density(x, nsr))), *cell(level))[0] * K / 2 for level in range(K)
    ]
    return -float((CHANCES * np.array(means)).sum()) + math.log(K / 2)


def scored(noise: Dequantization, n: int) -> Tensor:
    """Nats of n pixels by the exact divergence at tight tolerances, so that only the dequantisation is random."""
    values = torch.multinomial(torch.tensor(CHANCES), n, replacement=True, generator=torch.Generator().manual_seed(1))
    scoring = Scoring(
        denoiser=MODEL, likelihood=OdeLikelihood(solver="rk5", steps=16, divergence="exact"),
        split=Split(values=values.reshape(-1, 1, 1, 1).to(torch.uint8), labels=None), seed=0, batch_size=4096,
        device=torch.device("cpu"), dequantization=noise,
    )  # fmt: skip
    return scoring.all(range(n)).nats


def test_uniform_dequantisation_is_what_quadrature_says() -> None:
    nsr = 1e-3 / (1 - 1e-3)
    found = scored(UniformDequantization(), 4000)
    assert abs(float(found.mean()) - uniform_nats(nsr)) < 4 * float(found.std()) / math.sqrt(4000)
    assert uniform_nats(nsr) > exact_nats(nsr) + 0.05, "the price of Jensen's inequality is not small here"


@pytest.mark.wide
def test_importance_weights_close_the_gap() -> None:
    """The excess over the exact -log P(v) falls with k as 1/k, to within 4 standard errors; never below it.

    Of log mean_k w the leading bias is var(w)/(2 k E[w]^2).
    """
    nsr, n = 1e-3 / (1 - 1e-3), 1500
    exact = exact_nats(nsr)
    # the same pixels each time: subtract what the draw of levels itself deviates by
    values = torch.multinomial(torch.tensor(CHANCES), n, replacement=True, generator=torch.Generator().manual_seed(1))
    masses = [scipy.integrate.quad(lambda x: float(density(x, nsr)), *cell(level))[0] for level in range(K)]
    own = -torch.tensor(masses).log()[values]
    excess, errors = {}, {}
    for k in (1, 4, 16, 64):
        gap = scored(ImportanceDequantization(samples=k), n) - own
        excess[k], errors[k] = float(gap.mean()), float(gap.std()) / math.sqrt(n)
        assert excess[k] > -4 * errors[k]
    assert excess[1] == pytest.approx(uniform_nats(nsr) - exact, abs=4 * errors[1])
    assert excess[1] > excess[4] > excess[16] > excess[64]
    assert excess[16] / excess[64] == pytest.approx(4, abs=2)
    assert excess[64] < 0.02 * excess[1] + 4 * errors[64]


def test_truncated_noise_is_priced_as_quadrature_says() -> None:
    """E[-log p(c + nsr z) + log q] at nsr = 1/(3 K) against quadrature over the cut normal."""
    nsr = 1 / (3 * K)
    found = scored(TruncatedNormalDequantization(), 4000)
    total = 0.0
    for level, chance in enumerate(CHANCES):
        low, high = cell(level)
        middle = (low + high) / 2
        law = scipy.stats.truncnorm((low - middle) / nsr, (high - middle) / nsr, middle, nsr)
        price = scipy.integrate.quad(
            lambda x, law=law: law.pdf(x) * (law.logpdf(x) - math.log(float(density(x, nsr)))), low, high
        )
        total += chance * price[0]
    assert abs(float(found.mean()) - total) < 4 * float(found.std()) / math.sqrt(4000)
