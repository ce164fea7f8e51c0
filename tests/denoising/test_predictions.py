"""Rows (p, q): one prediction gives data and noise, and so every other prediction."""

import itertools
import math

import pytest
import torch
from support.oracles import PREDICTIONS, STD, times

from dfm.basics.errors import UserError
from dfm.denoising import predictions
from dfm.denoising.predictions import data_and_noise
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_every_row_gives_data_and_noise_back(name: str, schedule: Schedule) -> None:
    """To the digits that float64 leaves after division by the determinant."""
    prediction, t = PREDICTIONS[name], times(schedule)
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(len(t), 3, dtype=torch.float64, generator=generator) for _ in range(2))
    (a, b), (p, q) = schedule.ab(t), prediction.row(schedule, t, STD)
    x = a[:, None] * data + b[:, None] * noise
    found = data_and_noise((p, q), (a, b), x, p[:, None] * data + q[:, None] * noise)
    det = (a * q - b * p).abs()
    assert torch.allclose(prediction.determinant(schedule, t, STD).abs(), det)
    for value, truth, partner in ((found[0], data, b), (found[1], noise, a)):
        room = 1e-14 * (1 + ((p.abs() + q.abs()) * (a + b) + partner) / det)[:, None] * 10
        assert bool(((value - truth).abs() <= room).all())


@pytest.mark.parametrize(("one", "other"), list(itertools.permutations(sorted(PREDICTIONS), 2)))
def test_conversions_between_all_rows(one: str, other: str, schedule: Schedule) -> None:
    """An output of one row, through data and noise, is the output of the other."""
    t = times(schedule)[4:-4]
    ab = schedule.ab(t)
    rows = [PREDICTIONS[name].row(schedule, t, STD) for name in (one, other)]
    x, out = (torch.randn(len(t), 2, dtype=torch.float64) for _ in range(2))
    data, noise = data_and_noise(rows[0], ab, x, out)
    converted = rows[1][0][:, None] * data + rows[1][1][:, None] * noise
    again_data, again_noise = data_and_noise(rows[1], ab, x, converted)
    back = rows[0][0][:, None] * again_data + rows[0][1][:, None] * again_noise
    assert torch.allclose(back, out, rtol=1e-5, atol=1e-5 * float(out.abs().max()))


def test_the_rows_are_what_their_names_say(schedule: Schedule) -> None:
    t = times(schedule)
    (a, b), (da, db) = schedule.ab(t), schedule.derivatives(t)
    row = {name: PREDICTIONS[name].row(schedule, t, STD) for name in PREDICTIONS}
    assert torch.equal(row["velocity"][0], da)
    assert torch.equal(row["velocity"][1], db)
    assert torch.allclose(row["score"][1], -1 / b)
    assert torch.equal(row["v"][0], -b)
    c_skip = a * STD**2 / (a**2 * STD**2 + b**2)
    c_out = b * STD / (a**2 * STD**2 + b**2).sqrt()
    assert torch.allclose(row["edm"][0], (1 - c_skip * a) / c_out, rtol=1e-6, atol=1e-9)
    assert torch.allclose(row["edm"][1], -c_skip * b / c_out, rtol=1e-9)


@pytest.mark.parametrize("name", sorted(PREDICTIONS))
def test_the_scale_is_the_root_mean_square_of_the_target(name: str, schedule: Schedule) -> None:
    """By brute force, within 4.5 standard errors; exactly one for noise and edm."""
    t, n = times(schedule, 9), 20_000
    generator = torch.Generator().manual_seed(0)
    data, noise = (torch.randn(n, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    p, q = PREDICTIONS[name].row(schedule, t, STD)
    mean_square = (p * STD * data + q * noise).square().mean(0)
    scale = PREDICTIONS[name].scale(schedule, t, STD)
    assert torch.allclose(mean_square, scale**2, rtol=4.5 * math.sqrt(2 / n))
    if name in ("noise", "edm"):
        assert torch.allclose(scale, torch.ones_like(scale), rtol=1e-12)


def test_singular_rows_are_refused() -> None:
    nearly = Linear(t_max=1 - 1e-8)
    with pytest.raises(UserError, match="singular at t_max"):
        predictions.Noise().check(nearly, STD)
    predictions.Velocity().check(nearly, STD)
    with pytest.raises(UserError, match="singular at t_min"):
        predictions.Data().check(Edm(t_min=1e-8), STD)
