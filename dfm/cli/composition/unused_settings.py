"""Refuse settings that have no effect, because a result would seem to depend on them."""

from collections.abc import Collection
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.composition.command_line import choices, overrides
from dfm.cli.composition.config_dirs import config_dirs
from dfm.cli.composition.yaml_files import settings_of_files
from dfm.runs.build import target_of
from dfm.runs.parts import Parts
from dfm.training.objectives.couplings import IndependentCoupling
from dfm.training.objectives.uncertainty import FixedUncertainty

# Groups that only some objectives use; a classifier needs no prior and no prediction: its noise is standard normal.
OF_OBJECTIVE = ("weight", "density", "pacing")
OF_DENOISERS = ("prior", "prediction")
# Groups with an option that changes nothing, which an objective without use for the group allows: (option, its class).
NEUTRAL = {"uncertainty": ("fixed", FixedUncertainty), "coupling": ("independent", IndependentCoupling)}


def refuse_unused(keys: Collection[str], why: str, beside: str = "") -> None:
    """Refuse the keys if the command line names them. In a multirun only warn, because its other jobs may use them.

    An experiment of the user's that sets one of them gets a warning, because it may serve other command lines too.

    Args:
        keys: ``grid`` means the group and all keys below it; ``task.`` means only the keys below it.
        why: the reason why they have no effect.
        beside: ``KEY=VALUE`` beside which they have one; empty: there is none.

    Raises:
        UserError: the command line names one of them.
    """
    for file, name in settings_of_files(choices(), config_dirs()[1:]):
        if _is_among(name, keys):
            console.warn(f"{file}: {name} has no effect {why}")
    for text in overrides():
        if _is_among(text.lstrip("+").partition("=")[0], keys):
            way = f"{beside} {text.lstrip('+')}, or without it" if beside else "without it"
            message = f"{text.lstrip('+')}: it has no effect {why}; try {way}"
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise UserError(message)
            console.warn(message)


def _is_among(name: str, keys: Collection[str]) -> bool:
    name = name.partition("@")[2] or name
    return any(name.startswith(key) if key.endswith(".") else f"{name}.".startswith(f"{key}.") for key in keys)


def check_settings(part: Any, group: str) -> None:
    """Refuse settings of a part that have no effect beside its other settings.

    Raises:
        UserError: as ``refuse_unused``.
    """
    for name, why in part.unused_settings().items():
        way = part.instead(name)
        refuse_unused((f"{group}.{name}",), why, f"{group}.{way}" if way else "")


def check_objective_groups(parts: Parts) -> None:
    """Refuse groups that the objective does not use.

    Raises:
        UserError: as ``refuse_unused``, or the configuration itself chooses such a group.
    """
    config, name = parts.config, type(parts.objective).__name__
    in_use = list(config["objective"].values())
    for group, (option, neutral) in NEUTRAL.items():
        node = config.get(group)
        if node and node not in in_use and target_of(str(node["_target_"]), group, parts.trusted) is not neutral:
            raise UserError(
                f"{group}: {node['_target_']} has no effect on {name}, which uses no {group}; "
                f"allowed: {group}={option}, or another objective; try {group}={option}"
            )
    unused = [group for group in OF_OBJECTIVE if config.get(group) is None or config[group] not in in_use]
    refuse_unused([*unused, *(OF_DENOISERS if parts.objective.trains == "classifier" else ())], f"on {name}")
