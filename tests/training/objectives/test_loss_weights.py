"""Loss weights, restated as errors of data, noise or score, mean the same on every row."""

import math

import pytest
import torch
from support.oracles import PREDICTIONS, STD, times

from dfm.basics.errors import UserError
from dfm.paths.schedule import Schedule
from dfm.sampling import grids
from dfm.training.objectives import loss_weights as weights


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
