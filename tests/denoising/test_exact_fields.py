"""The exact denoiser of fields and of scaled data: score, ODE, spectra of its samples, nats in the unit of the data."""

import math

import pytest
import torch
from scipy.stats import chi2
from support.oracles import SCHEDULES, times
from torch import Tensor

import dfm
from dfm.basics.errors import UserError
from dfm.data.dataset import Dataset
from dfm.data.fields.gaussian_fields import GaussianFields
from dfm.data.fields.spectra import power, shells
from dfm.data.numbers.units import log_volume, to_model
from dfm.data.toys import Mixture, Moons
from dfm.denoising.exact import MixtureDenoiser, exact_denoiser
from dfm.evaluation.known_law import exact_end, exact_start_gap, law_at, start_gap, starting_points
from dfm.likelihood.ode import OdeLikelihood
from dfm.paths.schedule import Schedule
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.ode import Heun

TWO = GaussianFields(
    sides=[4], means=[20.0, -300.0], deviations=[2.0, 50.0], correlation=0.6, lengths=[1.0, 2.0], exponents=[3.0, 4.0],
    frequencies=[0.0, 0.25], noise=0.05, n_train=2000, n_validation=10, n_test=200,
)  # fmt: skip
ONE = GaussianFields(sides=[4, 6], means=[3.0], deviations=[1.5], n_train=500, n_validation=10, n_test=200)


def test_score_and_velocity_of_a_field(schedule: Schedule) -> None:
    """score = grad log p_t by autograd, and the continuity equation d/dt log p + u . score + div u = 0."""
    denoiser = exact_denoiser(TWO, schedule)
    for t in times(schedule, 6)[2:-2]:
        a, b = schedule.ab(t)
        x = torch.randn(3, 2, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = (x * (a**2 + b**2).sqrt()).requires_grad_()
        (gradient,) = torch.autograd.grad(denoiser.log_density(x, float(t)).sum(), x)
        score = denoiser.score(x, t)
        assert torch.allclose(score, gradient, rtol=1e-6, atol=1e-7 * float(gradient.abs().max()))
        flat = denoiser.velocity(x, t).flatten(1)
        parts = [torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True)[0].flatten(1)[:, i] for i in range(8)]
        divergence, h = sum(parts), float(t) * 1e-5
        assert isinstance(divergence, Tensor)
        change = (denoiser.log_density(x, float(t) + h) - denoiser.log_density(x, float(t) - h)) / (2 * h)
        rest = (change + (flat * score.flatten(1)).sum(1) + divergence).detach()
        assert float(rest.abs().max()) < 1e-5 * float(divergence.detach().abs().max() + change.detach().abs().max())


def test_the_ode_of_one_field_scales_every_frequency_by_itself() -> None:
    """In closed form: F(x - a m) is multiplied by the ratio of sqrt(a^2 S + b^2) at the two ends."""
    denoiser = exact_denoiser(ONE, SCHEDULES["linear"])
    law, x = ONE.law, starting_points(denoiser, 5, 0)
    ends = [
        (float(a), float(b))
        for a, b in (denoiser.schedule.ab(torch.tensor(t, dtype=torch.float64)) for t in (0.999, 0.001))
    ]
    (a0, b0), (a1, b1) = ends
    spectrum = law.spectra[0, ..., 0, 0]
    ratio = ((a1**2 * spectrum + b1**2) / (a0**2 * spectrum + b0**2)).sqrt()
    coefficients = torch.fft.fftn(x - 3.0 * a0, dim=(2, 3)) * ratio
    expected = torch.fft.ifftn(coefficients, dim=(2, 3)).real + 3.0 * a1
    torch.testing.assert_close(exact_end(denoiser, x, 0.001), expected, rtol=0, atol=1e-6)


