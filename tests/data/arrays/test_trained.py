"""Arrays through the whole command line: nats in the unit of the file, samples in its type, data that moved."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from support.cli import FAST, TINY, Command, Outcome

import dfm
from dfm.basics.errors import UserError
from dfm.data import ArrayFile
from dfm.runs.pictures import plots
from dfm.runs.pictures.drawing import picture

RANDOM = np.random.default_rng(10)
SCORE = ("n=4", "likelihood.solver=euler", "likelihood.steps=1", "audit=0")
TRAIN = ("train", "dataset=array", "model=mlp", *FAST, "logger=none", "dataset.test=0.2", "nll.n=0")


def nats(outcome: Outcome) -> np.ndarray:
    """The nats of each example that ``dfm nll`` scored."""
    table = np.genfromtxt(outcome.run / "nll.csv", delimiter=",", names=True)
    return np.atleast_1d(table["nats"])


def samples(outcome: Outcome) -> np.ndarray:
    return np.load(outcome.run / "samples.npz")["samples"]


def test_a_column_in_another_unit_moves_nats_by_the_logarithm(command: Command) -> None:
    """Columns times 2^10 and 2^-3: what the model sees is the same to the last bit, and so are training and samples."""
    points = RANDOM.normal(size=(200, 3)) @ RANDOM.normal(size=(3, 3)) + [0.0, 300.0, 5.0]
    factors = np.array([2.0**10, 1.0, 2.0**-3])
    found = []
    for name, array in (("a", points), ("b", points * factors)):
        np.save(f"{name}.npy", array)
        run = command(*TRAIN, f"dataset.path={name}.npy", f"hydra.run.dir={name}").run
        scored = command("nll", f"ckpt={run}", *SCORE)
        found.append((nats(scored), samples(command("sample", f"ckpt={run}", "n=5", "sampler.steps=2"))))
        assert json.loads((scored.run / "nll.json").read_text())["bits_per_dim"] is None
    (first, drawn), (second, drawn_second) = found
    np.testing.assert_allclose(second - first, math.log(2.0**7), rtol=1e-9)
    np.testing.assert_array_equal(drawn_second, drawn * factors)
    assert drawn.dtype == np.float64
    assert drawn[:, 1].mean() > 200, "in the unit of the file"


def test_whole_numbers_of_sixteen_bits_come_back(command: Command) -> None:
    """Also a file with smaller numbers is scored with the levels of the training."""
    array = RANDOM.integers(500, 4000, (60, 8, 8, 1)).astype(np.uint16)
    array.flat[:2] = 500, 4000
    np.save("scans.npy", array)
    words = ("train", "dataset=array", *TINY, "dataset.path=scans.npy", "dataset.lowest=500", "nll.n=0", "logger=none")
    run = command(*words).run
    outcome = command("sample", f"ckpt={run}", "n=4", "sampler.steps=2", "png=true")
    drawn = samples(outcome)
    assert (drawn.dtype, drawn.shape) == (np.uint16, (4, 8, 8, 1))
    shown = np.stack([np.asarray(Image.open(outcome.run / "png" / f"00000{k}.png")) for k in range(4)])
    assert shown.shape == (4, 8, 8)
    in_order = shown.flat[np.argsort(drawn.flat)].astype(int)
    assert in_order[0] < in_order[-1], "one window for all, black to white"
    assert np.diff(in_order).min() >= 0
    assert 500 <= drawn.min() < drawn.max() <= 4000
    bits = json.loads((command("nll", f"ckpt={run}", *SCORE).run / "nll.json").read_text())
    assert bits["levels"] == 3501
    np.save("others.npy", array.clip(600, 1000))
    told = command("nll", f"ckpt={run}", *SCORE, "dataset.path=others.npy")
    assert "not the test data of the run that trained this model" in told.err
    assert json.loads((told.run / "nll.json").read_text())["levels"] == 3501


@pytest.fixture
def project(command: Command, tmp_path: Path) -> Path:
    """A folder with a table and a run on it, which was typed with a relative path."""
    (tmp_path / "project").mkdir()
    rows = [f"{a:.4f},{b:.4f},{'xyz'[i % 3]},{i // 4}" for i, (a, b) in enumerate(RANDOM.normal(size=(80, 2)))]
    (tmp_path / "project" / "t.csv").write_text("a,b,kind,patient\n" + "\n".join(rows) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "project")
        names = ("dataset.path=t.csv", "dataset.labels=kind", "dataset.groups=patient", "conditional=true")
        command(*TRAIN, *names, "hydra.run.dir=r")
    return tmp_path / "project"


def test_a_table_that_moved_is_found_and_a_changed_one_is_refused(project: Path, command: Command) -> None:
    """Names of columns are no paths; labels count as data."""
    stored = yaml.safe_load((project / "r" / "config.yaml").read_text())["dataset"]
    assert (stored["path"], stored["labels"], stored["groups"]) == (str(project / "t.csv"), "kind", "patient")
    before = nats(command("nll", "ckpt=project/r", *SCORE))
    (project / "t.csv").rename("moved.csv")
    moved = command("nll", "ckpt=project/r", *SCORE, "dataset.path=moved.csv")
    np.testing.assert_array_equal(nats(moved), before)
    assert "warning: split" not in moved.err
    gone = command("nll", "ckpt=project/r", *SCORE, code=1).problem
    assert "t.csv is not there; give dataset.path=FILE" in gone
    assert "looked for t.csv in" in gone
    resumed = ("train", "resume=project/r", "trainer.max_steps=3")
    text = Path("moved.csv").read_text()
    for other in (text.replace(",x,", ",y,", 1), text + "1.5,2.5,x,77\n"):
        Path("other.csv").write_text(other)
        refused = command(*resumed, "dataset.path=other.csv", code=1).problem
        assert "allowed: the data with which this run started" in refused
    again = command(*resumed, "dataset.path=moved.csv").run
    assert (again / "checkpoints" / "step_00000003.pt").exists()


def test_samples_of_a_table_keep_the_names_of_its_columns(
    project: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In ``samples.npz`` and over each plot, also from the weights alone; a name with dollars is no formula."""
    plotted: list[str] = []
    for ckpt in (project / "r", project / "r" / "weights.safetensors"):
        with monkeypatch.context() as patch:
            patch.setattr(plots, "histogram", lambda axes, values, window, title: plotted.append(title))
            drawn = command("sample", f"ckpt={ckpt}", "n=5", "sampler.steps=1").run
        with np.load(drawn / "samples.npz") as file:
            assert file["columns"].tolist() == ["a", "b"]
        assert plotted == ["a", "b"]
        plotted.clear()
    spec = dataclasses.replace(dfm.load(project / "r").spec, channel_names=("$a", "b$"))
    assert picture(torch.zeros(8, 2, dtype=torch.float64), spec).ndim == 3
    with pytest.raises(UserError, match=r"names of channels \('a',\); allowed: 2 texts, or none"):
        dataclasses.replace(spec, channel_names=("a",))
    np.save("x.npy", RANDOM.normal(size=(9, 3)))
    (Path("x.csv")).write_text("a,b,c\n1.5,2,3\n4,5,6.5\n7,8,9\n")
    assert ArrayFile(path="x.csv", layout="no_channels", validation=0, test=0).spec.channel_names == ()
    assert ArrayFile(path="x.npy").spec.channel_names == ()


