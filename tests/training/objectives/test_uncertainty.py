"""What an objective learns beside the network: the loss of each noise level, trained, kept and resumed."""

import copy
from dataclasses import replace

import pytest
import torch

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.published.digits import Digits
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.models.mlp import MLP
from dfm.paths.interpolating import Linear
from dfm.training.objectives import loss_weights as weights
from dfm.training.objectives.densities import LossAwareDensity
from dfm.training.objectives.regression import Regression
from dfm.training.objectives.uncertainty import LearnedUncertainty
from dfm.training.trainer import Trainer, TrainerConfig


def test_the_learned_uncertainty_finds_the_loss_of_each_level() -> None:
    """Minimising loss/e^u + u makes e^u the mean loss: here 0.1 to 10 over the levels, with noise."""
    head, generator = LearnedUncertainty(features=32), torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(head.parameters(), lr=0.02)
    for _ in range(1500):
        level = 6 * torch.rand(256, generator=generator) - 3
        loss = 10 ** (level / 3) * (-torch.rand(256, generator=generator).clamp_min(1e-6).log())  # exponential, mean 1
        optimizer.zero_grad()
        head(loss, level).mean().backward()
        optimizer.step()
    level = torch.linspace(-2.5, 2.5, 11)
    assert torch.allclose(head.log_variance(level).exp(), 10 ** (level / 3), rtol=0.35)


def test_at_first_it_changes_nothing() -> None:
    loss, level = torch.rand(5), torch.randn(5)
    assert torch.equal(LearnedUncertainty()(loss, level), loss)
    with pytest.raises(UserError, match="features"):
        LearnedUncertainty(features=0)


def trainer(max_steps: int = 6) -> Trainer:
    data = Digits()
    torch.manual_seed(1)
    spec: DatasetSpec = replace(data.spec, num_classes=0)
    denoiser = NetworkDenoiser(
        spec=spec,
        schedule=Linear(),
        trained_schedule=Linear(),
        prediction=Velocity(),
        network=MLP(shape=spec.shape, width=16),
    )
    objective = Regression(
        density=LossAwareDensity(bins=5), weight=weights.UniformWeight(), uncertainty=LearnedUncertainty(features=8)
    )
    config = TrainerConfig(max_steps=max_steps, batch_size=8, warmup_steps=1)
    return Trainer(config, denoiser, objective, data.split("train"), device=torch.device("cpu"))


def test_what_the_objective_learns_is_trained_kept_and_resumed_exactly() -> None:
    whole = trainer()
    list(whole.steps())
    head = whole.learned.state_dict()
    assert not torch.equal(head["density.squares"], torch.ones(5, dtype=torch.float64))
    assert float(head["uncertainty.linear.weight"].abs().sum()) > 0
    first = trainer()
    steps = first.steps()
    for _ in range(3):
        next(steps)
    saved = copy.deepcopy(first.state())
    steps.close()
    second = trainer()
    second.load_state(saved)
    list(second.steps())
    for key, value in second.learned.state_dict().items():
        assert torch.equal(value, head[key]), key
    for key, value in second.network.state_dict().items():
        assert torch.equal(value, whole.network.state_dict()[key]), key


def test_validation_teaches_the_density_nothing() -> None:
    run = trainer()
    before = run.learned.state_dict()["density.squares"].clone()
    run.validation_loss(run.averaged(), Digits().split("validation"), limit=16)
    assert torch.equal(run.learned.state_dict()["density.squares"], before)
