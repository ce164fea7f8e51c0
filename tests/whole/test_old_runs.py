"""Runs that dfm 0.1.0 wrote, before its modules moved, still load, sample, score and resume: to the same numbers.

``tests/golden`` has eleven of them, each after two of four steps (its README says how they were made), and
``expected.json`` what that version then computed: the losses of steps 3 and 4, samples, nats, latents.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from support import ROOT
from support.cli import Command

import dfm
from dfm.likelihood.ode import OdeLikelihood
from dfm.runs.checkpoint import read
from dfm.runs.loading import classifier_of

GOLDEN = ROOT / "tests" / "golden"
EXPECTED: dict[str, Any] = json.loads((GOLDEN / "expected.json").read_text())
FRESH: dict[str, dict[str, float]] = json.loads((GOLDEN / "fresh.json").read_text())
RUNS = sorted(EXPECTED)
QUICK = ("flow", "progressive", "unet")  # go on, or are run anew, in the quick tests; the others in the wide ones
STUDENTS = ("progressive", "reflow")  # of a teacher that is not kept
SINCE = {"consistency": ["objective.knee=null"]}  # what a default was when the losses of FRESH were noted
OTHER_LOSS = ("consistency", "meanflow")  # of which today's weights and levels are others


def in_turn(names: Sequence[str]) -> list[Any]:
    """One test for each name: those of ``QUICK`` in the quick set."""
    return [pytest.param(name, marks=() if name in QUICK else pytest.mark.wide) for name in names]


def checkpoint(name: str) -> Path:
    return GOLDEN / name / "checkpoints" / "step_00000002.pt"


def losses_of(run: Path) -> dict[str, float]:
    lines = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    return {str(line["step"]): line["loss"] for line in lines if "loss" in line}


def close(found: torch.Tensor, name: str, what: str) -> None:
    """Equal up to what another processor's order of additions makes of it."""
    expected = torch.tensor(EXPECTED[name][what], dtype=torch.float64)
    torch.testing.assert_close(found.double().flatten()[: len(expected)], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", [name for name in RUNS if "samples" in EXPECTED[name]])
def test_samples(name: str) -> None:
    close(dfm.sample(dfm.load(checkpoint(name), device="cpu"), 3, seed=5), name, "samples")


@pytest.mark.parametrize("name", [name for name in RUNS if "nats" in EXPECTED[name]])
def test_scores(name: str) -> None:
    denoiser = dfm.load(checkpoint(name), device="cpu")
    if len(denoiser.spec.shape) == 3:
        images = torch.rand(2, *denoiser.spec.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
        given = denoiser.with_labels(torch.tensor([1, 2]))
        close(dfm.log_likelihood(given, images, OdeLikelihood(solver="euler", steps=4)), name, "nats")
        return
    points = torch.tensor([[0.5, -0.25], [1.0, 2.0]])
    close(dfm.log_likelihood(denoiser, points), name, "nats")
    close(dfm.encode(denoiser, points), name, "latents")


def test_a_classifier() -> None:
    classifier = classifier_of(read(checkpoint("classifier")), torch.device("cpu"), ("dfm",))
    points = torch.linspace(-1, 1, 4).reshape(2, 2)
    close(
        classifier.log_probabilities(points, torch.tensor(0.5, dtype=torch.float64)), "classifier", "log_probabilities"
    )


@pytest.mark.parametrize("name", in_turn(RUNS))
def test_resumes(name: str, command: Command, tmp_path: Path) -> None:
    """The third and fourth step have the losses that they had."""
    run = tmp_path / name
    shutil.copytree(GOLDEN / name, run)
    command("train", f"resume={run}")
    losses = losses_of(run)
    assert list(losses) == ["1", "2", "3", "4"]
    assert losses == pytest.approx(EXPECTED[name]["losses"], rel=1e-4)
    assert (run / "checkpoints" / "step_00000004.pt").is_file()


def fresh_losses(name: str, command: Command, directory: Path) -> dict[str, float]:
    """The losses of the same command line in a directory of its own."""
    given = (GOLDEN / name / "overrides.txt").read_text().splitlines()
    command("train", *given, *SINCE.get(name, []), f"hydra.run.dir={directory}")
    return losses_of(directory)


@pytest.mark.parametrize("name", in_turn([name for name in RUNS if name not in STUDENTS]))
def test_a_fresh_run_takes_the_same_steps(name: str, command: Command, tmp_path: Path) -> None:
    """The same command line gives the same losses: initial weights, batches, times and noise are those of ``fresh``."""
    assert fresh_losses(name, command, tmp_path / "fresh") == pytest.approx(FRESH[name], rel=1e-4)


@pytest.mark.wide
@pytest.mark.parametrize("name", [name for name in RUNS if name not in (*STUDENTS, *OTHER_LOSS)])
def test_only_the_streams_differ_from_then(
    name: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the random numbers of dfm 0.1 a fresh run has the losses of dfm 0.1."""
    monkeypatch.setattr("dfm.training.trainer.STREAMS", 1)
    assert fresh_losses(name, command, tmp_path / "fresh") == pytest.approx(EXPECTED[name]["losses"], rel=1e-4)


def test_requeued_command_line_goes_on(command: Command, tmp_path: Path) -> None:
    """``resume=auto`` compares today's composed configuration with one that has yesterday's names."""
    run = tmp_path / "flow_normal"
    shutil.copytree(GOLDEN / "flow_normal", run)
    given = (run / "overrides.txt").read_text().splitlines()
    out = command("train", *given, "resume=auto", f"hydra.run.dir={run}").err
    assert "resumed at step 2" in out


def test_latents_are_decoded(command: Command) -> None:
    """They name their prior by its old class."""
    out = command("decode", f"ckpt={checkpoint('flow')}", f"latents={GOLDEN / 'flow' / 'latents.npz'}").out
    assert "4 decoded" in out


def test_weights_alone_are_enough(command: Command) -> None:
    command("sample", f"ckpt={GOLDEN / 'flow' / 'weights.safetensors'}", "n=2")


def test_a_teacher_begins_a_run(command: Command) -> None:
    """``init=`` compares the parts of two configurations."""
    command(
        "train", "dataset=moons", "dataset.n_train=64", "model=mlp", "model.width=8", "model.depth=1",
        "objective=consistency", f"init={checkpoint('flow_normal')}", "prediction=velocity", "trainer.max_steps=1",
        "samples.n=2", "nll.n=0", "logger=none",
    )  # fmt: skip


def test_a_network_that_gained_an_option_begins_a_run(command: Command) -> None:
    """A key that its configuration lacks has the default of today, with which these weights are what they were."""
    given = (GOLDEN / "unet" / "overrides.txt").read_text().splitlines()
    command("train", *given, f"init={checkpoint('unet')}", "trainer.max_steps=1", "hydra.run.dir=again")
