"""Samplers against closed forms: the exact ODE map of a Gaussian, measured orders, exact variance recursions."""

import dataclasses
import functools
import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from support.oracles import SCHEDULES, on_every_schedule, oracle, quick
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.denoising.exact import MixtureDenoiser
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm as EdmSchedule
from dfm.sampling.adaptive_solver import DormandPrince
from dfm.sampling.grids import Grid, LogNsrGrid, RhoGrid, UniformGrid
from dfm.sampling.samplers import AdaptiveSampler, GridSampler, start
from dfm.sampling.steppers.base import Stepper
from dfm.sampling.steppers.exponential import Ddim, DpmSolver2M, DpmSolver3M, UniPC
from dfm.sampling.steppers.ode import RK4, AdamsBashforth, Euler, Heun, Midpoint
from dfm.sampling.steppers.stochastic import Churn, EulerMaruyama, PredictorCorrector

ODE_STEPPERS = [Euler(), Midpoint(), Heun(), RK4()]
MULTISTEP = [*(AdamsBashforth(order=k) for k in (1, 2, 3, 4)), Ddim(), DpmSolver2M(), DpmSolver3M(),
             *(UniPC(depth=k) for k in (1, 2))]  # fmt: skip
GRIDS = [UniformGrid(), LogNsrGrid(), RhoGrid()]
C = 0.7
GAUSSIAN = mixture_of([[0.0, 0.0]], C * C)


def gaussian_map(schedule: Schedule, t: float, s: float) -> float:
    """The exact ODE map of N(0, C^2 I): x(s) = x(t) sqrt((a_s^2 C^2 + b_s^2)/(a_t^2 C^2 + b_t^2)).

    The flow is linear and keeps the marginals, so it must be the ratio of the standard deviations.
    """
    (a_t, b_t), (a_s, b_s) = (schedule.ab(torch.tensor(u, dtype=torch.float64)) for u in (t, s))
    return math.sqrt(float((a_s**2 * C**2 + b_s**2) / (a_t**2 * C**2 + b_t**2)))


def path_end(stepper: Stepper, grid: Grid, steps: int, schedule: Schedule, x: Tensor) -> Tensor:
    """x at t_min, before the last denoising."""
    denoiser = oracle(GAUSSIAN, schedule)
    sampler = GridSampler(stepper=stepper, grid=grid, steps=steps)
    *_, (end, _) = sampler.path(denoiser, x, 0, range(len(x)))
    return end


def scipy_end(denoiser: MixtureDenoiser, x: Tensor) -> Tensor:
    """The probability-flow ODE from t_max to t_min by scipy's DOP853, to 12 digits."""
    n, d = x.shape

    def field(t: float, flat: np.ndarray) -> np.ndarray:
        at = torch.tensor(t, dtype=torch.float64)
        return denoiser.velocity(torch.from_numpy(flat).reshape(n, d), at).flatten().numpy()

    span = (denoiser.t_max, denoiser.t_min)
    solution = solve_ivp(field, span, x.flatten().numpy(), method="DOP853", rtol=1e-12, atol=1e-13)
    return torch.from_numpy(solution.y[:, -1]).reshape(n, d)


Stretch = Callable[[str], tuple[MixtureDenoiser, Tensor, Tensor]]


@pytest.fixture(scope="module")
def smooth_stretch(mixture: GaussianMixture) -> Stretch:
    """The mixture on a smooth stretch of a path, four points at its beginning, and scipy's points at its end."""

    @functools.cache
    def of(name: str) -> tuple[MixtureDenoiser, Tensor, Tensor]:
        schedule = dataclasses.replace(SCHEDULES[name], t_min=0.3, t_max={"edm": 3.0}.get(name, 0.9))
        denoiser = oracle(mixture, schedule)
        x = start(denoiser, 2, range(4), double=True)
        return denoiser, x, scipy_end(denoiser, x)

    return of


@pytest.mark.parametrize("stepper", [*ODE_STEPPERS, *MULTISTEP], ids=repr)
@pytest.mark.parametrize("name", ["edm", *(pytest.param(name, marks=pytest.mark.wide) for name in ("trig", "vp"))])
def test_measured_order_is_the_stated_order(stepper: Stepper, name: str, smooth_stretch: Stretch) -> None:
    """The log-log slope of the error against the step, on a smooth stretch of a mixture's path, against scipy."""
    denoiser, x, exact = smooth_stretch(name)
    steps = np.array([64, 128, 256, 512]) if stepper.order < 4 else np.array([24, 32, 48, 64])
    if stepper in MULTISTEP:  # whose start weighs on few steps
        steps = np.array([256, 512, 1024])
    errors = []
    for n in steps:
        *_, (end, _) = GridSampler(stepper=stepper, grid=UniformGrid(), steps=int(n)).path(denoiser, x, 0, range(4))
        errors.append(float((end - exact).abs().max()))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(stepper.order, abs=0.3)


