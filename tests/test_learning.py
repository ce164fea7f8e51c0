"""What training draws and weighs beside the plain loss: discrete levels, loss-aware density, clips, uncertainty."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import SCHEDULES
from test_path import PREDICTIONS, STD

from dfm import grids, weights
from dfm.datasets.base import DatasetSpec
from dfm.datasets.digits import Digits
from dfm.densities import Levels, LossAware, Uniform, UniformLogNsr
from dfm.errors import UserError
from dfm.models.mlp import MLP
from dfm.networks import NetworkDenoiser
from dfm.objectives import Regression
from dfm.predictions import Velocity
from dfm.schedules import Ddpm, Linear, RandomWalk, Schedule
from dfm.trainer import Trainer, TrainerConfig
from dfm.uncertainty import Learned

# ---- levels ----------------------------------------------------------------------------------------------------------


def test_ddpms_levels_are_the_whole_steps_with_equal_chance() -> None:
    schedule, density = Ddpm(), Levels(grid=grids.Integers(), n=1000)
    t = density.time(torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1] + 1e-9, schedule)
    values, counts = torch.unique(t, return_counts=True)
    assert values.tolist() == list(range(1, 1001))
    assert set(counts.tolist()) == {4}


def test_ncsns_levels_are_geometric() -> None:
    density = Levels(grid=grids.LogNsr(), n=10)
    schedule = SCHEDULES["ve"]
    levels = schedule.log_nsr(density.time(torch.arange(10, dtype=torch.float64) / 10 + 0.05, schedule)).exp()
    assert torch.allclose(levels[1:] / levels[:-1], torch.full((9,), (0.01 / 50) ** (1 / 9), dtype=torch.float64))
    with pytest.raises(UserError, match="n=1"):
        Levels(grid=grids.LogNsr(), n=1)


@pytest.mark.parametrize("schedule", [Ddpm(), RandomWalk()])
def test_the_integer_grid_visits_whole_steps(schedule: Schedule) -> None:
    t = grids.Integers().times(37, schedule, schedule.t_min, schedule.t_max)
    assert torch.equal(t, t.round())
    assert (float(t[0]), float(t[-1])) == (schedule.t_max, schedule.t_min)
    assert bool((t.diff() < 0).all())
    everyone = grids.Integers().times(int(schedule.t_max) - 1, schedule, schedule.t_min, schedule.t_max)
    assert everyone.tolist() == list(range(int(schedule.t_max), 0, -1))
    with pytest.raises(UserError, match="at most"):
        grids.Integers().times(5, Linear(), 0.001, 0.999)


# ---- the loss-aware density ------------------------------------------------------------------------------------------


def fed(density: LossAware, loss: object, rounds: int = 400) -> LossAware:
    """After many observations of a loss that is a function of t on the linear path."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(rounds):
        u = density.uniforms(64, generator)
        density.observe(u, loss(density.time(u, Linear())))  # type: ignore[operator]
    return density


def test_levels_follow_the_root_mean_square_of_their_loss() -> None:
    """loss = 1 + 3 t: the share of each bin is proportional to it, up to the floor."""
    density = fed(LossAware(bins=10, decay=0.9, floor=0.1), lambda t: 1 + 3 * t)
    middle = Linear().t_min + (Linear().t_max - Linear().t_min) * (torch.arange(10, dtype=torch.float64) + 0.5) / 10
    loss = 1 + 3 * middle
    assert torch.allclose(density.shares(), 0.9 * loss / loss.sum() + 0.01, rtol=0.05)


def test_the_reweighted_mean_is_that_of_the_base_density() -> None:
    """int g(t) dt by importance against the exact integral, for a g that the density knows nothing of."""
    density = fed(LossAware(bins=20, floor=0.2), lambda t: (4 * t).exp())
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    t = density.time(u, Linear())
    estimate = float((density.importance(u) * (5 * t).sin()).mean())
    low, high = Linear().t_min, Linear().t_max
    assert estimate == pytest.approx((math.cos(5 * low) - math.cos(5 * high)) / (5 * (high - low)), abs=1e-4)


def test_its_variance_is_smaller_where_the_loss_is_uneven() -> None:
    plain, aware = Uniform(), fed(LossAware(bins=50, floor=0.05), lambda t: (6 * t).exp())
    u = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    spread = [float((d.importance(u) * (6 * d.time(u, Linear())).exp()).var()) for d in (plain, aware)]
    assert spread[1] < spread[0] / 10


def test_it_can_stand_on_another_density() -> None:
    density = LossAware(base=UniformLogNsr())
    u = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert torch.allclose(density.time(u, Linear()), UniformLogNsr().time(u, Linear()), atol=1e-9)
    assert torch.allclose(density.importance(u), torch.ones(9, dtype=torch.float64))


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_clipped_and_sigmoid_weights_on_every_row(name: str, schedule: Schedule) -> None:
    """Restated for a unit error in out: an error of b/det in data, of a/det in noise."""
    t, prediction = grids.LogNsr().times(30, schedule, schedule.t_min, schedule.t_max)[2:-2], PREDICTIONS[name]
    (a, b), (p, q) = schedule.ab(t), prediction.row(schedule, t, STD)
    det = a * q - b * p
    snr = (a / b) ** 2
    found = weights.MinSnr(gamma=5.0)(t, schedule, prediction, STD)
    assert torch.allclose(found, snr.clamp(max=5.0) * (b / det) ** 2, rtol=1e-6)
    unclipped = weights.MinSnr(gamma=None)(t, schedule, prediction, STD)
    assert torch.allclose(unclipped, (a / det) ** 2, rtol=1e-6), "1/nsr^2 on data is 1 on noise"
    sigmoid = weights.Sigmoid(bias=-1.0)(t, schedule, prediction, STD)
    assert torch.allclose(sigmoid, 1 / (1 + math.e * snr) * (a / det) ** 2, rtol=1e-6)
    with pytest.raises(UserError, match="gamma"):
        weights.MinSnr(gamma=0.0)


# ---- uncertainty -----------------------------------------------------------------------------------------------------


def test_the_learned_uncertainty_finds_the_loss_of_each_level() -> None:
    """Minimising loss/e^u + u makes e^u the mean loss: here 0.1 to 10 over the levels, with noise."""
    head, generator = Learned(features=32), torch.Generator().manual_seed(0)
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
    assert torch.equal(Learned()(loss, level), loss)
    with pytest.raises(UserError, match="features"):
        Learned(features=0)


# ---- in the trainer --------------------------------------------------------------------------------------------------


def trainer(max_steps: int = 6) -> Trainer:
    data = Digits()
    torch.manual_seed(1)
    spec: DatasetSpec = replace(data.spec, num_classes=0)
    denoiser = NetworkDenoiser(
        spec=spec, schedule=Linear(), trained=Linear(), prediction=Velocity(), network=MLP(shape=spec.shape, width=16)
    )
    objective = Regression(density=LossAware(bins=5), weight=weights.Uniform(), uncertainty=Learned(features=8))
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
