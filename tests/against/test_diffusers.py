"""The same oracle and grid through diffusers' schedulers: an implementation that shares nothing with ours."""

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from support.oracles import oracle
from torch import Tensor

from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.exact import MixtureDenoiser
from dfm.paths.variance_exploding import Edm
from dfm.paths.variance_preserving import Ddpm
from dfm.sampling.samplers import GridSampler
from dfm.sampling.steppers.base import Stepper
from dfm.sampling.steppers.exponential import Ddim, DpmSolver2M, DpmSolver3M
from dfm.sampling.steppers.ode import Euler, Heun

diffusers = pytest.importorskip("diffusers")

STEPS = 10


def ours(stepper: Stepper, denoiser: MixtureDenoiser, times: list[float], x: Tensor, noise: object = None) -> Tensor:
    """x at the last of the times."""
    sampler = GridSampler(stepper=stepper, steps=1, times=times, noise=noise)  # type: ignore[arg-type]
    *_, (end, _) = sampler.path(denoiser, x, 0, range(len(x)))
    return end


def epsilon(denoiser: MixtureDenoiser, x: Tensor, t: float) -> Tensor:
    """E[noise | x_t]."""
    return denoiser.noise(x, torch.tensor(t, dtype=torch.float64))


@pytest.fixture
def chain(mixture: GaussianMixture) -> MixtureDenoiser:
    """The mixture on DDPM's chain."""
    return oracle(mixture, Ddpm())


@pytest.fixture
def levels(mixture: GaussianMixture) -> MixtureDenoiser:
    """The mixture on EDM's path."""
    return oracle(mixture, Edm(t_min=1e-3, t_max=200.0))


def points(scale: float, n: int = 6) -> Tensor:
    return scale * torch.randn(n, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "beta"), [("linear", "linear"), ("squaredcos_cap_v2", "cosine"), ("sigmoid", "sigmoid")]
)
def test_the_chain_has_the_levels_of_diffusers(name: str, beta: str) -> None:
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule=name)
    schedule = Ddpm(beta=beta)  # type: ignore[arg-type]
    a, _ = schedule.ab(torch.arange(1, 1001, dtype=torch.float64))
    assert torch.allclose((a**2).float(), scheduler.alphas_cumprod, rtol=2e-4, atol=1e-7)


def test_ddim_and_ancestral_on_the_chain(chain: MixtureDenoiser) -> None:
    """DDIMScheduler at eta 0, 0.5, 1. Step k of ours is timestep k - 1 of theirs; their levels are float32."""
    x = points(1.0)
    noise = torch.randn(STEPS, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for eta in (0.0, 0.5, 1.0):
        scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=1000, beta_schedule="linear", clip_sample=False, set_alpha_to_one=False
        )
        scheduler.set_timesteps(STEPS)
        times = [float(t) + 1 for t in scheduler.timesteps]
        value = x
        for k, t in enumerate(scheduler.timesteps[:-1]):
            value = scheduler.step(
                epsilon(chain, value, float(t) + 1), t, value, eta=eta, variance_noise=noise[k]
            ).prev_sample
        end = ours(Ddim(eta=eta), chain, times, x, noise=lambda step, part, x: noise[step])
        assert torch.allclose(end, value, atol=2e-4)