@on_every_schedule
@pytest.mark.parametrize("stepper", ODE_STEPPERS, ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("grid", GRIDS, ids=lambda g: type(g).__name__)
def test_every_grid_converges_to_the_exact_map(stepper: Stepper, grid: Grid, schedule: Schedule) -> None:
    """Halving the steps four times must cut the error on the whole path, from end to end, by at least 2^2 in all."""
    x = torch.tensor([[1.0, -0.4]], dtype=torch.float64) * oracle(GAUSSIAN, schedule).noise_end.moments[1]
    exact = x * gaussian_map(schedule, schedule.t_max, schedule.t_min)
    # Uniform steps in t cannot resolve [1e-7, 1e-2] of ou and vp: start where they can.
    many = 1024 if isinstance(grid, UniformGrid) else 256
    coarse, fine = (float((path_end(stepper, grid, n, schedule, x) - exact).abs().max()) for n in (many // 16, many))
    assert fine < coarse / 4 or fine < 1e-9


def test_one_euler_step_has_its_closed_form() -> None:
    """method.md, section 10: one Euler step of edm on N(0, c^2) multiplies by 1 + (s - t) t/(c^2 + t^2)."""
    schedule = EdmSchedule(t_min=0.5, t_max=2.0)
    x = torch.tensor([[1.0, -0.4]], dtype=torch.float64)
    end = path_end(Euler(), UniformGrid(), 1, schedule, x)
    assert torch.allclose(end, x * (1 + (0.5 - 2.0) * 2.0 / (C**2 + 4.0)), rtol=1e-14)


def test_many_euler_steps_are_the_product_of_their_factors(schedule: Schedule) -> None:
    """On N(0, c^2) the velocity is (a a' c^2 + b b')/(a^2 c^2 + b^2) x, so Euler is a product of numbers."""
    x = torch.tensor([[1.0, -0.4]], dtype=torch.float64)
    times = RhoGrid().times(20, schedule, schedule.t_min, schedule.t_max)
    factor = 1.0
    for t, s in pairwise(times):
        (a, b), (da, db) = schedule.ab(t), schedule.derivatives(t)
        factor *= float(1 + (s - t) * (a * da * C**2 + b * db) / (a**2 * C**2 + b**2))
    assert torch.allclose(path_end(Euler(), RhoGrid(), 20, schedule, x), x * factor, rtol=1e-9)


def em_variance(schedule: Schedule, times: Tensor, strength: float, variance: float) -> float:
    """The exact variance recursion of Euler-Maruyama on N(0, C^2): a step is x -> k x + noise of known variance."""
    for t, s in pairwise(times):
        (a, b), (da, db) = schedule.ab(t), schedule.derivatives(t)
        spread = a**2 * C**2 + b**2
        w2 = strength**2 * schedule.diffusion_squared(t)
        k = 1 + (s - t) * ((a * da * C**2 + b * db) / spread + w2 / 2 / spread)
        variance = float(k**2 * variance + w2 * (t - s))
    return variance


@on_every_schedule
@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0])
def test_euler_maruyama_obeys_its_variance_recursion(strength: float, schedule: Schedule) -> None:
    """Variance of 20,000 numbers against the recursion: within 4.5 standard errors, sqrt(2/n) of the variance."""
    denoiser, n, steps = oracle(GAUSSIAN, schedule), 10_000, 20
    x = start(denoiser, 1, range(n), double=True)
    sampler = GridSampler(stepper=EulerMaruyama(strength=strength), grid=LogNsrGrid(), steps=steps, noise=quick(1))
    *_, (end, _) = sampler.path(denoiser, x, 1, range(n))
    times = sampler.time_grid(denoiser)
    expected = em_variance(schedule, times, strength, denoiser.noise_end.moments[1] ** 2)
    assert float(end.square().mean()) == pytest.approx(expected, rel=4.5 * math.sqrt(2 / (2 * n)))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_euler_maruyama_has_weak_order_one(strength: float) -> None:
    """The error of the variance, exact by the recursion checked above, falls as 1/steps."""
    schedule = EdmSchedule(t_min=0.1, t_max=3.0)
    steps = np.array([64, 128, 256, 512])
    errors = []
    for n in steps:
        times = UniformGrid().times(int(n), schedule, 0.1, 3.0)
        errors.append(abs(em_variance(schedule, times, strength, C**2 + 9.0) - (C**2 + 0.01)))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(EulerMaruyama.order, abs=0.15)


def test_zero_strength_is_euler_bit_for_bit(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())
    x = start(denoiser, 0, range(8), double=True)
    ends = [
        GridSampler(stepper=s, grid=RhoGrid(), steps=12).run(denoiser, x).x
        for s in (Euler(), EulerMaruyama(strength=0.0))
    ]
    assert torch.equal(*ends)


@pytest.mark.parametrize(
    "sampler",
    [
        GridSampler(stepper=Heun(), steps=6),
        GridSampler(stepper=EulerMaruyama(), steps=6),
        GridSampler(stepper=Churn(churn=10.0), steps=6),
        GridSampler(stepper=PredictorCorrector(corrections=2), steps=6),
        GridSampler(stepper=DpmSolver2M(strength=1.0), steps=6),
        AdaptiveSampler(solver=DormandPrince(rtol=1e-4, atol=1e-4)),
    ],
    ids=["heun", "euler_maruyama", "churn", "predictor_corrector", "dpmpp_2m_sde", "dopri5"],
)
def test_sample_k_is_the_same_in_any_batch_and_alone(sampler: object, mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())

    def draw(indices: list[int]) -> Tensor:
        x = start(denoiser, 7, indices, double=True)
        return sampler.run(denoiser, x, 7, indices).x  # type: ignore[attr-defined]

    together = draw(list(range(12)))
    apart = torch.cat([draw([k]) for k in range(12)])
    backwards = draw(list(reversed(range(12)))).flip(0)
    assert torch.allclose(apart, together, atol=1e-12)
    assert torch.allclose(backwards, together, atol=1e-12)
    assert not torch.allclose(draw([0]), draw([1]))


def test_multistep_methods_pay_for_their_start(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())
    x = start(denoiser, 0, range(3), double=True)
    for stepper, extra in ((AdamsBashforth(order=4), 3 * 4), (DpmSolver3M(), 1)):
        assert GridSampler(stepper=stepper, steps=8).run(denoiser, x).nfe == 8 + extra + 1


def test_nfe_counts_every_evaluation(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())
    x = start(denoiser, 0, range(3), double=True)
    costs = (
        (Euler(), 1), (Midpoint(), 2), (Heun(), 2), (RK4(), 4), (EulerMaruyama(), 1),
        (DpmSolver2M(), 1), (DpmSolver2M(strength=1.0), 1), (UniPC(), 1), (AdamsBashforth(order=1), 1),
        (PredictorCorrector(corrections=2), 3), (Churn(), 2),
    )  # fmt: skip
    for stepper, cost in costs:
        state = GridSampler(stepper=stepper, steps=5).run(denoiser, x)
        assert state.nfe == 5 * cost + 1, "the last move, E[data | x], is one more"


def test_samples_of_the_oracle_have_the_moments_of_the_mixture(mixture: GaussianMixture) -> None:
    """Mean and covariance of 4,000 samples within 4.5 standard errors, by ODE and SDE."""
    denoiser, n = oracle(mixture, Linear()), 4000
    second = torch.einsum("k,kij->ij", mixture.weights, mixture.covariances) + torch.einsum(
        "k,ki,kj->ij", mixture.weights, mixture.means, mixture.means
    )
    for stepper, steps in ((Heun(), 40), (EulerMaruyama(), 300)):
        sampler = GridSampler(stepper=stepper, grid=LogNsrGrid(), steps=steps, noise=quick(6))
        x = sampler.run(denoiser, start(denoiser, 5, range(n), double=True), 5).x
        outer = x[:, :, None] * x[:, None, :]
        for values, expected in ((x, mixture.mean), (outer.flatten(1), second.flatten())):
            z = (values.mean(0) - expected) / (values.std(0) / math.sqrt(n))
            assert float(z.abs().max()) < 4.5


def test_explicit_times_and_start_from_python(mixture: GaussianMixture) -> None:
    denoiser = oracle(mixture, Linear())
    x = torch.zeros(1, 2, dtype=torch.float64)
    sampler = GridSampler(stepper=Euler(), steps=1, times=[0.9, 0.5, 0.1])
    t = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    by_hand = x + (t[1] - t[0]) * denoiser.velocity(x, t[0])
    by_hand = by_hand + (t[2] - t[1]) * denoiser.velocity(by_hand, t[1])
    state = sampler.run(denoiser, x)
    assert torch.allclose(state.x, denoiser.data(by_hand, t[2]))
    assert state.t == 0.1


@pytest.mark.parametrize("times", [[0.5], [0.1, 0.9], [2.0, 0.5], [0.5, 0.0]])
def test_bad_explicit_times_are_refused(times: list[float], mixture: GaussianMixture) -> None:
    sampler = GridSampler(stepper=Euler(), steps=1, times=times)
    with pytest.raises(UserError, match="decreasing"):
        sampler.run(oracle(mixture, Linear()), torch.zeros(1, 2))


def test_steps_of_an_adaptive_sampler_are_refused() -> None:
    with pytest.raises(UserError, match="no effect"):
        AdaptiveSampler(solver=DormandPrince(), steps=10)


def test_negative_strength_is_refused() -> None:
    with pytest.raises(UserError, match="strength"):
        EulerMaruyama(strength=-1.0)
