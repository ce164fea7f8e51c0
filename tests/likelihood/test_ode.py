"""Likelihoods against closed forms: Gaussians, mixtures, a grid that must integrate to one."""

import dataclasses
import math

import pytest
import torch
from support.oracles import SCHEDULES, on_every_schedule, oracle
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.basics.seeding import Purpose, rademacher
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.denoising.exact import MixtureDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.divergence import Exact, Hutchinson
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.scoring import log_likelihood
from dfm.models.unet import UNet
from dfm.paths.schedule import Schedule
from dfm.sampling.grids import LogNsrGrid


def points(mixture: GaussianMixture, n: int) -> Tensor:
    return mixture.sample(n, torch.Generator().manual_seed(0))[0]


def exact_value(denoiser: MixtureDenoiser, data: Tensor) -> Tensor:
    """What the ODE likelihood estimates, in closed form: log p_{t_min}(a data) + d log a."""
    a, _ = denoiser.schedule.ab(torch.tensor(denoiser.t_min, dtype=torch.float64))
    return denoiser.log_density(data * a, denoiser.t_min) + data.shape[1] * float(a.log())


@on_every_schedule
def test_gaussian_to_ten_thousandth_of_a_nat(schedule: Schedule) -> None:
    """One Gaussian: the prior at t_max is exact, so only the solver's error is left."""
    gaussian = mixture_of([[0.4, 0.4, 0.4]], 0.36)
    denoiser, data = oracle(gaussian, schedule), points(gaussian, 20)
    likelihood = OdeLikelihood(solver="dopri5", divergence="exact", rtol=1e-8, atol=1e-8)
    found = log_likelihood(denoiser, data, likelihood)
    assert torch.allclose(found, exact_value(denoiser, data), atol=1e-4)
    if float(schedule.log_nsr(torch.tensor(schedule.t_min, dtype=torch.float64)).exp()) < 3e-3:
        # t_min is near enough to the data that the density of the data themselves is met too
        assert torch.allclose(found, gaussian.log_prob(data), atol=1e-4)


@pytest.mark.parametrize("solver", ["rk4", "dopri5"])
def test_mixture_to_ten_thousandth_of_a_nat(solver: str, mixture: GaussianMixture) -> None:
    """At t_max = 0.9999 the Gaussian prior is as good as exact; what is left of the data is 1e-4 of it."""
    denoiser = oracle(mixture, dataclasses.replace(SCHEDULES["linear"], t_max=0.9999))
    likelihood = OdeLikelihood(solver=solver, steps=200, divergence="exact", rtol=1e-8, atol=1e-8)
    data = points(mixture, 50)
    found = log_likelihood(denoiser, data, likelihood)
    assert torch.allclose(found, exact_value(denoiser, data), atol=1e-4)
    assert torch.allclose(found, mixture.log_prob(data), atol=1e-4)


@on_every_schedule
def test_every_schedule_gives_the_mixtures_density(schedule: Schedule, mixture: GaussianMixture) -> None:
    """Of the data as blurred at t_min. What is left of the data at t_max, of size 1/nsr, bounds the prior's error."""
    data, denoiser = points(mixture, 20), oracle(mixture, schedule)
    likelihood = OdeLikelihood(solver="dopri5", divergence="exact", rtol=1e-7, atol=1e-7)
    found = log_likelihood(denoiser, data, likelihood)
    nsr = float(schedule.log_nsr(torch.tensor(schedule.t_max, dtype=torch.float64)).exp())
    assert torch.allclose(found, exact_value(denoiser, data), atol=5e-3 if nsr > 60 else 1 / nsr)


