"""What an error suggests works as written: the suggestion is taken, and the command is not refused again.

Each row is a command line that provokes an error. The suggestion is read out of whatever the message says, so rows stay
when messages change. A training is set up as far as its first step; other commands run whole.
"""

from pathlib import Path
from typing import Any

import pytest
from support.cli import TINY, Command, in_this_process
from support.suggestions import applied

OF_WORDS = {  # refused before a part is built
    "key": ["trainer.lrr=1"],
    "group": ["predicton=v"],
    "key without its group": ["max_steps=4"],
    "capitals": ["TRAINER.LR=3e-4"],
    "slash": ["trainer/lr=3e-4"],
    "key of another option": ["sampler=heun", "sampler.solver.rtol=1e-3"],
    "times of another sampler": ["sampler=dopri5", "sampler.times=[0.999,0.001]"],
    "option": ["objective=flow_matchng"],
    "part for an option": ["objective.density=uniform"],
    "placed part for an option": ["density=levels", "density.grid=rho"],
    "key below a value": ["trainer.lr.x=1e-3"],
    "key below a reference": ["objective.density.stratified=false"],
    "added option": ["+sampler=heun"],
    "added by force": ["++sampler=heun"],
    "place that is not there": ["sampler@foo=heun"],
    "deletion": ["~nothing"],
    "reference": ["trainer.lr=${foo}"],
    "environment": ["trainer.lr=${oc.env:NO_SUCH_NAME}"],
    "resolver": ["trainer.lr=${nope:1}"],
    "missing": ["trainer.lr=???"],
    "bracket": ["trainer.betas=[0.9,0.99"],
    "several": ["trainer.lr=1e-3,2e-3"],
    "no value": ["conditional"],
    "an option alone": ["heun"],
    "a group alone": ["schedule"],
    "a colon": ["trainer.lr:3e-4"],
    "a space": ["trainer.lr =3e-4"],
    "no key": ["=5"],
    "flag for a key": ["--lr", "3e-4"],
    "flag for a nested key": ["--max-steps=3"],
    "flag for a group": ["--sampler", "heun"],
    "flag for a switch": ["--conditional"],
    "unknown flag": ["--xyz"],
    "unlisted": ["model.scale_shift=true"],
}
OF_PARTS = {  # refused by the parts of a training
    "unused": ["objective=meanflow", "model=unet_small", "uncertainty=learned"],
    "classes": ["dataset=checkerboard", "model=mlp", "conditional=true"],
    "device": ["trainer.device=abacus"],
    "betas": ["trainer.betas=[1,0]"],
    "points": ["dataset=moons", "model=unet_small"],
    "resolutions": ["model.channel_multipliers=[1,1,1,1,1]"],
    "no resolution": ["model.channel_multipliers=[]"],
    "patch": ["model=unet_patch", "model.patch=3"],
    "groups": ["model.groups=5"],
    "heads": ["model.num_heads=3"],
    "a key that is there": ["+trainer.lr=3e-4"],
    "dropout": ["model.dropout=1"],
    "blocks": ["model.blocks_per_level=0"],
    "attention": ["model.attention_levels=[7]"],
    "cosine": ["schedule=cosine", "schedule.s=0"],
    "latent": ["objective=interpolant", "latent=root", "latent.scale=0"],
    "adaptive": ["sampler=dopri5", "sampler.steps=5"],
    "huber": ["objective=consistency", "objective.huber=0"],
    "fsdp and compile": ["trainer.parallel=fsdp", "trainer.compile=true"],
    "optimiser": ["trainer.optimizer=adamv"],
    "precision": ["trainer.precision=fp23"],
    "split": ["nll.split=tset"],
    "teacher": ["objective=reflow"],
}
OF_STEPS = {  # refused in the first step, or by the first picture
    "integers": ["grid=integers"],
    "density": ["schedule=edm", "density=logit_normal"],
    "label-aware": ["coupling=label_aware"],
}
OF_COMMANDS = {  # with a checkpoint of the digits
    "no checkpoint": ["sample"],
    "split": ["nll", "ckpt=latest", "split=tset"],
    "solver": ["nll", "ckpt=latest", "likelihood.solver=rk6"],
    "mask": ["sample", "ckpt=latest", "task=inpaint"],
    "unknown mask": ["sample", "ckpt=latest", "task=inpaint", "mask=lef"],
    "mask without a task": ["sample", "ckpt=latest", "mask=left"],
    "scale": ["sample", "ckpt=latest", "task=inpaint", "mask=left", "task.scale=-1"],
    "adaptive steps": ["sample", "ckpt=latest", "sampler=dopri5", "sampler.steps=5"],
    "adaptive times": ["sample", "ckpt=latest", "sampler=dopri5", "sampler.times=[0.999,0.001]"],
    "weaker model": ["sample", "ckpt=latest", "guidance=autoguidance"],
    "image": ["sample", "ckpt=latest", "task=inpaint", "mask=left", "index=9999"],
    "no samples": ["eval"],
    "no data": ["eval", "samples=DRAWN"],
    "a command": ["smaple", "ckpt=latest"],
    "other": ["compare", "ckpt=latest"],
    "many": ["sample", "ckpt=a,b", "n=1"],
    "a path alone": ["sample", "RUN"],
    "flag": ["sample", "ckpt=latest", "--png"],
}
QUICK_ROWS = (
    "times of another sampler",
    "key",
    "several",
    "flag for a key",
    "part for an option",
    "adaptive",
    "groups",
)
SMALL = {
    "sample": ("n=2", "sampler.steps=1"), "nll": ("n=2", "likelihood.steps=1"), "compare": ("n=2",),
    "eval": ("n=8", "features=coordinates"),
}  # fmt: skip


