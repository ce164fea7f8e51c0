"""Where the YAML groups are: dfm's own directory, and those that the user names."""

import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.hydra_config import HydraConfig

SEARCH_PATH = "hydra.searchpath="


def config_dir() -> Path:
    """Return dfm's own YAML groups: inside the package when installed from a wheel, else beside it in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def config_dirs() -> list[Path]:
    """Return every directory of YAML groups, dfm's own first, then those that the user named.

    Inside a job Hydra knows them; before and after it the command line says them: ``-cd DIR`` (``--config-dir``), or
    ``hydra.searchpath=[DIR,...]``.
    """
    if HydraConfig.initialized():
        sources = [s.path for s in HydraConfig.get().runtime.config_sources if s.schema == "file"]
    else:
        sources = named_config_dirs(sys.argv[1:])
    return list(dict.fromkeys([config_dir(), *(Path(path) for path in sources)]))


def named_config_dirs(arguments: Sequence[str]) -> list[str]:
    """Return the directories that a command line names."""
    named = []
    for word, following in zip(arguments, [*arguments[1:], ""], strict=True):
        if word in ("-cd", "--config-dir"):
            named.append(following)
        elif word.startswith("--config-dir="):
            named.append(word.partition("=")[2])
        elif word.startswith(SEARCH_PATH):
            named += [path.strip(" '\"") for path in word.removeprefix(SEARCH_PATH).strip("[]").split(",")]
    return [
        str(Path(path.removeprefix("file://")).absolute()) for path in named if path and not path.startswith("pkg:")
    ]


def search_path(directories: Sequence[Path]) -> list[str]:
    """Return the override by which Hydra finds further directories; none where there are none."""
    return [f"{SEARCH_PATH}[{','.join(f'file://{path}' for path in directories)}]"] if directories else []


def options(group: str, directories: Sequence[Path] | None = None) -> list[str]:
    """Return the options of a config group; a name that begins with an underscore is a part of others."""
    found = [p.stem for d in directories or config_dirs() for p in (d / group).glob("*.yaml")]
    return sorted({name for name in found if not name.startswith("_")})
