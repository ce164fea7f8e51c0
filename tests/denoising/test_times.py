"""Times as users give them, to every public method of a denoiser."""

from typing import Any

import numpy as np
import pytest
import torch
from support.interpolants import exact as interpolant
from support.oracles import SCHEDULES, oracle
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.paths.schedule import Schedule
from dfm.sampling.guidance import guided
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.stochastic import Churn

METHODS = ("data", "noise", "score", "velocity", "velocity_and_score", "jump")
X = torch.tensor([[0.3, -0.2], [1.0, 0.5], [0.0, 0.7]], dtype=torch.float64)


def first(result: Tensor | tuple[Tensor, ...]) -> Tensor:
    return result if isinstance(result, Tensor) else torch.cat(result)


@pytest.fixture(params=["oracle", "guided", "interpolant"])
def denoiser(request: pytest.FixtureRequest, mixture: GaussianMixture) -> Denoiser:
    plain = oracle(mixture, SCHEDULES["linear"])
    if request.param == "interpolant":
        return interpolant(SCHEDULES["linear"])
    return guided(plain, plain, 1.5) if request.param == "guided" else plain


def methods_of(denoiser: Denoiser) -> tuple[str, ...]:
    """An interpolant has a latent, so it has no E[noise] and no jumps."""
    return METHODS if denoiser.is_linear_path else ("data", "score", "velocity", "velocity_and_score")


@pytest.mark.parametrize(
    "t",
    [
        0.5, np.float64(0.5), torch.tensor(0.5), torch.tensor(0.5, dtype=torch.float64), torch.full((3,), 0.5),
        torch.full((3,), 0.5, dtype=torch.bfloat16),
    ],
    ids=["float", "numpy", "float32", "float64", "per sample", "bfloat16"],
)  # fmt: skip
def test_a_time_of_any_kind_is_the_same_time(denoiser: Denoiser, t: Any) -> None:
    for name in methods_of(denoiser):
        expected = first(getattr(denoiser, name)(X, torch.tensor(0.5, dtype=torch.float64)))
        assert torch.equal(first(getattr(denoiser, name)(X, t)), expected), name


def test_a_whole_number_is_a_time(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["edm"])
    for t in (3, torch.tensor(3), torch.tensor([3, 3, 3])):
        assert torch.equal(denoiser.data(X, t), denoiser.data(X, torch.tensor(3.0, dtype=torch.float64)))


@pytest.mark.parametrize("t", [0, 1, 0.0, 1.0, -0.5, float("nan"), torch.tensor([0.5, 1.0, 0.5])])
def test_a_time_outside_the_path_is_refused_in_one_line(denoiser: Denoiser, t: Any) -> None:
    for name in methods_of(denoiser):
        with pytest.raises(UserError, match=r"^t=(0|1|-0.5|nan); allowed: 0.001 to 0.999") as error:
            getattr(denoiser, name)(X, t)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("t", ["0.5", None, True, torch.tensor(True), torch.zeros(2), torch.zeros(3, 1), 0.5j])
def test_what_is_no_time_is_refused_in_one_line(denoiser: Denoiser, t: Any) -> None:
    for name in methods_of(denoiser):
        with pytest.raises(UserError, match=r"^t.*; allowed: a number") as error:
            getattr(denoiser, name)(X, t)
        assert "\n" not in str(error.value)


def test_both_ends_are_inside_in_every_type(schedule: Schedule, mixture: GaussianMixture) -> None:
    """t_min in float32 may be below t_min: it is moved to it."""
    denoiser = oracle(mixture, schedule)
    for t in (schedule.t_min, schedule.t_max):
        exact = denoiser.data(X, t)
        assert torch.allclose(denoiser.data(X, torch.tensor(t)), exact, rtol=1e-3, atol=1e-4)
        assert bool(denoiser.velocity(X, torch.tensor(t)).isfinite().all())


def test_samplers_and_likelihoods_do_not_look_at_the_times(mixture: GaussianMixture) -> None:
    """A look at times on a card waits for the card; and churn goes above t_max."""
    inside = oracle(mixture, SCHEDULES["edm"]).counted(EvaluationCount())
    above = torch.tensor(100.0, dtype=torch.float64)
    assert bool(inside.data(X, above).isfinite().all())
    plain = oracle(mixture, SCHEDULES["edm"])
    assert bool(guided(plain, plain, 1.5).counted(EvaluationCount()).velocity(X, above).isfinite().all())
    assert plain.checks_times, "the user's own denoiser still looks"
    path = GridSampler(stepper=Churn(nsr_max=80.0), steps=3).path(guided(plain, plain, 1.5), 80 * X, 0, range(3))
    assert all(bool(x.isfinite().all()) for x, _ in path)
