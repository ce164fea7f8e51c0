"""Guidance against the closed form of a labelled mixture, and bit for bit at its ends."""

import math
from dataclasses import replace

import pytest
import torch
from support.oracles import SCHEDULES, Labelled, component, on_every_schedule, oracle
from torch import Tensor

import dfm
from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.predictions import Velocity
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.unet import UNet
from dfm.paths.schedule import Schedule
from dfm.sampling.adaptive_solver import BogackiShampine
from dfm.sampling.guidance import Autoguidance, ClassifierFree, guided
from dfm.sampling.samplers import AdaptiveSampler, GridSampler, start
from dfm.sampling.steppers.exponential import Ddim
from dfm.sampling.steppers.ode import Heun
from dfm.sampling.steppers.stochastic import Churn
from dfm.training.batches import Augmentation, Batch


@pytest.fixture
def labelled(mixture: GaussianMixture, schedule: Schedule) -> Labelled:
    spec = replace(oracle(mixture, schedule).spec, num_classes=3)
    return Labelled(spec=spec, schedule=schedule, mixture=mixture)


def log_density(mixture: GaussianMixture, schedule: Schedule, x: Tensor, t: Tensor) -> Tensor:
    """log p_t(x) up to a constant: the smoothed mixture at x/a."""
    a, b = schedule.ab(t)
    return mixture.smoothed(float(b / a)).log_prob(x / a)


@on_every_schedule
@pytest.mark.parametrize("scale", [-0.5, 0.0, 0.3, 1.0, 4.0])
def test_the_guided_score_is_that_of_the_tilted_density(labelled: Labelled, scale: float) -> None:
    """grad [log p_t(x) + w (log p_t(x|c) - log p_t(x))] by autograd; every form that is asked for agrees with it."""
    schedule, mixture = labelled.schedule, labelled.mixture
    labels = torch.tensor([0, 1, 2, 1, 0])
    given = ClassifierFree(scale=scale).guide(labelled).with_labels(labels)
    for share in (0.2, 0.5, 0.8):
        t = torch.tensor(schedule.t_min + share * (schedule.t_max - schedule.t_min), dtype=torch.float64)
        a, b = schedule.ab(t)
        x = torch.randn(5, 2, dtype=torch.float64) * torch.hypot(a, b)
        x.requires_grad_()
        whole = log_density(mixture, schedule, x, t)
        own = torch.stack([log_density(component(mixture, k), schedule, x, t) for k in range(3)])
        tilted = whole + scale * (own[labels, torch.arange(5)] - whole)
        (exact,) = torch.autograd.grad(tilted.sum(), x)
        x = x.detach()
        velocity, score = given.velocity_and_score(x, t)
        assert torch.allclose(score, exact, rtol=1e-8, atol=1e-8 * float(exact.abs().max()))
        f, g2 = schedule.drift_coefficient(t), schedule.diffusion_squared(t)
        tolerance = {"rtol": 1e-8, "atol": 1e-8 * float(velocity.abs().max())}
        assert torch.allclose(velocity, f * x - g2 / 2 * exact, **tolerance)
        assert torch.allclose(given.velocity(x, t), velocity, **tolerance)
        data, noise = given.expectations(x, t)
        assert torch.allclose(a * data + b * noise, x, rtol=1e-9, atol=1e-9 * float(x.abs().max()))
        assert torch.allclose(given.data(x, t), data)


def network(num_classes: int = 3, seed: int = 0) -> NetworkDenoiser:
    """A U-Net with weights that are not zero anywhere."""
    spec = DatasetSpec(name="x", shape=(1, 8, 8), levels=None, num_classes=num_classes, mean=0.0, std=0.5)
    torch.manual_seed(seed)
    net = UNet(
        shape=spec.shape, num_classes=num_classes, channels=8, groups=4, channel_multipliers=(1, 2),
        blocks_per_level=1, zero_init=False,
    ).eval()  # fmt: skip
    path = SCHEDULES["linear"]
    return NetworkDenoiser(spec=spec, schedule=path, trained_schedule=path, prediction=Velocity(), network=net)


SAMPLERS = {
    "heun": GridSampler(stepper=Heun(), steps=4),
    "churn": GridSampler(stepper=Churn(), steps=4),
    "ddim": GridSampler(stepper=Ddim(eta=1.0), steps=5),
    "bosh3": AdaptiveSampler(solver=BogackiShampine(rtol=1e-2, atol=1e-2)),
}


def draw(denoiser: Denoiser, name: str, labels: Tensor | None) -> tuple[Tensor, float, EvaluationCount]:
    """Six samples, NFE as the sampler says, and the calls of the network as counted here."""
    calls = EvaluationCount()
    counted = denoiser.with_labels(labels).counted(calls)
    indices = range(6)
    with torch.no_grad():
        state = SAMPLERS[name].run(counted, start(denoiser, 0, indices, torch.device("cpu")), 0, indices)
    return state.x, state.nfe, calls


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_scales_zero_and_one_are_the_models_bit_for_bit(name: str) -> None:
    model, labels = network(), torch.tensor([0, 1, 2, 0, 1, 2])
    for scale, plain in ((1.0, labels), (0.0, None)):
        mine, nfe, _ = draw(ClassifierFree(scale=scale).guide(model), name, labels)
        theirs, theirs_nfe, _ = draw(model, name, plain)
        assert torch.equal(mine, theirs)
        assert nfe == theirs_nfe
    other, _, _ = draw(ClassifierFree(scale=2.0).guide(model), name, labels)
    assert not torch.allclose(other, theirs, atol=1e-3)


