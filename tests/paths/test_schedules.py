"""The path and what is predicted on it: schedules, rows, densities, weights, grids against calculus and statistics."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad, solve_ivp
from support.oracles import PREDICTIONS, SCHEDULES, STD, oracle, times

from dfm.basics.errors import UserError
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising import predictions
from dfm.denoising.predictions import data_and_noise
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule
from dfm.paths.variance_exploding import Edm
from dfm.paths.variance_preserving import VariancePreserving

# ---- schedules -------------------------------------------------------------------------------------------------------

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


# ---- rows ------------------------------------------------------------------------------------------------------------


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


# ---- the mixture on the path -----------------------------------------------------------------------------------------


def test_score_velocity_and_density_of_the_mixture(schedule: Schedule, mixture: GaussianMixture) -> None:
    """score = grad log p_t by autograd, and the continuity equation d/dt log p + u . score + div u = 0."""
    denoiser = oracle(mixture, schedule)
    for t in times(schedule, 12)[2:-2]:
        a, b = schedule.ab(t)
        x = torch.randn(6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        x = (x * (a**2 + b**2).sqrt()).requires_grad_()
        (gradient,) = torch.autograd.grad(denoiser.log_density(x, float(t)).sum(), x)
        score = denoiser.score(x, t)
        assert torch.allclose(score, gradient, rtol=1e-6, atol=1e-7 * float(gradient.abs().max()))
        u = denoiser.velocity(x, t)
        divergence = sum(torch.autograd.grad(u[:, i].sum(), x, retain_graph=True)[0][:, i] for i in range(2))
        h = float(t) * 1e-5
        change = (denoiser.log_density(x, float(t) + h) - denoiser.log_density(x, float(t) - h)) / (2 * h)
        rest = (change + (u * score).sum(1) + divergence).detach()
        assert float(rest.abs().max()) < 1e-5 * float(divergence.detach().abs().max() + change.detach().abs().max())
