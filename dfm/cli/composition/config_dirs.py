"""The directories of YAML groups: dfm's own, and those that the user names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

from dfm.basics.errors import UserError

SEARCH_PATH = "hydra.searchpath="


def config_dir() -> Path:
    """Return the directory of dfm's own YAML groups.

    It is inside the package after an installation from a wheel, and beside the package in a checkout.
    """
    package = Path(__file__).resolve().parents[2]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_dirs() -> list[Path]:
    """Return every directory of YAML groups: dfm's own first, then those that the user names.

    Inside a job, Hydra knows them. Outside a job they are read from the command line: ``-cd DIR`` (``--config-dir``),
    or ``hydra.searchpath=[DIR,...]``.
    """
    if HydraConfig.initialized():
        sources = [s.path for s in HydraConfig.get().runtime.config_sources if s.schema == "file"]
    else:
        sources = named_config_dirs(sys.argv[1:])
    return list(dict.fromkeys([config_dir(), *(Path(path) for path in sources)]))


def named_config_dirs(arguments: Sequence[str]) -> list[str]:
    """Return the directories that a command line names."""
    names = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=False):
        if word in ("-cd", "--config-dir"):
            names.append(following)
        elif word.startswith("--config-dir="):
            names.append(word.partition("=")[2])
        elif word.startswith(SEARCH_PATH):
            names += [path.strip(" '\"") for path in word.removeprefix(SEARCH_PATH).strip("[]").split(",")]
    paths = (path.removeprefix("file://") for path in names if path and not path.startswith(("pkg:", "$")))
    return [str(Path(path).absolute()) for path in paths]


def check_config_dirs(directories: Sequence[Path]) -> None:
    """Refuse directories that do not exist.

    Raises:
        UserError: one does not exist.
    """
    for path in directories:
        if not path.is_dir():
            raise UserError(f"-cd {path}: no such directory; allowed: a directory of YAML files")


def search_path(directories: Sequence[Path]) -> list[str]:
    """Return the override that shows Hydra further directories, or no override if there are none."""
    return [f"{SEARCH_PATH}[{','.join(f'file://{path}' for path in directories)}]"] if directories else []


def options(group: str, directories: Sequence[Path] | None = None) -> list[str]:
    """Return the options of a config group; none for what is no name of one, such as a path with YAML files.

    A file whose name begins with an underscore is a base of options.
    """
    if not all(part.isidentifier() for part in group.split("/")):
        return []
    names = {p.stem for d in directories or config_dirs() for p in (d / group).glob("*.yaml")}
    return sorted(name for name in names if not name.startswith("_"))
