"""One network under every prediction and on every schedule: it samples as the exact denoiser does."""

import pytest
import torch
from support.oracles import SCHEDULES, on_every_schedule, oracle
from torch import Tensor

from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Data, Edm, Noise, Prediction, Score, V, Velocity
from dfm.paths.schedule import Schedule
from dfm.sampling.grids import RhoGrid
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.ode import Heun

PREDICTIONS = [Data(), Noise(), Score(), Velocity(), V(), Edm()]


def network_around(
    truth: GaussianMixture, prediction: Prediction, schedule: Schedule, spec: DatasetSpec
) -> NetworkDenoiser:
    """A network that gives exactly what ``prediction`` asks for, from the oracle of the mixture."""
    exact = oracle(truth, schedule)

    def network(x: Tensor, c_time: Tensor, label: Tensor | None) -> Tensor:
        t = schedule.time_of_log_nsr(c_time)
        a, b = schedule.ab(t)
        x_t = x * (a * a * spec.std**2 + b * b).sqrt()[:, None]
        data, noise = exact.expectations(x_t, t)
        p, q = prediction.row(schedule, t, spec.std)
        scale = prediction.scale(schedule, t, spec.std)
        return (p[:, None] * data + q[:, None] * noise) / scale[:, None]

    return NetworkDenoiser(
        spec=spec, schedule=schedule, trained_schedule=schedule, prediction=prediction, network=network
    )


@on_every_schedule
@pytest.mark.parametrize("prediction", PREDICTIONS, ids=lambda p: type(p).__name__)
def test_all_predictions_of_one_oracle_sample_alike(
    prediction: Prediction, schedule: Schedule, mixture: GaussianMixture
) -> None:
    """Whatever the network predicts, the trajectory is the same."""
    truth = oracle(mixture, schedule)
    wrapped = network_around(mixture, prediction, schedule, truth.spec)
    x = start(truth, 3, range(16), double=True)
    sampler = GridSampler(stepper=Heun(), grid=RhoGrid(), steps=20)
    assert torch.allclose(sampler.run(wrapped, x).x, sampler.run(truth, x).x, atol=1e-6)


@pytest.mark.parametrize("trained", sorted(SCHEDULES))
@pytest.mark.parametrize("used", sorted(SCHEDULES))
def test_schedule_swap(trained: str, used: str, mixture: GaussianMixture) -> None:
    """A network trained on one schedule gives, on another, that schedule's own velocity."""
    spec = oracle(mixture, SCHEDULES[trained]).spec
    swapped = network_around(mixture, Velocity(), SCHEDULES[trained], spec).on_schedule(SCHEDULES[used])
    truth = oracle(mixture, SCHEDULES[used])
    t = RhoGrid().times(9, SCHEDULES[used], swapped.t_min, swapped.t_max)
    x = torch.randn(10, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    a, b = SCHEDULES[used].ab(t)
    x = x * (a * a * spec.std**2 + b * b).sqrt()[:, None]
    expected, found = truth.velocity(x, t), swapped.velocity(x, t)
    assert torch.allclose(found, expected, rtol=1e-6, atol=1e-6 * float(expected.abs().max()))


def test_the_range_after_a_swap_is_what_was_trained(mixture: GaussianMixture) -> None:
    """edm is trained up to nsr 80; ou reaches nsr 22026: sampling must not start beyond what the network knows."""
    spec = oracle(mixture, SCHEDULES["edm"]).spec
    swapped = network_around(mixture, Data(), SCHEDULES["edm"], spec).on_schedule(SCHEDULES["ou"])
    ends = torch.tensor([swapped.t_min, swapped.t_max], dtype=torch.float64)
    assert torch.allclose(SCHEDULES["ou"].log_nsr(ends).exp(), torch.tensor([0.002, 80.0], dtype=torch.float64))
