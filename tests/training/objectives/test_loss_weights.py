"""What training draws and weighs beside the plain loss: discrete levels, loss-aware density, clips, uncertainty."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from support.oracles import PREDICTIONS, SCHEDULES, STD

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.digits import Digits
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.models.mlp import MLP
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import RandomWalk
from dfm.paths.variance_preserving import Ddpm
from dfm.sampling import grids
from dfm.training.objectives import loss_weights as weights
from dfm.training.objectives.densities import DiscreteDensity, LogNsrDensity, LossAwareDensity, UniformDensity
from dfm.training.objectives.regression import Regression
from dfm.training.objectives.uncertainty import LearnedUncertainty
from dfm.training.trainer import Trainer, TrainerConfig

# ---- levels ----------------------------------------------------------------------------------------------------------


def test_ddpms_levels_are_the_whole_steps_with_equal_chance() -> None:
    schedule, density = Ddpm(), DiscreteDensity(grid=grids.IntegersGrid(), n=1000)
    t = density.time(torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1] + 1e-9, schedule)
    values, counts = torch.unique(t, return_counts=True)
    assert values.tolist() == list(range(1, 1001))
    assert set(counts.tolist()) == {4}


def test_ncsns_levels_are_geometric() -> None:
    density = DiscreteDensity(grid=grids.LogNsrGrid(), n=10)
    schedule = SCHEDULES["ve"]
    levels = schedule.log_nsr(density.time(torch.arange(10, dtype=torch.float64) / 10 + 0.05, schedule)).exp()
    assert torch.allclose(levels[1:] / levels[:-1], torch.full((9,), (0.01 / 50) ** (1 / 9), dtype=torch.float64))
    with pytest.raises(UserError, match="n=1"):
        DiscreteDensity(grid=grids.LogNsrGrid(), n=1)


@pytest.mark.parametrize("schedule", [Ddpm(), RandomWalk()])
def test_the_integer_grid_visits_whole_steps(schedule: Schedule) -> None:
    t = grids.IntegersGrid().times(37, schedule, schedule.t_min, schedule.t_max)
    assert torch.equal(t, t.round())
    assert (float(t[0]), float(t[-1])) == (schedule.t_max, schedule.t_min)
    assert bool((t.diff() < 0).all())
    everyone = grids.IntegersGrid().times(int(schedule.t_max) - 1, schedule, schedule.t_min, schedule.t_max)
    assert everyone.tolist() == list(range(int(schedule.t_max), 0, -1))
    with pytest.raises(UserError, match="at most"):
        grids.IntegersGrid().times(5, Linear(), 0.001, 0.999)


# ---- the loss-aware density ------------------------------------------------------------------------------------------


def fed(density: LossAwareDensity, loss: object, rounds: int = 400) -> LossAwareDensity:
    """After many observations of a loss that is a function of t on the linear path."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        u = density.uniforms(64, generator)
        density.observe(u, loss(density.time(u, Linear())))  # type: ignore[operator]
    return density


def test_levels_follow_the_root_mean_square_of_their_loss() -> None:
    """loss = 1 + 3 t: the share of each bin is proportional to it, up to the floor."""
    density = fed(LossAwareDensity(bins=10, decay=0.9, floor=0.1), lambda t: 1 + 3 * t)
    middle = Linear().t_min + (Linear().t_max - Linear().t_min) * (torch.arange(10, dtype=torch.float64) + 0.5) / 10
    loss = 1 + 3 * middle
    assert torch.allclose(density.shares(), 0.9 * loss / loss.sum() + 0.01, rtol=0.05)


def test_the_reweighted_mean_is_that_of_the_base_density() -> None:
    """int g(t) dt by importance against the exact integral, for a g that the density knows nothing of."""
    density = fed(LossAwareDensity(bins=20, floor=0.2), lambda t: (4 * t).exp())
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    t = density.time(u, Linear())
    estimate = float((density.importance(u) * (5 * t).sin()).mean())
    low, high = Linear().t_min, Linear().t_max
    assert estimate == pytest.approx((math.cos(5 * low) - math.cos(5 * high)) / (5 * (high - low)), abs=1e-4)


def test_its_variance_is_smaller_where_the_loss_is_uneven() -> None:
    plain, aware = UniformDensity(), fed(LossAwareDensity(bins=50, floor=0.05), lambda t: (6 * t).exp())
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    spread = [float((d.importance(u) * (6 * d.time(u, Linear())).exp()).var()) for d in (plain, aware)]
    assert spread[1] < spread[0] / 10


def test_it_can_stand_on_another_density() -> None:
    density = LossAwareDensity(base=LogNsrDensity())
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(density.time(u, Linear()), LogNsrDensity().time(u, Linear()), atol=1e-9)
    assert torch.allclose(density.importance(u), torch.ones(9, dtype=torch.float64))


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_clipped_and_sigmoid_weights_on_every_row(name: str, schedule: Schedule) -> None:
    """Restated for a unit error in out: an error of b/det in data, of a/det in noise."""
    t, prediction = grids.LogNsrGrid().times(30, schedule, schedule.t_min, schedule.t_max)[2:-2], PREDICTIONS[name]
    (a, b), (p, q) = schedule.ab(t), prediction.row(schedule, t, STD)
    det = a * q - b * p
    snr = (a / b) ** 2
    found = weights.MinSnrWeight(gamma=5.0)(t, schedule, prediction, STD)
    assert torch.allclose(found, snr.clamp(max=5.0) * (b / det) ** 2, rtol=1e-6)
    unclipped = weights.MinSnrWeight(gamma=None)(t, schedule, prediction, STD)
    assert torch.allclose(unclipped, (a / det) ** 2, rtol=1e-6), "1/nsr^2 on data is 1 on noise"
    sigmoid = weights.SigmoidWeight(bias=-1.0)(t, schedule, prediction, STD)
    assert torch.allclose(sigmoid, 1 / (1 + math.e * snr) * (a / det) ** 2, rtol=1e-6)
    with pytest.raises(UserError, match="gamma"):
        weights.MinSnrWeight(gamma=0.0)


# ---- uncertainty -----------------------------------------------------------------------------------------------------


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


# ---- in the trainer --------------------------------------------------------------------------------------------------


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
