"""Hydra's and OmegaConf's errors in one line each: what was given, what is allowed, what to try."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from dfm.errors import unknown

GROUP_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")
OVERRIDE = re.compile(r"Could not override '([^']+)'")
INTERPOLATION = re.compile(r"Interpolation key '([^']+)' not found")


def explain(error: Exception, command: str, directory: Path) -> str | None:
    """One line for a mistake in the command's overrides; None if the error is not the user's."""
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = " ".join(str(error).split())
    missing, key = GROUP_OPTION.search(text), OVERRIDE.search(text)
    if isinstance(error, MissingConfigException) and missing:
        group, option = missing.groups()
        return str(unknown(f"{group}", option, (p.stem for p in (directory / group).glob("*.yaml"))))
    if key:
        name = key[1].split("@")[0]
        return str(unknown("key", name, _keys(command, directory, name)))
    return interpolation(error) or text.partition(" See https://")[0]


def interpolation(error: Exception) -> str | None:
    """One line for a key that refers to another which this configuration lacks; None for any other error."""
    found = INTERPOLATION.search(str(error))
    if not found or not isinstance(error, InterpolationKeyError):
        return None
    return (
        f"{error.full_key} refers to {found[1]}, which this configuration lacks; "
        f"try another option of {str(error.full_key).partition('.')[0]} or of {found[1].partition('.')[0]}"
    )


def _keys(command: str, directory: Path, name: str) -> list[str]:
    """The keys beside which ``name`` would stand in the command's configuration, or all if its parent is unknown."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(directory), version_base="1.3"):
        cfg = compose(command)
    keys = list(_leaves(OmegaConf.to_container(cfg, resolve=False), ""))
    parent = name.rpartition(".")[0]
    beside = [key for key in keys if parent and key.startswith(f"{parent}.")]
    last = name.rpartition(".")[2]
    return beside or [*{key.split(".")[0] for key in keys}, *(key for key in keys if key.endswith(f".{last}"))]


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        yield from _leaves(value, f"{path}.") if isinstance(value, dict) else [path]
