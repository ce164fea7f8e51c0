"""Schedules against the papers, autograd and scipy: a, b, their derivatives, log nsr, drift and diffusion."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from support.oracles import SCHEDULES, on_every_schedule, times

from dfm.basics.errors import UserError
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm
from dfm.paths.variance_preserving import VariancePreserving

TABLE = {
    "ou": (lambda t: math.exp(-t), lambda t: math.sqrt(1 - math.exp(-2 * t))),
    "vp": (
        lambda t: math.exp(-(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2),
        lambda t: math.sqrt(1 - math.exp(-(t**2) * (20 - 0.1) / 2 - t * 0.1)),
    ),
    "linear": (lambda t: 1 - t, lambda t: t),
    "edm": (lambda t: 1.0, lambda t: t),
    "trig": (lambda t: math.cos(math.pi * t / 2), lambda t: math.sin(math.pi * t / 2)),
    "subvp": (
        lambda t: math.exp(-(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2),
        lambda t: 1 - math.exp(-(t**2) * (20 - 0.1) / 2 - t * 0.1),
    ),
    "ve": (lambda t: 1.0, lambda t: 0.01 * 5000**t),
    "cosine": (lambda t: nichol(t), lambda t: math.sqrt(1 - nichol(t) ** 2)),
    "polynomial": (lambda t: (1 - t) ** 2, lambda t: 1 - (1 - t) ** 2),
    "random_walk": (lambda t: 1.0, lambda t: 0.02 * math.sqrt(t)),
    "ddpm": (lambda t: chain_a(t), lambda t: math.sqrt(1 - chain_a(t) ** 2)),
    "custom": (lambda t: math.exp(-t - t * t / 2), lambda t: custom_b(t)),
    "langevin": (lambda t: math.exp(-t), lambda t: math.sqrt(1 - math.exp(-2 * t))),
}


def nichol(t: float) -> float:
    """The cosine path's a, as Nichol and Dhariwal 2021 write it (their alpha-bar is its square)."""
    return math.cos((t + 0.008) / 1.008 * math.pi / 2) / math.cos(0.008 / 1.008 * math.pi / 2)


def chain_a(t: float) -> float:
    """sqrt prod (1 - beta_j) over the whole steps."""
    return math.sqrt(np.prod(1 - np.linspace(1e-4, 0.02, 1000)[: round(t)]))


def custom_b(t: float) -> float:
    """b of dX = -(1 + t) X dt + sqrt(2 (2 - t/2)^2) dB, by scipy's quadrature."""
    inner = quad(lambda s: 2 * (2 - s / 2) ** 2 * math.exp(2 * (s + s * s / 2)), 0, t, epsabs=0, epsrel=1e-13)[0]
    return math.exp(-t - t * t / 2) * math.sqrt(inner)


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_a_and_b_are_those_of_the_papers(name: str) -> None:
    t = times(SCHEDULES[name])[5:-5]
    t = t.round() if name == "ddpm" else t  # a chain: the paper says nothing of what lies between its steps
    a, b = SCHEDULES[name].ab(t)
    assert a.tolist() == pytest.approx([TABLE[name][0](float(u)) for u in t], rel=1e-12)
    assert b.tolist() == pytest.approx([TABLE[name][1](float(u)) for u in t], rel=1e-8)


def test_derivatives_against_autograd(schedule: Schedule) -> None:
    t = times(schedule).requires_grad_()
    for value, derivative in zip(schedule.ab(t), schedule.derivatives(t), strict=True):
        expected = torch.zeros_like(t)
        if value.requires_grad:
            (expected,) = torch.autograd.grad(value.sum(), t, retain_graph=True)
        assert torch.allclose(derivative, expected, rtol=1e-9, atol=1e-12)


def test_log_nsr_increases_and_its_inverse_inverts(schedule: Schedule) -> None:
    t = times(schedule, 201)
    levels = schedule.log_nsr(t)
    assert bool((levels[:-1] > levels[1:]).all())
    assert torch.allclose(schedule.log_nsr(schedule.time_of_log_nsr(levels)), levels, atol=1e-9)
    assert torch.allclose(schedule.time_of_log_nsr(levels), t, rtol=1e-9)


@on_every_schedule
def test_drift_and_diffusion_have_the_marginals_of_the_path(schedule: Schedule) -> None:
    """Mean and variance of dx = f x dt + g dB from t_0: m' = f m, V' = 2 f V + g^2, by scipy, must be a and b^2."""
    t0, t1 = (float(u) for u in times(schedule)[[-12, 4]])
    start = [float(c) for c in schedule.ab(torch.tensor(t0, dtype=torch.float64))]

    def moments(t: float, y: np.ndarray) -> list[float]:
        u = torch.tensor(t, dtype=torch.float64)
        f, g2 = float(schedule.drift_coefficient(u)), float(schedule.diffusion_squared(u))
        return [f * y[0], 2 * f * y[1] + g2]

    end = solve_ivp(moments, (t0, t1), [start[0], start[1] ** 2], rtol=1e-8, atol=1e-11).y[:, -1]
    a, b = schedule.ab(torch.tensor(t1, dtype=torch.float64))
    assert end[0] == pytest.approx(float(a), rel=1e-6)
    assert end[1] == pytest.approx(float(b) ** 2, rel=1e-6)


def test_sigma_min_is_the_noise_left_on_the_data() -> None:
    schedule = Linear(sigma_min=0.1, t_min=0.0)
    a, b = schedule.ab(torch.tensor([0.0, 0.5], dtype=torch.float64))
    assert a.tolist() == [1.0, 0.5]
    assert b.tolist() == pytest.approx([0.1, 0.55])
    t = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert torch.allclose(schedule.time_of_log_nsr(schedule.log_nsr(t)), t, atol=1e-12)


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Linear(t_max=1.0),
        lambda: Linear(t_min=0.0),
        lambda: Edm(t_min=3.0, t_max=1.0),
        lambda: Edm(t_min=-1.0),
        lambda: VariancePreserving(beta_min=-1.0),
        lambda: VariancePreserving(beta_min=5.0, beta_max=1.0),
    ],
)
def test_schedules_that_cannot_be_are_refused_in_one_line(bad: object) -> None:
    with pytest.raises(UserError, match="allowed") as caught:
        bad()  # type: ignore[operator]
    assert "\n" not in str(caught.value)
