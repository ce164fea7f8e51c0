"""The house: which room may import which, where each library lives, and how large a file may grow."""

import ast
import graphlib
import re
from pathlib import Path

import pytest

import dfm

PACKAGE = Path(dfm.__file__).parent
FILES = sorted(p for p in PACKAGE.rglob("*.py") if "configs" not in p.relative_to(PACKAGE).parts)
NAMES = {".".join(("dfm", *p.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__"): p for p in FILES}
# A room imports itself and the rooms before it.
ROOMS = (
    "basics", "data", "models", "paths", "denoising", "sampling", "likelihood", "training", "evaluation", "runs", "cli",
)  # fmt: skip
LIBRARIES = {
    "hydra": "cli", "omegaconf": "cli", "rich": "cli/console.py",
    "matplotlib": "runs/pictures/charts.py runs/pictures/plots.py runs/pictures/font.py",
    "PIL": "runs data", "torchvision": "runs data",
    "torch_fidelity": "evaluation/sample_quality.py", "filelock": "basics/files.py",
}  # fmt: skip
SPEAKS = {"print": "cli", "open": "data runs basics/files.py", "input": "", "eval": "", "exec": ""}


def imports(path: Path) -> set[str]:
    """Modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def lives_in(path: Path, homes: str) -> bool:
    return any(path.relative_to(PACKAGE).as_posix().startswith(home) for home in homes.split())


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_each_file_keeps_to_its_room(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    if room in ROOMS:
        rooms = {name.split(".")[1] for name in imports(path) if name.startswith("dfm.")} & set(ROOMS)
        assert rooms <= set(ROOMS[: ROOMS.index(room) + 1]), f"{room} stands below {rooms}"
        assert room != "models" or rooms <= {"basics", "models"}, "networks know nothing of diffusion"
        for library in {name.split(".")[0] for name in imports(path)} & LIBRARIES.keys():
            assert lives_in(path, LIBRARIES[library]), library
    called = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not [name for name in called & SPEAKS.keys() if not lives_in(path, SPEAKS[name])]
    assert len(path.read_text().splitlines()) <= 300
    assert path.stem not in ("utils", "helpers", "misc", "common")


def test_no_files_import_each_other_in_a_circle() -> None:
    graph = {
        name: {other for other in imports(path) if other in NAMES and other != name} for name, path in NAMES.items()
    }
    packages = {name for name, path in NAMES.items() if path.name == "__init__.py"}
    list(graphlib.TopologicalSorter({n: e - packages for n, e in graph.items() if n not in packages}).static_order())
    for folder in (
        p for p in PACKAGE.rglob("*") if p.is_dir() and p.name != "__pycache__" and "configs" not in p.parts
    ):
        assert sum(p.name != "__pycache__" for p in folder.iterdir()) <= 14, folder


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(PACKAGE).as_posix())
def test_a_part_is_asked_and_not_looked_at(path: Path) -> None:
    """No branch on a class of another room (errors apart), and no class is compared by its path as text."""
    tree, room = ast.parse(path.read_text()), path.relative_to(PACKAGE).parts[0]
    foreign = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and (node.module or "").startswith("dfm.")
        and node.module.split(".")[1] != room
        for alias in node.names
    }
    asserted = {id(part) for node in ast.walk(tree) if isinstance(node, ast.Assert) for part in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" and id(node) not in asserted:
            names = {part.id for part in ast.walk(node.args[1]) if isinstance(part, ast.Name)} & foreign
            assert not {name for name in names if not name.endswith("Error")}, ast.unparse(node)
        if isinstance(node, ast.Compare):
            texts = [
                part.value for part in ast.walk(node) if isinstance(part, ast.Constant) and isinstance(part.value, str)
            ]
            assert not [text for text in texts if text.startswith("dfm.")], ast.unparse(node)


def test_a_mixture_has_one_home() -> None:
    """x_t = a data + b noise is formed by ``Schedule.mix`` alone."""
    for path in FILES:
        if path.relative_to(PACKAGE).as_posix() != "paths/schedule.py":
            assert not re.search(r"per_sample\(a, \w+\) \* data \+ per_sample\(b", path.read_text()), path
