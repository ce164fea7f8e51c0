"""Stochastic samplers on Gaussian data, where a step is x -> k x + noise: exact recursions of mean and variance."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.oracles import SCHEDULES, on_every_schedule, oracle, quick
from support.recursions import GAUSSIAN, C, coefficients, run
from torch import Tensor

from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm
from dfm.sampling.grids import LogNsrGrid
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.exponential import Ddim, DpmSolver2M


def factor_of_ddim(schedule: Schedule, t: Tensor, s: Tensor, eta: float) -> tuple[float, float]:
    """A DDIM step on N(0, C^2) is x_s = factor x_t + noise of this variance (Song et al. 2021, eq. 12)."""
    (a_t, b_t, v_t), (a_s, b_s, _) = coefficients(schedule, t), coefficients(schedule, s)
    sigma2 = eta**2 * (b_s**2 / b_t**2) * (b_t**2 - (a_t / a_s) ** 2 * b_s**2)
    return a_s * a_t * C * C / v_t + math.sqrt(b_s**2 - sigma2) * b_t / v_t, sigma2


def test_ddim_is_the_product_of_its_factors(schedule: Schedule) -> None:
    """Machine precision: E[data|x] = a C^2 x/v and E[noise|x] = b x/v are linear."""
    x, end, times = run(Ddim(), schedule, 20, 1)
    product = math.prod(factor_of_ddim(schedule, t, s, 0.0)[0] for t, s in pairwise(times))
    assert torch.allclose(end, x * product, rtol=1e-9)


def test_dpm_solver_2m_is_the_product_of_its_two_step_recursion(schedule: Schedule) -> None:
    """Lu et al. 2022, algorithm 2, written out in numbers for data(x) = a C^2 x/v."""
    x, end, times = run(DpmSolver2M(), schedule, 12, 1)
    value, before = 1.0, None
    for t, s in pairwise(times):
        (a_t, b_t, v_t), (a_s, b_s, _) = coefficients(schedule, t), coefficients(schedule, s)
        level_t, level_s = math.log(a_t / b_t), math.log(a_s / b_s)
        h, data = level_s - level_t, a_t * C * C * value / v_t
        guess = data
        if before is not None:
            r = (level_t - before[0]) / h
            guess = (1 + 1 / (2 * r)) * data - before[1] / (2 * r)
        before = (level_t, data)
        value = b_s / b_t * value - a_s * (math.exp(-h) - 1) * guess
    assert torch.allclose(end, x * value, rtol=1e-9)


@on_every_schedule
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_ddim_with_noise_obeys_its_variance_recursion(eta: float, schedule: Schedule) -> None:
    """Variance of 20,000 numbers against the recursion, within 4.5 standard errors."""
    n = 10_000
    x, end, times = run(Ddim(eta=eta), schedule, 20, n, noise=quick(2))
    variance = oracle(GAUSSIAN, schedule).noise_end.moments[1] ** 2
    for t, s in pairwise(times):
        factor, fresh = factor_of_ddim(schedule, t, s, eta)
        variance = factor**2 * variance + fresh
    assert float(end.square().mean()) == pytest.approx(variance, rel=4.5 / math.sqrt(n))
    assert not torch.equal(x, end)


def test_noise_of_ones_shows_every_stochastic_recursion_to_machine_precision(schedule: Schedule) -> None:
    """With z = 1 at every draw nothing is left to chance: the end is the recursion's number to 9 digits."""
    x, end, times = run(Ddim(eta=0.7), schedule, 15, 1, noise=lambda step, part, x: torch.ones_like(x))
    value = x
    for t, s in pairwise(times):
        factor, fresh = factor_of_ddim(schedule, t, s, 0.7)
        value = factor * value + math.sqrt(fresh)
    assert torch.allclose(end, value, rtol=1e-9)


@on_every_schedule
@pytest.mark.parametrize("strength", [0.5, 1.0, 2.0])
def test_the_sde_of_dpm_solver_is_the_exact_transition_for_constant_data(strength: float, schedule: Schedule) -> None:
    """Where E[data|x] is the constant m, dx = (u - w^2/2 s) dt + w dB is linear: one step has the exact mean and
    variance of its solution, by integration of the moment equations.
    """
    from scipy.integrate import solve_ivp

    from dfm.sampling.steppers.exponential import Move

    t, s = (schedule.time_of_log_nsr(torch.tensor(v, dtype=torch.float64)) for v in (0.8, -0.6))
    move = Move.between(schedule, t, s, strength)
    m = 0.3

    def moments(u: float, y: np.ndarray) -> list[float]:
        at = torch.tensor(u, dtype=torch.float64)
        (a, b), (da, db) = schedule.ab(at), schedule.derivatives(at)
        w2 = strength**2 * schedule.diffusion_squared(at)
        slope = db / b + w2 / 2 / b**2  # d(drift)/dx, with noise = (x - a m)/b
        return [float(slope * y[0] + (da - slope * a) * m), float(2 * slope * y[1] - w2)]

    end = solve_ivp(moments, (float(t), float(s)), [1.0, 0.0], rtol=1e-8, atol=1e-11).y[:, -1]
    assert move.keep * 1.0 + move.data * move.weight * m == pytest.approx(end[0], rel=1e-6)
    assert move.noise**2 == pytest.approx(end[1], rel=1e-6)


