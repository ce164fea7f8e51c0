"""What is typed is understood: flags anywhere, paths of any name, a home directory, another working directory."""

import inspect
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import get_type_hints

import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hypothesis import example, given
from hypothesis import strategies as st
from support.cli import QUICK, TINY, Command, Trained

import dfm
from dfm.basics.errors import UserError
from dfm.basics.locations import located, typed_in
from dfm.cli.composition.config_dirs import config_dir
from dfm.cli.words.flags import sort_arguments
from dfm.cli.words.typed_values import OF_PARTS, _marks, names_path, quoted
from dfm.data.pictures import ImageFolder
from dfm.runs.build import target_of

NAMES = ("lr=0.1", "図", "a#b", "a b", "a,b", "[x]", "2026", "it's", "1e3", "true", "{a: 1}", 'say "x"', "a:b", "a\\")
DRAW = ("n=2", "sampler=euler", "sampler.steps=1")


@given(st.text(min_size=1, max_size=12))
@example("runs/lr=0.1")
@example("a,b")
@example("it's")
@example('"')
@example("a\\")
def test_hydra_reads_a_path_as_it_was_typed(text: str) -> None:
    """Hydra's own parser is the judge. What counts as Hydra's language still does: quotes, null, references, lists."""
    text = text.strip(" \t")
    kept = text.lower() == "null" or text[:1] in ("", "~", '"', "'") or "${" in text or "\\" in text or "," in text
    (word,) = quoted("sample", [f"ckpt={text}"], sweep=False)
    if not kept:
        assert OverridesParser.create().parse_override(word).value() == text
    if text and "${" not in text and "\0" not in text and "," not in text:
        (word,) = quoted("sample", [f"hydra.run.dir={text}"], sweep=False)
        OverridesParser.create().parse_override(word)


@pytest.mark.parametrize(
    ("typed", "sweep", "elements"),
    [
        ("a=b,c#d", True, ["a=b", "c#d"]),
        ('"x,y",2', True, ["x,y", "2"]),
        ("choice(a,b)", True, ["a", "b"]),
        ("a=b,c", False, "a=b,c"),
        ('"a=b"', False, "a=b"),
        ("a\\,b", False, "a,b"),
        ("${x}/図", False, "${x}/図"),
        ("null", False, None),
    ],
)
def test_commas_and_quotes(typed: str, sweep: bool, elements: object) -> None:
    (word,) = quoted("sample", [f"ckpt={typed}"], sweep)
    found = OverridesParser.create().parse_override(word)
    assert found.is_sweep_override() == sweep
    if sweep:
        assert [str(getattr(item, "text", item)) for item in found.sweep_iterator()] == elements
    else:
        value = found.value()
        assert value == elements


@given(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=3))
@example(["Food & Drink"])
@example(["007"])
@example(["true", "1e3", "nan"])
@example(["null", "cat"])
@example(["True", "False"])
@example(["it's", "a=b", "x(y)"])
def test_hydra_reads_names_of_classes_as_they_were_typed(names: list[str]) -> None:
    """Alone and in a list; a whole number stays one, and the resolver of labels takes it for a name first."""
    names = [name.strip() for name in names]
    if not all(names) or any(set(name) & set(",[]\\'\"") or "${" in name or "\0" in name for name in names):
        return
    for typed, meant in ((f"[{','.join(names)}]", names), *((name, name) for name in names)):
        (word,) = quoted("sample", [f"label={typed}"], sweep=False)
        value = OverridesParser.create().parse_override(word).value()
        if typed.lower() == "null":
            assert value is None
            continue
        listed = value if isinstance(value, list) else [value]
        assert all(isinstance(item, str) or (isinstance(item, int) and not isinstance(item, bool)) for item in listed)
        assert [str(item) for item in listed] == (meant if isinstance(meant, list) else [meant])


@pytest.mark.parametrize(
    ("typed", "elements"),
    [
        ("cat,Food & Drink", ["cat", "Food & Drink"]),
        ("[cat,Food & Drink],dog", [["cat", "Food & Drink"], "dog"]),
        ("[0,3],[1]", [[0, 3], [1]]),
        ("range(0,3)", [0, 1, 2]),
        ("choice(cat,dog)", ["cat", "dog"]),
        ("'a,b',007", ["a,b", "007"]),
    ],
)
def test_a_sweep_of_classes(typed: str, elements: list[object]) -> None:
    (word,) = quoted("eval", [f"label={typed}"], sweep=True)
    found = OverridesParser.create().parse_override(word)
    assert found.is_sweep_override()
    assert [getattr(item, "text", item) for item in found.sweep_iterator(lambda item: item)] == [
        [QuotedString(e, Quote.double) if " " in str(e) else e for e in each] if isinstance(each, list) else each
        for each in elements
    ]


