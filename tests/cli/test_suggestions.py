"""What an error suggests works as written: the suggestion is taken, and the command is not refused again.

Each row is a command line that provokes an error. The suggestion is read out of whatever the message says, so rows stay
when messages change. A training is set up as far as its first step; other commands run whole.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.cli import FAST, POINTS, TINY, Command, in_this_process, train_once
from support.refusals import OF_COMMANDS, OF_PARTS, OF_STEPS, OF_WORDS
from support.suggestions import applied

from dfm.runs.pictures.images import save_png

QUICK_ROWS = (
    "times of another sampler",
    "key",
    "key of networks for other data",
    "key of other networks",
    "several",
    "flag for a key",
    "part for an option",
    "adaptive",
    "groups",
)
SMALL = {
    "sample": ("n=2", "sampler.steps=1"), "nll": ("n=2", "likelihood.steps=1"), "compare": ("n=2",),
    "eval": ("n=8", "features=coordinates"), "encode": ("n=2",),
    "check": ("n=8", "steps=[1]", "samplers=[heun]"), "train": (),
}  # fmt: skip
OTHER_RUNS = {  # what the rows call by these names, next to the RUN on the digits
    "CONDITIONAL": (*TINY, "conditional=true"),
    "POINTS": (*POINTS, *FAST),
    "MEANFLOW": (*TINY, "objective=meanflow"),
    "CLASSIFIER": (*TINY[:5], "objective=classifier", "nll.n=9"),
}


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
    check(
        ["train", *words, "logger=none"],
        ("nll.n=0",),
        {"VALUE": "1e-3" if "model" not in words[0] else "true", "DIR": "another"},
    )


@pytest.fixture
def named(shared: Path, tiny_run: Path, command: Command) -> Callable[[str], str]:
    """A word of a row with the path in place of the name that stands for it."""

    def path(name: str) -> Path:
        if name == "DRAWN":
            return command("sample", f"ckpt={tiny_run}", "n=8", "sampler.steps=1").run
        if name == "PICTURES":
            Path("pictures").mkdir(exist_ok=True)
            for picture, size in (("large", 9), ("white", 8)):
                save_png(
                    torch.full((size, size, 1), 255, dtype=torch.uint8).numpy(), Path("pictures") / f"{picture}.png"
                )
            return Path("pictures").absolute()
        if name == "THREES":
            labelled = train_once(shared, OTHER_RUNS["CONDITIONAL"]).run
            return command("sample", f"ckpt={labelled}", "n=8", "label=3", "sampler.steps=1").run
        return tiny_run if name == "RUN" else train_once(shared, OTHER_RUNS[name]).run

    def word_of(word: str) -> str:
        return re.sub(
            "|".join((*OTHER_RUNS, "RUN", "DRAWN", "THREES", "PICTURES")), lambda found: str(path(found[0])), word
        )

    return word_of


@pytest.mark.wide
@pytest.mark.parametrize("words", marked(OF_COMMANDS))
def test_a_suggestion_for_another_command_works(words: list[str], named: Callable[[str], str]) -> None:
    if words[0] == "train":
        given = {word.partition("=")[0] for word in words}
        words = ["train", *(word for word in TINY if word.partition("=")[0] not in given), *words[1:]]
    words = [named(word) for word in words]
    small = SMALL.get(words[0], SMALL["sample"])
    if "sampler=dopri5" in words:
        small = ("n=2",)
    run = named("CLASSIFIER" if "guidance=classifier" in words else "RUN")
    if "guidance=cfg" in words:
        run = named("CONDITIONAL")
    check(words, small, {"RUN": run, "RUN_DIR": run, "DIR": "another", "VALUE": "1", "NAME": "digits"})


@pytest.mark.wide
@pytest.mark.usefixtures("command")
@pytest.mark.parametrize("words", marked(OF_STEPS))
def test_a_suggestion_for_the_first_step_works(words: list[str]) -> None:
    small = (*POINTS, *FAST) if "dataset=moons" in words else TINY
    check(["train", *small, *words], (), {})


@pytest.mark.parametrize(
    ("words", "allowed"),
    [
        (["encode", "likelihood=all"], "flow, schedule"),
        (["encode", "likelihood=5"], "flow, schedule"),
        (["nll", "sampler=heun,euler"], "dequantization, likelihood, schedule"),
        (["decode", "sampler"], "decoder, flow, schedule"),
    ],
)
def test_a_group_of_other_commands_is_told_as_that(words: list[str], allowed: str, command: Command) -> None:
    """The value may well be an option of the group: the line names the command's own groups, and where this one is."""
    problem = command(*words, code=1).problem
    assert f"{words[1]}: dfm {words[0]} has no {words[1].partition('=')[0]}, which is a group of dfm train" in problem
    assert f"; allowed: {allowed}; try without it" in problem


@pytest.mark.parametrize(
    ("words", "way"),
    [
        (["encode", "sampler.steps=2"], "flow.solver=heun flow.steps=2"),
        (["decode", "steps=2"], "flow.solver=heun flow.steps=2"),
        (["sample", "flow.steps=2"], "sampler.steps=2"),
        (["sample", "trainer.lr=1"], "without trainer.lr"),
    ],
)
def test_a_key_of_another_command_brings_the_own_key_with_what_it_needs(
    words: list[str], way: str, command: Command
) -> None:
    assert command(*words, code=1).problem.endswith(f"; try {way}")


def test_the_rows_are_many() -> None:
    assert len({**OF_WORDS, **OF_PARTS, **OF_STEPS, **OF_COMMANDS}) >= 137, "no row is lost"
