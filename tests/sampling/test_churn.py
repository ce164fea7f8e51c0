"""Churn, Langevin corrections and the strength of noise, on every schedule."""

import math
from itertools import pairwise

import pytest
import torch
from support.oracles import SCHEDULES, on_every_schedule, oracle, quick
from support.recursions import GAUSSIAN, C, coefficients, run
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.paths.custom import Custom
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm
from dfm.paths.variance_preserving import Ddpm
from dfm.sampling.grids import LogNsrGrid, RhoGrid, UniformGrid
from dfm.sampling.samplers import GridSampler, start
from dfm.sampling.steppers.base import Field, OdeStepper, Stepper, Trajectory
from dfm.sampling.steppers.exponential import Ddim, DpmSolver2M
from dfm.sampling.steppers.ode import Euler, Heun
from dfm.sampling.steppers.stochastic import Churn, EulerMaruyama, KeepRatio, PredictorCorrector

# ---- churn -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", [{"churn": 0.0}, {"nsr_min": 1e6, "nsr_max": 1e7}])
def test_churn_outside_its_window_is_the_ode_bit_for_bit(
    closed: dict[str, float], schedule: Schedule, mixture: GaussianMixture
) -> None:
    denoiser = oracle(mixture, schedule)
    x = start(denoiser, 0, range(8), double=True)
    ends = [GridSampler(stepper=s, grid=RhoGrid(), steps=12).run(denoiser, x).x for s in (Heun(), Churn(**closed))]
    assert torch.equal(*ends)


def test_churn_acts_inside_its_window_only(schedule: Schedule, mixture: GaussianMixture) -> None:
    """Above the window the trajectories are equal bit for bit, and they part at the first step inside."""
    denoiser = oracle(mixture, schedule)
    x = start(denoiser, 0, range(4), double=True)
    window = {"nsr_min": 0.2, "nsr_max": 1.0}
    paths = [
        list(GridSampler(stepper=s, grid=LogNsrGrid(), steps=24).path(denoiser, x, 0, range(4)))
        for s in (Heun(), Churn(churn=5.0, **window))
    ]
    times = LogNsrGrid().times(24, schedule, denoiser.t_min, denoiser.t_max)
    for k, (one, other) in enumerate(zip(*paths, strict=True)):
        began = float(schedule.log_nsr(times[k]).exp())
        if began > window["nsr_max"] * (1 + 1e-9):  # a level at the edge, to rounding, is inside
            assert torch.equal(one[0], other[0])
        elif began >= window["nsr_min"]:
            assert not torch.equal(one[0], other[0])
            break


def algorithm_2(x: Tensor, levels: list[float], churn: Churn, noise: Tensor) -> Tensor:
    """Algorithm 2 of Karras et al. 2022 on N(0, C^2), from its text: N levels, and after the last of them sigma = 0."""
    n = len(levels)
    for i, (sigma, after) in enumerate(pairwise([*levels, 0.0])):
        gamma = min(churn.churn / n, 2**0.5 - 1) if churn.nsr_min <= sigma <= churn.nsr_max else 0.0
        raised = sigma * (1 + gamma)
        x = x + (raised**2 - sigma**2) ** 0.5 * churn.s_noise * noise[i]
        slope = x * raised / (C**2 + raised**2)  # (x - D(x; sigma))/sigma, with D = x C^2/(C^2 + sigma^2)
        ahead = x + (after - raised) * slope
        if after > 0:
            slope = (slope + ahead * after / (C**2 + after**2)) / 2
        x = x + (after - raised) * slope
    return x


