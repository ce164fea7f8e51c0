"""The noisy classifier: Bayes' rule on a mixture, and what training finds."""

from dataclasses import dataclass, replace

import pytest
import torch
from support.oracles import SCHEDULES, Labelled, oracle
from torch import Tensor

import dfm
from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.denoiser import EvaluationCount
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.models.classifiers import ImageClassifier, PointClassifier
from dfm.paths.schedule import Schedule
from dfm.runs.parts import Parts
from dfm.sampling.classifier_guidance import ClassifierGuidance, ClassifierGuided
from dfm.training.objectives.classification import Classification
from dfm.training.objectives.densities import LogNsrDensity
from dfm.training.trainer import Trainer, TrainerConfig


@dataclass(frozen=True, kw_only=True)
class Exact:
    """p(c | x_t) of a mixture whose class is its component: w_c N(x/a; m_c, C_c + nsr^2 I), normalised."""

    spec: DatasetSpec
    schedule: Schedule
    mixture: GaussianMixture

    def on_schedule(self, schedule: Schedule) -> "Exact":
        return replace(self, schedule=schedule)

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        a, b = (c.expand(len(x)) for c in self.schedule.ab(t))
        rows = []
        for y, nsr in zip(x / a[:, None], b / a, strict=True):
            smoothed = self.mixture.smoothed(float(nsr))
            joint = [
                w.log() + torch.distributions.MultivariateNormal(m, c).log_prob(y)
                for w, m, c in zip(smoothed.weights, smoothed.means, smoothed.covariances, strict=True)
            ]
            rows.append(torch.stack(joint))
        return torch.stack(rows).log_softmax(1)


def exact(mixture: GaussianMixture, schedule: Schedule) -> Exact:
    spec = replace(oracle(mixture, schedule).spec, num_classes=3)
    return Exact(spec=spec, schedule=schedule, mixture=mixture)


def test_with_the_exact_classifier_scale_one_is_the_conditional_score(
    mixture: GaussianMixture, schedule: Schedule
) -> None:
    labels = torch.tensor([0, 1, 2, 1])
    plain = oracle(mixture, schedule)
    steered = ClassifierGuidance(ckpt="x").guide(plain, exact(mixture, SCHEDULES["linear"])).with_labels(labels)
    told = Labelled(
        spec=replace(plain.spec, num_classes=3), schedule=schedule, mixture=mixture, label=labels
    )  # fmt: skip
    for share in (0.2, 0.5, 0.8):
        t = torch.tensor(schedule.t_min + share * (schedule.t_max - schedule.t_min), dtype=torch.float64)
        x = torch.randn(4, 2, dtype=torch.float64) * torch.hypot(*schedule.ab(t))
        mine, theirs = steered.score(x, t), told.score(x, t)
        assert torch.allclose(mine, theirs, rtol=1e-8, atol=1e-8 * float(theirs.abs().max()))
        velocities = steered.velocity(x, t), told.velocity(x, t)
        assert torch.allclose(*velocities, rtol=1e-8, atol=1e-8 * float(velocities[1].abs().max()))
        data, noise = steered.expectations(x, t)
        a, b = schedule.ab(t)
        assert torch.allclose(a * data + b * noise, x, rtol=1e-9, atol=1e-9 * float(x.abs().max()))


def test_the_likelihood_of_a_steered_model_is_the_conditional_one(mixture: GaussianMixture) -> None:
    """The divergence goes through the classifier's gradient: log p(x | c) of a Gaussian, to 1e-4 nats."""
    path = SCHEDULES["trig"]
    labels = torch.tensor([0, 1, 2])
    steered = ClassifierGuidance(ckpt="x").guide(oracle(mixture, path), exact(mixture, path)).with_labels(labels)
    points = mixture.means + 0.3
    from dfm.likelihood.ode import OdeLikelihood

    found = dfm.log_likelihood(steered, points, OdeLikelihood(solver="dopri5", divergence="exact"))
    each = torch.stack([
        torch.distributions.MultivariateNormal(
            mixture.means[k], mixture.covariances[k] + (path.t_min**2) * torch.eye(2, dtype=torch.float64)
        ).log_prob(points[k])
        for k in range(3)
    ])  # fmt: skip
    assert torch.allclose(found, each, atol=2e-2), "the prior is fitted to the whole mixture's moments"


