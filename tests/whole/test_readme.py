"""The README and the pages: all commands and Python run as they stand but for smaller numbers; links and tables hold.

A command is a line that begins with ``dfm `` in a block of code.
"""

import importlib
import re
import shlex
from pathlib import Path

import pytest
from support import ROOT
from support.cli import ALL, QUICK, TINY, Command
from support.image_files import overrides_for
from support.own_data import write_decoder, write_own_data

from dfm.cli.composition.config_dirs import config_dir, options

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = sorted(path.name for path in config_dir().iterdir() if path.is_dir() and path.name != "hydra")


def blocks(page: Path, language: str = "") -> list[str]:
    """The blocks of code of a page that are marked as ``language``."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return [code for name, code in found if name == language]


def cells(page: Path) -> list[list[str]]:
    """The rows of all tables of a page."""
    return [
        [c.strip() for c in line.strip("|").split("|")] for line in page.read_text().splitlines() if line[:1] == "|"
    ]


COMMANDS = sorted({
    re.split(r"\s#", line)[0].strip()
    for page in PAGES for block in blocks(page) for line in re.findall(r"^dfm .*$", block, re.MULTILINE)
})  # fmt: skip
WIDE = [text for text in TINY if not text.startswith("model.")]
WIDE_ODE = ["flow.solver=heun", "flow.steps=2"]
SMALLER = {
    "data": [], "train": [*TINY], "sample": ["n=4", "sampler.steps=2"], "nll": ["n=4", *QUICK],
    "check": ["n=20", "steps=[4]", "samplers=[euler]"], "encode": ["n=2", *WIDE_ODE],
    "decode": WIDE_ODE, "compare": ["n=2", *WIDE_ODE],
    "eval": ["features=classifier", "features.cache=cache", "features.recipe.steps=2"],
}  # fmt: skip


def test_there_are_commands_to_run() -> None:
    assert {line.split()[1] for line in COMMANDS} == set(SMALLER)


@pytest.mark.wide
@pytest.mark.parametrize("line", COMMANDS)
def test_command(line: str, command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, name, *arguments = shlex.split(line)
    if "mypackage" in line:
        write_own_part(tmp_path)
        monkeypatch.syspath_prepend(tmp_path)
    if re.search("dataset=(folder|array|hf|webdataset)|DECODER", line):
        write_own_data(tmp_path)
        there = {"hub=ylecun/mnist": "path=FOLDER", "path=FILE": "path=signals.npy", "path=SHARDS": "path=shards"}
        for named, made in there.items():  # nothing is fetched
            arguments = [text.replace(named, made) for text in arguments]
    smaller = list(SMALLER[name])
    if "likelihood=all" in line:
        smaller = ["n=4", "audit=2", *ALL]
    if "bound" in line:
        smaller.remove(QUICK[0])  # it has no solver
    if "ode_exact" in line or "importance" in line:
        smaller = ["n=2", "audit=2", *QUICK]
    if name == "eval" and "samples=" not in line:
        smaller += ["n=4", *SMALLER["sample"][1:]]
    if "cifar" in line:
        smaller = [*WIDE, "trainer.batch_size=2", "samples.n=1", "nll.n=1", *overrides_for("cifar10", tmp_path)]
        smaller += ["trainer.compile=false", "trainer.precision=fp32", "model.channels=32"]  # test_presets has it whole
    if "objective=progressive" in line:
        smaller.append("objective.start=4")
    if "objective=reflow" in line:
        smaller += ["objective.n=4", "objective.solver_steps=1"]
    if "dataset=hf" in line:
        pytest.importorskip("datasets")
    if "model=mlp" in line or "dataset=moons" in line or ".csv" in line:
        smaller = [text for text in WIDE if "nll.n=0" not in line or not text.startswith("nll.")]
    if "langevin" in line:
        smaller.append("dataset.n_validation=8")  # a chain of a thousand steps for each batch
    if name not in ("train", "data") or "RUN_OF_TRAIN" in line:
        classes = ("conditional=true", "label_dropout=0.1") if "cfg" in line or "per_class" in line else ()
        own = ("-cd", "my_configs", "trust=mypackage", "schedule=parabola") if "mypackage" in line else ()
        if "against=oracle" in line:
            own = ("dataset=signals",)
        if "DECODER" in line:
            pytest.importorskip("diffusers")
            write_decoder(tmp_path / "DECODER", scale=1.0, shift=0.0)
            own = ("dataset=array", "dataset.path=latents/latents.npy")
        made = {"RUN_OF_TRAIN": str(command("train", *own, *TINY, *classes).run)}
        if "RUN_OF_CLASSIFIER" in line:
            made["RUN_OF_CLASSIFIER"] = str(command("train", "objective=classifier", *TINY).run)
        if "RUN_OF_SAMPLE" in line:
            made["RUN_OF_SAMPLE"] = str(command("sample", "ckpt=latest", *SMALLER["sample"]).run)
        if "RUN_OF_ENCODE" in line:
            made["RUN_OF_ENCODE"] = str(command("encode", "ckpt=latest", *SMALLER["encode"]).run)
        for placeholder, run in made.items():
            arguments = [text.replace(placeholder, run) for text in arguments]
    outcome = command(name, *arguments, *smaller)
    assert outcome.run.is_dir()


def write_own_part(folder: Path) -> None:
    """Write the files of CONTRIBUTING.md, each of which begins with its own name."""
    page = ROOT / "CONTRIBUTING.md"
    for code in (*blocks(page, "python"), *blocks(page, "yaml")):
        path = folder / code.splitlines()[0].removeprefix("# ")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)


@pytest.mark.wide
def test_python(command: Command) -> None:
    """Blocks run in the order of the pages; the README's come first."""
    command("train", *TINY)
    found: dict[str, object] = {"__name__": "pages"}
    for page in PAGES:
        for code in blocks(page, "python"):
            exec(code, found)
    assert found["log_p"].shape == (16,)  # type: ignore[attr-defined]


