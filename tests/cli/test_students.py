"""Few-step students through the command line: a teacher's weights, their own sampler, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from support.cli import TINY, Command, Outcome, Trained, one_error

import dfm
from dfm.basics.errors import UserError
from dfm.data.numbers.stored_form import stored
from dfm.likelihood.ode import OdeLikelihood
from dfm.runs import checkpoint, metrics
from dfm.runs import directory as run_dir
from dfm.sampling.guidance import guided
from dfm.sampling.samplers import JumpSampler

TRAIN = [text for text in TINY if not text.startswith(("likelihood", "sampler"))]
SMALL = {
    "consistency": [],
    "progressive": ["objective.start=4", "trainer.max_steps=2"],
    "reflow": ["objective.n=6", "objective.solver_steps=1"],
    "meanflow": ["likelihood.solver=euler", "likelihood.steps=1"],
}


def student_of(trained: Trained, objective: str) -> Outcome:
    """A student of the tiny run, trained once for all tests that ask for it."""
    return trained(*TRAIN, f"objective={objective}", *SMALL[objective], "nll.n=2", teacher=TINY)


@pytest.mark.parametrize(
    "objective", [pytest.param(o, marks=() if o == "consistency" else pytest.mark.wide) for o in SMALL]
)
def test_a_student_samples_in_its_own_way_and_none_need_be_named(
    objective: str, tiny_run: Path, trained: Trained, command: Command
) -> None:
    student = student_of(trained, objective)
    assert "starts with the averaged weights" in student.err
    for steps in (1, 2, 4):
        run = command("sample", f"ckpt={student.run}", f"sampler.steps={steps}", "n=3").run
        facts = json.loads((run / "sample.json").read_text())
        assert (facts["nfe"], facts["sampler"], facts["settings"]["steps"]) == (steps, "own", steps)
        assert np.load(run / "samples.npz")["samples"].shape == (3, 8, 8, 1)
    named = command("sample", f"ckpt={student.run}", "sampler=heun", "sampler.steps=2", "n=1")
    assert "has its own sampler" in named.err
    if objective == "meanflow":
        assert (student.run / "nll.json").exists(), "at equal times it is a flow, with a density"
        return
    assert "no likelihood" in student.err
    for words in (["nll"], ["encode"], ["compare", f"other={tiny_run}"]):
        refused = command(*words, f"ckpt={student.run}", code=1).err
        assert "few-step model" in refused
        assert one_error(refused)


@pytest.mark.parametrize("objective", [pytest.param(o, marks=pytest.mark.wide if o == "reflow" else ()) for o in SMALL])
def test_from_python_a_student_is_drawn_from_as_by_the_command(
    objective: str, trained: Trained, command: Command
) -> None:
    student = student_of(trained, objective).run
    drawn = np.load(command("sample", f"ckpt={student}", "n=3", "seed=5").run / "samples.npz")["samples"]
    model = dfm.load(student)
    images = dfm.sample(model, 3, seed=5)
    assert np.abs(stored(images, model.spec).permute(0, 2, 3, 1).numpy().astype(int) - drawn).max() <= 17, "a level"
    if objective == "meanflow":
        assert dfm.log_likelihood(model, images, OdeLikelihood(steps=1)).isfinite().all()
        return
    twice = guided(model, model, 1.0)  # which knows no sampler of its own
    for use in (dfm.log_likelihood, dfm.encode, dfm.decode):
        for either in (model, twice):
            with pytest.raises(UserError, match="no ODE"):
                use(either, images)
    with pytest.raises(UserError, match="no ODE"):
        dfm.sample(twice, 1)


def test_a_student_between_its_rounds_is_for_as_many_steps_in_either_file(tiny_run: Path, command: Command) -> None:
    """Rounds to 4, 2 and 1 steps, a step each: what was learned first is sampled in 4."""
    words = [*TRAIN, "objective=progressive", "objective.start=8", f"init={tiny_run}", "nll.n=0", "trainer.max_steps=3"]
    run = command("train", *words, "trainer.checkpoint_every=1", "trainer.keep_checkpoints=9").run
    for path, steps in zip(reversed(run_dir.checkpoints(run)), (4, 2, 1), strict=True):
        found = checkpoint.read(path)
        checkpoint.save_weights(found, Path())
        for ckpt in (path, Path("weights.safetensors")):
            sampler = dfm.load(ckpt).own_sampler
            assert isinstance(sampler, JumpSampler)
            assert sampler.steps == steps


def test_a_sampler_that_does_not_suit_a_student_is_told(tiny_run: Path, command: Command) -> None:
    words = [*TRAIN, "objective=progressive", "objective.start=8", "objective.steps=4", f"init={tiny_run}", "nll.n=0"]
    student = command("train", *words).run

    def sampled(*more: str) -> tuple[str, np.ndarray]:
        outcome = command("sample", f"ckpt={student}", "n=2", *more)
        return outcome.err, np.load(outcome.run / "samples.npz")["samples"]

    told, own = sampled()
    assert "try" not in told
    assert "made for 4" in sampled("sampler=jump")[0]
    assert "renoise=True" in sampled("sampler=consistency", "sampler.steps=4")[0]
    told, named = sampled("sampler=jump", "sampler.steps=4")
    assert "try" not in told
    assert np.array_equal(named, own)
    settings = json.loads((command("sample", f"ckpt={student}", "n=1", "grid.power=3").run / "sample.json").read_text())
    assert settings["settings"]["grid"]["power"] == 3, "the grid's own keys are heeded"
    assert (settings["settings"]["steps"], settings["nfe"]) == (4, 4)


def test_a_student_trained_with_an_ode_sampler_is_not_followed_along_an_ode_unasked(command: Command) -> None:
    run = command("train", *TRAIN, "objective=consistency", "sampler=heun", "nll.n=0").run
    assert "try without sampler=" in command("sample", f"ckpt={run}", "n=1", "sampler.steps=2").err
    with pytest.raises(UserError, match="no ODE"):
        dfm.sample(dfm.load(run), 1)


def test_a_reflow_that_ends_as_a_flow_has_a_density_and_tells_its_straightness(
    tiny_run: Path, command: Command
) -> None:
    outcome = command(
        "train", *TINY, "objective=reflow", *SMALL["reflow"], "objective.one_step=false", "objective.k=2",
        f"init={tiny_run}",
    )  # fmt: skip
    assert (outcome.run / "nll.json").exists()
    told = [line for line in metrics.read_metrics(outcome.run / "metrics.jsonl") if "straightness" in line]
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
    assert "resumed at step 2" in command("train", f"resume={part}").err
    states = [checkpoint.read(run_dir.checkpoints(run)[0]).state for run in (whole, part)]
    for kind in ("network", "ema", "objective"):
        assert all(torch.equal(v, states[1][kind][name]) for name, v in states[0][kind].items())


def test_dropout_may_differ_from_the_teachers(tiny_run: Path, command: Command) -> None:
    command("train", *TRAIN, f"init={tiny_run}", "model.dropout=0.3", "trainer.max_steps=0", "nll.n=0")


REFUSALS = [
    (["objective=progressive"], "needs a teacher"),
    (["objective=progressive", "init=latest", "objective.start=6"], "start/steps"),
    (["objective=progressive", "init=latest", "schedule=vp"], "its schedule"),
    (["objective=meanflow", "prediction=noise"], "prediction=velocity"),
    (["objective=progressive", "coupling=ot", "init=latest"], "another coupling"),
]
MORE_REFUSALS = [
    (["objective=reflow"], "needs a teacher"),
    (["objective=reflow", "init=nowhere"], "init=nowhere: no such"),
    (["objective=reflow", "init=latest", "objective.n=0"], "allowed"),
    (["objective=progressive", "init=latest", "conditional=true"], "a model of 0 classes; allowed: 10"),
    (["objective=progressive", "init=latest", "prior=laplace"], "its prior"),
    (["objective=progressive", "init=latest", "dataset=moons"], "model"),
    (["objective=classifier", "init=latest"], "classifier"),
    (["objective=meanflow", "latent=root"], "latent=none"),
    (["objective=meanflow", "density=loss_aware"], "two times"),
    (["objective=progressive", "density=loss_aware", "init=latest"], "density=uniform"),
    (["objective=reflow", "coupling=ot", "init=latest"], "coupling=independent"),
    (["objective=progressive", "init=latest", "trainer.max_minutes=1"], "max_minutes=null"),
    (["objective=progressive", "init=latest", "trainer.max_steps=1"], "at least one step for each round"),
]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [*REFUSALS, *(pytest.param(*row, marks=pytest.mark.wide) for row in MORE_REFUSALS)],
)
def test_a_mistake_is_one_line(arguments: list[str], says: str, tiny_run: Path, command: Command) -> None:
    outcome = command("train", *TRAIN, *arguments, code=1)
    assert says in outcome.err
    assert outcome.problem


def test_a_flow_map_of_a_potential_is_refused(command: Command) -> None:
    words = ["objective=meanflow", "schedule=ou", "dataset=moons", "model=mlp", "prior=double_well"]
    assert "no potential" in command("train", *words, code=1).err


def test_a_student_does_not_teach(trained: Trained, command: Command) -> None:
    student = student_of(trained, "consistency").run
    refused = command("train", *TRAIN, "objective=progressive", f"init={student}", code=1).err
    assert "no ODE to teach" in refused
    map_run = student_of(trained, "meanflow").run
    assert "two times" in command("train", *TRAIN, f"init={map_run}", code=1).err


def test_a_flow_map_cannot_be_steered_in_its_jumps(trained: Trained, command: Command) -> None:
    student = student_of(trained, "meanflow").run
    refused = command("sample", f"ckpt={student}", "task=inpaint", "mask=left", "n=1", code=1).err
    assert "cannot be guided" in refused
    command("sample", f"ckpt={student}", "task=inpaint", "mask=left", "n=1", "sampler=heun", "sampler.steps=2")


@pytest.mark.wide
def test_a_student_is_sampled_with_the_steps_it_was_made_for(tiny_run: Path, command: Command) -> None:
    """Of progressive distillation each round's checkpoint has its own number; others are warned of."""
    words = ["objective=progressive", "objective.start=16", "objective.steps=2", f"init={tiny_run}", "nll.n=0"]
    run = command(
        "train", *TRAIN, *words, "trainer.max_steps=3", "trainer.checkpoint_every=1", "trainer.keep_checkpoints=3"
    ).run
    for path, steps in zip(run_dir.checkpoints(run), (2, 4, 8), strict=True):
        outcome = command("sample", f"ckpt={path}", "n=1")
        assert json.loads((outcome.run / "sample.json").read_text())["nfe"] == steps
    assert "made for 2" in command("sample", f"ckpt={run}", "n=1", "sampler.steps=1").err


