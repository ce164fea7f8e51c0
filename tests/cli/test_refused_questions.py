"""Questions that a model has no answer to are refused: each of these once gave a wrong number or picture in silence."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import FAST, TINY, Command, Trained, one_error
from support.image_files import write_image
from support.interpolants import exact as interpolant
from support.oracles import oracle
from torch import Tensor

import dfm
from dfm.basics.errors import UserError
from dfm.data.dataset import DatasetSpec
from dfm.data.gaussian_mixture import GaussianMixture
from dfm.denoising.denoiser import Denoiser, EvaluationCount
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.denoising.predictions import Data
from dfm.likelihood.evidence_bound import EvidenceBound
from dfm.likelihood.ode import OdeLikelihood
from dfm.likelihood.path_divergence import path_gain
from dfm.paths.interpolating import Linear
from dfm.paths.priors import LaplacePrior
from dfm.paths.variance_exploding import Edm
from dfm.runs import checkpoint
from dfm.sampling.classifier_guidance import ClassifierGuidance
from dfm.sampling.guidance import Autoguidance, ClassifierFree, guided
from dfm.sampling.inverse_problems import Inpaint
from dfm.sampling.samplers import GridSampler, JumpSampler
from dfm.sampling.steppers.stochastic import Churn

SHAPE = (1, 4, 4)


def images(num_classes: int = 0) -> NetworkDenoiser:
    """Of images, by a network that says the data are all zero."""
    spec = DatasetSpec(name="flat", shape=SHAPE, levels=17, num_classes=num_classes, mean=0.0, std=0.5)
    path = Linear()
    return NetworkDenoiser(
        spec=spec,
        schedule=path,
        trained_schedule=path,
        prediction=Data(),
        network=lambda x, c, label: torch.zeros_like(x),
    )


@pytest.fixture(params=["coupled", "laplace", "interpolant", "counted", "guided"])
def unlike(request: pytest.FixtureRequest, mixture: GaussianMixture) -> Denoiser:
    """A denoiser to whose x_t no normal noise can be added."""
    plain = oracle(mixture, Linear())
    return {
        "coupled": replace(plain, independent=False),
        "laplace": replace(plain, prior=LaplacePrior()),
        "interpolant": interpolant(Linear()),
        "counted": interpolant(Linear()).counted(EvaluationCount()),
        "guided": guided(interpolant(Linear()), interpolant(Linear()), 2.0),
    }[request.param]


def test_noise_is_added_to_normal_noise_only(unlike: Denoiser) -> None:
    latents = torch.zeros(2, 2)
    for sampler in (GridSampler(stepper=Churn(), steps=4), JumpSampler(steps=2, renoise=True)):
        with pytest.raises(UserError, match="allowed"):
            sampler.run(unlike, latents)
    with pytest.raises(UserError, match="allowed"):
        path_gain(unlike, unlike, latents)


def test_without_noise_added_the_same_samplers_go(unlike: Denoiser, mixture: GaussianMixture) -> None:
    latents = torch.zeros(2, 2)
    assert GridSampler(stepper=Churn(churn=0.0), steps=4).run(unlike, latents).x.isfinite().all()
    plain = oracle(mixture, Linear())
    for sampler in (GridSampler(stepper=Churn(), steps=4), JumpSampler(steps=2, renoise=True)):
        assert sampler.run(plain, latents).x.isfinite().all()


@pytest.mark.parametrize("change", [{"independent": False}, {"prior": LaplacePrior()}])
def test_a_score_moves_the_expected_noise_of_normal_noise_only(change: dict[str, object]) -> None:
    plain = images(num_classes=3)
    classifier = NoisyClassifier(
        spec=plain.spec,
        schedule=Linear(),
        trained_schedule=Linear(),
        network=lambda x, c, label: torch.zeros(len(x), 3),
    )
    steering = ClassifierGuidance(ckpt="x")
    steering.guide(plain, classifier)
    known, task = torch.zeros(1, *SHAPE), Inpaint(mask="left", method="dps")
    task.observe(plain, known)
    for refused in (
        lambda: steering.guide(replace(plain, **change), classifier),  # type: ignore[arg-type]
        lambda: task.observe(replace(plain, **change), known),  # type: ignore[arg-type]
    ):
        with pytest.raises(UserError, match="standard normal noise"):
            refused()
    replace(task, method="replacement").observe(replace(plain, **change), known)  # type: ignore[arg-type]


def test_two_models_of_one_path_guide() -> None:
    strong, by = images(), Autoguidance(ckpt="x")
    assert by.guide(strong, images()).has_ode
    for weak in (replace(images(), independent=False), replace(images(), prior=LaplacePrior())):
        with pytest.raises(UserError, match="another prior or coupling"):
            by.guide(strong, weak)
    with pytest.raises(UserError, match="few-step"):
        by.guide(strong, replace(images(), has_ode=False))
    mixed = guided(strong, replace(images(), independent=False), 2.0)
    with pytest.raises(UserError, match="standard normal noise"):
        mixed.require_linear_path("noise")


@dataclass(frozen=True, kw_only=True)
class OnePath(Denoiser):
    """N(0, 0.3^2) on the linear path, whatever ``schedule`` says."""

    def expectations(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        t = t.to(x).reshape(-1, *[1] * (x.ndim - 1))
        data = (1 - t) * 0.09 / ((1 - t) ** 2 * 0.09 + t**2) * x
        return data, (x - (1 - t) * data) / t


def test_a_denoiser_of_ones_own_that_knows_one_path_is_not_asked_on_another() -> None:
    spec = DatasetSpec(name="g", shape=(3,), levels=None, num_classes=0, mean=0.0, std=0.3)
    own, data = OnePath(spec=spec, schedule=Linear()), 0.3 * torch.randn(20, 3, generator=torch.manual_seed(0))
    exact = torch.distributions.Normal(0.0, 0.3).log_prob(data.double()).sum(1)
    found = dfm.log_likelihood(own, data, OdeLikelihood(steps=32, divergence="exact"))
    assert torch.allclose(found, exact, atol=1e-3)
    with pytest.raises(UserError, match="its own path only"):
        own.on_schedule(Edm())
    assert own.on_schedule(Linear()) == own


def test_a_latent_on_the_path_is_not_replaced() -> None:
    model = replace(interpolant(Linear()), spec=images().spec)
    with pytest.raises(UserError, match="no mixture of data and noise"):
        Inpaint(mask="left").observe(model, torch.zeros(1, *SHAPE))


# ---- classes ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def conditional_run(trained: Trained) -> Path:
    """Two steps of a conditional model that never saw a hidden class."""
    return trained(*TINY, "conditional=true").run


def test_a_model_that_never_saw_a_hidden_class_is_not_asked_without(conditional_run: Path) -> None:
    model = dfm.load(conditional_run)
    data = torch.zeros(2, 1, 8, 8)
    for use in (dfm.log_likelihood, dfm.encode, dfm.decode):
        with pytest.raises(UserError, match="label_dropout=0"):
            use(model, data)
        assert use(model.with_labels(torch.tensor([3, 4])), data).isfinite().all()
    with pytest.raises(UserError, match="no class"):
        ClassifierFree(scale=2.0).guide(model)


def test_the_classes_given_are_those_drawn(conditional_run: Path) -> None:
    model, threes = dfm.load(conditional_run), torch.full((4,), 3)
    quick = JumpSampler(steps=1)
    assert torch.equal(dfm.sample(model.with_labels(threes), 4, quick), dfm.sample(model, 4, quick, label=3))
    assert not torch.equal(dfm.sample(model, 4, quick), dfm.sample(model, 4, quick, label=3))
    with pytest.raises(UserError, match="allowed: n=4"):
        dfm.sample(model.with_labels(threes), 5, quick)


def test_two_conditional_models_are_compared_by_class(conditional_run: Path, command: Command) -> None:
    """A second model that differs in the row of no class alone is no better and no worse, exactly."""
    found = checkpoint.find(str(conditional_run))[0]
    rows = {name: value for name, value in found.state["ema"].items() if value.ndim == 2 and len(value) == 11}
    assert len(rows) == 1, "the table of ten classes and none"
    for name, table in rows.items():
        other = table.clone()
        other[10] += 5
        found.state["ema"][name] = other
    checkpoint.save(found, Path("other/checkpoints"), keep=1)
    quick = ["n=4", "audit=2", "likelihood.steps=1"]
    outcome = command("nll", f"ckpt={conditional_run}", "against=other", *quick)
    assert "+0.0000 +- 0.0000 nats" in outcome.out
    outcome = command("nll", f"ckpt={conditional_run}", "against=oracle", *quick, code=1)
    assert "conditional=false" in outcome.err


def test_stored_samples_of_a_class_are_taken_by_their_classes(conditional_run: Path, command: Command) -> None:
    drawn = command("sample", f"ckpt={conditional_run}", "n=60", "sampler.steps=1").run
    words = ["dataset=digits", "features=coordinates", f"samples={drawn}"]
    assert "6 samples" in command("eval", *words, "label=3").out
    content = dict(np.load(drawn / "samples.npz"))
    np.savez("plain.npz", samples=content["samples"])
    outcome = command("eval", *words[:2], "samples=plain.npz", "label=3")
    assert "has no classes; all its samples are taken" in outcome.err
    assert "60 samples" in outcome.out
    np.savez("words.npz", samples=content["samples"], labels=np.array(["three"] * 60))
    assert (
        "has no classes; all its samples are taken" in command("eval", *words[:2], "samples=words.npz", "label=3").err
    )
    np.savez("few.npz", samples=content["samples"][:3], labels=content["labels"][:3])
    assert "no sample in few.npz" in command("eval", *words[:2], "samples=few.npz", "label=3", code=1).err


# ---- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64])
def test_integers_are_not_scored_as_reals_nor_reals_as_integers(kind: torch.dtype) -> None:
    levels = torch.zeros(2, *SHAPE, dtype=kind)
    for likelihood in (None, OdeLikelihood(steps=1), EvidenceBound(decoder="gaussian", steps=2)):
        with pytest.raises(UserError, match="dequantize"):
            dfm.log_likelihood(images(), levels, likelihood)
    discrete = EvidenceBound(decoder="vdm", steps=2)
    value: Tensor = dfm.log_likelihood(images(), levels, discrete)
    assert bool((value < 0).all()), "log P of integers"
    with pytest.raises(UserError, match="integer levels"):
        dfm.log_likelihood(images(), levels.float(), discrete)


def test_data_of_another_form_are_told_in_plain_words(command: Command) -> None:
    """Each command names the word, what differs and how, and accepts the line without the word."""
    draws = np.random.default_rng(0).normal(size=(60, 24)).astype(np.float32)
    np.save("own.npy", draws[:, :5])
    np.save("signals.npy", draws.reshape(60, 2, 12))
    np.save("whole.npy", (9 * draws[:, :5]).astype(int).astype(np.uint8) % 16)
    run = command("train", "dataset=array", "dataset.path=own.npy", "dataset.test=0.3", "model=mlp", *FAST).run
    lines = (
        ["nll", "n=2", "likelihood.steps=1", "audit=0"],
        ["encode", "n=2", "flow.solver=euler", "flow.steps=1"],
        ["eval", "n=8", "sampler.steps=1"],
        ["check", "n=8", "steps=[1]", "samplers=[heun]"],
    )
    for words in lines:
        line = [words[0], f"ckpt={run}", *words[1:]]
        problem = command(*line, "dataset.path=signals.npy", code=1).problem
        assert problem == (
            "error: dataset.path=signals.npy: shape (2, 12) instead of (5,); allowed: examples as in the training of "
            "this model; try without dataset.path"
        )
        problem = command(*line, "dataset.path=whole.npy", code=1).problem
        assert problem.startswith("error: dataset.path=whole.npy: levels 16 instead of none; allowed:")
    command(*line)
    start = ["train", "dataset=array", "dataset.path=signals.npy", "model=mlp", *FAST, f"init={run}"]
    assert "a model of data of shape (5,); allowed: (2, 12)" in command(*start, code=1).problem


def test_a_folder_with_another_class_is_refused(command: Command) -> None:
    for name in "bc":
        for k in range(12):
            write_image(Path("pictures") / name / f"{k}.png", size=(8, 8))
    folder = ["dataset=folder", "dataset.path=pictures", "dataset.size=8", "dataset.channels=1", "dataset.test=0.4"]
    run = command("train", *TINY, *folder, "conditional=true", "nll.n=0").run
    quick = ["n=2", "audit=1", "likelihood.steps=1"]
    command("nll", f"ckpt={run}", *quick)
    write_image(Path("pictures/a/0.png"), size=(8, 8))
    refused = command("nll", f"ckpt={run}", *quick, code=1).err
    assert "as in the training of this model" in refused
    assert one_error(refused)
