"""Guidance and classes through the command line."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.cli import TINY, Command, Trained

# two steps long enough that classes differ by more than rounding
CONDITIONAL = (*TINY, "conditional=true", "label_dropout=0.2", "trainer.warmup_steps=0", "trainer.lr=0.01")


@pytest.fixture
def conditional_run(trained: Trained) -> Path:
    """Two steps of a conditional model of the digits."""
    return trained(*CONDITIONAL).run


def read(run: Path, name: str) -> dict:
    return json.loads((run / name).read_text())


def test_a_row_a_class(conditional_run: Path, command: Command) -> None:
    run = command("sample", f"ckpt={conditional_run}", "label=all", "n=25", "sampler.steps=1", "guidance=cfg").run
    made = np.load(run / "samples.npz")
    assert made["labels"].tolist() == [k % 10 for k in range(30)], "25 rounded up to whole rows"
    facts = read(run, "sample.json")
    assert facts["guidance"]["scale"] == 2.0
    width, height = Image.open(run / "grid.png").size
    assert height > 3 * width, "ten rows of three"
    one = command("sample", f"ckpt={conditional_run}", "label=4", "n=2", "sampler.steps=1").run
    assert np.load(one / "samples.npz")["labels"].tolist() == [4, 4]
    assert facts["nfe"] == 2 * read(one, "sample.json")["nfe"], "a call with the class and one without"


def test_autoguidance_by_an_earlier_checkpoint(conditional_run: Path, command: Command) -> None:
    arguments = ("sample", f"ckpt={conditional_run}", "n=4", "sampler.steps=1", "guidance=autoguidance")
    run = command(*arguments, f"guidance.ckpt={conditional_run}", "guidance.scale=3").run
    plain = command("sample", f"ckpt={conditional_run}", "n=4", "sampler.steps=1").run
    mine, theirs = (np.load(r / "samples.npz")["samples"].astype(int) for r in (run, plain))
    assert np.abs(mine - theirs).max() <= 1, "a model guided by itself is itself"
    assert read(run, "sample.json")["nfe"] == 2 * read(plain, "sample.json")["nfe"]


def test_classification_by_likelihood(conditional_run: Path, command: Command) -> None:
    run = command("nll", f"ckpt={conditional_run}", "n=6", "likelihood.steps=2", "per_class=true", "audit=2").run
    facts, rows = read(run, "per_class.json"), (run / "per_class.csv").read_text().splitlines()[1:]
    cells = np.array([[float(cell) for cell in row.split(",")] for row in rows])
    assert cells.shape == (6, 13)
    nats = cells[:, 3:]
    assert np.array_equal(cells[:, 2], nats.argmin(1))
    assert facts["accuracy"] == pytest.approx((cells[:, 1] == cells[:, 2]).mean())
    told = np.genfromtxt(run / "nll.csv", delimiter=",", names=True)["nats"]
    own = nats[np.arange(6), cells[:, 1].astype(int)]
    assert np.allclose(own, told, rtol=1e-6), "under its own class an example has the value of nll.csv"
    marginal = -np.log(np.exp(-(nats - nats.min(1, keepdims=True))).mean(1)) + nats.min(1)
    assert facts["without_class"] == pytest.approx(marginal.mean() / 64 / math.log(2), rel=1e-6)


def test_a_conditional_mlp(command: Command) -> None:
    """Classes of points: an MLP takes labels, hidden ones included."""
    run = command(
        "train", "dataset=moons", "model=mlp", "conditional=true", "label_dropout=0.2", "trainer.max_steps=2",
        "trainer.batch_size=8", "samples.n=4", "sampler.steps=2", "nll.n=4", "likelihood.steps=2",
    ).run  # fmt: skip
    made = command("sample", f"ckpt={run}", "label=1", "n=3", "guidance=cfg", "sampler.steps=2").run
    assert np.load(made / "samples.npz")["labels"].tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sample", "guidance=cfg"], "trained without classes"),
        (["sample", "guidance=autoguidance"], "guidance.ckpt=RUN_DIR"),
        (["sample", "guidance=cfg", "guidance.scale=inf"], "finite"),
        (["sample", "guidance=cfg", "guidance.low=2", "guidance.high=1"], "low < high"),
        (["sample", "guidance=autoguidance", "guidance.ckpt=nowhere"], "guidance.ckpt=nowhere: no such"),
        (["sample", "label=all"], "without classes"),
        (["nll", "per_class=true"], "without classes"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    outcome = command(*arguments, f"ckpt={tiny_run}", code=1)
    assert says in outcome.err
    assert outcome.problem


def test_mistakes_with_classes(trained: Trained, command: Command) -> None:
    run = trained(*TINY, "conditional=true").run
    assert "label_dropout" in command("sample", f"ckpt={run}", "guidance=cfg", code=1).err
    assert "0 to 9, or all" in command("sample", f"ckpt={run}", "label=ten", code=1).err
    assert "conditional=true" in command("train", *TINY, "label_dropout=0.1", code=1).err