def test_ancestral_against_the_ddpm_scheduler(chain: MixtureDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    """DDPMScheduler (fixed_small), whose own draws are replaced by ours."""
    from diffusers.schedulers import scheduling_ddpm

    noise = torch.randn(STEPS, 6, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    drawn = iter(noise)
    monkeypatch.setattr(scheduling_ddpm, "randn_tensor", lambda *args, **kwargs: next(drawn))
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear", clip_sample=False)
    scheduler.set_timesteps(STEPS)
    times = [float(t) + 1 for t in scheduler.timesteps]
    x = value = points(1.0)
    for t in scheduler.timesteps[:-1]:
        value = scheduler.step(epsilon(chain, value, float(t) + 1), t, value).prev_sample
    end = ours(Ddim(eta=1.0), chain, times, x, noise=lambda step, part, x: noise[step])
    assert torch.allclose(end, value, atol=2e-4)


def karras_times(scheduler: object) -> list[float]:
    """Noise levels of a scheduler without the final zero."""
    return [float(s) for s in scheduler.sigmas if s > 0]  # type: ignore[attr-defined]


def run_theirs(scheduler: object, predict: Callable[[Tensor, float], Tensor], x: Tensor, moves: int) -> Tensor:
    """``moves`` calls of step, each with the sigma that the scheduler is at."""
    value = x
    for t in scheduler.timesteps[:moves]:  # type: ignore[attr-defined]
        sigma = float(scheduler.sigmas[scheduler.step_index or 0])  # type: ignore[attr-defined]
        value = scheduler.step(predict(value, sigma), t, value).prev_sample  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    ("kind", "stepper", "calls"), [("EulerDiscreteScheduler", Euler(), 1), ("HeunDiscreteScheduler", Heun(), 2)]
)
def test_euler_and_heun_on_karras_levels(
    kind: str, stepper: Stepper, calls: int, levels: MixtureDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their sigma is EDM's t; the model is told epsilon, which on this path is the velocity."""
    scheduler = getattr(diffusers, kind)(num_train_timesteps=1000, beta_schedule="linear", use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    times = list(dict.fromkeys(karras_times(scheduler)))
    x = points(times[0])
    theirs = run_theirs(scheduler, lambda v, s: epsilon(levels, v, s), x, calls * (len(times) - 1))
    end = ours(stepper, levels, times, x)
    assert torch.allclose(end, theirs.double(), atol=2e-3 if kind.startswith("Heun") else 2e-4, rtol=1e-4)


@pytest.mark.parametrize("order", [1, 2])
def test_dpm_solver_on_the_chain(order: int, chain: MixtureDenoiser) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        num_train_timesteps=1000, beta_schedule="linear", solver_order=order, algorithm_type="dpmsolver++",
        solver_type="midpoint", lower_order_final=False, final_sigmas_type="sigma_min",
    )  # fmt: skip
    scheduler.set_timesteps(STEPS)
    times = [float(t) + 1 for t in scheduler.timesteps]
    x = value = points(1.0)
    for t in scheduler.timesteps[:-1]:
        value = scheduler.step(epsilon(chain, value, float(t) + 1), t, value).prev_sample
    end = ours(Ddim() if order == 1 else DpmSolver2M(), chain, times, x)
    assert torch.allclose(end, value, atol=3e-4)


def published_3m(denoiser: MixtureDenoiser, times: list[float], x: Tensor) -> Tensor:
    """DPM-Solver++(3M) with the second difference at half its weight, the first two steps of orders 1 and 2."""
    known: list[tuple[float, Tensor]] = []
    for t, s in pairwise(torch.tensor(times, dtype=torch.float64)):
        (_, b_t), (a_s, b_s) = denoiser.schedule.ab(t), denoiser.schedule.ab(s)
        level = -float(denoiser.schedule.log_nsr(t))
        h = -float(denoiser.schedule.log_nsr(s)) - level
        known = [(level, denoiser.data(x, t)), *known[:2]]
        integral = -math.expm1(-h) * known[0][1]
        if len(known) > 1:
            slope = (known[0][1] - known[1][1]) / (known[0][0] - known[1][0])
            phi_2 = h - 1 + math.exp(-h)  # int_0^h e^{v - h} v dv
            if len(known) == 2:
                integral = integral + -math.expm1(-h) * h / 2 * slope
            else:
                before = (known[1][1] - known[2][1]) / (known[1][0] - known[2][0])
                second = (slope - before) / (known[0][0] - known[2][0])
                at_t = slope + second * (known[0][0] - known[1][0])
                phi_3 = h * h - 2 * phi_2  # int_0^h e^{v - h} v^2 dv
                integral = integral + phi_2 * at_t + phi_3 / 2 * second
        x = b_s / b_t * x + a_s * integral
    return x


def test_the_third_order_solver_as_published_halves_a_weight(chain: MixtureDenoiser) -> None:
    """What the docstring of DpmSolver3M says of the published update: with the half, diffusers is met."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_schedule="linear", solver_order=3, lower_order_final=False, final_sigmas_type="sigma_min"
    )
    scheduler.set_timesteps(20)
    times = [float(t) + 1 for t in scheduler.timesteps]
    x = value = points(1.0)
    for t in scheduler.timesteps[:-1]:
        value = scheduler.step(epsilon(chain, value, float(t) + 1), t, value).prev_sample
    assert torch.allclose(published_3m(chain, times, x), value, atol=3e-4)
    assert not torch.allclose(ours(DpmSolver3M(), chain, times, x), value, atol=1e-2)


def test_the_grids_of_the_papers() -> None:
    """Karras levels of diffusers between the same ends are the rho grid."""
    from dfm.sampling.grids import RhoGrid

    scheduler = diffusers.EulerDiscreteScheduler(beta_schedule="linear", use_karras_sigmas=True)
    scheduler.set_timesteps(STEPS)
    theirs = karras_times(scheduler)
    mine = RhoGrid().times(STEPS - 1, Edm(), theirs[-1], theirs[0])
    assert mine.tolist() == pytest.approx(theirs, rel=1e-4)
    assert all(later < earlier for earlier, later in pairwise(mine.tolist()))
    assert math.isclose(float(mine[0]), float(np.max(theirs)))
