"""Stochastic interpolants on Gaussian data, where the network's two outputs are known in closed form."""

import math
from dataclasses import replace

import pytest
import torch
from support.interpolants import LATENT, M, S, exact, moments
from support.oracles import SCHEDULES

from dfm.basics.errors import UserError
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.mlp import MLP
from dfm.paths.interpolant_latents import RootLatent
from dfm.paths.interpolating import Linear, Trigonometric
from dfm.paths.priors import GaussianPrior, Prior, UniformPrior
from dfm.sampling.grids import LogNsrGrid, UniformGrid
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.exponential import Ddim
from dfm.sampling.steppers.ode import Heun
from dfm.sampling.steppers.stochastic import EulerMaruyama
from dfm.training.objectives.densities import UniformDensity
from dfm.training.objectives.loss_weights import UniformWeight
from dfm.training.objectives.regression import Interpolation, Regression

SMOOTH = {name: SCHEDULES[name] for name in ("linear", "trig", "vp", "edm")}


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_the_latents_derivative_is_autograds(name: str) -> None:
    schedule = SCHEDULES[name]
    t = LogNsrGrid().times(20, schedule, schedule.t_min, schedule.t_max)[1:-1].requires_grad_()
    (expected,) = torch.autograd.grad(LATENT.c(schedule, t).sum(), t)
    assert torch.allclose(LATENT.derivative(schedule, t.detach()), expected, rtol=1e-7)


def test_on_the_linear_path_it_is_the_papers() -> None:
    t = torch.tensor([0.1, 0.5, 0.8], dtype=torch.float64)
    assert torch.allclose(RootLatent().c(Linear(), t), (2 * t * (1 - t)).sqrt())


@pytest.mark.parametrize("name", sorted(SMOOTH))
def test_velocity_and_score_are_those_of_the_gaussian(name: str) -> None:
    """x_t ~ N(m, v): score -(x - m)/v, velocity m' + v'/(2 v) (x - m), both by autograd of the moments."""
    schedule = SMOOTH[name]
    denoiser = exact(schedule)
    for t in LogNsrGrid().times(8, schedule, schedule.t_min, schedule.t_max)[1:-1]:
        at = t.clone().requires_grad_()
        mean, variance = moments(schedule, at)
        dm = torch.autograd.grad(mean, at, retain_graph=True)[0] if mean.requires_grad else torch.zeros(())
        (dv,) = torch.autograd.grad(variance, at)
        x = torch.randn(4, 2, dtype=torch.float64)
        velocity, score = denoiser.velocity_and_score(x, t)
        assert torch.allclose(score, -(x - mean.detach()) / variance.detach(), rtol=1e-6, atol=1e-8)
        expected = dm + dv / (2 * variance.detach()) * (x - mean.detach())
        assert torch.allclose(velocity, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))
        assert torch.allclose(denoiser.velocity(x, t), velocity)


@pytest.mark.parametrize("trained", sorted(SMOOTH))
def test_a_schedule_can_be_swapped(trained: str) -> None:
    """c/a depends on b/a alone, so the network of one schedule has the velocity and score of another."""
    swapped, truth = exact(SMOOTH[trained]).on_schedule(SMOOTH["trig"]), exact(SMOOTH["trig"])
    t = LogNsrGrid().times(6, SMOOTH["trig"], swapped.t_min, swapped.t_max)[1:-1]
    x = torch.randn(len(t), 2, dtype=torch.float64)
    for found, expected in zip(swapped.velocity_and_score(x, t), truth.velocity_and_score(x, t), strict=True):
        assert torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("stepper", [Heun(), EulerMaruyama(strength=0.5)], ids=["ode", "sde"])
def test_ode_and_sde_keep_the_law(stepper: object) -> None:
    """From the exact law at t_max to that at t_min: mean and variance of 20,000 numbers."""
    schedule = Trigonometric(t_min=0.05, t_max=0.95)
    denoiser, n = exact(schedule), 10_000
    generator = torch.Generator().manual_seed(0)
    ends = torch.tensor([0.95, 0.05], dtype=torch.float64)
    mean, variance = moments(schedule, ends)
    x = mean[0] + variance[0].sqrt() * torch.randn(n, 2, dtype=torch.float64, generator=generator)
    sampler = GridSampler(
        stepper=stepper, grid=UniformGrid(), steps=200,  # type: ignore[arg-type]
        noise=lambda step, part, x: torch.randn(x.shape, dtype=x.dtype, generator=generator),
    )  # fmt: skip
    *_, (end, _) = sampler.path(denoiser, x, 0, range(n))
    assert float(end.mean()) == pytest.approx(float(mean[1]), abs=4.5 * math.sqrt(float(variance[1]) / (2 * n)) + 2e-3)
    assert float(end.var()) == pytest.approx(float(variance[1]), rel=4.5 / math.sqrt(n) + 0.02)


def test_its_likelihood_is_the_gaussians() -> None:
    schedule = Trigonometric(t_min=1e-6)
    denoiser, data = exact(schedule), M + S * torch.randn(20, 2, dtype=torch.float64)
    found = OdeLikelihood(solver="dopri5", divergence="exact", rtol=1e-8, atol=1e-8).log_density(denoiser, data).value
    expected = torch.distributions.Normal(M, S).log_prob(data).sum(1)
    assert torch.allclose(found, expected, atol=2e-3)


def test_samplers_of_data_and_noise_are_refused_in_one_line() -> None:
    with pytest.raises(UserError, match="latent") as caught:
        GridSampler(stepper=Ddim(), steps=2).run(exact(Linear()), torch.zeros(1, 2, dtype=torch.float64))
    assert "\n" not in str(caught.value)


def test_the_exact_network_has_the_bayes_risk() -> None:
    """Loss of the linear network = conditional variances of row and latent, by brute force over Gaussians."""
    schedule, n = Trigonometric(), 40_000
    denoiser = exact(schedule)
    objective = Interpolation(density=UniformDensity(), weight=UniformWeight())
    data = M + S * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    loss = objective.loss(denoiser, data, torch.Generator().manual_seed(1))
    t = UniformDensity().time(loss.u, schedule)
    (a, b), (da, db), c = schedule.ab(t), schedule.derivatives(t), LATENT.c(schedule, t)
    variance = moments(schedule, t)[1]
    row = da**2 * S**2 + db**2 - (da * a * S**2 + db * b) ** 2 / variance
    risk = row + 1 - c**2 / variance
    error = float(loss.value.std()) / math.sqrt(n)
    assert float((loss.value - risk).mean()) == pytest.approx(0.0, abs=4.5 * error)


def test_objective_and_latent_must_agree() -> None:
    plain = Regression(density=UniformDensity(), weight=UniformWeight())
    with pytest.raises(UserError, match="objective=interpolant"):
        plain.loss(exact(Linear()), torch.zeros(2, 2), torch.Generator())
    with pytest.raises(UserError, match="above 0"):
        RootLatent(scale=0.0)


@pytest.mark.parametrize("prior", [GaussianPrior(), UniformPrior()])
def test_it_trains_with_two_outputs_and_any_prior(prior: Prior) -> None:
    network = MLP(shape=(2,), outputs=2, width=16, depth=1)
    denoiser = replace(exact(Linear()), network=network, prior=prior)
    objective = Interpolation(density=UniformDensity(), weight=UniformWeight())
    loss = objective.loss(denoiser, torch.randn(8, 2), torch.Generator().manual_seed(0)).value
    assert loss.shape == (8,)
    loss.mean().backward()
    denoiser.score(torch.zeros(3, 2), torch.tensor(0.5, dtype=torch.float64))  # known, whatever the prior
