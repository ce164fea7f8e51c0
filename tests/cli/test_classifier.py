"""Classifiers through the command line: trained, reported, and steering a sampler."""

import json
from pathlib import Path

import numpy as np
import pytest
from support.cli import Command

SMALL = (
    "objective=classifier", "model.channels=8", "model.groups=4", "trainer.batch_size=8", "trainer.max_steps=2",
    "nll.n=9",
)  # fmt: skip


def test_a_classifier_is_trained_reported_and_steers(tiny_run: Path, command: Command) -> None:
    run = command("train", *SMALL).run
    rows = np.genfromtxt(run / "classifier.csv", delimiter=",", names=True)
    assert len(rows) == 12
    assert np.allclose(rows["accuracy"] * 9, np.round(rows["accuracy"] * 9), atol=1e-4), "nine examples"
    facts = json.loads((run / "classifier.json").read_text())
    assert facts["accuracy"] == pytest.approx(rows["accuracy"].mean(), abs=1e-5)
    assert not (run / "nll.json").exists()
    assert command("train", f"resume={run}", "trainer.max_steps=3").run == run
    steer = ("guidance=classifier", f"guidance.ckpt={run}", "guidance.scale=5", "sampler.steps=2")
    made = command("sample", f"ckpt={tiny_run}", *steer, "label=all", "n=10").run
    plain = command("sample", f"ckpt={tiny_run}", "sampler.steps=2", "n=10").run
    assert np.load(made / "samples.npz")["labels"].tolist() == list(range(10))
    nfe = [json.loads((r / "sample.json").read_text())["nfe"] for r in (made, plain)]
    assert nfe[0] == 2 * nfe[1]
    assert not np.array_equal(*(np.load(r / "samples.npz")["samples"] for r in (made, plain)))
    for wrong in ("sample", "nll"):
        assert "noisy classifier" in command(wrong, f"ckpt={run}", code=1).err
    mistaken = command("sample", f"ckpt={tiny_run}", "guidance=classifier", f"guidance.ckpt={tiny_run}", code=1)
    assert "objective=classifier" in mistaken.err


def test_a_classifier_of_points(command: Command) -> None:
    run = command(
        "train", "objective=classifier", "model=mlp", "dataset=moons", "trainer.max_steps=2",
        "trainer.batch_size=8", "nll.n=8",
    ).run  # fmt: skip
    assert json.loads((run / "classifier.json").read_text())["num_classes"] == 2


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", *SMALL, "label_dropout=0.1"], "label_dropout=0"),
        (["train", "objective=classifier", "dataset=checkerboard", "model=mlp"], "has no classes"),
        (["sample", "guidance=classifier"], "which classifier"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, command: Command) -> None:
    outcome = command(*arguments, code=1)
    assert says in outcome.err
    assert outcome.problem