@pytest.fixture
def no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training ends before its first step."""
    monkeypatch.setattr("dfm.cli.commands.train.command.train", lambda run, interruption: None)
    monkeypatch.setattr("dfm.cli.commands.train.command.TrainingRun.refuse_if_not_saved", lambda run: None)
    monkeypatch.setattr("dfm.cli.commands.train.command.write_final_report", lambda run: None)


def marked(rows: dict[str, list[str]]) -> list[Any]:
    """The rows as parameters; most of them are breadth."""
    quick = {name: [] if name in QUICK_ROWS else [pytest.mark.wide] for name in rows}
    return [pytest.param(words, id=name, marks=quick[name]) for name, words in rows.items()]


def check(words: list[str], small: tuple[str, ...], fill: dict[str, str]) -> None:
    """The command is refused in one line, and accepted when the suggestion is taken."""
    refused = in_this_process(*words, code=1)
    better = applied(words, refused.problem, fill)
    assert better != words
    given = {word.lstrip("+").partition("=")[0] for word in better}
    small = () if "--help" in better else tuple(word for word in small if word.partition("=")[0] not in given)
    in_this_process(*better, *small)


@pytest.mark.usefixtures("no_steps", "command")
@pytest.mark.parametrize("words", marked({**OF_WORDS, **OF_PARTS}))
def test_a_suggestion_for_a_training_works(words: list[str]) -> None:
    check(["train", *words, "logger=none"], ("nll.n=0",), {"VALUE": "1e-3" if "model" not in words[0] else "true"})


@pytest.mark.wide
@pytest.mark.parametrize("words", marked(OF_COMMANDS))
def test_a_suggestion_for_another_command_works(words: list[str], tiny_run: Path, command: Command) -> None:
    run = str(tiny_run)
    if "samples=DRAWN" in words:
        drawn = command("sample", f"ckpt={run}", "n=8", "sampler.steps=1").run
        words = [word.replace("DRAWN", str(drawn)) for word in words]
    words = [word.replace("RUN", run) if word == "RUN" else word for word in words]
    small = SMALL.get(words[0], SMALL["sample"])
    check(words, small, {"RUN": run, "RUN_DIR": run, "VALUE": "1"})


@pytest.mark.wide
@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("words", marked(OF_STEPS))
def test_a_suggestion_for_the_first_step_works(words: list[str]) -> None:
    check(["train", *words, *TINY], (), {})


def test_the_rows_are_many() -> None:
    assert len({**OF_WORDS, **OF_PARTS, **OF_STEPS, **OF_COMMANDS}) >= 70, "no row is lost"
