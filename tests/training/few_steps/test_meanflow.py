"""MeanFlow: the flow map of Gaussian data is a formula, and so are the average velocity and its derivative."""

import math
from dataclasses import replace

import pytest
import torch
from support.oracles import SCHEDULES
from torch import Tensor, nn

from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec, Split
from dfm.denoising.flow_map import FlowMapDenoiser, flow_map
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Noise, Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.mlp import MLP
from dfm.models.unet import UNet
from dfm.paths.interpolating import Linear
from dfm.sampling.samplers import JumpSampler, start
from dfm.training.few_steps.meanflow import MeanFlow
from dfm.training.objectives.densities import UniformDensity
from dfm.training.trainer import Trainer
from dfm.training.trainer_config import TrainerConfig

MEAN, STD = 0.4, 0.5
SPEC = DatasetSpec(name="line", shape=(1,), levels=None, num_classes=0, mean=MEAN, std=STD)
CPU = torch.device("cpu")
PATH = Linear()


class ExactMap(nn.Module):
    """u of N(m, S^2): x_s = m_s + s(s)/s(t) (x - m_t), m_t = (1-t) m, s(t)^2 = (1-t)^2 S^2 + t^2."""

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None, c_end: Tensor) -> Tensor:
        t, s = ((1 + c.double()[:, None] / 2) / 2 for c in (c_time, c_end))  # c = 2 (b - a)/(b + a) = 2 (2 t - 1)
        spread = [torch.hypot((1 - v) * STD, v) for v in (t, s)]
        z = (x * spread[0] - (1 - t) * MEAN) / spread[0]
        equal = -MEAN + z * (t - (1 - t) * STD**2) / spread[0]
        # at equal times the quotient is 0/0 and its limit the velocity; the inner where keeps its derivative finite
        gap = torch.where(t == s, 1.0, t - s)
        apart = (spread[0] * z - spread[1] * z) / gap - MEAN
        return torch.where(t == s, equal, apart) / math.sqrt(STD**2 + 1)


def exact() -> FlowMapDenoiser:
    return flow_map(
        NetworkDenoiser(spec=SPEC, schedule=PATH, trained_schedule=PATH, prediction=Velocity(), network=ExactMap())
    )


def objective(**more: float) -> MeanFlow:
    return MeanFlow(density=UniformDensity(), **more)


def test_the_target_of_the_exact_map_is_the_map_itself() -> None:
    """Affine in v, the mean of the target given x_t is its value at the posterior means: u(x_t, t, s)."""
    model = exact()
    t = torch.tensor([0.9, 0.7, 0.5, 0.5, 0.2], dtype=torch.float64)
    s = torch.tensor([0.1, 0.3, 0.002, 0.5, 0.19], dtype=torch.float64)
    x = torch.tensor([[0.3], [-1.0], [0.8], [1.5], [0.1]], dtype=torch.float64)
    data, noise = model.expectations(x, t)
    target = objective().target(model, x, data, noise, t, s)
    assert torch.allclose(target, model.mean_velocity(x, t, s), atol=1e-9)
    elsewhere = objective().target(model, x, data + 1, noise, t, s)
    assert not torch.allclose(elsewhere, target, atol=1e-2), "and it depends on the pair"


