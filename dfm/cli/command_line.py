"""What the command line gave: overrides, choices of groups, and the configuration composed from them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dfm.basics.errors import UserError, unknown
from dfm.cli.hydra_errors import interpolation
from dfm.runs.build import Node


def config_dir() -> Path:
    """The YAML groups: inside the package when installed from a wheel, else beside it in the checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def run_directory() -> Path:
    """The directory of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """What was given on the command line (in a multirun: for this job)."""
    return list(HydraConfig.get().overrides.task)


def choice(group: str) -> str:
    """The option of a group that the command line or the defaults chose."""
    return str(HydraConfig.get().runtime.choices[group])


def options(group: str) -> list[str]:
    """The options of a config group."""
    return sorted(path.stem for path in (config_dir() / group).glob("*.yaml"))


def variant(command: str, *changes: str) -> dict[str, Any]:
    """The running job's configuration with other choices on top, e.g. another sampler; in plain containers.

    Overrides of the choices that are replaced, and of their keys, are left out.
    """
    replaced = {change.partition("=")[0] for change in changes}
    kept = [text for text in overrides() if text.lstrip("+").partition("=")[0].split(".")[0] not in replaced]
    content = OmegaConf.to_container(hydra.compose(config_name=command, overrides=[*kept, *changes]), resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def composed(command: str, *changes: str) -> dict[str, Any]:
    """What ``dfm COMMAND CHANGES`` would compose, outside a job, in plain containers: for scripts."""
    with hydra.initialize_config_dir(str(config_dir()), version_base=None):
        content = OmegaConf.to_container(hydra.compose(command, list(changes)), resolve=True)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The resolved configuration in plain containers.

    Raises:
        UserError: an interpolation leads nowhere or a value is missing.
    """
    try:
        content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(interpolation(error) or " ".join(str(error).split())) from None
    assert isinstance(content, dict)
    found = {str(key): value for key, value in content.items()}
    _refuse_additions(found)
    return found


def _refuse_additions(config: Node) -> None:
    """``+key=value`` adds what nobody reads, unless the key is that of a part, which ``build`` checks."""
    for text in overrides():
        key = text.lstrip("+").partition("=")[0]
        part = config.get(key.partition(".")[0])
        read = isinstance(part, Mapping) and ("_target_" in part or key.startswith("dataset."))
        if text.startswith("+") and not read:
            raise unknown("key", key, config)
