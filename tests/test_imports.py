"""The shape of the package: imports point down, and each heavy library has its place."""

import ast
from pathlib import Path

import pytest

import dfm

PACKAGE = Path(dfm.__file__).parent
MODULES = sorted(p for p in PACKAGE.rglob("*.py") if "configs" not in p.parts)

# From the bottom up: a module imports at module level only from its own layer and from those before it.
LAYERS: list[set[str]] = [
    {"errors", "distributed", "interruption", "devices"},
    {"broadcast", "expressions", "mixtures", "seeding", "uncertainty"},
    {"trainer_config"},
    {"schedules"},
    {"predictions", "grids", "densities", "datasets", "models"},
    {"weights", "quantization", "dequantization", "couplings", "adaptive"},
    {"priors"},
    {"potentials"},
    {"denoiser"},
    {"networks"},
    {"classifiers"},
    {"steppers", "oracles", "interpolants", "langevin"},
    {"objectives", "guidance", "inverse"},
    {"consistency", "distillation", "meanflow"},
    {"samplers", "flows", "ema", "optimizers", "parallel", "sharding", "batches", "figures"},
    {"likelihood", "bounds"},
    {"sampling", "scoring", "report", "trainer", "diagnosis", "loggers", "run_dir", "distances", "quality", "checks"},
    {"checkpoint", "images_io", "plots", "console"},
    {"config_errors", "config"},
    {"features"},
    {"assemble"},
    {"api"},
    {"reflow"},
    {"commands"},
    {"cli", "__main__", "__init__"},
]
HOMES = {
    "hydra": {"config", "config_errors", "commands"},
    "omegaconf": {"config", "config_errors", "commands"},
    "rich": {"console"},
    "matplotlib": {"plots"},
    "PIL": {"images_io", "datasets"},
    "torchvision": {"datasets"},
    "torch_fidelity": {"quality"},
}
PURE = {
    "errors", "broadcast", "schedules", "predictions", "grids", "densities", "weights", "denoiser", "steppers",
    "networks", "samplers", "adaptive", "likelihood", "objectives", "mixtures", "couplings", "priors", "potentials",
    "interpolants", "uncertainty", "expressions", "distances", "checks", "flows", "bounds", "langevin", "oracles",
    "quantization", "dequantization", "distributed", "classifiers", "consistency", "distillation", "meanflow",
    "guidance", "inverse", "seeding", "quality",
}  # fmt: skip


def part(path: Path) -> str:
    """The module or sub-package directly below dfm to which a file belongs."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> list[str]:
    """Dotted names that a file imports, anywhere in it."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found += [f"{node.module}.{alias.name}" for alias in node.names]
    return found


def layer(name: str) -> int:
    return next(i for i, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    for name in imports(path):
        root, _, rest = name.partition(".")
        below = rest.split(".")[0]
        if root == "dfm" and any(below in names for names in LAYERS) and path.name != "__init__.py":
            assert layer(below) <= layer(part(path)), f"{path.name} imports {name}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_libraries_stay_in_their_homes(path: Path) -> None:
    for name in imports(path):
        root = name.split(".")[0]
        assert part(path) in HOMES.get(root, {part(path)}), f"{path.name} imports {name}"


@pytest.mark.parametrize("name", sorted(PURE))
def test_the_mathematics_neither_prints_nor_opens_files(name: str) -> None:
    files = [PACKAGE / f"{name}.py"] if (PACKAGE / f"{name}.py").exists() else sorted((PACKAGE / name).glob("*.py"))
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    called = {n.func.id for n in nodes if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"print", "open", "input", "eval", "exec"}


def test_models_and_datasets_know_no_mathematics_of_ours() -> None:
    allowed = {"errors", "mixtures", "models", "datasets"}
    for path in MODULES:
        if part(path) in ("models", "datasets"):
            ours = {n.split(".")[1] for n in imports(path) if n.startswith("dfm.")}
            assert ours <= allowed, f"{path.name} imports {ours - allowed}"


def test_no_file_grows_past_what_a_person_reads() -> None:
    for path in MODULES:
        assert len(path.read_text().splitlines()) <= 310, path
        assert path.stem not in ("utils", "helpers", "misc", "common")