def test_other_keys_keep_their_meaning() -> None:
    words = ["n=5", "steps=[1,2]", "sampler=heun", "png=true", "~ckpt", "dataset.cache=true", "samplers={a:1}", "n=[1"]
    assert quoted("check", words, sweep=False) == words
    assert quoted("train", ["schedule.drift=exp(-t)*2"], sweep=False) == ['schedule.drift="exp(-t)*2"']
    assert quoted("train", ["schedule.drift=exp(-t),t=2"], sweep=True) == ['schedule.drift="exp(-t)","t=2"']


def test_the_types_say_which_keys_are_paths() -> None:
    """The last words of keys that the command line takes for paths are those of the parameters of type PathText."""
    marked, numbers = set(), set()
    for file in config_dir().glob("*/*.yaml"):
        for node in nodes(yaml.safe_load(file.read_text())):
            if "_target_" not in node:
                continue
            kind = target_of(node["_target_"], "", ("dfm",))
            hints = get_type_hints(kind, include_extras=True) | get_type_hints(kind.__init__, include_extras=True)
            for name in node.keys() & inspect.signature(kind).parameters.keys():
                marked |= {name} if "a path" in _marks(hints[name]) else set()
                numbers |= {name} if isinstance(node[name], (bool, int, float, list)) else set()
    assert marked == set(OF_PARTS)
    assert marked & numbers == set(), "a number is no path"
    assert names_path("sample", "ckpt")
    assert names_path("eval", "samples")
    assert not names_path("train", "samples.n")
    assert not names_path("sample", "n")
    assert names_path("train", "hydra.run.dir")


def nodes(content: object) -> list[dict]:
    """All mappings in plain containers."""
    if not isinstance(content, dict):
        return []
    return [content, *itertools.chain.from_iterable(nodes(value) for value in content.values())]


def test_paths_of_any_name(tiny_run: Path, command: Command) -> None:
    for name in ("lr=0.1", "図", "a,b"):
        there = shutil.copytree(tiny_run, Path("runs") / name)
        drawn = command("sample", f"ckpt={there}", *DRAW, f"hydra.run.dir=drawn/{name}")
        assert drawn.run == Path.cwd() / "drawn" / name
        assert json.loads((drawn.run / "sample.json").read_text())["checkpoint_step"] == 2
    drawn = command("sample", "-m", "ckpt=runs/lr=0.1,runs/図", *DRAW, "hydra.sweep.dir=all=two")
    assert {p.parent.name for p in Path("all=two").glob("*/sample.json")} == {"0", "1"}


@pytest.mark.wide
@pytest.mark.parametrize("name", NAMES)
def test_paths_of_every_name(name: str, tiny_run: Path, command: Command) -> None:
    there = shutil.copytree(tiny_run, Path(name))
    drawn = command("sample", f"ckpt={there}", *DRAW, f"hydra.run.dir=of/{name}").run
    command("eval", f"samples={drawn}", "ckpt=latest", "features=coordinates", code=1)
    command("nll", f"ckpt={there}", f"against={there}", "n=2", *QUICK)
    command("train", *TINY, f"init={there}", f"hydra.run.dir=new/{name}")
    command("train", f"resume=new/{name}", "trainer.max_steps=3")


