"""The command line as Hydra read it: overrides, chosen options, and the configuration composed from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from dfm.basics.errors import UserError, unknown
from dfm.cli.composition.config_dirs import SEARCH_PATH, config_dir, options
from dfm.cli.composition.loader import use_loader
from dfm.cli.words.hydra_errors import value_error


def run_directory() -> Path:
    """Return the directory of the running job."""
    return Path(HydraConfig.get().runtime.output_dir)


def overrides() -> list[str]:
    """Return the overrides of the command line; in a multirun, those of this job."""
    return list(HydraConfig.get().overrides.task)


def choices() -> dict[str, str | None]:
    """Return {group: option} as the command line, a recipe or the defaults chose."""
    return {str(group): option for group, option in HydraConfig.get().runtime.choices.items()}


def variant(command: str, *changes: str) -> dict[str, Any]:
    """Return the running job's configuration with other choices, e.g. another sampler, in plain containers.

    The job's own overrides of the changed groups, and of their keys, are left out.
    """
    groups = {change.partition("=")[0] for change in changes}
    others = [text for text in overrides() if text.lstrip("+").partition("=")[0].split(".")[0] not in groups]
    places = [text for text in HydraConfig.get().overrides.hydra if text.startswith(SEARCH_PATH)]
    return _containers(hydra.compose(config_name=command, overrides=[*places, *others, *changes]))


def other_command(command: str, words: Sequence[str]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """Return (configuration in plain containers, {group: option}) of ``dfm COMMAND WORDS``, inside a job of another."""
    places = [text for text in HydraConfig.get().overrides.hydra if text.startswith(SEARCH_PATH)]
    config = hydra.compose(config_name=command, overrides=[*places, *words], return_hydra_config=True)
    found = {str(group): option for group, option in config.hydra.runtime.choices.items()}
    with open_dict(config):
        del config["hydra"]
    return _containers(config), found


def compose(command: str, *changes: str) -> dict[str, Any]:
    """Return the configuration of ``dfm COMMAND CHANGES`` in plain containers. This is for scripts, outside a job."""
    use_loader()
    with hydra.initialize_config_dir(str(config_dir()), version_base=None):
        return _containers(hydra.compose(command, list(changes)))


def plain(cfg: DictConfig) -> dict[str, Any]:
    """Return the resolved configuration of the job in plain containers.

    Raises:
        UserError: an interpolation refers to a missing key, a value is missing, or ``+key=value`` adds a key that no
            code reads.
    """
    try:
        config = _containers(cfg, throw_on_missing=True)
    except OmegaConfBaseException as error:
        raise UserError(value_error(error) or " ".join(str(error).split())) from None
    _refuse_misplaced_options()
    _refuse_additions(config)
    return config


def _containers(cfg: DictConfig, throw_on_missing: bool = False) -> dict[str, Any]:
    content = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=throw_on_missing)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _refuse_misplaced_options() -> None:
    """Refuse ``PART.GROUP=OPTION``: the option of a group is chosen by ``GROUP=``, or ``GROUP@PART.GROUP=``."""
    choices = HydraConfig.get().runtime.choices
    for text in overrides():
        key, _, value = text.partition("=")
        group = key.rpartition(".")[2]
        if "@" not in key and key != group and value in options(group):
            place = next((name for name in choices if name.startswith(f"{group}@") and name.endswith(key)), group)
            raise UserError(f"{text}: {key} is a part, not an option; allowed: {place}=OPTION; try {place}={value}")


def _refuse_additions(config: Mapping[str, Any]) -> None:
    """Refuse ``+key=value`` where no code reads the key. ``build`` checks the keys of parts, so these may pass."""
    for text in overrides():
        key = text.lstrip("+").partition("=")[0]
        part = config.get(key.partition(".")[0])
        read = isinstance(part, Mapping) and ("_target_" in part or key.startswith(("dataset.", "prior.dataset.")))
        if text.startswith("+") and not read:
            raise unknown("key", key, config.keys() - {key.partition(".")[0]})
