"""The help of a command: every group, option and key is there, with the comment of its YAML file."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from hydra.errors import HydraException

from dfm.basics.errors import UserError
from dfm.cli.composition.config_dirs import config_dir
from dfm.cli.composition.help import ROOMS, Composed, comments, compose_with_comments, header, help_text

COMMANDS = ("data", "train", "sample", "encode", "decode", "compare", "check", "eval", "nll")
GROUPS = sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name != "hydra")
EVERY = sorted(path for path in config_dir().rglob("*.yaml") if "hydra" not in path.parts)

PRESETS = [f"{p.parent.name}={p.stem}" for p in EVERY if p.parent.name in ("experiment", "recipe")]


def shown(command: str, *overrides: str, own: Path | None = None) -> str:
    """The help of a command."""
    folders = [config_dir(), *([own] if own else [])]
    return help_text(command, list(overrides), folders, summary="what it does", example=f"dfm {command} n=1")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A directory of YAML files of a user, in a place with a difficult name."""
    folder = tmp_path / "my files, n=1 it's"
    (folder / "schedule").mkdir(parents=True)
    (folder / "gadget").mkdir()
    (folder / "schedule" / "bent.yaml").write_text(
        "# A bent path.\n# More of it.\ndefaults:\n  - linear\n  - _self_\n_target_: mine.Bent\nbend: 0.5 # how much\n"
        "by: ${gadget.size} # which gadget\n"
    )
    (folder / "schedule" / "_base.yaml").write_text("# Nothing to choose.\nt_min: 0.1\n")
    (folder / "gadget" / "large.yaml").write_text("# A gadget.\nsize: 3 # in metres\n")
    return folder


def without_comment(found: Composed) -> list[str]:
    """All keys that no file explains, but for those whose keys below are explained."""
    placed = {group.partition("@")[2] or group for group, option in found.choices.items() if option is not None}

    def bare(node: dict, prefix: str) -> Iterator[str]:
        for key, value in node.items():
            name = f"{prefix}{key}"
            if name not in found.comments and name not in placed and not isinstance(value, dict) and key != "_target_":
                yield name
            yield from bare(value, f"{name}.") if isinstance(value, dict) else ()

    return [*bare(found.config, ""), *(set(found.config) - {*found.comments, *placed})]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_every_command_has_a_comment(command: str) -> None:
    """The command's own keys, and those of the options that it chooses by itself."""
    assert without_comment(compose_with_comments(command, [], [config_dir()])) == []


@pytest.mark.wide
@pytest.mark.parametrize("name", PRESETS)
def test_every_key_of_every_preset_has_a_comment(name: str) -> None:
    assert without_comment(compose_with_comments("train", [name], [config_dir()])) == []


@pytest.mark.parametrize("group", [group for group in GROUPS if group not in ("experiment", "recipe")])
def test_every_key_of_every_option_has_a_comment(group: str) -> None:
    """In its own file or in a base of it; without Hydra, which would take a minute for all."""

    def files(path: Path) -> list[Path]:
        below = [name for name in yaml.safe_load(path.read_text()).get("defaults", []) if isinstance(name, str)]
        names = [name for name in below if name != "_self_" and "@" not in name]
        return [path, *(f for name in names for f in files(path.parent / f"{name}.yaml"))]

    def leaves(node: dict, prefix: str = "") -> Iterator[str]:
        for key, value in node.items():
            if isinstance(value, dict) and value:
                yield from leaves(value, f"{prefix}{key}.")
            elif key not in ("_target_", "defaults"):
                yield f"{prefix}{key}"

    for path in (config_dir() / group).glob("*.yaml"):
        known = {name for file in files(path) for name in comments(file)}
        assert set(leaves(yaml.safe_load(path.read_text()))) <= known, path


def test_every_file_says_in_its_first_line_what_it_is() -> None:
    for path in EVERY:
        assert header(path)[0].endswith((".", ".)")), f"{path}: a sentence that stands alone, as help shows it"


@pytest.mark.parametrize("command", COMMANDS)
def test_every_group_and_option_is_listed_in_its_room(command: str) -> None:
    text = shown(command)
    groups, _, keys = text.partition("\nKeys")
    listed = dict(re.findall(r"^    (\w+) +(.+(?:\n {20}.+)*)", groups, re.MULTILINE))
    found = compose_with_comments(command, [], [config_dir()])
    chosen = {g: option for g, option in found.choices.items() if "@" not in g and not g.startswith("hydra")}
    assert set(listed) == set(chosen)
    for group, option in chosen.items():
        names = sorted(path.stem for path in (config_dir() / group).glob("[!_]*.yaml"))
        assert listed[group].replace(",", "").split() == [f"[{n}]" if n == option else n for n in names]
        assert (f"\n  {group}={option}: " in keys) == (option is not None)
    assert "yours" not in groups, "the table of rooms knows every group"
    assert text.startswith(f"dfm {command}: what it does\n  e.g. dfm {command} n=1\n")
    assert max(map(len, text.splitlines())) <= 120