def test_a_home_directory(tiny_run: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the command line, in a YAML file and in Python."""
    home = Path.cwd() / "home"
    shutil.copytree(tiny_run, home / "run")
    monkeypatch.setenv("HOME", str(home))
    assert command("sample", "ckpt=~/run", *DRAW, "hydra.run.dir=~/drawn").run == home / "drawn"
    assert not Path("~").exists()
    assert dfm.load("~/run").spec.shape == (1, 8, 8)
    (home / "own" / "guidance").mkdir(parents=True)
    text = "_target_: dfm.sampling.Autoguidance\nckpt: ~/run\n"
    (home / "own" / "guidance" / "mine.yaml").write_text(text)
    command("sample", "ckpt=~/run", *DRAW, "--config-dir=~/own", "guidance=mine")
    line = command("train", "dataset=folder", "dataset.path=~/A", code=1).problem
    assert f"{home}/A is not a folder" in line
    with pytest.raises(UserError, match=f"{home}/A"):
        ImageFolder(path="~/A")


def test_paths_are_relative_to_where_they_were_typed(tiny_run: Path, command: Command) -> None:
    """A job that works in its own directory finds the newest run, a checkpoint, a mask and stored samples."""
    from PIL import Image

    Path("here").mkdir()
    shutil.copytree(tiny_run, "here/run")
    mask = Image.new("L", (8, 8), 255)
    mask.paste(0, (0, 0, 4, 8))
    mask.save("here/mask.png")
    where = Path.cwd()
    moved = "hydra.job.chdir=true"
    drawn = command("sample", "ckpt=latest", *DRAW, moved, "task=inpaint", "mask=here/mask.png").run
    assert (drawn / "samples.npz").exists()
    assert drawn.is_relative_to(where / "outputs")
    line = command("eval", f"samples={drawn.relative_to(where)}", "dataset=moons", moved, code=1).problem
    assert "each of shape (8, 8, 1)" in line, "they were found and read"
    command("train", "resume=here/run", "trainer.max_steps=3", "nll.n=0", moved)
    assert Path("here/run/checkpoints/step_00000003.pt").exists()
    assert Path.cwd() == where


def test_located(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/h")
    assert located("a/b") == Path("a/b")
    assert located("~/b") == Path("/h/b")
    assert located("~nobody-of-this-name/b") == Path("~nobody-of-this-name/b")
    with typed_in(tmp_path):
        assert located("a") == tmp_path / "a"
        assert located("/a") == Path("/a")
        assert located("~/b") == Path("/h/b")
    with typed_in(Path.cwd()):
        assert located("a") == Path("a")


def test_flags_stand_anywhere(command: Command) -> None:
    words = [["trainer.max_steps=2"], ["--cfg", "job"], ["logger=none"]]
    orders = [list(itertools.chain(*order)) for order in itertools.permutations(words)]
    assert len({sort_arguments("train", order).flags["--cfg"] for order in orders}) == 1
    shown = {command("train", *order).out for order in orders[1:3]}
    assert len(shown) == 1
    assert "max_steps: 2" in next(iter(shown))
    assert "likelihood.steps           3 " in command("nll", "n=4", "--help", "likelihood.steps=3").out
    short = command("train", "logger=none", "--package", "trainer", "trainer.max_steps=2", "-c", "job").out
    assert short.startswith("# @package trainer")
    assert sort_arguments("train", ["--info", "n=1", "--info", "config"]).flags == {"--info": "config"}
    assert sort_arguments("train", ["--info", "n=1"]).words() == ["--info=all", "n=1"]
    assert command("nll", "n=3", "--version").out == f"dfm {dfm.__version__}\n"


def test_a_directory_of_ones_own_and_a_sweep_stand_anywhere(trained: Trained, command: Command) -> None:
    own = Path("own/sampler")
    own.mkdir(parents=True)
    shutil.copy(config_dir() / "sampler" / "euler.yaml", own / "mine.yaml")
    assert "steps: 3" in command("sample", "sampler=mine", "-cd", "own", "sampler.steps=3", "--cfg", "job").out
    found = sort_arguments("sample", ["n=1", "-m", "-cd", "own", "n=2"])
    assert found.words() == ["--multirun", f"--config-dir={Path.cwd()}/own", "n=1", "n=2"]


FLAGS = {
    "--lr 3": "try trainer.lr=3",
    "--max-steps=3": "try trainer.max_steps=3",
    "--sampler heun": "try sampler=heun",
    "--conditional": "try conditional=true",
    "--xyz": "try dfm train --help",
    "-x": "try dfm train --help",
    "--cfg": "try --cfg job",
    "--cfg jobs": "try --cfg job",
    "--help=3": "try --help",
    "--resolve": "try --cfg job --resolve",
    "--package trainer": "try --cfg job --package trainer",
    "-m --cfg job": "try without --multirun",
    "-cd": "-cd DIR",
    "-cd nowhere": "no such directory",
}


@pytest.mark.parametrize("line", FLAGS)
def test_a_flag_that_is_wrong_is_one_line(line: str, command: Command) -> None:
    outcome = command("train", "trainer.max_steps=2", "logger=none", *line.split(), code=1)
    assert FLAGS[line] in outcome.problem
    assert outcome.err.count("\n") == 1, "and no usage block"
    assert not os.listdir()
