"""Data that moved, a run that was copied elsewhere, a run that gets longer: what may change, and what is told."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors
import yaml
from PIL import Image
from support.cli import POINTS, TINY, Command
from support.runs import assert_same

from dfm.runs import checkpoint, directory

FOLDER = (*TINY, "dataset=folder", "dataset.size=8", "dataset.test=0.2", "dataset.validation=0.2", "nll.n=0")
SCORE = ("n=4", "likelihood.solver=euler", "likelihood.steps=1", "audit=0")


def draw_pictures(folder: Path, seed: int = 0) -> None:
    folder.mkdir(parents=True)
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def project(command: Command, tmp_path: Path) -> Path:
    """A directory with pictures in ``data/pics`` and a run in ``runs/r``, which was typed with a relative path."""
    draw_pictures(tmp_path / "project" / "data" / "pics")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path / "project")
        command("train", *FOLDER, "dataset.path=data/pics", "hydra.run.dir=runs/r", "logger=none")
    return tmp_path / "project"


def scored(outcome: object) -> float:
    return float(json.loads((outcome.run / "nll.json").read_text())["nats"])  # type: ignore[attr-defined]


def test_a_checkpoint_finds_its_data_from_any_directory(project: Path, command: Command) -> None:
    """Then moved and named; then copied with the run to another place; then gone."""
    assert yaml.safe_load((project / "runs/r/config.yaml").read_text())["dataset"]["path"] == str(project / "data/pics")
    nats = scored(command("nll", "ckpt=project/runs/r", *SCORE))
    (project / "data" / "pics").rename("moved")
    moved = command("nll", "ckpt=project/runs/r", *SCORE, "dataset.path=moved")
    assert scored(moved) == nats
    assert "warning: split" not in moved.err
    shutil.copytree(project / "runs", "other machine/runs")
    shutil.copytree("moved", "other machine/data/pics")
    there = command("nll", 'ckpt="other machine/runs/r"', *SCORE)
    assert scored(there) == nats
    assert f"the data are read from {Path('other machine/data/pics').absolute()}" in there.err
    gone = command("nll", "ckpt=project/runs/r", *SCORE, code=1).problem
    assert "give dataset.path=DIR" in gone
    assert f"looked for pics in {project / 'runs' / 'r'} and the folders above it too" in gone


NEW = ("ckpt=project/runs/r", "dataset.path=moved")


@pytest.mark.wide
def test_every_command_takes_the_new_place(project: Path, command: Command) -> None:
    (project / "data" / "pics").rename("moved")
    latents = command("encode", *NEW, "n=2", "flow.solver=euler").run
    command("decode", *NEW, f"latents={latents}", "flow.solver=euler")
    command("sample", *NEW, "n=2", "sampler.steps=1", "task=inpaint", "mask=left")
    command("check", *NEW, "n=8", "samplers=[euler]", "steps=[1]")
    command("eval", *NEW, "n=4", "sampler.steps=1", "features=coordinates")
    command("compare", *NEW, "other=project/runs/r", "n=2", "flow.solver=euler")


def test_a_command_that_reads_no_data_takes_the_new_place_and_no_other_key_there(
    project: Path, command: Command
) -> None:
    (project / "data" / "pics").rename("moved")
    ckpt = NEW[0]
    command("sample", *NEW, "n=2", "sampler.steps=1")
    assert "dataset.size=9: it has no effect" in command("sample", ckpt, "dataset.size=9", code=1).problem
    assert "did you mean 'dataset.path'" in command("nll", ckpt, "dataset.pth=x", code=1).problem


def test_other_data_are_told_and_never_trained_on(project: Path, command: Command) -> None:
    """Scores warn, a resumed run refuses, and the command that it names works as it stands."""
    draw_pictures(Path("others"), seed=1)
    told = command("nll", "ckpt=project/runs/r", *SCORE, "dataset.path=others").err
    assert "warning: split=test: not the test data of the run that trained this model (their content differs)" in told
    words = ["resume=project/runs/r", "trainer.max_steps=3"]
    refused = command("train", *words, "dataset.path=others", code=1).problem
    assert "instead of" in refused or "has other examples" in refused
    new = refused.partition("try dfm ")[2].split()
    assert new[:2] == ["train", f"from={project / 'runs' / 'r'}"]
    assert "starts with the averaged weights" in command(*new).err
    assert "resumed at step 2" in command("train", *words).err


@pytest.mark.wide
def test_a_run_goes_on_where_its_data_are_now(project: Path, command: Command) -> None:
    """Bit for bit, by ``resume=``, by a repeated command line, and where both moved together."""
    every = [f"trainer.{name}_every=1" for name in ("log", "sample", "validate")]
    start = [*(word for word in FOLDER if "max_steps" not in word), *every]
    pics = project / "data" / "pics"
    longer = ("trainer.max_steps=3", "trainer.lr_schedule=constant", "logger=none")
    whole = command("train", *start, f"dataset.path={pics}", *longer).run
    command("train", *start, f"dataset.path={pics}", *longer, "trainer.max_steps=2", "hydra.run.dir=a")
    shutil.copytree("a", "b")
    shutil.copytree("a", "copy/c")
    pics.rename("moved")
    command("train", "resume=a", "dataset=folder", "dataset.path=moved", *FOLDER[-4:-1], longer[0])
    command("train", *start, "dataset.path=moved", *longer, "resume=auto", "hydra.run.dir=b")
    shutil.copytree("moved", "copy/pics")
    command("train", "resume=copy/c", longer[0], "logger=tensorboard", "trainer.device=cpu")
    for run in ("a", "b", "copy/c"):
        assert_same(whole, Path(run))
    assert (Path("copy/c") / "tensorboard").is_dir(), "another tracker"


@pytest.mark.wide
def test_weights_to_give_away_name_no_place(project: Path, command: Command) -> None:
    weights = project / "runs/r/weights.safetensors"
    with safetensors.safe_open(weights, framework="pt") as file:
        metadata = json.dumps(file.metadata())
    assert str(project) not in metadata
    assert "dataset" in metadata
    beside = scored(command("nll", f"ckpt={weights}", *SCORE))
    assert beside == scored(command("nll", "ckpt=project/runs/r", *SCORE)), "in its run it knows its data"
    shutil.copy(weights, "given.safetensors")
    assert "dataset.path=DIR" in command("nll", "ckpt=given.safetensors", *SCORE, code=1).problem
    assert scored(command("nll", "ckpt=given.safetensors", *SCORE, f"dataset.path={project / 'data/pics'}")) == beside


@pytest.mark.wide
def test_the_data_of_a_prior_move_too(command: Command) -> None:
    """Data-to-data translation: samples start at another data set, which is found, or named."""
    draw_pictures(Path("one"))
    draw_pictures(Path("two"), seed=1)
    prior = ("prior=dataset", "dataset@prior.dataset=folder", "prior.dataset.path=two", "prior.dataset.size=8")
    run = command("train", *FOLDER, "dataset.path=one", *prior, "logger=none").run
    before = np.load(command("sample", f"ckpt={run}", "n=2", "sampler.steps=1").run / "samples.npz")["samples"]
    latents = command("encode", f"ckpt={run}", "n=2", "flow.solver=euler").run
    Path("two").rename("far")
    draw_pictures(Path("deep/er/two"), seed=1)
    found = command("sample", f"ckpt={run}", "n=2", "sampler.steps=1", "prior.dataset.path=deep/er/two").run
    assert np.array_equal(np.load(found / "samples.npz")["samples"], before)
    command("decode", f"ckpt={run}", f"latents={latents}", "flow.solver=euler", "prior.dataset.path=deep/er/two")
    assert "did you mean 'prior.dataset.path'" in command(
        "sample", f"ckpt={run}", "prior.dataset.pth=x", code=1
    ).problem  # fmt: skip
    command("train", f"resume={run}", "trainer.max_steps=3", "prior.dataset.path=deep/er/two")


LONG = (
    *POINTS, "model.width=8", "model.depth=1", "trainer.batch_size=8", "trainer.warmup_steps=2", "trainer.lr=0.01",
    "trainer.log_every=1", "trainer.sample_every=0", "trainer.validate_every=0", "nll.n=0", "samples.n=2",
    "logger=none", "sampler.steps=1",
)  # fmt: skip


def rates(run: Path) -> list[float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["learning_rate"] for line in lines if "learning_rate" in line]


def test_a_longer_run_says_what_its_rate_does(command: Command) -> None:
    """Rewarmed it has the rates of a run of the new length; kept it falls from the last one."""
    command("train", *LONG, "trainer.max_steps=10", "hydra.run.dir=a")
    shutil.copytree("a", "b")
    whole = rates(command("train", *LONG, "trainer.max_steps=20").run)
    rewarmed = command("train", "resume=a", "trainer.max_steps=20")
    last = rates(Path("b"))[-1]
    assert rates(Path("a"))[10:] == whole[10:]
    said = f"trainer.max_steps is 20, was 10: the learning rate goes from {last:.3g} to {whole[10]:.3g}"
    assert said in rewarmed.err
    kept = command("train", "resume=b", "trainer.max_steps=20", "trainer.rate_on_resume=keep")
    assert f"the learning rate goes from {last:.3g} to {last:.3g}" in kept.err
    expected = [last * (1 + np.cos(np.pi * k / 10)) / 2 for k in range(10)]
    assert rates(Path("b"))[10:] == pytest.approx(expected)


@pytest.mark.wide
def test_a_kept_rate_stays_kept_after_a_kill(command: Command) -> None:
    command("train", *LONG, "trainer.max_steps=10", "hydra.run.dir=b")
    shutil.copytree("b", "c")
    keep = ("trainer.max_steps=20", "trainer.rate_on_resume=keep")
    command("train", "resume=b", *keep)
    command("train", "resume=c", *keep, "trainer.checkpoint_every=15")
    for path in directory.checkpoints(Path("c"))[:1]:  # as if it had been killed after step 15
        path.unlink()
    again = command("train", "resume=c")
    assert "resumed at step 15" in again.err
    assert "learning rate goes" not in again.err
    assert rates(Path("c")) == rates(Path("b"))
    states = [checkpoint.read(directory.checkpoints(Path(name))[0]).state for name in "bc"]
    assert all((states[0]["network"][key] == states[1]["network"][key]).all() for key in states[0]["network"])
