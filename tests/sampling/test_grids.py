"""Grids of times: exact ends, equal steps in their own variable, and the formulas of the papers."""

import numpy as np
import pytest
import torch

from dfm.basics.errors import UserError
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm, RandomWalk
from dfm.paths.variance_preserving import Ddpm
from dfm.sampling import grids

GRIDS = [
    grids.UniformGrid(),
    grids.LogNsrGrid(),
    grids.RhoGrid(),
    grids.RhoGrid(rho=3.0),
    grids.QuadraticGrid(),
    grids.CosineGrid(),
]


GRIDS += [grids.NoiseShareGrid(), grids.NoiseShareGrid(power=0.6)]


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
