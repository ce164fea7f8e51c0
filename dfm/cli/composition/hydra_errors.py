"""Errors of Hydra and OmegaConf, each in one line: given, allowed, try."""

import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from dfm.basics.errors import UserError, unknown
from dfm.cli.composition.config_dirs import config_dirs, named_config_dirs, options, search_path
from dfm.cli.composition.yaml_files import misplaced

GROUP_OPTION = re.compile(r"Could not find '([^']+)/([^'/]+)'")
OVERRIDE = re.compile(r"Could not override '([^']+)'")
INTERPOLATION = re.compile(r"Interpolation key '([^']+)' not found")


def explain(error: Exception, command: str) -> str | None:
    """Return one line for a mistake in the command's overrides; None if the error is not the user's."""
    if isinstance(error, UserError):  # about a file that Hydra was reading
        return str(error)
    if not isinstance(error, (HydraException, OmegaConfBaseException)):
        return None
    text = " ".join(str(error).split())
    missing, key = GROUP_OPTION.search(text), OVERRIDE.search(text)
    if isinstance(error, MissingConfigException) and missing:
        hint = misplaced(missing[1], missing[2], [Path(name) for name in named_config_dirs(sys.argv[1:])])
        return "; ".join(filter(None, (str(unknown(missing[1], missing[2], options(missing[1]))), hint)))
    if key:
        name = key[1].split("@")[0]
        if options(name):
            option = next((a.partition("=")[2] for a in sys.argv[1:] if a.startswith(f"{name}=")), "")
            return str(unknown(name, option, options(name)))
        return _addable(command, name) or str(unknown("key", name, _keys(command, name)))
    hydras_text = text.partition(" See https://")[0]
    return interpolation(error) or _formula() or _unreadable(hydras_text, command) or hydras_text


def _unreadable(reason: str, command: str) -> str | None:
    """Return one line about the first word of the command line that Hydra's grammar cannot read; None if it can."""
    for text in sys.argv[1:]:
        try:
            readable = text.startswith("-") or bool(OverridesParser.create().parse_override(text).key_or_group)
        except HydraException:
            readable = False
        if not readable:
            reason = reason.rpartition(": ")[2]
            return f"{text}: {reason}; allowed: KEY=VALUE or GROUP=OPTION; try dfm {command} --help"
    return None


def _formula() -> str | None:
    """Return how to write a value with brackets, which Hydra reads as a function call; None if there is none."""
    for text in sys.argv[1:]:
        name, _, value = text.partition("=")
        if "(" in value and value[0] not in "'\"[{":
            return f"{text}: a formula with brackets needs quotes inside quotes; try '{name}=\"{value}\"'"
    return None


def interpolation(error: Exception) -> str | None:
    """Return one line about a key that refers to a missing key; None for any other error."""
    match = INTERPOLATION.search(str(error))
    if not match or not isinstance(error, InterpolationKeyError):
        return None
    return (
        f"{error.full_key} refers to {match[1]}, which this configuration lacks; "
        f"try another option of {str(error.full_key).partition('.')[0]} or of {match[1].partition('.')[0]}"
    )


def _compose(command: str) -> Any:
    """Return the command's configuration with the options that the command line chooses, but without its values."""
    own, *others = config_dirs()
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(own), version_base="1.3"):
        pairs = (a.partition("=") for a in sys.argv[1:])
        groups = [f"{group}={name}" for group, _, name in pairs if name in options(group)]
        return OmegaConf.to_container(compose(command, [*search_path(others), *groups]), resolve=False)


def _addable(command: str, name: str) -> str | None:
    """Return how to set a parameter that the chosen part has and its YAML does not list; None for any other key."""
    parent, _, last = name.rpartition(".")
    node: Any = _compose(command)
    for key in parent.split("."):
        node = node.get(key, {}) if isinstance(node, dict) else {}
    module, _, target = str(node.get("_target_", "") if isinstance(node, dict) else "").rpartition(".")
    if not module.startswith("dfm."):
        return None
    if last not in inspect.signature(getattr(importlib.import_module(module), target)).parameters:
        return None
    return f"key '{name}': {target} has it, but this option's YAML does not list it; try +{name}=VALUE"


def _keys(command: str, name: str) -> list[str]:
    """Return the keys with the same parent as ``name``, or the keys at the top if that parent is unknown."""
    keys = [key for key in _leaves(_compose(command), "") if key.rpartition(".")[2] != "_target_"]
    parent = name.rpartition(".")[0]
    siblings = [key for key in keys if parent and key.startswith(f"{parent}.")]
    last = name.rpartition(".")[2]
    return siblings or [*{key.split(".")[0] for key in keys}, *(key for key in keys if key.endswith(f".{last}"))]


def _leaves(node: Any, prefix: str) -> Iterator[str]:
    for key, value in node.items():
        path = f"{prefix}{key}"
        yield from _leaves(value, f"{path}.") if isinstance(value, dict) else [path]