def test_the_density_integrates_to_one(mixture: GaussianMixture) -> None:
    """Sum over a grid of cells of 0.15: the trapezoidal rule is spectrally exact for densities this smooth."""
    axis = torch.arange(-6, 6.01, 0.15, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    likelihood = OdeLikelihood(solver="rk4", steps=48, divergence="exact")
    total = log_likelihood(oracle(mixture, SCHEDULES["trig"]), grid, likelihood, batch_size=8192).exp().sum() * 0.15**2
    assert float(total) == pytest.approx(1.0, abs=2e-3)


def test_hutchinson_is_unbiased(mixture: GaussianMixture) -> None:
    """The mean over points of (estimate - exact) is within 3 standard errors of zero, for both probes."""
    denoiser, data = oracle(mixture, SCHEDULES["linear"]), points(mixture, 400)
    exact = log_likelihood(denoiser, data, OdeLikelihood(steps=40, divergence="exact"))
    for probe in ("rademacher", "gaussian"):
        found = log_likelihood(denoiser, data, OdeLikelihood(steps=40, probe=probe), seed=1)
        difference = found - exact
        assert float(difference.std()) > 0.01, "with one probe there must be something to average"
        assert abs(float(difference.mean())) < 3 * float(difference.std()) / math.sqrt(len(data))


@pytest.mark.wide
def test_hutchinsons_variance_falls_as_one_over_probes(mixture: GaussianMixture) -> None:
    """Variance with 8 probes over that with 1: 1/8 within the error of two variances of 400 numbers (factor 1.6)."""
    denoiser, data = oracle(mixture, SCHEDULES["linear"]), points(mixture, 400)
    exact = log_likelihood(denoiser, data, OdeLikelihood(steps=24, divergence="exact"))
    one, eight = (
        (log_likelihood(denoiser, data, OdeLikelihood(steps=24, probes=k), seed=2) - exact).var() for k in (1, 8)
    )
    assert 1 / 1.6 < 8 * float(eight / one) < 1.6


def test_divergences_against_the_jacobian() -> None:
    """Both estimators of div u against the trace of torch's own Jacobian, at one point of a random network."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 5)).double()
    x, t = torch.randn(3, 5, dtype=torch.float64), torch.tensor(0.5, dtype=torch.float64)
    trace = torch.stack([torch.autograd.functional.jacobian(net, row).trace() for row in x])
    assert torch.allclose(Exact()(lambda x, t: net(x), x, t)[1], trace)
    # Rademacher probes over all 2^5 sign patterns average to the trace exactly.
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * 5)
    probes = signs[:, None, :].expand(32, 3, 5)
    assert torch.allclose(Hutchinson(probes)(lambda x, t: net(x), x, t)[1], trace)


def image_denoiser() -> NetworkDenoiser:
    """A small U-Net with random weights, as on 8x8 images."""
    torch.manual_seed(1)
    spec = DatasetSpec(name="x", shape=(1, 8, 8), levels=17, num_classes=0, mean=0.0, std=0.5)
    net = UNet(
        shape=(1, 8, 8), channels=8, channel_multipliers=(1, 2), blocks_per_level=1, groups=4, zero_init=False
    ).eval()
    linear = SCHEDULES["linear"]
    return NetworkDenoiser(spec=spec, schedule=linear, trained_schedule=linear, prediction=Velocity(), network=net)


@pytest.mark.parametrize(
    ("solver", "double", "rtol"), [("heun", False, 1e-5), ("heun", True, 1e-12), ("dopri5", True, 1e-9)]
)
def test_an_images_likelihood_does_not_depend_on_its_batch(solver: str, double: bool, rtol: float) -> None:
    """Same index, same value: alone, in any order, in any batch, to the rounding of the network.

    An adaptive solver chooses its steps by what the network gives, so rounding moves its value by up to its tolerance;
    in float64 that is far below it.
    """
    denoiser = image_denoiser()
    data = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    if double:
        denoiser, data = dataclasses.replace(denoiser, network=denoiser.module().double()), data.double()
    likelihood = OdeLikelihood(solver=solver, steps=6, rtol=1e-3, atol=1e-3)
    together = likelihood.log_density(denoiser, data, 5, range(6)).value
    alone = torch.cat([likelihood.log_density(denoiser, data[i : i + 1], 5, [i]).value for i in range(6)])
    order = [4, 2, 0, 5, 1, 3]
    mixed = likelihood.log_density(denoiser, data[order], 5, order).value
    assert torch.allclose(alone, together, rtol=rtol, atol=0)
    assert torch.allclose(mixed, together[order], rtol=rtol, atol=0)


def test_hutchinson_on_images_is_within_its_error_of_exact() -> None:
    """64 probes on one image: mean within 3 standard errors of the exact divergence integral."""
    denoiser = image_denoiser()
    data = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    exact = OdeLikelihood(solver="heun", steps=4, divergence="exact").log_density(denoiser, data).value
    many = data.expand(64, -1, -1, -1)
    found = OdeLikelihood(solver="heun", steps=4).log_density(denoiser, many, 0, range(64)).value
    assert abs(float(found.mean() - exact)) < 3 * float(found.std()) / 8


def test_scaling_the_data_shifts_nats_by_d_log_k(mixture: GaussianMixture) -> None:
    scaled = mixture_of((mixture.means * 3).tolist(), (mixture.covariances * 9).tolist(), mixture.weights.tolist())
    data = points(mixture, 10)
    likelihood = OdeLikelihood(solver="dopri5", divergence="exact", rtol=1e-8, atol=1e-8)
    nats, shifted = (
        log_likelihood(oracle(m, SCHEDULES["linear"]), x, likelihood) for m, x in ((mixture, data), (scaled, 3 * data))
    )
    assert torch.allclose(shifted, nats - 2 * math.log(3), atol=2e-3)


def test_nfe_and_grid() -> None:
    gaussian = mixture_of([[0.0]], 1.0)
    denoiser, data = oracle(gaussian, SCHEDULES["edm"]), torch.zeros(4, 1, dtype=torch.float64)
    for solver, cost in (("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)):
        likelihood = OdeLikelihood(solver=solver, steps=5, grid=LogNsrGrid())
        assert likelihood.log_density(denoiser, data).nfe == 5 * cost


def test_the_same_probe_is_kept_along_the_trajectory() -> None:
    """The integrand must be a smooth function of time: the field of one batch is asked with one set of probes."""
    draws = rademacher(0, [0, 1], (3,), Purpose.PROBE, 0)
    likelihood = OdeLikelihood()
    probes = [likelihood._divergence(torch.zeros(2, 3, dtype=torch.float64), 0, [0, 1], 0).probes for _ in range(2)]  # type: ignore[attr-defined]
    assert torch.equal(probes[0][0], draws)
    assert torch.equal(probes[0], probes[1])


@pytest.mark.parametrize(
    ("bad", "word"),
    [
        ({"solver": "rk6"}, "rk4"),
        ({"divergence": "hutchison"}, "did you mean 'hutchinson'"),
        ({"probe": "normal"}, "gaussian"),
        ({"steps": 0}, "at least 1"),
        ({"probes": 0}, "at least 1"),
    ],
)
def test_bad_settings_are_refused_in_one_line(bad: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word) as caught:
        OdeLikelihood(**bad)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
