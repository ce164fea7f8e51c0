"""Commands and their directories: none replaces the result of another, and a refused one leaves nothing."""

import shlex
from pathlib import Path

import pytest
from support.cli import ALL, POINTS, SMALL, Command, Trained
from support.runs import contents

from dfm.cli.jobs.directories import RESULTS
from dfm.cli.settings import COMMANDS
from dfm.cli.words.printed_command import resumed, typed
from dfm.runs.claim import PREAMBLE, Claim
from dfm.runs.directory import LOCK

CHEAP = ("n=2", "sampler.steps=1")


def suggestion(problem: str) -> str:
    """The override that a message says to try."""
    (word,) = shlex.split(problem.rpartition("try ")[2].rpartition(", or ")[2])
    return word


def test_no_command_writes_into_a_training_run(tiny_run: Path, command: Command) -> None:
    """Not even Hydra's files and the log, which come before the command itself."""
    before = contents(tiny_run)
    words = ["sample", f"ckpt={tiny_run}", *CHEAP]
    refused = command(*words, f"hydra.run.dir={tiny_run}", "hydra.output_subdir=checkpoints", code=1)
    assert "already holds a run" in refused.problem
    assert contents(tiny_run) == before
    outcome = command(*words, suggestion(refused.problem))
    assert outcome.run == tiny_run / "sample"
    assert {
        path: text for path, text in contents(tiny_run).items() if tiny_run / "sample" not in (path, path.parent)
    } == before


def test_the_same_command_again_has_to_go_elsewhere(tiny_run: Path, command: Command) -> None:
    words = ["sample", f"ckpt={tiny_run}", *CHEAP]
    first = command(*words, 'hydra.run.dir="a=b/1 2"').run
    before = contents(first)
    refused = command(*words, 'hydra.run.dir="a=b/1 2"', code=1)
    assert "already holds results (grid.png, sample.json, samples.npz)" in refused.problem
    assert command(*words, suggestion(refused.problem)).run == first.with_name("1 2-2")
    assert contents(first) == before


def test_a_directory_in_use_is_refused_and_stays_as_it_is(tiny_run: Path, command: Command) -> None:
    with Claim(Path("busy"), RESULTS, command="sample", override=typed, resumed=resumed):
        before = contents(Path("busy"))
        refused = command("sample", f"ckpt={tiny_run}", "hydra.run.dir=busy", code=1)
        assert "another process is working in it" in refused.problem
        assert contents(Path("busy")) == before
    command("sample", f"ckpt={tiny_run}", *CHEAP, "hydra.run.dir=busy")


def test_a_refused_resume_changes_nothing(tiny_run: Path, command: Command) -> None:
    """Its own log included, and a run of an older dfm gets no lock."""
    (tiny_run / LOCK).unlink()
    before = contents(tiny_run)
    for words in (["trainer.lr=3"], ["nll.split=tset"], ["hydra.run.dir=elsewhere"]):
        assert command("train", f"resume={tiny_run}", *words, code=1).problem
    assert contents(tiny_run) == before
    assert not Path("elsewhere").exists()


def test_a_run_without_a_checkpoint_begins_again_as_the_message_says(command: Command) -> None:
    words = ["train", *POINTS, *SMALL, "sampler.steps=1", "trainer.checkpoint_every=0", "hydra.run.dir=run"]
    command(*words)
    for file in Path("run").glob("checkpoints/*"):
        file.unlink()  # as a kill before the first checkpoint leaves it
    refused = command(*words, code=1)
    assert "without a checkpoint; try resume=auto as well, or hydra.run.dir=" in refused.problem
    command(*words, "resume=auto")


@pytest.mark.wide
def test_the_results_of_every_command_are_known(trained: Trained, command: Command) -> None:
    """Whatever a command leaves is a result that no other replaces, or what comes before one."""
    run = trained(*POINTS, *SMALL, "sampler.steps=1").run
    images = trained(*SMALL, "sampler.steps=1", "conditional=true", "model.channels=8", "model.groups=4").run
    here, flow = f"ckpt={run}", ("flow.solver=euler", "flow.steps=1")
    encoded = command("encode", here, "n=2", *flow).run
    lines = {
        "data": [POINTS[:-1]],
        "train": [("objective=reflow", f"init={run}", "objective.n=4", "objective.solver_steps=1", *POINTS, *SMALL)],
        "sample": [(here, *CHEAP), (f"ckpt={images}", *CHEAP, "png=true", "task=inpaint", "mask=left")],
        "encode": [(here, "n=2", *flow)],
        "decode": [(here, f"latents={encoded}", *flow)],
        "compare": [(here, f"other={run}", "n=2", *flow)],
        "check": [("steps=[2]", "n=8", "samplers=[euler]"), (here, "steps=[2]", "n=8", "samplers=[euler]")],
        "eval": [(here, "n=4", "sampler.steps=1")],
        "nll": [
            (here, "likelihood=all", *ALL, "n=2", "audit=2", f"against={run}"),
            (f"ckpt={images}", "n=2", "audit=2", "per_class=true", "likelihood=bound_sde", "likelihood.steps=1"),
        ],
    }
    assert lines.keys() == COMMANDS.keys()
    for name, words in [(name, words) for name, each in lines.items() for words in each]:
        directory = command(name, *words).run
        known = {p for pattern in (*COMMANDS[name].results, *PREAMBLE, LOCK) for p in directory.glob(pattern)}
        assert {path for path in directory.rglob("*") if path.is_file()} <= known, name
        assert "already holds" in command("sample", here, f"hydra.run.dir={directory}", code=1).problem
