"""The exact denoisers on every path: score, velocity and density of a mixture; a finite set by loops."""

import math

import numpy as np
import pytest
import torch
from support.oracles import SCHEDULES, drawn, empirical, oracle, times
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture, mixture_of
from dfm.denoising import exact as oracles
from dfm.denoising.exact import EmpiricalDenoiser
from dfm.paths.interpolating import Linear
from dfm.paths.schedule import Schedule


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


def looped(points: np.ndarray, x: np.ndarray, a: float, b: float) -> tuple[np.ndarray, np.ndarray, float]:
    """E[data | x], E[noise | x] and log p(x) at one x, one point at a time."""
    logs = []
    for y in points:
        logs.append(-sum((float(u) - a * float(v)) ** 2 for u, v in zip(x.flat, y.flat, strict=True)) / (2 * b**2))
    top = max(logs)
    total, data, noise = 0.0, np.zeros_like(x), np.zeros_like(x)
    for log, y in zip(logs, points, strict=True):
        weight = math.exp(log - top)
        total, data, noise = total + weight, data + weight * y, noise + weight * (x - a * y) / b
    log_p = top + math.log(total / len(points)) - x.size * math.log(b * math.sqrt(2 * math.pi))
    return data / total, noise / total, log_p


@pytest.mark.parametrize("shape", [(2,), (1, 2, 3)])
def test_the_denoiser_of_a_set_is_the_double_loop(
    schedule: Schedule, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(oracles, "CHUNK", 20)  # two rows at a time
    points, t = drawn(9, 1, shape), torch.linspace(schedule.t_min, schedule.t_max, 7, dtype=torch.float64)
    denoiser, (a, b) = empirical(points, schedule), schedule.ab(t)
    column = (7, *[1] * len(shape))
    x = a.reshape(column) * points[:7] + b.reshape(column) * drawn(7, 2, shape)
    data, noise = denoiser.expectations(x, t)
    for k in range(7):
        want = looped(points.numpy(), x[k].numpy(), float(a[k]), float(b[k]))
        np.testing.assert_allclose(data[k].numpy(), want[0], rtol=1e-7, atol=1e-7)
        np.testing.assert_allclose(noise[k].numpy(), want[1], rtol=1e-7, atol=1e-7)
        log_p = denoiser.log_density(x[k : k + 1], float(t[k]))
        np.testing.assert_allclose(float(log_p), want[2], rtol=1e-7, atol=1e-6)


@pytest.mark.parametrize("name", ["linear", "vp", "edm"])
def test_a_set_is_a_mixture_of_tiny_variances(name: str) -> None:
    points, schedule = drawn(40), SCHEDULES[name]
    denoiser, exact = empirical(points, schedule), oracle(mixture_of(points.tolist(), 1e-12), schedule)
    x = 2 * drawn(30, 3)
    for share in (-2.0, 0.0, 1.0):
        t = schedule.time_of_log_nsr(torch.tensor(share, dtype=torch.float64))
        for ours, theirs in zip(denoiser.expectations(x, t), exact.expectations(x, t), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-8)
        torch.testing.assert_close(
            denoiser.log_density(x, float(t)), exact.log_density(x, float(t)), rtol=1e-7, atol=1e-7
        )


def test_float32_in_float32_out_with_the_digits_of_float64() -> None:
    points, t = drawn(50), torch.tensor(1e-3, dtype=torch.float64)
    denoiser = empirical(points, Linear())
    x = ((1 - t) * points[:20] + t * drawn(20, 1)).float()
    single, double = denoiser.noise(x, t), denoiser.noise(x.double(), t)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), double, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("points", [torch.zeros(0, 2), torch.zeros(3, 3), torch.full((2, 2), torch.nan)])
def test_what_is_no_set_of_points_is_refused(points: Tensor) -> None:
    spec = DatasetSpec(name="points", shape=(2,), levels=None, num_classes=0, mean=0, std=1)
    with pytest.raises(UserError, match=r"allowed: finite numbers of shape \(n, 2\)"):
        EmpiricalDenoiser(spec=spec, schedule=Linear(), points=points)
