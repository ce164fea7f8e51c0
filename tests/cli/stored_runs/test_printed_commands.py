"""Commands that dfm prints work as they are printed: in a shell, in Hydra's grammar, with the user's own code."""

import re
import shlex
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from support.cli import FAST, POINTS, Command, Outcome, Trained

from dfm.cli.words.printed_command import printed, setting

QUICK_RUN = (*POINTS, *FAST, "nll.n=0", "logger=none", "model.width=8", "model.depth=1")
NAMES = (
    "runs/a", "runs/lr=0.1", "図/r", "a b", "a'b", 'a"b', "a\\b", "end\\", '\\"', "1", "null", "true", "a,b", "[x]",
    "{a: 1}", "a(b)", "$HOME", "${oc.env:HOME}", "~/runs", "a#b", "a;b & c", "*", "é", "-a", " lead", "",
)  # fmt: skip


def read(word: str) -> object:
    """What Hydra and OmegaConf make of an override's value."""
    return OmegaConf.create({"key": OverridesParser.create().parse_override(word).value()})["key"]


def in_shell(outcome: Outcome, after: str = "try ") -> list[str]:
    """The words of the command that a message tells to try, as a shell splits them."""
    line = outcome.problem.rpartition(f"{after}dfm ")[2]
    return shlex.split(re.split(r", or (?:another|'?hydra\.run\.dir=)", line)[0])


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_directory_is_read_as_it_is(name: str) -> None:
    assert read(setting("ckpt", name)) == name
    assert shlex.split(printed("nll", setting("ckpt", name)))[-1] == setting("ckpt", name)


@given(st.text(st.characters(exclude_categories=["C"]), max_size=12))
@example("\\${")
@example("\\\\${a}")
def test_any_text_is_read_as_it_is(name: str) -> None:
    assert read(setting("ckpt", name)) == name


def test_plain_names_stay_plain() -> None:
    assert setting("resume", "outputs/2026-11-30/12-50-41-275586-train") == (
        "resume=outputs/2026-11-30/12-50-41-275586-train"
    )


@pytest.mark.parametrize(
    "words",
    [
        ("train", "-cd", "my files", "trust=own,more", "schedule=own"),
        ("train", "--config-dir", "my files", "trust=[own]", "schedule=own"),
        ("train", "--config-dir=my files", "hydra.searchpath=[file:///x]", "trust=own"),
    ],
)
def test_the_users_own_code_and_files_are_named_again(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["dfm", *words])
    own = [word for word in words[1:] if word != "schedule=own"]
    assert shlex.split(printed("train", "resume=r")) == ["dfm", "train", *own, "resume=r"]


def test_a_run_that_is_there_goes_on_as_told(command: Command) -> None:
    directory = 'hydra.run.dir="it\'s lr=0.1, 図"'
    command("train", *QUICK_RUN, directory)
    refused = command("train", *QUICK_RUN, directory, code=1)
    assert "resumed at step 2" in command(*in_shell(refused)).err


@pytest.mark.parametrize(
    ("words", "starts"),
    [
        (("trainer.lr=0.5",), True),
        (("trainer.batch_size=4", "trainer.ema_decay=0.5", "trainer.max_steps=3"), True),
        pytest.param(("trainer.precision=bf16",), True, marks=pytest.mark.wide),
        pytest.param(("density=lognormal",), True, marks=pytest.mark.wide),
        (("schedule=vp",), False),
        pytest.param(("objective=edm", "model.width=4"), False, marks=pytest.mark.wide),
    ],
)
@pytest.mark.parametrize("how", [("resume=a run",), ("resume=auto", '"hydra.run.dir=a run"')], ids=["resume", "auto"])
def test_a_resume_with_other_settings_names_the_way(
    words: tuple[str, ...], starts: bool, how: tuple[str, ...], trained: Trained, command: Command
) -> None:
    """A new run with these settings, from the weights where they fit; the command works as it stands."""
    trained(*QUICK_RUN).run.rename("a run")
    names = {word.partition("=")[0] for word in words}
    start = [word for word in QUICK_RUN if word.partition("=")[0] not in names] if len(how) > 1 else []
    refused = command("train", *start, *words, *(word.strip('"') for word in how), code=1)
    assert len(refused.problem.replace(str(Path.cwd()), "")) < 450
    new = in_shell(refused)
    assert new[0] == "train"
    assert new[1] in (setting("from", "a run"), setting("from", Path("a run").absolute()))
    assert ("starts with the averaged weights of" in command(*new, "trainer.max_steps=1").err) == starts
