"""The public recipes of ``scripts/results`` get the same inputs after their training as in it."""

import importlib
import math
from types import ModuleType, SimpleNamespace

import pytest
import torch
from support import ROOT
from torch import Tensor, nn

import dfm
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Edm as EdmPrediction
from dfm.likelihood.ode import OdeLikelihood
from dfm.paths.interpolating import Linear
from dfm.paths.variance_exploding import Edm

STD = 0.3
SPEC = DatasetSpec(name="g", shape=(1, 4, 4), levels=17, num_classes=0, mean=0.0, std=STD)


@pytest.fixture
def recipes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The recipes as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts" / "results"))
    return importlib.import_module("_public_recipes")


class Velocity(nn.Module):
    """E[data - noise | x_t] of N(0, STD^2) for x_t = t data + (1 - t) noise, as torchcfm has it."""

    def forward(self, t: Tensor, x: Tensor) -> Tensor:
        t = t.reshape(-1, 1, 1, 1)
        return (t * STD**2 - (1 - t)) / (t**2 * STD**2 + (1 - t) ** 2) * x


@pytest.mark.parametrize("path", ["own", "unit_variance"])
def test_torchcfms_velocity_has_the_gaussians_density_on_any_path(recipes: ModuleType, path: str) -> None:
    model = recipes.TheirVelocity(spec=SPEC, schedule=Linear(), network=Velocity())
    data = STD * torch.randn(32, *SPEC.shape, generator=torch.Generator().manual_seed(0))
    found = dfm.log_likelihood(model, data, OdeLikelihood(steps=16, path=path, divergence="exact"))  # type: ignore[arg-type]
    exact = torch.distributions.Normal(0.0, STD).log_prob(data.double()).flatten(1).sum(1)
    assert torch.allclose(found, exact, atol=2e-3)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 10.0])
def test_edms_network_is_told_a_quarter_of_ln_sigma_in_training_and_after(recipes: ModuleType, sigma: float) -> None:
    told: list[Tensor] = []

    class Inner(nn.Module):
        def forward(self, x: Tensor, c: Tensor) -> SimpleNamespace:
            told.append(c)
            return SimpleNamespace(sample=torch.zeros_like(x))

    path = Edm()
    model = NetworkDenoiser(
        spec=SPEC, schedule=path, trained_schedule=path, prediction=EdmPrediction(), network=recipes.LogSigma(Inner())
    )
    t = path.time_of_log_nsr(torch.tensor(math.log(sigma), dtype=torch.float64))
    data = model.data(torch.ones(2, *SPEC.shape), t)
    assert told[-1].tolist() == pytest.approx([math.log(sigma) / 4] * 2, abs=1e-6)
    assert torch.allclose(data, torch.full_like(data, STD**2 / (STD**2 + sigma**2)), rtol=1e-5), "c_skip x"


def test_edms_loss_tells_it_the_same(recipes: ModuleType) -> None:
    """In training sigma is drawn: what the network is told is ln(sigma)/4, of mean -0.3 and deviation 0.3."""
    pytest.importorskip("diffusers")
    recipe = recipes.edm(DatasetSpec(**{**vars(SPEC), "shape": (1, 8, 8)}), torch.device("cpu"))
    told: list[Tensor] = []
    recipe.network.inner.register_forward_pre_hook(lambda module, given: told.append(given[1]))
    with torch.no_grad():
        recipe.loss(torch.zeros(500, 1, 8, 8), torch.Generator().manual_seed(0))
    assert float(told[0].mean()) == pytest.approx(-0.3, abs=4 * 0.3 / 500**0.5)
    assert float(told[0].std()) == pytest.approx(0.3, rel=0.15)