def test_length() -> None:
    assert len(README.read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links(page: Path) -> None:
    """Every link and picture is there; the README links to each page and each page back."""
    targets = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    linked = {(page.parent / target).resolve() for target in targets if target}
    assert not [path for path in linked if not path.exists()]
    if page == README:
        assert linked >= set(PAGES) - {README}
    else:
        assert README in linked


def test_every_picture_is_shown() -> None:
    shown = {name for page in PAGES for name in re.findall(r"!\[[^\]]*\]\((?:docs/)?([\w.]+)\)", page.read_text())}
    assert shown == {path.name for path in (ROOT / "docs").glob("*.png")}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_what_a_page_names_exists(page: Path) -> None:
    """Files, folders and make's targets."""
    text = page.read_text()
    named = set(re.findall(r"\b((?:dfm|scripts|configs|tests)/[\w/]+(?:\.(?:py|sh|yaml|md))?)", text))
    assert not [path for path in named if not (ROOT / path).exists() and "NAME" not in path and "my_" not in path]
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([\w-]+)", text, re.MULTILINE)) <= targets


def test_the_readme_lists_every_group_and_option() -> None:
    listed = {row[0].strip("`"): row[1] for row in cells(README) if row[0].strip("`") in GROUPS}
    assert sorted(listed) == GROUPS
    for group, text in listed.items():
        if group != "experiment":  # those are named by their pattern
            assert sorted(re.split("[,;] ", text)) == [name for name in options(group) if name[0] != "_"], group


def test_the_page_of_groups_lists_every_option_and_its_base_class() -> None:
    page = ROOT / "docs" / "groups.md"
    rows = cells(page)
    homes = {row[0].strip("`"): (row[1].strip("`"), re.findall(r"\w+", row[2])) for row in rows if len(row) == 4}
    assert set(homes) >= set(GROUPS)
    quoted = set(re.findall(r"`(\w+)`", page.read_text()))
    for group in GROUPS:
        assert {name for name in options(group) if name[0] != "_"} <= quoted, group
        for name in options(group) if group != "experiment" else []:
            target = re.search(r"^_target_: (\S+)$", (config_dir() / group / f"{name}.yaml").read_text(), re.MULTILINE)
            if target:  # else it takes its class from another option
                module, _, kind = target[1].rpartition(".")
                bases = {base.__name__ for base in getattr(importlib.import_module(module), kind).__mro__}
                assert homes[group][1][0] in bases, f"{group}={name}"
