"""Gaussian fields and the table: their laws against full covariance matrices, and their draws against their laws."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import chi2, multivariate_normal
from support.image_files import one_line

from dfm.basics.errors import UserError
from dfm.data.fields.field_mixture import FieldMixture
from dfm.data.fields.gaussian_fields import GaussianFields, Signals, Volumes
from dfm.data.fields.spectra import frequencies, power, ridge, shells
from dfm.data.gaussian_mixture import GaussianMixture

KINDS = {
    "signals": {"sides": [8], "means": [20.0, -3.0], "deviations": [2.0, 0.5], "correlation": 0.6,
                "lengths": [2.0, 3.0], "exponents": [3.0, 4.0], "frequencies": [0.0, 0.2], "weights": [0.3, 0.7]},
    "odd": {"sides": [5], "lengths": [1.5], "noise": 0.2},
    "maps": {"sides": [4, 3], "means": [1.0, 2.0, 3.0], "deviations": [1.0, 2.0, 3.0], "correlation": -0.3},
    "volumes": {"sides": [3, 4, 2], "means": [-1.0], "lengths": [1.0], "exponents": [6.0]},
}  # fmt: skip
SMALL = {"n_train": 300, "n_validation": 20, "n_test": 200}


def fields(kind: str, **change: object) -> GaussianFields:
    return GaussianFields(**{**SMALL, **KINDS[kind], **change})


def covariances(data: GaussianFields) -> list[np.ndarray]:
    """The covariance of each kind by its definition: a sum of cosines over frequencies, place by place."""
    places = list(product(*[range(side) for side in data.sides]))
    waves = list(product(*[range(side) for side in data.sides]))
    alike = np.full((len(data.means),) * 2, data.correlation)
    np.fill_diagonal(alike, 1.0)
    between = alike * np.outer(data.deviations, data.deviations)
    found = []
    for length, exponent, ridge_at in zip(data.lengths, data.exponents, data.frequencies, strict=True):
        omegas = [[2 * math.pi * min(k, n - k) / n for k, n in zip(wave, data.sides, strict=True)] for wave in waves]
        shape = [(1 + ((math.hypot(*o) - 2 * math.pi * ridge_at) * length) ** 2) ** (-exponent / 2) for o in omegas]
        total = sum(shape)
        lag = np.array([[
            sum(
                (1 - data.noise) * s / total
                * math.cos(2 * math.pi * sum(k * (a - b) / n for k, a, b, n in zip(w, r, q, data.sides, strict=True)))
                for w, s in zip(waves, shape, strict=True)
            ) + (data.noise if r == q else 0.0)
            for q in places] for r in places])  # fmt: skip
        found.append(np.kron(between, lag))
    return found


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def brute(data: GaussianFields) -> GaussianMixture:
    """The same law as a Gaussian mixture in d dimensions, from the covariance of every two places."""
    mean = np.repeat(data.means, math.prod(data.sides))
    return GaussianMixture(
        weights=data.law.weights,
        means=torch.tensor(np.array([mean] * len(data.lengths)), dtype=torch.float64),
        covariances=torch.tensor(np.array(covariances(data))),
    )


def test_log_prob_is_that_of_the_full_covariance(kind: str) -> None:
    data = fields(kind)
    x = data.split("test").all().double()
    mean = np.repeat(data.means, math.prod(data.sides))
    weights = data.law.weights.numpy()
    parts = [
        np.log(w) + multivariate_normal(mean, c).logpdf(x.flatten(1).numpy())
        for w, c in zip(weights, covariances(data), strict=True)
    ]
    np.testing.assert_allclose(data.law.log_prob(x).numpy(), logsumexp(parts, axis=0), rtol=1e-9)
    assert torch.equal(data.law.log_prob(x), data.law.log_prob(x.flatten(1)))


def test_every_answer_is_that_of_a_mixture_of_points(kind: str) -> None:
    """Wiener's filter in Fourier space against the eigenvectors of the full covariance; scalings, projections."""
    data = fields(kind)
    law, full = data.law, brute(data)
    x = data.split("test").all().double()[:9]
    flat = x.flatten(1)
    nsr = torch.linspace(0.0, 3.0, 9, dtype=torch.float64)
    torch.testing.assert_close(law.denoise(flat, nsr), full.denoise(flat, nsr), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(law.denoise(x, 0.7).flatten(1), full.denoise(flat, 0.7), rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(law.smoothed(0.5).log_prob(x), full.smoothed(0.5).log_prob(flat))
    torch.testing.assert_close(law.stretched(3.0).log_prob(x), full.stretched(3.0).log_prob(flat))
    torch.testing.assert_close(law.mean, full.mean)
    assert law.variance == pytest.approx(full.variance)
    torch.testing.assert_close(law.eigenvalues.sort(1).values, full.eigenvalues)
    directions = torch.randn(4, flat.shape[1], dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for ours, theirs in zip(law.along(directions), full.along(directions), strict=True):
        torch.testing.assert_close(ours, theirs)
    shift, scale = [float(c) for c in range(len(data.means))], [2.0 + c for c in range(len(data.means))]
    places = math.prod(data.sides)
    wide = [torch.tensor(c, dtype=torch.float64).repeat_interleave(places).tolist() for c in (shift, scale)]
    torch.testing.assert_close(law.scaled(shift, scale).log_prob(x), full.scaled(*wide).log_prob(flat))


@pytest.mark.parametrize("kind", ["odd", "maps", "volumes"])
def test_the_entropy_is_that_of_the_full_covariance(kind: str) -> None:
    data = fields(kind)
    exact = multivariate_normal(np.repeat(data.means, math.prod(data.sides)), covariances(data)[0]).entropy()
    assert data.law.entropy == pytest.approx(exact)
    nats = -data.law.log_prob(data.split("test").all().double())
    assert float(nats.mean()) == pytest.approx(exact, abs=4.5 * float(nats.std()) / math.sqrt(len(nats)))


def test_the_entropy_of_several_kinds_has_no_closed_form() -> None:
    with pytest.raises(UserError, match="2 components"):
        _ = fields("signals").law.entropy


def test_a_law_does_not_change_when_everything_moves_along_a_side(kind: str) -> None:
    data = fields(kind)
    x = data.split("test").all().double()
    for axis in range(2, x.ndim):
        torch.testing.assert_close(data.law.log_prob(x.roll(1, axis)), data.law.log_prob(x), rtol=1e-10, atol=1e-9)


def test_draws_have_the_moments_and_the_shares_of_the_law() -> None:
    data = fields("signals", n_train=20_000)
    split = data.split("train")
    x = split.all().double()
    mean, std = x.mean((0, 2)), x.std((0, 2))
    # neighbours are alike, so the mean of a channel is as sure as that of 20,000 independent numbers at least
    assert torch.allclose(mean, torch.tensor([20.0, -3.0], dtype=torch.float64), atol=4.5 * 2.0 / math.sqrt(20_000))
    assert torch.allclose(std, torch.tensor([2.0, 0.5], dtype=torch.float64), rtol=0.02)
    z = (x - mean[:, None]) / std[:, None]
    assert float((z[:, 0] * z[:, 1]).mean()) == pytest.approx(0.6, abs=0.02)
    assert float(split.labels.double().mean()) == pytest.approx(0.7, abs=4.5 * math.sqrt(0.21 / 20_000))


@pytest.mark.parametrize("kind", ["signals", "odd", "maps", "volumes"])
def test_draws_have_the_spectrum_of_the_law(kind: str) -> None:
    """At every frequency the power of one kind, over S(f), is a mean of chi-squares with known degrees of freedom."""
    data = fields(kind, n_train=2000)
    split = data.split("train")
    labels = torch.zeros(2000, dtype=torch.int64) if split.labels is None else split.labels
    centre = torch.tensor(data.means, dtype=torch.float64).reshape(-1, *[1] * len(data.sides))
    real = torch.ones(data.sides, dtype=torch.bool)  # the coefficient of a frequency that is its own mirror image
    for axis, side in enumerate(data.sides):
        numbers = torch.arange(side).reshape([-1 if a == axis else 1 for a in range(len(data.sides))])
        real = real & ((2 * numbers) % side == 0)
    for k in range(len(data.lengths)):
        own = split.all()[labels == k]
        exact = data.law.spectra[k].diagonal(dim1=-2, dim2=-1).movedim(-1, 0)
        freedom = len(own) * torch.where(real, 1, 2).expand(exact.shape).double()
        p = chi2.sf((freedom * power(own, centre) / exact).numpy(), freedom.numpy())
        assert 1e-5 < p.min() < p.max() < 1 - 1e-5


def test_the_spectrum_of_a_mixture_has_the_power_of_its_kinds_and_of_their_centres() -> None:
    ends = torch.tensor([[1.0], [-3.0]], dtype=torch.float64)
    spectra = torch.stack([ridge([6], 2.0, 3.0), ridge([6], 1.0, 2.0, 0.3, 0.1)])[..., None, None]
    law = FieldMixture(weights=torch.tensor([0.25, 0.75], dtype=torch.float64), centres=ends, spectra=spectra)
    x, _ = law.sample(40_000, torch.Generator().manual_seed(0))
    middle = float(law.mean[0])
    torch.testing.assert_close(power(x, middle), law.spectrum, rtol=0.05, atol=0.0)
    assert float(law.spectrum.mean()) == pytest.approx(law.variance), "Parseval"


# ---- spectra ---------------------------------------------------------------------------------------------------------


def test_the_ridge_has_variance_one_and_materns_covariance() -> None:
    """Of smoothness 1/2 on the line, on a grid fine enough: exp(-r/length), Matern's with exponent 2."""
    length, side = 40.0, 4096
    spectrum = ridge([side], length, 2.0)
    assert float(spectrum.mean()) == pytest.approx(1.0)
    covariance = torch.fft.ifft(spectrum).real
    lags = torch.arange(200, dtype=torch.float64)
    torch.testing.assert_close(covariance[:200], (-lags / length).exp(), rtol=0.0, atol=0.01)
    assert torch.equal(ridge([4, 4], 1.0, 0.0, 0.0, 1.0), torch.ones(4, 4, dtype=torch.float64)), "white"


def test_a_ridge_stands_at_its_frequency_and_is_round() -> None:
    spectrum = ridge([32, 32], 20.0, 4.0, 0.25)
    assert float(frequencies([32, 32]).flatten()[spectrum.argmax()]) == pytest.approx(2 * math.pi * 0.25, rel=0.05)
    assert torch.equal(spectrum, spectrum.T)
    assert float(spectrum[8, 0]) == pytest.approx(float(spectrum[0, 24]))


def test_shells_average_what_has_one_frequency() -> None:
    frequency, mean, count = shells(frequencies([8, 8, 8])[None], 3)
    torch.testing.assert_close(mean[0], 2 * math.pi * frequency)
    assert count.tolist()[:2] == [1, 18], "the origin; 6 places at distance 1 and 12 at the root of 2"
    assert float(frequency.max()) <= 0.5
    assert torch.equal(shells(torch.ones(2, 9), 1)[1], torch.ones(2, 5, dtype=torch.float64))


# ---- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "word"),
    [({"sides": []}, "sides"), ({"sides": [1]}, "sides"), ({"sides": [2] * 4}, "sides"),
     ({"deviations": [1.0]}, "deviations"), ({"deviations": [1.0, 0.0]}, "deviations"), ({"means": []}, "deviations"),
     ({"exponents": [1.0]}, "exponents"), ({"weights": [1.0, -1.0]}, "weights"), ({"kinds": ["one"]}, "kinds"),
     ({"correlation": 1.0}, "correlation"), ({"correlation": -1.0}, "correlation"), ({"noise": 2.0}, "noise"),
     ({"lengths": [0.0, 1.0]}, "length"), ({"frequencies": [0.0, 0.7]}, "frequency"), ({"seed": -1}, "seed"),
     ({"noise": 0.0, "exponents": [90.0, 90.0]}, "power")],
)  # fmt: skip
def test_wrong_numbers_are_refused_at_once(change: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match="allowed") as error:
        fields("signals", **change)
    assert word in one_line(error)


@pytest.mark.parametrize(("kind", "sides", "words"), [(Signals, [4, 4], "1 of"), (Volumes, [4], "3 of")])
def test_signals_and_volumes_have_their_number_of_sides(
    kind: type[GaussianFields], sides: list[int], words: str
) -> None:
    with pytest.raises(UserError, match=rf"dataset {kind.name}: sides=\{sides}; allowed: {words}"):
        kind(sides=sides)


def test_wrong_laws_and_shapes_are_refused() -> None:
    law = fields("maps").law
    for shape in ((2, 3, 4), (2, 12), (2, 3, 3, 4)):
        with pytest.raises(UserError, match=r"\(B, 3, 4, 3\) or \(B, 36\)"):
            law.log_prob(torch.zeros(shape))
    one = torch.ones(1, dtype=torch.float64)
    lopsided = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64).reshape(1, 3, 1, 1)
    for spectra, word in ((lopsided, "symmetric"), (lopsided[0], "spectra \\(K"), (lopsided.float(), "float64")):
        with pytest.raises(UserError, match=word):
            FieldMixture(weights=one, centres=one[:, None], spectra=spectra)
