"""``augmentation=nonleaky`` through the command line: objectives, weights of other runs, samples that do not leak."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import FAST, TINY, UNET, Command, Trained

import dfm
from dfm.likelihood.ode import OdeLikelihood
from dfm.models.condition import Condition
from dfm.runs import checkpoint
from dfm.runs import directory as run_dir

ON = "augmentation=nonleaky"
LAYER = "embedding.change.weight"
# the first steps move only what starts at zero; a layer is told something to learn after them
LEARNS = (*UNET, *FAST, "nll.n=0", "trainer.max_steps=5", "trainer.warmup_steps=0", "augmentation.probability=0.4")
STEPS = ("sampler.steps=2", "trainer.log_every=1", "logger=none")


def state_of(run: Path, kind: str = "ema") -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = checkpoint.read(run_dir.checkpoints(run)[0]).state[kind]
    return found


def losses(run: Path) -> list[float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def poison(run: Path) -> None:
    """Let the checkpoint give NaN if anything is told to its network, zeros too."""
    whole = checkpoint.read(run_dir.checkpoints(run)[0])
    weights = {name: value * torch.nan if name == LAYER else value for name, value in whole.state["ema"].items()}
    assert weights[LAYER].isnan().all()
    checkpoint.save(replace(whole, state={**whole.state, "ema": weights}), run / "checkpoints", keep=2)


def test_sampling_and_scoring_tell_the_network_nothing(trained: Trained) -> None:
    """With a layer of NaN in the place of what it has learned, samples and scores are what they were."""
    run = trained(*TINY, ON).run
    assert (run / "data.png").is_file()
    model = dfm.load(run, device="cpu")
    poison(run)
    other = dfm.load(run, device="cpu")
    images, scorer = dfm.sample(model, 2, seed=1), OdeLikelihood(solver="euler", steps=1)
    assert torch.equal(dfm.sample(other, 2, seed=1), images)
    assert torch.equal(dfm.log_likelihood(other, images, scorer), dfm.log_likelihood(model, images, scorer))
    told = other.with_condition(Condition(change=torch.zeros(2, 9)))
    assert told.data(images, 0.5).isnan().all(), "it would be seen"


@pytest.mark.wide
def test_no_command_tells_the_network_anything(trained: Trained, command: Command) -> None:
    run = trained(*TINY, ON).run
    words = (["sample", "n=2"], ["nll", "n=2", "likelihood.solver=euler", "likelihood.steps=1"], ["encode", "n=2"])
    names = ("samples.npz", "nll.csv", "latents.npz")
    before = [(command(*each, f"ckpt={run}").run / name).read_bytes() for each, name in zip(words, names, strict=True)]
    poison(run)
    after = [(command(*each, f"ckpt={run}").run / name).read_bytes() for each, name in zip(words, names, strict=True)]
    assert before == after
    quality = json.loads((command("eval", f"ckpt={run}", "n=8", "features=coordinates").run / "eval.json").read_text())
    assert np.isfinite([value for value in quality.values() if isinstance(value, float)]).all()


def test_a_run_begins_with_weights_of_either_kind(trained: Trained, command: Command) -> None:
    """What is missing starts at zero, and what tells nothing any more is left out: both are said, and samples stay."""
    plain, told = trained(*TINY).run, trained(*TINY, ON).run
    none = ("trainer.max_steps=0", *STEPS, "nll.n=0")
    with_layer = command("train", *TINY, *none, ON, f"init={plain}", "hydra.run.dir=with")
    assert f"fresh: {LAYER}" in with_layer.err
    without = command("train", *TINY, *none, f"init={told}", "hydra.run.dir=without")
    assert f"left out: {LAYER}" in without.err
    assert not state_of(with_layer.run)[LAYER].any()
    assert LAYER not in state_of(without.run)
    for old, new in ((plain, with_layer.run), (told, without.run)):
        pairs = [dfm.sample(dfm.load(run, device="cpu"), 2, seed=3) for run in (old, new)]
        assert torch.equal(*pairs)


@pytest.mark.wide
def test_a_resumed_run_keeps_its_changes(trained: Trained, command: Command) -> None:
    """Another choice is refused with the command of a new run, which works."""
    run = trained(*TINY, ON).run
    refused = command("train", f"resume={run}", "augmentation=none", code=1).problem
    assert f"init={run}" in refused
    command(*refused.partition("try dfm ")[2].split(), "nll.n=0")
    more = command("train", f"resume={run}", "augmentation.probability=0.3", code=1).problem
    assert "augmentation.probability is 0.12, given 0.3" in more


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("objective=classifier",), "trains a classifier, which is told of no change; allowed: another objective"),
        (("coupling=ot",), "noise of their own, and samples start from all of the noise; allowed: coupling=indep"),
        pytest.param(
            ("dataset=signals", "model=unet_signals"), r"shape \(2, 64\); allowed: pictures", marks=pytest.mark.wide
        ),
        (("dataset=moons", "model=mlp"), r"shape \(2,\); allowed: pictures"),
    ],
)
def test_what_cannot_be_told_of_changes_is_refused(words: tuple[str, ...], message: str, command: Command) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dfm.training.trainer.Trainer.steps", None)
        problem = command("train", *words, ON, "logger=none", code=1).problem
    assert problem.endswith("try augmentation=none")
    assert re.search(message, problem), problem


@pytest.mark.wide
@pytest.mark.parametrize(
    ("objective", "message"),
    [("progressive", "trained without rotate, scale, shift, stretch, xflip, yflip"), ("reflow", "pairs of its own")],
)
def test_a_student_knows_what_its_teacher_knows(
    objective: str, message: str, trained: Trained, command: Command
) -> None:
    small = ("objective.start=4",) if objective == "progressive" else ("objective.n=6", "objective.solver_steps=1")
    words = ("train", *TINY, "nll.n=0", f"objective={objective}", *small)
    plain, told = trained(*TINY).run, trained(*TINY, ON).run
    assert message in command(*words, ON, f"init={plain}", code=1).problem
    assert f"left out: {LAYER}" in command(*words, f"init={told}").err


OBJECTIVES: dict[str, tuple[str, ...]] = {
    "denoising": (), "score": (), "flow_matching": (), "noise": (), "v": (), "edm": (), "consistency": (),
    "meanflow": (), "interpolant": ("latent=root",), "progressive": ("objective.start=4", "init=TEACHER"),
}  # fmt: skip


@pytest.mark.wide
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_objective_learns_from_what_is_told(objective: str, trained: Trained, command: Command) -> None:
    own = list(OBJECTIVES[objective])
    if "init=TEACHER" in own:
        own[-1] = f"init={trained(*LEARNS, ON).run}"
    run = command("train", *LEARNS, ON, f"objective={objective}", *own).run
    assert state_of(run, "network")[LAYER].any()
    assert np.isfinite(losses(run)).all()


@pytest.mark.wide
def test_samples_do_not_leak(command: Command, tmp_path: Path) -> None:
    """Pictures with a bright left half: mirrored ones are sampled if the network is not told, and none if it is.

    The law is known: x = s + noise of deviation 0.1, with s = 1 on the left and -1 on the right. Of unchanged pictures
    alone the mean difference of the halves is 2; with half of them mirrored in silence it has both signs alike.
    """
    rows = np.random.default_rng(0).normal(0, 0.1, (512, 1, 4, 4))
    rows += np.array([1, 1, -1, -1])
    np.save(tmp_path / "bright.npy", rows.astype("float32"))
    words = (
        "dataset=array", f"dataset.path={tmp_path}/bright.npy", "model=mlp", "model.width=64", "model.depth=2",
        "trainer.max_steps=600", "trainer.batch_size=64", "trainer.lr=3e-3", "trainer.ema_decay=0.98", "nll.n=0",
        "trainer.sample_every=0", "trainer.validate_every=0", "samples.n=1", "logger=none",
    )  # fmt: skip
    told = (ON, "augmentation.changes=[xflip]", "augmentation.probability=0.5")
    shares = {}
    for name, own in {"told": told, "leaky": ("dataset.flip=true",)}.items():
        run = command("train", *words, *own, f"hydra.run.dir={name}").run
        halves = dfm.sample(dfm.load(run, device="cpu"), 200, seed=0)
        brighter = halves[..., :2].mean((1, 2, 3)) - halves[..., 2:].mean((1, 2, 3))
        assert float(brighter.abs().mean()) > 1, "each is one of the two"
        shares[name] = float((brighter > 0).float().mean())
    assert shares["told"] == 1
    assert 0.3 < shares["leaky"] < 0.7
