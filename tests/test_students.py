"""Few-step students through the command line: a teacher's weights, their own sampler, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY, Command

from dfm import checkpoint, run_dir

TRAIN = [text for text in TINY if not text.startswith(("likelihood", "sampler"))]
SMALL = {
    "consistency": [],
    "progressive": ["objective.start=4"],
    "reflow": ["objective.n=6", "objective.solver_steps=1"],
    "meanflow": [],
}


@pytest.mark.parametrize("objective", SMALL)
def test_a_student_samples_in_its_own_way_and_none_need_be_named(
    objective: str, tiny_run: Path, command: Command
) -> None:
    student = command("train", *TRAIN, f"objective={objective}", *SMALL[objective], f"init={tiny_run}", "nll.n=2")
    assert "begins with the averaged weights" in student.out
    for steps in (1, 2, 4):
        run = command("sample", f"ckpt={student.run}", f"sampler.steps={steps}", "n=3").run
        facts = json.loads((run / "sample.json").read_text())
        assert (facts["nfe"], facts["sampler"], facts["settings"]["steps"]) == (steps, "own", steps)
        assert np.load(run / "samples.npz")["samples"].shape == (3, 8, 8, 1)
    named = command("sample", f"ckpt={student.run}", "sampler=heun", "sampler.steps=2", "n=1")
    assert "sampler of its own" in named.out
    if objective == "meanflow":
        assert (student.run / "nll.json").exists(), "at equal times it is a flow, with a density"
        return
    assert "no likelihood" in student.out
    for words in (["nll"], ["encode"], ["compare", f"other={tiny_run}"]):
        refused = command(*words, f"ckpt={student.run}", code=1).err
        assert "few-step model" in refused
        assert len(refused.strip().splitlines()) == 1


def test_a_reflow_that_ends_as_a_flow_has_a_density_and_tells_its_straightness(
    tiny_run: Path, command: Command
) -> None:
    outcome = command(
        "train", *TINY, "objective=reflow", *SMALL["reflow"], "objective.one_step=false", "objective.k=2",
        f"init={tiny_run}",
    )  # fmt: skip
    assert (outcome.run / "nll.json").exists()
    told = [line for line in run_dir.read_metrics(outcome.run / "metrics.jsonl") if "straightness" in line]
    assert [line["round"] for line in told] == [0, 1, 2], "of the teacher, and after each round"
    assert sorted(p.name for p in (outcome.run / "pairs").iterdir()) == ["round_0.safetensors", "round_1.safetensors"]
    score = command("sample", f"ckpt={outcome.run}", "sampler=euler_maruyama", "n=1", code=1).err
    assert "score is not known" in score


def test_a_student_resumes_without_its_teacher(tiny_run: Path, command: Command) -> None:
    """The teacher's weights are in the checkpoint: the run goes on when the teacher's directory is gone."""
    words = [*TRAIN, "objective=progressive", "objective.start=4", f"init={tiny_run}", "nll.n=0", "trainer.max_steps=4"]
    whole = command("train", *words).run
    part = command("train", *words, "trainer.checkpoint_every=2", "hydra.run.dir=part").run
    run_dir.checkpoints(part)[0].unlink()
    tiny_run.rename(tiny_run.with_name("gone"))
    assert "resumed at step 2" in command("train", f"resume={part}").out
    states = [checkpoint.read(run_dir.checkpoints(run)[0]).state for run in (whole, part)]
    for kind in ("network", "ema", "objective"):
        assert all(torch.equal(v, states[1][kind][name]) for name, v in states[0][kind].items())


def test_dropout_may_differ_from_the_teachers(tiny_run: Path, command: Command) -> None:
    command("train", *TRAIN, f"init={tiny_run}", "model.dropout=0.3", "trainer.max_steps=0", "nll.n=0")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["objective=progressive"], "needs a teacher"),
        (["objective=reflow"], "needs a teacher"),
        (["objective=reflow", "init=nowhere"], "nowhere"),
        (["objective=progressive", "init=latest", "objective.start=6"], "start/steps"),
        (["objective=reflow", "init=latest", "objective.n=0"], "allowed"),
        (["objective=progressive", "init=latest", "conditional=true"], "shape and classes"),
        (["objective=progressive", "init=latest", "schedule=vp"], "its schedule"),
        (["objective=progressive", "init=latest", "prior=laplace"], "its prior"),
        (["objective=progressive", "init=latest", "dataset=moons"], "model"),
        (["objective=classifier", "init=latest"], "classifier"),
        (["objective=meanflow", "prediction=noise"], "prediction=velocity"),
    ],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    outcome = command("train", *TRAIN, *arguments, code=1)
    assert says in outcome.err
    assert len(outcome.err.strip().splitlines()) == 1


def test_a_student_does_not_teach(tiny_run: Path, command: Command) -> None:
    student = command("train", *TRAIN, "objective=consistency", f"init={tiny_run}", "nll.n=0").run
    refused = command("train", *TRAIN, "objective=progressive", f"init={student}", code=1).err
    assert "no ODE to teach" in refused
    map_run = command("train", *TRAIN, "objective=meanflow", f"init={tiny_run}", "nll.n=0").run
    assert "two times" in command("train", *TRAIN, f"init={map_run}", code=1).err


def test_a_flow_map_cannot_be_steered_in_its_jumps(tiny_run: Path, command: Command) -> None:
    student = command("train", *TRAIN, "objective=meanflow", f"init={tiny_run}", "nll.n=0").run
    refused = command("sample", f"ckpt={student}", "task=inpaint", "mask=left", "n=1", code=1).err
    assert "cannot be steered" in refused
    command("sample", f"ckpt={student}", "task=inpaint", "mask=left", "n=1", "sampler=heun", "sampler.steps=2")
