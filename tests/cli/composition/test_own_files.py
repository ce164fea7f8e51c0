"""Every key of a YAML file of the user's is heeded, or one line names the file and what is wrong with it."""

import codecs
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.cli import TINY, Command

from dfm.basics.errors import UserError
from dfm.cli.composition.unread_keys import Written, refuse_unread
from dfm.cli.composition.yaml_files import package_of
from dfm.runs.build import settings
from dfm.runs.checkpoint import Checkpoint, digest, read
from dfm.runs.loading import load

HEAD = b"# @package _global_\n"
STEPS = b"trainer:\n  max_steps: 2\n"
SHORT = b"defaults: [default, _self_]\n"


def write(name: str, data: bytes) -> Path:
    path = Path("cfg") / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def shown(command: Command, *words: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(command("train", "--config-dir=cfg", *words, "--cfg", "job").out)
    return content


@pytest.mark.parametrize(
    "before",
    [b"", codecs.BOM_UTF8, b"\n\n", b"# A comment.\n", b"# Forty characters or so.\n" * 30, b"---\n", b"#\n\n"],
    ids=["first", "mark", "blank", "comment", "long", "document", "empty"],
)  # fmt: skip
def test_a_head_is_heeded_wherever_it_stands_above_the_keys(before: bytes, command: Command) -> None:
    write("experiment/mine.yaml", before + HEAD + STEPS)
    assert shown(command, "experiment=mine")["trainer"]["max_steps"] == 2


LOST = [
    ("no head", STEPS, ["head lacks '# @package _global_'", "trainer would be lost"]),
    ("choices only", b"defaults:\n  - override /schedule: vp\n", ["head lacks", "what it chooses would be lost"]),
    ("misspelt", b"# @pakage _global_\n" + STEPS, ["line 1", "'# @pakage _global_' is not heeded"]),
    ("colon", b"# @package: _global_\n" + STEPS, ["line 1", "'# @package: _global_' is not heeded"]),
    ("no mark", b"# package _global_\n" + STEPS, ["'# package _global_' is not heeded"]),
    ("below", STEPS + HEAD, ["line 3", "above the first key"]),
    ("elsewhere", b"# @package _globl_\n" + STEPS, ["head lacks"]),
    ("section", HEAD + b"traner:\n  lr: 1\n", ["nothing reads it", "'traner'", "did you mean 'trainer'?"]),
    ("no section", HEAD + b"max_steps: 2\n", ["nothing reads it", "'max_steps'"]),
    ("a dot", HEAD + b"trainer.lr: 1\n", ["'trainer.lr'", "try 'trainer:' and 'lr:' indented below it"]),
    ("key of a part", HEAD + b"trainer:\n  max_step: 2\n", ["'trainer.max_step'", "did you mean 'trainer.max_steps'?"]),
    ("key of dfm", HEAD + b"nll:\n  splitt: test\n", ["nothing reads it", "'nll.splitt'", "did you mean 'nll.split'?"]),
    ("key of an idle part", HEAD + b"pacing:\n  stage: 1\n", ["'pacing.stage'", "did you mean 'pacing.stages'?"]),
    ("no keys", HEAD + b"sampler:\n  stepper:\n    a: 1\n", ["'sampler.stepper.a'", "takes none"]),
    ("twice", HEAD + b"trainer:\n  lr: 1\n  lr: 2\n", ["line 4", "key 'lr' is given twice"]),
    ("section twice", HEAD + STEPS + b"nll:\n  n: 1\n" + STEPS, ["line 6", "key 'trainer' is given twice"]),
    ("default", HEAD + b"default:\n  - override /schedule: vp\n", ["nothing reads it", "'default'"]),
    ("a tab", HEAD + b"trainer:\n\tlr: 1\n", ["line 3", "a tab"]),
    ("Latin 1", HEAD + b"# caf\xe9\n" + STEPS, ["line 2", "not UTF-8"]),
    ("UTF-16", (HEAD + STEPS).decode().encode("utf-16"), ["line 1", "not UTF-8"]),
    ("no keys at all", HEAD + b"words\n", ["nothing reads it", "'words'"]),
    ("a list", HEAD + b"- trainer\n", ["no keys"]),
    ("two documents", HEAD + STEPS + b"---\nnll:\n  n: 1\n", ["line 4", "another document"]),
    ("a value for a section", HEAD + b"trainer: 3\n", ["trainer: 3", "keys below it"]),
    ("nothing in a section", HEAD + b"trainer:\n", ["trainer: null", "keys below it"]),
]


@pytest.mark.parametrize(("data", "says"), [case[1:] for case in LOST], ids=[case[0] for case in LOST])
def test_what_would_be_lost_is_refused(data: bytes, says: list[str], command: Command) -> None:
    path = write("experiment/mine.yaml", data)
    problem = command("train", "--config-dir=cfg", "experiment=mine", "--cfg", "job", code=1).problem
    assert problem.startswith(f"error: {path.absolute()}")
    assert all(text in problem for text in says), problem
    assert not Path("outputs").exists()


@pytest.mark.parametrize(
    ("name", "data", "word", "says"),
    [
        ("trainer/short.yml", SHORT, "trainer=short", "try short.yaml"),
        ("trainer/digits.yaml", SHORT, "trainer=digits", "try another name"),
        ("train.yaml", b"nll: {n: 3}\n", "trainer=digits", "try another name"),
        ("trainer/short.yaml", b"max_steps: 3\n", "trainer=short", "no _target_"),
        ("trainer/short.yaml", SHORT + b"max_step: 3\n", "trainer=short", "did you mean 'trainer.max_steps'?"),
        ("trainer/short.yaml", HEAD + b"max_steps: 3\n", "trainer=short", "nothing reads it: unknown key 'max_steps'"),
        ("gadget/large.yaml", b"size: 3\n", "+gadget=large", "nothing reads it: unknown key 'gadget'"),
    ],
)
def test_options_of_groups_that_would_be_lost(name: str, data: bytes, word: str, says: str, command: Command) -> None:
    path = write(name, data)
    problem = command("train", "-cd", "cfg", word, code=1).problem
    assert str(path) in problem
    assert says in problem
    path.rename(path.with_suffix(".txt"))
    write("trainers/short.yaml", SHORT)
    problem = command("train", "-cd", "cfg", "trainer=short", code=1).problem
    assert f"try {Path('cfg/trainer/short.yaml').absolute()}" in problem, "a group of another name"


def test_a_search_path_is_read_in_the_same_way(command: Command) -> None:
    write("experiment/mine.yaml", STEPS)
    problem = command("train", f"hydra.searchpath=[file://{Path('cfg').absolute()}]", "experiment=mine", code=1).problem
    assert "mine.yaml: its head lacks" in problem


def test_what_is_read_is_taken(command: Command) -> None:
    """A key that only the class has, a section to which another refers, and an option that builds on one of dfm."""
    write("gadget/large.yaml", b"size: 4\n")
    write("trainer/short.yaml", SHORT + b"max_steps: ${gadget.size}\n")
    write("experiment/mine.yaml", HEAD + b"defaults:\n  - override /trainer: short\nmodel:\n  mid_attention: false\n")
    config = shown(command, "experiment=mine", "+gadget=large")
    assert (config["model"]["mid_attention"], config["trainer"]["max_steps"]) == (False, "${gadget.size}")


def test_a_setting_of_a_file_without_effect_is_told(command: Command) -> None:
    write(
        "experiment/mine.yaml",
        HEAD + b"defaults:\n  - override /pacing: doubling\nprior:\n  _target_: dfm.paths.GaussianPrior\n",
    )
    err = command("train", "-cd", "cfg", "experiment=mine", *TINY, "nll.n=0", "logger=none").err
    assert "cfg/experiment/mine.yaml: pacing has no effect on Regression" in err
    assert "prior has" not in err


@pytest.mark.parametrize(
    ("line", "package"),
    [
        ("# @package _global_", "_global_"), ("#@package _global_", "_global_"), ("# @package a.b", "a.b"),
        ("# A package of one's own.", None), ("# packages: _global_ is one word", None), ("# @author me", None),
        ("a: 1 # @package", None),
    ],
)  # fmt: skip
def test_which_lines_are_heads(line: str, package: str | None) -> None:
    assert package_of("file", f"{line}\nb: 1\n") == package


def test_keys_of_ones_own_choice_stand_in_an_empty_section() -> None:
    """As the keys of a checkpoint's data set do in dfm nll."""
    own = {"dataset": {}, "nll": {"n": 1}}
    fine = Written(name="file", place=(), content={"dataset": {"root": "here"}, "nll": {"n": 2}}, in_group=True)
    refuse_unread([fine], own, {"dataset": {"root": "here"}, "nll": {"n": 2}})
    with pytest.raises(UserError, match=r"file: nothing reads it: unknown key 'nll\.m'"):
        refuse_unread([Written(name="file", place=("nll",), content={"m": 1}, in_group=False)], own, own)


def test_a_checkpoint_with_an_unknown_key_is_named(tiny_run: Path) -> None:
    path = next((tiny_run / "checkpoints").glob("*.pt"))
    whole = read(path)
    config = {**whole.config, "model": {**whole.config["model"], "chanels": 8}}
    changed = Checkpoint(config=config, spec=whole.spec, state=whole.state)
    content = torch.load(path, weights_only=True) | {"config": changed.config}
    content["sha256"] = digest({key: content[key] for key in ("config", "spec", "state", "data")})
    torch.save(content, tiny_run / "other.pt")
    with pytest.raises(UserError, match=r"other\.pt: unknown key 'model\.chanels'.*did you mean 'model\.channels'\?"):
        load(tiny_run / "other.pt", device="cpu")


def test_a_section_without_a_class_has_no_other_keys() -> None:
    from dfm.cli.settings import TrainSettings

    node = {"conditional": False, "samples": {"n": 1, "seed": 0}, "model": {}}
    with pytest.raises(UserError, match=r"unknown key 'nll\.m'"):
        settings(
            {**node, "nll": {"n": 1, "split": "test", "seed": 0, "batch_size": 1, "audit": 1, "m": 2}}, TrainSettings
        )