def test_samples_of_the_oracle_have_the_spectrum_of_the_law() -> None:
    """Chi-square in every shell of frequencies."""
    denoiser, n = exact_denoiser(ONE, SCHEDULES["linear"]), 2000
    samples = dfm.sample(denoiser, n, GridSampler(stepper=Heun(), steps=48), seed=3)
    found, exact = shells(power(samples, 3.0), 2), shells(ONE.law.spectrum, 2)
    # the coefficients at f and -f are one number of two degrees of freedom; powers within a shell differ little
    freedom = n * found[2].double()
    flat = shells(power(samples, 3.0) / ONE.law.spectrum, 2)[1][0]
    p = chi2.sf((freedom * flat).numpy(), freedom.numpy())
    assert 1e-4 < p.min() < p.max() < 1 - 1e-4
    torch.testing.assert_close(found[1], exact[1], rtol=0.1, atol=0)


@pytest.mark.parametrize("data", [ONE, TWO], ids=["maps", "signals"])
def test_likelihoods_are_the_laws_in_the_unit_of_the_data(data: GaussianFields) -> None:
    """Along the ODE, with the exact divergence: the law of the path's end, which has a little noise."""
    denoiser = exact_denoiser(data, SCHEDULES["edm"])
    values = data.split("test").all().double()[:20]
    seen = to_model(values, denoiser.spec)
    ode = OdeLikelihood(divergence="exact", steps=128)
    found = dfm.log_likelihood(denoiser, seen, likelihood=ode) - log_volume(denoiser.spec)
    torch.testing.assert_close(found.double(), data.law.log_prob(values), rtol=0, atol=0.02)


def test_the_law_along_the_path_and_at_its_start() -> None:
    denoiser = exact_denoiser(ONE, SCHEDULES["vp"])
    values = to_model(ONE.split("test").all().double(), denoiser.spec)
    exact = exact_start_gap(denoiser)
    found = start_gap(denoiser, values, 0)
    assert exact is not None
    assert found.mean == pytest.approx(exact, abs=4.5 * found.stderr)
    x, _ = ONE.law.sample(2000, torch.Generator().manual_seed(2))
    t = 0.3
    noisy = denoiser.schedule.mix(x, torch.randn(x.shape, dtype=torch.float64), torch.tensor(t, dtype=torch.float64))
    assert law_at(denoiser, t).kolmogorov_smirnov(noisy)[1] > 1e-3
    assert law_at(denoiser, t).kolmogorov_smirnov(1.3 * noisy)[1] < 1e-6


def test_the_oracle_lives_in_the_unit_of_the_model() -> None:
    """Columns of deviation 1 and 1000: the model's data have deviation 1, and a model of dfm 0.1 has none of that."""
    data = Mixture(means=[[5.0, 0.0]], covariances=[[1.0, 1e6]], n_train=2000, n_validation=10, n_test=10)
    new, old = exact_denoiser(data, SCHEDULES["edm"]), exact_denoiser(data, SCHEDULES["edm"], plain(data))
    assert new.mixture.variance == pytest.approx(1.0, rel=0.1)
    assert (new.spec.scale, old.spec.scale) == (data.spec.scale, ())
    x, t = torch.tensor([[5.0, 700.0]], dtype=torch.float64), 2.0
    for denoiser in (new, old):
        y = to_model(x, denoiser.spec)
        shift, scale = (
            torch.tensor(c or default, dtype=torch.float64)
            for c, default in ((denoiser.spec.shift, (0.0, 0.0)), (denoiser.spec.scale, (1.0, 1.0)))
        )
        mean = (torch.tensor([5.0, 0.0], dtype=torch.float64) - shift) / scale
        variance = torch.tensor([1.0, 1e6], dtype=torch.float64) / scale**2
        torch.testing.assert_close(denoiser.data(y, t)[0], mean + variance / (variance + t * t) * (y[0] - mean))


def plain(data: Dataset) -> "dfm.data.DatasetSpec":
    """The facts as dfm 0.1 stored them: no scaling."""
    from dataclasses import replace

    return replace(data.spec, shift=(), scale=(), mean=2.5, std=math.sqrt(5e5))


def test_a_law_that_is_unknown_is_told() -> None:
    with pytest.raises(UserError, match="dataset=moons: its law is not known exactly; allowed: dataset=mixture"):
        exact_denoiser(Moons(n_train=10), SCHEDULES["edm"])
    assert isinstance(exact_denoiser(TWO, SCHEDULES["edm"]), MixtureDenoiser)