def test_ancestral_is_the_posterior_of_ddpm() -> None:
    """Mean and variance of q(x_{k-1} | x_k, data), Ho et al. 2020, eqs. 6 and 7, from the betas alone."""
    schedule = SCHEDULES["ddpm"]
    betas = np.linspace(1e-4, 0.02, 1000)
    alphas_bar = np.cumprod(1 - betas)
    for k in (2, 300, 999):
        beta, bar, bar_before = betas[k - 1], alphas_bar[k - 1], alphas_bar[k - 2]
        data, x = 0.4, 1.3
        noise = (x - math.sqrt(bar) * data) / math.sqrt(1 - bar)
        mean = math.sqrt(bar_before) * beta / (1 - bar) * data + math.sqrt(1 - beta) * (1 - bar_before) / (1 - bar) * x
        variance = (1 - bar_before) / (1 - bar) * beta

        class Fixed(type(oracle(GAUSSIAN, schedule))):  # type: ignore[misc]
            def expectations(self, x: Tensor, t: Tensor, data: float = data, noise: float = noise) -> object:
                return torch.full_like(x, data), torch.full_like(x, noise)

        known = Fixed(**vars(oracle(GAUSSIAN, schedule)))
        ends = []
        for z in (0.0, 1.0):
            sampler = GridSampler(
                stepper=Ddim(eta=1.0), steps=1, times=[float(k), float(k - 1)],
                noise=lambda step, part, x, z=z: torch.full_like(x, z),
            )  # fmt: skip
            *_, (end, _) = sampler.path(known, torch.full((1, 2), x, dtype=torch.float64), 0, [0])
            ends.append(float(end[0, 0]))
        assert ends[0] == pytest.approx(mean, rel=1e-9)
        assert (ends[1] - ends[0]) ** 2 == pytest.approx(variance, rel=1e-7)


def variance_of_sde_2m(schedule: Schedule, times: Tensor, strength: float, variance: float) -> float:
    """The covariance of (x, data before) through SDE-DPM-Solver++(2M) on N(0, C^2), as published for sigma = nsr.

    With eta = strength^2 and h the step in -log nsr: x <- (b_s/b_t) e^{-eta h} x + a_s (1 - e^{-(1 + eta) h}) D'
    + b_s sqrt(1 - e^{-2 eta h}) z, D' = D + (D - D_before) h/(2 h_before).
    """
    spread, before, eta = np.array([[variance, 0.0], [0.0, 0.0]]), None, strength**2
    for t, s in pairwise(times):
        (a_t, b_t, v_t), (a_s, b_s, _) = coefficients(schedule, t), coefficients(schedule, s)
        level = math.log(a_t / b_t)
        h, k = math.log(a_s / b_s) - level, a_t * C * C / v_t
        pull, keep = a_s * (1 - math.exp(-(1 + eta) * h)), b_s / b_t * math.exp(-eta * h)
        ratio = 0.0 if before is None else h / (2 * (level - before))
        step = np.array([[keep + pull * (1 + ratio) * k, -pull * ratio], [k, 0.0]])
        spread = step @ spread @ step.T
        spread[0, 0] += b_s**2 * (1 - math.exp(-2 * eta * h))
        before = level
    return float(spread[0, 0])


@on_every_schedule
@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_sde_of_dpm_solver_2m_obeys_its_covariance_recursion(strength: float, schedule: Schedule) -> None:
    n = 10_000
    _, end, times = run(DpmSolver2M(strength=strength), schedule, 20, n, noise=quick(5))
    expected = variance_of_sde_2m(schedule, times, strength, oracle(GAUSSIAN, schedule).noise_end.moments[1] ** 2)
    assert float(end.square().mean()) == pytest.approx(expected, rel=4.5 / math.sqrt(n))


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_sde_of_dpm_solver_2m_has_weak_order_two(strength: float) -> None:
    """The error of the variance, exact by the recursion checked above, falls as 1/steps^2."""
    schedule, steps = Edm(t_min=0.1, t_max=3.0), np.array([64, 128, 256, 512])
    errors = [
        abs(
            variance_of_sde_2m(schedule, LogNsrGrid().times(int(n), schedule, 0.1, 3.0), strength, C**2 + 9)
            - C**2
            - 0.01
        )
        for n in steps
    ]
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(DpmSolver2M.order, abs=0.2)