def test_a_teacher_must_know_what_it_teaches(trained: Trained, command: Command) -> None:
    """Another data set of the same shape, another prediction, classes that were never hidden."""
    points = ["model=mlp", "trainer.max_steps=2", "trainer.batch_size=8", "nll.n=0", "samples.n=4"]
    moons = command("train", *points, "dataset=moons").run
    words = ["train", *points, "objective=progressive", "objective.start=4"]
    assert "other data" in command(*words, "dataset=eight_gaussians", f"init={moons}", code=1).err
    noise = command("train", *points, "dataset=moons", "objective=noise").run
    refused = command(*words, "dataset=moons", "prediction=noise", f"init={noise}", code=1).err
    assert "tells nothing about the data at t_max" in refused
    plain = [*TRAIN, "conditional=true", "nll.n=0"]
    teacher = trained(*TINY, "conditional=true").run
    again = ["train", *plain, "objective=progressive", "objective.start=4", f"init={teacher}", "label_dropout=0.1"]
    assert "trained without label_dropout" in command(*again, code=1).err


def test_a_run_in_rounds_keeps_its_length(trained: Trained, command: Command) -> None:
    run = student_of(trained, "progressive").run
    assert (
        "the rounds of this run depend on them" in command("train", f"resume={run}", "trainer.max_steps=9", code=1).err
    )
    # the loss of a reflow on held-out data would be its loss in training
    reflow = student_of(trained, "reflow").run
    assert not any("validation_loss" in line for line in metrics.read_metrics(reflow / "metrics.jsonl"))
