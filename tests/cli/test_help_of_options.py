"""``dfm COMMAND GROUP=OPTION --help`` shows every key of the option: its name, its value and its comment.

The files are read here by a rule of their own, line by line; the help reads them by the marks of a YAML parser.
"""

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf
from support.cli import Command

from dfm.cli.composition.config_dirs import config_dir, options
from dfm.cli.composition.help import help_text
from dfm.cli.settings import COMMANDS

LINE = re.compile(r"^( *)(\w+):(?: ([^#\s].*?))??(?: +# (.+))?$")


def lines_of(path: Path) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, comment or '') for each line of a YAML file that is a key; defaults and targets apart."""
    above: list[tuple[int, str]] = []
    for line in path.read_text().splitlines():
        match = LINE.match(line)
        if not match or match[2] == "_target_" or line.startswith("  - "):
            continue
        depth = len(match[1])
        above = [(d, name) for d, name in above if d < depth]
        above.append((depth, match[2]))
        key = ".".join(name for _, name in above)
        if key.partition(".")[0] != "defaults":
            yield key, match[4] or ""


def keys_of(group: str, option: str) -> dict[str, str]:
    """{key: comment} of an option's file and of the bases in its folder; a comment of the option itself counts."""
    path = config_dir() / group / f"{option}.yaml"
    defaults = (yaml.safe_load(path.read_text()) or {}).get("defaults", [])  # a file may hold comments only
    bases = [b for b in defaults if isinstance(b, str) and b != "_self_"]
    found: dict[str, str] = {}
    for base in bases:
        name, _, place = base.partition("@")  # a base may stand at a key of its own, as in likelihood=all
        found |= {f"{place}.{key}" if place else key: text for key, text in keys_of(group, name).items()}
    return found | {key: text or found.get(key, "") for key, text in lines_of(path)}


@cache
def groups_of(command: str) -> list[str]:
    """The groups in the defaults of a command's file."""
    entries = yaml.safe_load((config_dir() / f"{command}.yaml").read_text())["defaults"]
    return [next(iter(entry)) for entry in entries if isinstance(entry, dict)]


def check(command: str, group: str, option: str) -> None:
    """Each key of the option stands in the help, between its value, as the file has it, and its comment."""
    text = help_text(command, [f"{group}={option}"], [config_dir()], summary="", example="")
    rows = " ".join(text.partition("\nKeys")[2].split())
    content = OmegaConf.load(config_dir() / group / f"{option}.yaml")
    whole = group in ("experiment", "recipe")  # such a file has whole keys
    for key, comment in keys_of(group, option).items():
        name = key if whole else f"{group}.{key}"
        if whole and f"{key}." in "".join(f"{other}\n" for other in keys_of(group, option)) and not comment:
            continue  # a group, whose line says which option is chosen
        found = re.finditer(rf"(?= {re.escape(name)} (.*?) ?{re.escape(' '.join(comment.split()))})", rows)
        row = min(found, key=lambda match: len(match[1]), default=None)  # another key's comment may name this one
        assert row, f"{name} # {comment}"
        value = OmegaConf.to_container(OmegaConf.create({"at": content}), resolve=False)["at"]
        for part in key.split("."):
            value = value.get(part, ...) if isinstance(value, dict) else ...
        if value is not ... and not isinstance(value, dict) and comment and not str(value).startswith("${"):
            shown = OmegaConf.create(f"at: {row[1]}") if not isinstance(value, str) else {"at": row[1]}
            assert shown["at"] == value, f"{name}: {row[1]} for {value}"


EVERY = [(c, group, option) for c in COMMANDS for group in groups_of(c) for option in options(group, [config_dir()])]
SOME = (
    ("train", "dataset", "folder"),  # keys that the default option lacks
    ("train", "objective", "meanflow"),  # shared keys, of _parts
    ("train", "experiment", "digits_vdm"),
    ("sample", "sampler", "churn"),  # shared keys, of _grid; keys below keys
    ("eval", "features", "classifier"),  # a group that is null by default; a nested part
    ("nll", "likelihood", "all"),
)


def test_every_command_and_group_is_there() -> None:
    assert {command for command, _, _ in EVERY} == set(COMMANDS)
    assert len(EVERY) > 300
    assert set(SOME) <= set(EVERY)


@pytest.mark.parametrize(("command", "group", "option"), SOME, ids=["-".join(each) for each in SOME])
def test_some_options(command: str, group: str, option: str) -> None:
    check(command, group, option)


@pytest.mark.wide
@pytest.mark.parametrize("command", COMMANDS)
def test_every_option(command: str) -> None:
    for name, group, option in EVERY:
        if name == command:
            check(command, group, option)


def test_the_commands_own_keys() -> None:
    """With comments that stand in the command's file and in the one that all commands share."""
    for command in COMMANDS:
        text = help_text(command, [], [config_dir()], summary="", example="")
        rows = " ".join(text.partition("\nKeys")[2].split())
        for file in (command, "command"):
            for key, comment in lines_of(config_dir() / f"{file}.yaml"):
                if not key.startswith("hydra"):
                    assert re.search(rf" {re.escape(key)} .*?{re.escape(comment)}", rows), (command, key)


def test_a_directory_of_ones_own_through_the_command_line(command: Command) -> None:
    """The flags stand between the overrides; the option has a base of dfm's own and keys that nobody else has."""
    own = Path("own")
    (own / "dataset").mkdir(parents=True)
    text = "# Mine.\ndefaults:\n  - folder\n  - _self_\nchannels: 3 # colours\nsize: 64 # larger\n"
    (own / "dataset" / "mine.yaml").write_text(text)
    out = command("train", "dataset=mine", "-cd", "own", "dataset.channels=1", "--help", "trainer.lr=1e-4").out
    assert "    dataset.channels           1              colours" in out
    assert "    dataset.size               64             larger" in out
    assert "    dataset.path               null           PATH, the folder" in out
    assert "    trainer.lr                 0.0001" in out