def test_labels_in_a_file_of_their_own_move_with_their_path(command: Command, tmp_path: Path) -> None:
    np.save("x.npy", RANDOM.normal(size=(60, 2)))
    np.save("y.npy", np.arange(60) % 3)
    run = command(*TRAIN, "dataset.path=x.npy", "dataset.labels=y.npy", "conditional=true").run
    stored = yaml.safe_load((run / "config.yaml").read_text())["dataset"]
    assert stored["labels"] == str(tmp_path / "y.npy")
    Path("y.npy").rename("z.npy")
    scored = command("nll", f"ckpt={run}", *SCORE, "dataset.labels=z.npy")
    assert "warning: split" not in scored.err
    assert "y.npy is not there" in command("nll", f"ckpt={run}", *SCORE, code=1).problem


def test_a_training_without_held_out_examples_says_that_it_has_no_likelihood(command: Command) -> None:
    np.save("three.npy", RANDOM.normal(size=(3, 2)))
    outcome = command("train", "dataset=array", "model=mlp", *FAST, "logger=none", "dataset.path=three.npy", "nll.n=4")
    assert "no likelihood: the validation split has no examples (nll.split=train has some)" in outcome.err
    assert not (outcome.run / "nll.json").exists()


def test_rows_of_many_numbers_are_told_that_they_might_be_signals(command: Command) -> None:
    """The columns of a table have names, so nobody takes them for a signal."""
    rows = RANDOM.normal(size=(40, 100))
    np.save("ecg.npy", rows)
    np.savetxt("table.csv", rows, delimiter=",", header=",".join(f"c{i}" for i in range(100)), comments="")
    line = (
        "an example of shape (100,) is read as a row of 100 numbers, without an order in time or space; or "
        "dataset.layout=no_channels, as a signal"
    )
    assert line in command("data", "dataset=array", "dataset.path=ecg.npy").err
    facts = command("data", "dataset=array", "dataset.path=ecg.npy", "dataset.layout=no_channels").run / "data.json"
    assert (json.loads(facts.read_text())["shape"], json.loads(facts.read_text())["notices"]) == ([1, 100], [])
    assert "is read as" not in command("data", "dataset=array", "dataset.path=table.csv").err