@pytest.mark.parametrize("window", [(0.0, 1e9), (0.05, 50.0), (0.002, 80.0), (80.0, 80.0), (0.002, 0.002)])
@pytest.mark.parametrize("churn", [3.0, 40.0])
@pytest.mark.parametrize("n", [1, 2, 8, 18])
def test_churn_is_karras_algorithm_2(n: int, churn: float, window: tuple[float, float]) -> None:
    """The ends of whole trajectories with the same noise; the window holds all levels, some, the first, or the last."""
    denoiser = oracle(GAUSSIAN, Edm())
    noise = torch.randn(n, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    stepper = Churn(churn=churn, nsr_min=window[0], nsr_max=window[1], s_noise=1.003)
    x = start(denoiser, 0, range(3), double=True)
    levels = [80.0, *(0.002 + 79.998 * (k / n) ** 7 for k in range(n - 1, 0, -1))]
    if n == 1:  # a sampler makes one move at least
        end = stepper.end(denoiser.unchecked(), x, torch.tensor(80.0), Trajectory(steps=0, noise=lambda: noise[0]))
    else:
        sampler = GridSampler(stepper=stepper, steps=n - 1, times=levels, noise=lambda step, part, x: noise[step])
        end = sampler.run(denoiser, x).x
    assert torch.allclose(end, algorithm_2(x, levels, stepper, noise), rtol=1e-11)


def test_churn_is_the_same_in_nsr_on_every_schedule(schedule: Schedule, mixture: GaussianMixture) -> None:
    """The first level is raised above t_max wherever the schedule goes on there; noise has the right variance."""
    denoiser = oracle(mixture, schedule)
    t = torch.tensor(schedule.t_max, dtype=torch.float64)
    seen: list[float] = []

    class Watch(OdeStepper):
        order = 1

        def step(self, field: Field, x: Tensor, t: Tensor, s: Tensor) -> Tensor:
            seen.append(float(schedule.log_nsr(t)))
            return x

    x = Churn(churn=1e9, nsr_min=0, nsr_max=1e9, s_noise=1.0, ode=Watch()).move(
        denoiser, torch.zeros(1, 2, dtype=torch.float64), t, t / 2, Trajectory(steps=9, noise=lambda: torch.ones(1, 2))
    )
    assert bool(x.isfinite().all())
    known_beyond = not isinstance(schedule, Ddpm | Custom)
    assert seen[0] == pytest.approx(float(schedule.log_nsr(t)) + (math.log(2) / 2 if known_beyond else 0), abs=1e-6)
    assert (float(x.abs().max()) > 0) is known_beyond


# ---- corrections -----------------------------------------------------------------------------------------------------


def test_corrections_obey_the_langevin_recursion(schedule: Schedule) -> None:
    """With ``KeepRatio`` and z = 1: x -> (a_s/a_t) x, then (1 - e/v) x + sqrt(2 e), to machine precision."""
    stepper = PredictorCorrector(predictor=KeepRatio(), corrections=3, snr=None, step=0.1)
    x, end, times = run(stepper, schedule, 10, 1, noise=lambda step, part, x: torch.ones_like(x))
    for t, s in pairwise(times):
        (a_t, _, _), (a_s, b_s, v_s) = coefficients(schedule, t), coefficients(schedule, s)
        x = a_s / a_t * x
        for _ in range(3):
            x = (1 - 0.1 * b_s**2 / v_s) * x + math.sqrt(0.2) * b_s
    assert torch.allclose(end, x, rtol=1e-9)


@on_every_schedule
def test_corrections_mend_a_wrong_predictor(schedule: Schedule) -> None:
    """Annealed Langevin alone brings x to the law of the last level: variance within its own stationary error.

    Langevin steps of size e on N(0, v) end at v/(1 - e/(2 v)), here at most v/(1 - 0.05).
    """
    n = 5000
    stepper = PredictorCorrector(predictor=KeepRatio(), corrections=20, snr=None, step=0.1)
    _, end, times = run(stepper, schedule, 40, n, noise=quick(3))
    _, b, v = coefficients(schedule, times[-1])
    if v / b**2 > 50:  # where b^2 is far below the data's variance, steps of 0.1 b^2 forget x too slowly
        return
    expected = v / (1 - 0.1 * b * b / (2 * v))
    assert float(end.square().mean()) == pytest.approx(expected, rel=4.5 / math.sqrt(n) + 0.02)


def test_the_signal_to_noise_ratio_sets_the_step() -> None:
    by_ratio, by_step = (
        run(PredictorCorrector(snr=snr, step=step), Edm(), 5, 3)[1] for snr, step in ((0.2, None), (None, 0.08))
    )
    assert torch.allclose(by_ratio, by_step)


@pytest.mark.parametrize("bad", [{"snr": None}, {"step": 0.1}, {"snr": -1.0}, {"corrections": -1}])
def test_bad_corrections_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(UserError, match="predictor_corrector"):
        PredictorCorrector(**bad)  # type: ignore[arg-type]


# ---- strength --------------------------------------------------------------------------------------------------------


def test_strength_as_number_text_and_function_agree(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["vp"])
    x = start(denoiser, 0, range(5), double=True)
    strengths = (0.5, "0.5", "nsr/(2*nsr)", lambda t: torch.full_like(t, 0.5))
    ends = [
        GridSampler(stepper=EulerMaruyama(strength=s), steps=8).run(denoiser, x, 3).x  # type: ignore[arg-type]
        for s in strengths
    ]
    assert all(torch.allclose(end, ends[0], atol=1e-12) for end in ends)


def test_w_of_any_shape_keeps_the_marginals() -> None:
    """w = strength(t) g with a strength that comes and goes: the variance at the end is that of the law, to 1/steps."""
    schedule = Edm(t_min=0.1, t_max=3.0)
    denoiser = oracle(GAUSSIAN, schedule)
    n, steps = 4000, 400
    x = start(denoiser, 1, range(n), double=True)
    sampler = GridSampler(
        stepper=EulerMaruyama(strength="1 + sin(4*t)"), grid=UniformGrid(), steps=steps, noise=quick(4)
    )
    *_, (end, _) = sampler.path(denoiser, x, 1, range(n))
    assert float(end.square().mean()) == pytest.approx(C**2 + 0.01, rel=4.5 / math.sqrt(n) + 0.03)


@pytest.mark.parametrize("bad", ["1 +", "x", "__import__('os')", -0.5])
def test_a_strength_that_is_none_is_refused(bad: object) -> None:
    with pytest.raises(UserError, match="strength"):
        EulerMaruyama(strength=bad)  # type: ignore[arg-type]


def test_a_strength_that_turns_negative_is_refused_where_it_does(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, SCHEDULES["linear"])
    with pytest.raises(UserError, match="at t="):
        GridSampler(stepper=EulerMaruyama(strength="t - 0.5"), steps=4).run(denoiser, torch.zeros(1, 2))


@pytest.mark.parametrize("stepper", [Euler(), Ddim(), DpmSolver2M(), EulerMaruyama(strength=0.0), Churn(churn=0.0)])
def test_without_noise_nothing_is_drawn(stepper: Stepper, mixture: GaussianMixture) -> None:
    def refuse(step: int, part: int, x: Tensor) -> Tensor:
        return x * math.nan

    denoiser = oracle(mixture, SCHEDULES["linear"])
    end = GridSampler(stepper=stepper, steps=4, noise=refuse).run(denoiser, torch.ones(2, 2)).x
    assert bool(end.isfinite().all()) or isinstance(stepper, EulerMaruyama)
    assert not stepper.stochastic


def test_the_memory_of_a_trip_does_not_grow(mixture: GaussianMixture) -> None:
    from dfm.sampling.steppers.exponential import UniPC

    denoiser, trip = oracle(mixture, SCHEDULES["linear"]), Trajectory(steps=200, noise=lambda: torch.zeros(1, 2))
    times = LogNsrGrid().times(200, denoiser.schedule, denoiser.t_min, denoiser.t_max)
    x = torch.zeros(1, 2, dtype=torch.float64)
    for t, s in pairwise(times):
        x = UniPC(depth=2).move(denoiser, x, t, s, trip)
    assert len(trip.past) <= 4