class Spy(torch.nn.Module):
    """A network that notes for how many samples, with which labels and times it was asked."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner, self.asked = inner, []

    def forward(self, x: Tensor, c_time: Tensor, label: Tensor | None) -> Tensor:
        self.asked.append((len(x), label is not None, c_time.clone()))
        return self.inner(x, c_time, label)


@pytest.mark.parametrize("name", sorted(SAMPLERS))
def test_outside_the_interval_the_weak_one_is_not_called(name: str) -> None:
    model, labels, low, high = network(), torch.tensor([0, 1, 2, 0, 1, 2]), 0.3, 3.0
    spy = Spy(model.module())
    scheme = ClassifierFree(scale=2.0, low=low, high=high)
    x, _, calls = draw(scheme.guide(replace(model, network=spy)), name, labels)
    weak = [times for _, told, times in spy.asked if not told]
    strong = [times for _, told, times in spy.asked if told]
    inside = torch.cat(strong).exp()
    inside = inside[(inside >= low * (1 - 1e-6)) & (inside <= high * (1 + 1e-6))]
    assert torch.equal(torch.cat(weak).exp().sort().values, inside.sort().values), "each inside once, none outside"
    assert 0 < len(inside) < len(torch.cat(strong))
    assert calls.samples == sum(n for n, _, _ in spy.asked), "every call of the network is counted"
    nowhere, _, _ = draw(ClassifierFree(scale=2.0, low=1e6).guide(model), name, labels)
    assert torch.equal(nowhere, draw(model, name, labels)[0])
    assert not torch.equal(x, nowhere)


def test_samples_with_times_of_their_own_are_guided_one_by_one(mixture: GaussianMixture) -> None:
    path = SCHEDULES["edm"]
    spec = replace(oracle(mixture, path).spec, num_classes=3)
    model = Labelled(spec=spec, schedule=path, mixture=mixture, label=torch.tensor([0, 1, 2]))
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    mixed = ClassifierFree(scale=3.0, low=0.5, high=2.0).guide(model)
    found = mixed.data(x, t)
    for k in range(3):
        scale = 3.0 if k == 1 else 1.0
        alone = ClassifierFree(scale=scale).guide(model).select(torch.tensor([k]))
        assert torch.allclose(found[k : k + 1], alone.data(x[k : k + 1], t[k : k + 1]), rtol=1e-12)


def test_autoguidance_is_two_models_and_moves_between_schedules() -> None:
    strong, weak = network(seed=0), network(seed=1)
    mixed = guided(strong, weak, 1.7).with_labels(torch.tensor([0, 1, 2])).on_schedule(SCHEDULES["edm"])
    x, t = torch.randn(3, 1, 8, 8), torch.tensor(0.8, dtype=torch.float64)
    both = [m.with_labels(torch.tensor([0, 1, 2])).on_schedule(SCHEDULES["edm"]).data(x, t) for m in (weak, strong)]
    assert torch.allclose(mixed.data(x, t), both[0] + 1.7 * (both[1] - both[0]), atol=1e-6)
    with pytest.raises(UserError, match="5 classes"):
        Autoguidance(ckpt="x").guide(strong, network(num_classes=5))


def test_a_guided_model_is_any_denoiser() -> None:
    """dfm.sample and dfm.log_likelihood take it."""
    model = ClassifierFree(scale=1.5).guide(network()).with_labels(torch.tensor([0, 1]))
    assert dfm.log_likelihood(model, torch.rand(2, 1, 8, 8), OdeLikelihood(steps=2)).isfinite().all()


# ---- label dropout ---------------------------------------------------------------------------------------------------


def test_labels_are_hidden_one_by_one() -> None:
    """10,000 labels: the share to four standard errors, and neighbours independent."""
    n, chance = 10_000, 0.15
    batch = Batch(torch.zeros(n, 1, 8, 8), torch.arange(n) % 7, torch.arange(n))
    seen = Augmentation(label_dropout=chance, num_classes=7)(batch, 0, 3)
    assert seen.labels is not None
    hidden = (seen.labels == 7).double()
    assert float(hidden.mean()) == pytest.approx(chance, abs=4 * math.sqrt(chance * (1 - chance) / n))
    both = float((hidden[1:] * hidden[:-1]).mean())
    assert both == pytest.approx(chance**2, abs=4 * math.sqrt(chance**2 / n))
    assert torch.equal(seen.labels[hidden == 0], batch.labels[hidden == 0])
    again = Augmentation(label_dropout=chance, num_classes=7)(batch, 0, 3)
    assert torch.equal(again.labels, seen.labels)
    assert not torch.equal(Augmentation(label_dropout=chance, num_classes=7)(batch, 0, 4).labels, seen.labels)


def test_the_hidden_label_is_the_one_that_none_means() -> None:
    model = network()
    x, t = torch.randn(2, 1, 8, 8), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(model.with_labels(torch.tensor([3, 3])).data(x, t), model.with_labels(None).data(x, t))


@pytest.mark.parametrize(("chance", "classes"), [(1.0, 3), (-0.1, 3), (0.1, 0)])
def test_a_wrong_label_dropout_is_refused(chance: float, classes: int) -> None:
    with pytest.raises(UserError, match="label_dropout"):
        Augmentation(label_dropout=chance, num_classes=classes)


# ---- commands --------------------------------------------------------------------------------------------------------
