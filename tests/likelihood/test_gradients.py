"""The gradient of log p with respect to the data, against scores in closed form and against differences."""

from collections.abc import Callable

import pytest
import torch
from support.oracles import SCHEDULES, oracle
from torch import Tensor

import dfm
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.denoising.exact import MixtureDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.estimator import Likelihood
from dfm.likelihood.evidence_bound import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.unet import UNet
from dfm.sampling.ode_flow import OdeMap

SOLVERS = {
    "dopri5": OdeLikelihood(solver="dopri5", divergence="exact", rtol=1e-6, atol=1e-6),
    "rk5": OdeLikelihood(solver="rk5", steps=32, divergence="exact"),
}


def score_of_data(denoiser: MixtureDenoiser, data: Tensor) -> Tensor:
    """grad log p(data), where log p(data) = log p_{t_min}(a data) + d log a."""
    a = float(denoiser.schedule.ab(torch.tensor(denoiser.t_min, dtype=torch.float64))[0])
    return a * denoiser.score(a * data, denoiser.t_min)


def gradient(value: Callable[[Tensor], Tensor], data: Tensor) -> Tensor:
    data = data.clone().requires_grad_()
    (found,) = torch.autograd.grad(value(data).sum(), data)
    return found


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("law", [pytest.param("gaussian", marks=pytest.mark.wide), "mixture"])
def test_the_gradient_is_the_score(solver: str, law: str, mixture: GaussianMixture) -> None:
    law_ = mixture_of([[0.4, -0.2]], [[[0.6, 0.35], [0.35, 0.4]]]) if law == "gaussian" else mixture
    denoiser = oracle(law_, SCHEDULES["trig"])
    data = law_.sample(5, torch.Generator().manual_seed(0))[0].double()
    found = gradient(lambda x: dfm.log_likelihood(denoiser, x, SOLVERS[solver], batch_size=3), data)
    exact = score_of_data(denoiser, data)
    # what is left of the data at t_max, 1/nsr = 0.0016, is the error of the prior
    assert torch.allclose(found, exact, rtol=5e-3, atol=5e-3 * float(exact.abs().max()))


def test_hutchinsons_gradient_is_that_of_its_value_and_is_unbiased(mixture: GaussianMixture) -> None:
    """The probes stay, so the value is a function of the data, with central differences; its mean is the score."""
    denoiser = oracle(mixture, SCHEDULES["trig"])
    data = mixture.sample(3, torch.Generator().manual_seed(1))[0].double()
    likelihood = OdeLikelihood(steps=8)
    found = gradient(lambda x: dfm.log_likelihood(denoiser, x, likelihood, seed=5), data)
    for k, unit in enumerate(torch.eye(2, dtype=torch.float64)):
        up, down = (dfm.log_likelihood(denoiser, data + sign * 1e-5 * unit, likelihood, seed=5) for sign in (1, -1))
        assert torch.allclose(found[:, k], (up - down) / 2e-5, rtol=1e-5, atol=1e-5)
    many = data[:1].repeat(225, 1)
    draws = gradient(lambda x: dfm.log_likelihood(denoiser, x, likelihood, seed=6), many)
    exact = gradient(lambda x: dfm.log_likelihood(denoiser, x, OdeLikelihood(steps=8, divergence="exact")), data[:1])
    error = draws.std(0) / 15
    assert float(error.max()) > 1e-4, "there must be something to average"
    assert bool(((draws.mean(0) - exact[0]).abs() < 4.5 * error).all())


def test_the_bounds_gradient_is_that_of_its_value(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["trig"])
    data = mixture.sample(3, torch.Generator().manual_seed(1))[0].double()
    likelihood = EvidenceBound(steps=16, decoder="gaussian")
    found = gradient(lambda x: dfm.log_likelihood(denoiser, x, likelihood), data)
    unit = torch.tensor([1.0, 0.0], dtype=torch.float64)
    up, down = (dfm.log_likelihood(denoiser, data + sign * 1e-5 * unit, likelihood) for sign in (1, -1))
    assert torch.allclose(found[:, 0], (up - down) / 2e-5, rtol=1e-5, atol=1e-4)


def image_denoiser(double: bool = True) -> NetworkDenoiser:
    """A U-Net with attention, channels_last as in training."""
    torch.manual_seed(1)
    spec = DatasetSpec(name="x", shape=(1, 8, 8), levels=17, num_classes=0, mean=0.0, std=0.5)
    net = UNet(
        shape=(1, 8, 8), channels=8, channel_multipliers=(1, 2), blocks_per_level=1, groups=4, zero_init=False
    ).to(memory_format=torch.channels_last)
    linear = SCHEDULES["linear"]
    network = NetworkDenoiser(
        spec=spec, schedule=linear, trained_schedule=linear, prediction=Velocity(), network=net.eval()
    )
    return network.double() if double else network


@pytest.mark.parametrize(
    "likelihood",
    [
        OdeLikelihood(steps=2, solver="heun"),
        pytest.param(OdeLikelihood(steps=1, solver="heun", divergence="exact"), marks=pytest.mark.wide),
    ],
)
def test_the_gradient_through_a_network(likelihood: Likelihood) -> None:
    """Against a central difference along one direction, in float64."""
    denoiser = image_denoiser()
    data, along = torch.randn(2, 2, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 2
    found = (gradient(lambda x: dfm.log_likelihood(denoiser, x, likelihood), data) * along).flatten(1).sum(1)
    up, down = (dfm.log_likelihood(denoiser, data + sign * 1e-5 * along, likelihood) for sign in (1, -1))
    assert torch.allclose(found, (up - down) / 2e-5, rtol=1e-5)


def test_encode_and_decode_differentiate() -> None:
    """decode is the inverse of encode: the product of their Jacobians is one, for each solver."""
    law = mixture_of([[0.4, -0.2]], [[[0.6, 0.35], [0.35, 0.4]]])
    denoiser, x = oracle(law, SCHEDULES["trig"]), torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    for flow in (OdeMap(rtol=1e-7, atol=1e-7), OdeMap(solver="rk5", steps=40)):
        there = torch.autograd.functional.jacobian(lambda v, f=flow: dfm.encode(denoiser, v, f)[0], x)[:, 0]
        z = dfm.encode(denoiser, x, flow)
        back = torch.autograd.functional.jacobian(lambda v, f=flow: dfm.decode(denoiser, v, f)[0], z)[:, 0]
        assert torch.allclose(there @ back, torch.eye(2, dtype=torch.float64), atol=2e-4)


def test_without_a_gradient_nothing_is_kept() -> None:
    """Of a network whose weights require gradients: no result has a graph, and no weight gets a gradient."""
    denoiser, data = image_denoiser(double=False), torch.zeros(2, 1, 8, 8)
    assert not dfm.log_likelihood(denoiser, data, OdeLikelihood(steps=1)).requires_grad
    assert not dfm.log_likelihood(denoiser, data, EvidenceBound(steps=2, decoder="gaussian")).requires_grad
    assert not dfm.encode(denoiser, data, OdeMap(solver="euler", steps=1)).requires_grad
    wanted = data.clone().requires_grad_()
    with torch.no_grad():
        assert not dfm.log_likelihood(denoiser, wanted, OdeLikelihood(steps=1)).requires_grad
    assert all(p.grad is None for p in denoiser.module().parameters())
