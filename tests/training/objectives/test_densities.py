"""Which noise levels training visits: every density against scipy, levels of papers, and the loss-aware one."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.oracles import SCHEDULES
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_preserving import Ddpm
from dfm.sampling import grids
from dfm.training.objectives import densities
from dfm.training.objectives.densities import DiscreteDensity, LogNsrDensity, LossAwareDensity, UniformDensity

DENSITIES = [
    densities.UniformDensity,
    densities.LogNsrDensity,
    densities.LogNormalDensity,
    densities.LogitNormalDensity,
    densities.CosineDensity,
    densities.LossAwareDensity,
]


def distribution(density: densities.Density, schedule: Schedule, t: Tensor) -> tuple[np.ndarray, object]:
    """The variable in which a density is simple, at t, and its distribution there (scipy)."""
    low, high = (
        float(v) for v in schedule.log_nsr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    )
    if isinstance(density, (densities.UniformDensity, densities.LossAwareDensity)):  # which starts as its base
        return t.numpy(), stats.uniform(schedule.t_min, schedule.t_max - schedule.t_min)
    if isinstance(density, densities.LogNsrDensity):
        return schedule.log_nsr(t).numpy(), stats.uniform(low, high - low)
    if isinstance(density, densities.CosineDensity):
        turns = [math.atan(math.exp(v)) for v in (low, high)]
        return schedule.log_nsr(t).exp().atan().numpy(), stats.uniform(turns[0], turns[1] - turns[0])
    if isinstance(density, densities.LogNormalDensity):
        ends = ((low - density.mean) / density.std, (high - density.mean) / density.std)
        return schedule.log_nsr(t).numpy(), stats.truncnorm(*ends, loc=density.mean, scale=density.std)
    logits = [math.log(u / (1 - u)) for u in (schedule.t_min, schedule.t_max)]
    return torch.logit(t).numpy(), stats.truncnorm(*logits)


@pytest.mark.parametrize("kind", DENSITIES)
@pytest.mark.parametrize("stratified", [False, True])
def test_drawn_times_have_the_stated_density(kind: type, stratified: bool, schedule: Schedule) -> None:
    density = kind(stratified=stratified)
    if kind is densities.LogitNormalDensity and schedule.t_max >= 1:
        if schedule.t_max > 1:
            with pytest.raises(UserError, match="logit_normal"):
                density.draw(4, schedule, torch.Generator())
        return
    n = 4000
    t = density.draw(n, schedule, torch.Generator().manual_seed(0))
    assert t.dtype == torch.float64
    assert schedule.t_min <= float(t.min()) <= float(t.max()) <= schedule.t_max
    values, law = distribution(density, schedule, t)
    distance = stats.kstest(values, law.cdf)  # type: ignore[attr-defined]
    if stratified:
        assert distance.statistic <= 1.001 / n, "one draw in each of n cells of equal chance"
    else:
        assert distance.pvalue > 1e-3


@pytest.mark.parametrize("floor", [0.05, 0.2, 1.0])
def test_a_floor_mixes_the_uniform_law_in(floor: float, schedule: Schedule) -> None:
    """The distribution function of the levels at the u-quantile is u, by scipy's."""
    density = densities.LogNormalDensity(floor=floor)
    u = torch.linspace(0, 1, 2001, dtype=torch.float64)
    values = schedule.log_nsr(density.time(u, schedule)).numpy()
    low, high = (
        float(v) for v in schedule.log_nsr(torch.tensor([schedule.t_min, schedule.t_max], dtype=torch.float64))
    )
    ends = ((end - density.mean) / density.std for end in (low, high))
    normal = stats.truncnorm(*ends, loc=density.mean, scale=density.std)
    both = floor * stats.uniform(low, high - low).cdf(values) + (1 - floor) * normal.cdf(values)
    assert np.abs(both - u.numpy()).max() < 1e-6
    with pytest.raises(UserError, match="floor"):
        densities.LogNormalDensity(floor=-0.1)


def test_draws_repeat_with_the_generator(schedule: Schedule) -> None:
    draws = [densities.UniformDensity().draw(8, schedule, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


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