def test_no_group_stands_in_two_rooms() -> None:
    groups = [group for room in ROOMS.values() for group in room]
    assert sorted(groups) == GROUPS


def test_values_and_comments_are_those_of_the_line() -> None:
    text = shown("train", "objective=meanflow", "objective.share=0.5", "density=levels", "grid@density.grid=rho")
    assert "    objective.share            0.5            of a batch that has two different times" in text
    assert "\n      meanflow            MeanFlow: the average velocity" in text, "a group on the line is described"
    assert "\n      progressive         Progressive distillation" in text
    assert "\n      ot                  " not in text, "no other group is"
    assert "Frechet distance 0.78, 0.52, 0.36" in text, "all that the file of the chosen option says"
    assert "    sampler=jump: " not in text
    assert "\n  sampler=jump: " in text, "which the objective chooses"
    assert "    grid@density.grid=rho" in text
    assert "    density.grid.rho           7.0            1: uniform in nsr" in text
    assert "    resume                     null           RUN_DIR or latest: go on" in text


def test_comments_come_from_bases_and_from_the_place_where_a_key_stands() -> None:
    text = shown("train", "experiment=cifar_vp")
    assert "    trainer.max_steps          1300000        optimiser steps" in text, "the preset gives the number alone"
    assert "    trainer.warmup_steps       5000           steps in which" in text
    assert "    trainer.precision          bf16           for a GPU" in text, "gpu_long says more than default"
    assert "    sampler.times              null           your own times" in text
    assert "Command: dfm train experiment=cifar_vp." in text


def test_a_directory_of_ones_own(own: Path) -> None:
    text = shown("sample", "schedule=bent", "schedule.bend=0.7", own=own)
    assert "[bent], cosine, custom" in text
    assert "\n      bent                A bent path.\n" in text
    assert "\n  schedule=bent: A bent path.\n      More of it.\n" in text
    assert "    schedule.bend              0.7            how much\n" in text
    assert "    schedule.t_max             0.999          last time" in text, "from the base in dfm's own directory"
    assert "_base" not in text
    assert "\n  yours\n    gadget          large\n      large               A gadget.\n" in text
    text = shown("encode", "schedule=bent", "+gadget=large", own=own)
    assert "\n      bent                A bent path.\n" in text, "whether it is chosen or not"
    assert "    gadget.size                3              in metres\n" in text
    by_override = help_text("encode", [f'hydra.searchpath=["file://{own}"]'], [config_dir()], summary="", example="")
    assert "\n      bent                A bent path.\n" in by_override


def test_two_directories_of_ones_own(own: Path, tmp_path: Path) -> None:
    """Those of -cd and of hydra.searchpath count together; the first of them goes first."""
    other = tmp_path / "other"
    (other / "schedule").mkdir(parents=True)
    (other / "schedule" / "bent.yaml").write_text("# Another bent path.\n")
    (other / "schedule" / "round.yaml").write_text("# A round path.\n")
    text = shown("sample", f"hydra.searchpath=[file://{other}]", own=own)
    assert "A bent path." in text
    assert "Another bent path." not in text
    assert "A round path." in text


def test_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        shown("sample", own=tmp_path / "absent")
    with pytest.raises(HydraException, match="sampler/absent"):
        shown("sample", "sampler=absent")


def test_comments_of_yaml(tmp_path: Path) -> None:
    """On the line of their key, whatever stands there; a # inside a text is none."""
    path = tmp_path / "some.yaml"
    path.write_text(
        'a: 1 # one\nb: "x # y"\nc: "x # y" # two\nd: [1, "#"] # three\ne: # four\n  f: # five\n    - 1 # six\n'
        "  g: null\n  h: {} # seven\n# no comment of a key\ni:\n  j: # eight\n"
    )
    told = {"a": "one", "c": "two", "d": "three", "e": "four", "e.f": "five", "e.h": "seven", "i.j": "eight"}
    assert comments(path) == told
    path.write_text("# nothing\n")
    assert comments(path) == {}
    assert header(path) == ["nothing"]


def test_no_torch() -> None:
    """Help is to come at once; torch takes seconds to import."""
    program = (
        "import sys; from pathlib import Path; from dfm.cli.composition.help import help_text\n"
        f"help_text('train', [], [Path({str(config_dir())!r})], summary='', example='')\n"
        "assert not {'torch', 'numpy', 'rich'} & set(sys.modules), sys.modules.keys()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_reader_that_stops_early_is_no_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run([sys.executable, "-m", "dfm", "train", "--help"], stdout=writing, stderr=subprocess.PIPE)
    os.close(writing)
    assert done.returncode == 0
    assert done.stderr == b""