def test_the_derivative_is_that_of_differences() -> None:
    """The target through a U-Net with attention, against central differences along (v, 1)."""
    torch.manual_seed(0)
    spec = DatasetSpec(name="images", shape=(1, 8, 8), levels=None, num_classes=0, mean=0.0, std=0.7)
    network = UNet(
        shape=(1, 8, 8), channels=8, channel_multipliers=(1, 2), attention_levels=(1,), num_heads=2, groups=4,
        dropout=0.0, zero_init=False, two_times=True,
    ).double()  # fmt: skip
    for layer in (network.embedding.second[2],):  # type: ignore[index]
        nn.init.normal_(layer.weight, std=0.1)
    model = flow_map(
        NetworkDenoiser(spec=spec, schedule=PATH, trained_schedule=PATH, prediction=Velocity(), network=network)
    )
    data, noise = torch.randn(2, 3, 1, 8, 8, dtype=torch.float64)
    t, s = (torch.tensor(v, dtype=torch.float64) for v in ([0.8, 0.5, 0.4], [0.2, 0.1, 0.4]))
    x = (1 - t)[:, None, None, None] * data + t[:, None, None, None] * noise
    v, h = noise - data, 1e-5
    with torch.no_grad():
        change = (model.mean_velocity(x + h * v, t + h, s) - model.mean_velocity(x - h * v, t - h, s)) / (2 * h)
        target = objective().target(model, x, data, noise, t, s)
    expected = v - (t - s)[:, None, None, None] * change
    assert torch.allclose(target, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert float((expected - v).abs().max()) > 0.01, "the derivative matters"


@pytest.mark.parametrize("steps", [1, 2, 4])
@pytest.mark.parametrize("path", ["linear", "vp", "edm"])
def test_the_exact_map_samples_in_any_number_of_calls(path: str, steps: int) -> None:
    """Latents z end at m + S z whatever the steps and the path."""
    model = exact() if path == "linear" else exact().on_schedule(SCHEDULES[path])
    x = start(model, 0, range(100), CPU, double=True)
    mean, std = model.noise_end.moments
    state = JumpSampler(steps=steps).run(model, x)
    assert state.nfe == steps
    # the latent's own scale at t_max, and at t_min a little noise is left (one thousandth)
    assert torch.allclose(state.x, MEAN + STD * (x - mean) / std, atol=5e-3)


def test_times_are_ordered_and_shared_out() -> None:
    chosen = objective(share=0.25)
    u = torch.rand(20_000, dtype=torch.float64)
    t, s = (chosen.density.time(q, PATH) for q in chosen.draw_quantiles(u, torch.Generator().manual_seed(0)))
    apart = s < t
    assert float(apart.double().mean()) == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 20_000))
    assert bool((s <= t).all())
    assert float((t - s)[apart].mean()) == pytest.approx(1 / 3, abs=0.02), "of two uniform times"


def small(seed: int = 1) -> FlowMapDenoiser:
    torch.manual_seed(seed)
    network = MLP(shape=(1,), width=64, depth=2, time_features=32, two_times=True)
    return flow_map(
        NetworkDenoiser(spec=SPEC, schedule=PATH, trained_schedule=PATH, prediction=Velocity(), network=network)
    )


@pytest.mark.wide
def test_training_finds_the_flow_map_and_keeps_the_density() -> None:
    """One call leads near m + S z, which the velocity alone misses by far; at equal times it is a flow, with nats."""
    points = MEAN + STD * torch.randn(8192, 1, generator=torch.Generator().manual_seed(0))
    config = TrainerConfig(max_steps=1000, batch_size=512, lr=4e-3, ema_decay=0.98, warmup_steps=20)
    chosen = objective()
    trainer = Trainer(config, small(), chosen, Split(values=points, labels=None), device=CPU)
    for _ in trainer.steps():
        pass
    found = trainer.averaged()
    x = start(found, 0, range(500), CPU)
    mean, std = found.noise_end.moments
    exact_end = MEAN + STD * (x - mean) / std
    with torch.no_grad():
        one = JumpSampler(steps=1).run(found, x).x
        by_velocity = found.data(x, torch.tensor(PATH.t_max, dtype=torch.float64))
    assert float((one - exact_end).abs().mean()) < 0.08
    assert float((by_velocity - exact_end).abs().mean()) > 3 * float((one - exact_end).abs().mean())
    nats = OdeLikelihood(solver="dopri5").log_density(found, points[:400], 0).value
    true = torch.distributions.Normal(MEAN, STD).log_prob(points[:400].double()).sum(1)
    assert float((nats - true).abs().mean()) < 0.1


def test_a_network_with_a_second_time_begins_as_one_without() -> None:
    torch.manual_seed(0)
    plain = MLP(shape=(2,), width=16, depth=1, zero_init=False)
    both = MLP(shape=(2,), width=16, depth=1, zero_init=False, two_times=True)
    missing, surplus = both.load_state_dict(plain.state_dict(), strict=False)
    assert not surplus
    assert all("second" in name for name in missing)
    x, c, end = torch.randn(5, 2), torch.randn(5), torch.randn(5)
    assert torch.equal(both(x, c, None, end), plain(x, c))


def test_what_does_not_suit_is_refused() -> None:
    plain = NetworkDenoiser(spec=SPEC, schedule=PATH, trained_schedule=PATH, prediction=Noise(), network=ExactMap())
    with pytest.raises(UserError, match="prediction=velocity"):
        flow_map(plain)
    with pytest.raises(UserError, match="two times"):
        objective().loss(plain, torch.zeros(2, 1), torch.Generator())
    for wrong in ({"share": 1.5}, {"c": 0.0}, {"share": -0.1}):
        with pytest.raises(UserError, match="objective meanflow"):
            objective(**wrong)
    with pytest.raises(UserError, match="shape"):
        replace(exact()).mean_output(torch.zeros(2, 3), torch.tensor(0.5), torch.tensor(0.5))
