"""Which noise levels are visited and how they count: densities, weights and grids against statistics and algebra."""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from support.oracles import PREDICTIONS, STD, times
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm
from dfm.sampling import grids
from dfm.training.objectives import densities
from dfm.training.objectives import loss_weights as weights

DENSITIES = [
    densities.UniformDensity,
    densities.LogNsrDensity,
    densities.LogNormalDensity,
    densities.LogitNormalDensity,
    densities.CosineDensity,
    densities.LossAwareDensity,
]
GRIDS = [
    grids.UniformGrid(),
    grids.LogNsrGrid(),
    grids.RhoGrid(),
    grids.RhoGrid(rho=3.0),
    grids.QuadraticGrid(),
    grids.CosineGrid(),
]
GRIDS += [grids.NoiseShareGrid(), grids.NoiseShareGrid(power=0.6)]


# ---- densities -------------------------------------------------------------------------------------------------------


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


def test_draws_repeat_with_the_generator(schedule: Schedule) -> None:
    draws = [densities.UniformDensity().draw(8, schedule, torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_weights_mean_what_they_say_on_every_row(name: str, schedule: Schedule) -> None:
    """w |out error|^2 for a unit error in out, restated as an error of score or data through b/det and a/det."""
    t, prediction = times(schedule)[2:-2], PREDICTIONS[name]
    a, b = schedule.ab(t)
    p, q = prediction.row(schedule, t, STD)
    data_error = b / (a * q - b * p)
    score_error = a / (a * q - b * p) / b
    nsr = b / a
    likelihood = weights.LikelihoodWeight()(t, schedule, prediction, STD)
    assert torch.allclose(likelihood, schedule.diffusion_squared(t) * score_error**2, rtol=1e-9)
    edm = weights.EdmWeight()(t, schedule, prediction, STD)
    assert torch.allclose(edm, (nsr**2 + STD**2) / (nsr * STD) ** 2 * data_error**2, rtol=1e-9)
    if name == "edm":
        assert torch.allclose(edm, torch.ones_like(edm), rtol=1e-9)
    if name == "score":
        on_noise = weights.NoiseVarianceWeight()(t, schedule, prediction, STD)
        assert torch.allclose(on_noise, 1 / (a / (a * q - b * p)) ** 2 * (a / (a * q - b * p) * b) ** 2, rtol=1e-9)


# ---- grids -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_grids_have_exact_ends_and_equal_steps_in_their_variable(grid: grids.Grid, schedule: Schedule) -> None:
    t = grid.times(17, schedule, schedule.t_min, schedule.t_max)
    assert (len(t), float(t[0]), float(t[-1])) == (18, schedule.t_max, schedule.t_min)
    assert bool((t[1:] < t[:-1]).all())
    level = schedule.log_nsr(t)
    variable = {grids.UniformGrid: t, grids.LogNsrGrid: level}.get(type(grid))
    if isinstance(grid, grids.RhoGrid):
        variable = (level / grid.rho).exp()
    if isinstance(grid, grids.NoiseShareGrid):
        signal, noise = (part**grid.power for part in schedule.ab(t))
        variable = noise / (signal + noise)
    if isinstance(grid, grids.QuadraticGrid):
        variable = (t - schedule.t_min).clamp_min(0).sqrt()
    if isinstance(grid, grids.CosineGrid):
        variable = (2 * (t - schedule.t_min) / (schedule.t_max - schedule.t_min) - 1).clamp(-1, 1).acos()
    steps = variable.diff()  # type: ignore[union-attr]
    assert torch.allclose(steps, steps.mean().expand(17), rtol=1e-6)
    assert len(grid.times(1, schedule, schedule.t_min, schedule.t_max)) == 2
    with pytest.raises(UserError, match="from 1 to"):
        grid.times(0, schedule, schedule.t_min, schedule.t_max)


def test_the_noise_share_of_the_linear_schedule_is_its_time() -> None:
    path = Linear()
    even = grids.UniformGrid().times(9, path, path.t_min, path.t_max)
    assert torch.allclose(grids.NoiseShareGrid().times(9, path, path.t_min, path.t_max), even, atol=1e-9)
    t = grids.NoiseShareGrid(power=0.6).times(9, path, path.t_min, path.t_max)
    assert t[0] - t[1] < even[0] - even[1], "shorter steps at both ends"
    assert t[-2] - t[-1] < even[-2] - even[-1]
    with pytest.raises(UserError, match="above 0"):
        grids.NoiseShareGrid(power=0.0)


def test_rho_is_karras_equation_5() -> None:
    i, n, rho = np.arange(18), 18, 7.0
    sigma = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    assert grids.RhoGrid().times(17, Edm(), 0.002, 80.0).tolist() == pytest.approx(sigma.tolist(), rel=1e-9)