def test_outside_the_interval_the_classifier_is_not_called(mixture: GaussianMixture) -> None:
    path, calls = SCHEDULES["edm"], EvaluationCount()
    plain = oracle(mixture, path)
    scheme = ClassifierGuidance(ckpt="x", low=0.5, high=2.0)
    steered = scheme.guide(plain, exact(mixture, path)).with_labels(torch.tensor([0, 1, 2])).counted(calls)
    x, t = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.1, 1.0, 9.0], dtype=torch.float64)
    data, noise = steered.expectations(x, t)
    assert calls.samples == 3 + 1, "three of the model, one of the classifier"
    bare = plain.expectations(x, t)
    assert torch.equal(data[[0, 2]], bare[0][[0, 2]])
    assert torch.equal(noise[[0, 2]], bare[1][[0, 2]])
    assert not torch.allclose(data[1], bare[0][1])
    part = steered.select(torch.tensor([1]))
    assert torch.allclose(part.data(x[1:2], t[1:2]), data[1:2], rtol=1e-12)
    zero = (
        ClassifierGuidance(ckpt="x", scale=0.0).guide(plain, exact(mixture, path)).with_labels(torch.tensor([0, 1, 2]))
    )
    assert torch.equal(zero.data(x, t), bare[0]), "scale 0 is the model, bit for bit"


def test_training_finds_bayes_rule(mixture: GaussianMixture) -> None:
    """A perceptron on the mixture: within 0.02 nats of the exact classifier's cross-entropy, which nobody can beat."""
    path = SCHEDULES["linear"]
    generator = torch.Generator().manual_seed(0)
    points, labels = mixture.sample(20_000, generator)
    spec = replace(oracle(mixture, path).spec, num_classes=3)
    network = PointClassifier(shape=(2,), num_classes=3, width=64, depth=2)
    model = NoisyClassifier(spec=spec, schedule=path, trained_schedule=path, network=network)
    config = TrainerConfig(max_steps=400, batch_size=256, lr=3e-3, ema_decay=0.98, warmup_steps=20)
    trainer = Trainer(
        config, model, Classification(density=LogNsrDensity()),
        Split(values=points[:18_000].float(), labels=labels[:18_000]), device=torch.device("cpu"),
    )  # fmt: skip
    for _ in trainer.steps():
        pass
    held, truth = points[18_000:], labels[18_000:]
    for time in (0.05, 0.3, 0.6):
        t = torch.tensor(time, dtype=torch.float64)
        a, b = path.ab(t)
        x = a * held + b * torch.randn(2000, 2, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            found = trainer.averaged().log_probabilities(x.float(), t).double()
        best = exact(mixture, path).log_probabilities(x, t)
        losses = [float(-p.gather(1, truth[:, None]).mean()) for p in (found, best)]
        assert losses[0] < losses[1] + 0.02
        assert float((found.exp() - best.exp()).abs().mean()) < 0.03


def test_a_classifier_of_other_data_is_refused(mixture: GaussianMixture) -> None:
    path = SCHEDULES["edm"]
    other = exact(mixture, path)
    spec = DatasetSpec(name="x", shape=(1, 8, 8), levels=None, num_classes=0, mean=0.0, std=1.0)
    with pytest.raises(UserError, match="3 classes"):
        ClassifierGuidance(ckpt="x").guide(replace(oracle(mixture, path), spec=spec), other)
    plain = oracle(mixture, path)
    with pytest.raises(UserError, match="10 classes"):
        ClassifierGuidance(ckpt="x").guide(replace(plain, spec=replace(plain.spec, num_classes=10)), other)
    steered = ClassifierGuidance(ckpt="x").guide(oracle(mixture, path), other)
    assert isinstance(steered, ClassifierGuided)
    with pytest.raises(UserError, match="label=3"):
        steered.data(torch.zeros(1, 2, dtype=torch.float64), torch.tensor(1.0, dtype=torch.float64))


def test_a_classifier_checks_what_it_is_given() -> None:
    spec = DatasetSpec(name="x", shape=(1, 8, 8), levels=None, num_classes=3, mean=0.0, std=1.0)
    density = {"_target_": "dfm.training.UniformDensity"}
    with pytest.raises(UserError, match="this model has no classifier"):
        Parts(
            {
                "model": {"_target_": "dfm.models.oracle.Oracle"},
                "objective": {"_target_": "dfm.training.Classification", "density": density},
                "trainer": {"seed": 0},
            }
        ).model(spec)
    with pytest.raises(UserError, match="2 or more"):
        ImageClassifier(shape=(1, 8, 8), num_classes=0)
    with pytest.raises(UserError, match="model=mlp"):
        ImageClassifier(shape=(2,), num_classes=3)
