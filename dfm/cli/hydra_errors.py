"""Hydra's and OmegaConf's errors in one line each: what was given, what is allowed, what to try."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from dfm.basics.errors import unknown
from dfm.cli.config_dirs import config_dirs, options, search_path

GROUP_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")
OVERRIDE = re.compile(r"Could not override '([^']+)'")
INTERPOLATION = re.compile(r"Interpolation key '([^']+)' not found")


def explain(error: Exception, command: str) -> str | None:
    """Return one line for a mistake in the command's overrides; None if the error is not the user's."""
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = " ".join(str(error).split())
    missing, key = GROUP_OPTION.search(text), OVERRIDE.search(text)
    if isinstance(error, MissingConfigException) and missing:
        return str(unknown(missing[1], missing[2], options(missing[1])))
    if key:
        name = key[1].split("@")[0]
        if options(name):
            given = next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith(f"{name}=")), "")
            return str(unknown(name, given, options(name)))
        return _addable(command, name) or str(unknown("key", name, _keys(command, name)))
    return interpolation(error) or _formula() or text.partition(" See https://")[0]


def _formula() -> str | None:
    """For a value with brackets, which Hydra's grammar takes for a call: how to write it."""
    for given in sys.argv[1:]:
        name, _, value = given.partition("=")
        if "(" in value and value[0] not in "'\"[{":
            return f"{given}: a formula with brackets needs quotes inside quotes; try '{name}=\"{value}\"'"
    return None


def interpolation(error: Exception) -> str | None:
    """One line for a key that refers to another which this configuration lacks; None for any other error."""
    found = INTERPOLATION.search(str(error))
    if not found or not isinstance(error, InterpolationKeyError):
        return None
    return (
        f"{error.full_key} refers to {found[1]}, which this configuration lacks; "
        f"try another option of {str(error.full_key).partition('.')[0]} or of {found[1].partition('.')[0]}"
    )


def _composed(command: str) -> Any:
    """The command's configuration without the user's overrides, but with the options of groups that were chosen."""
    own, *others = config_dirs()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(own), version_base="1.3"):
        chosen = (a.partition("=") for a in sys.argv[1:])
        groups = [f"{group}={name}" for group, _, name in chosen if name in options(group)]
        return OmegaConf.to_container(compose(command, [*search_path(others), *groups]), resolve=False)


def _addable(command: str, name: str) -> str | None:
    """For an option that the chosen part has but its YAML does not list: how to set it."""
    parent, _, last = name.rpartition(".")
    node: Any = _composed(command)
    for key in parent.split("."):
        node = node.get(key, {}) if isinstance(node, dict) else {}
    module, _, target = str(node.get("_target_", "") if isinstance(node, dict) else "").rpartition(".")
    if not module.startswith("dfm."):
        return None
    if last not in inspect.signature(getattr(importlib.import_module(module), target)).parameters:
        return None
    return f"key '{name}' is not listed in this option's YAML, though {target} has it; try +{name}=..."


def _keys(command: str, name: str) -> list[str]:
    """The keys beside which ``name`` would stand in the command's configuration, or all if its parent is unknown."""
    keys = list(_leaves(_composed(command), ""))
    parent = name.rpartition(".")[0]
    beside = [key for key in keys if parent and key.startswith(f"{parent}.")]
    last = name.rpartition(".")[2]
    return beside or [*{key.split(".")[0] for key in keys}, *(key for key in keys if key.endswith(f".{last}"))]


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        yield from _leaves(value, f"{path}.") if isinstance(value, dict) else [path]
