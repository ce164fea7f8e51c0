"""Refuse settings that have no effect, so that no result seems to depend on them."""

from collections.abc import Collection
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.command_line import overrides
from dfm.runs.build import target_of
from dfm.runs.parts import Parts
from dfm.training.objectives.couplings import IndependentCoupling
from dfm.training.objectives.uncertainty import FixedUncertainty

# Groups that an objective takes or leaves; a classifier sees standard normal noise and predicts classes.
OF_OBJECTIVE = ("weight", "density", "pacing")
OF_DENOISERS = ("prior", "prediction")
# Groups that an objective may leave as long as their option changes nothing: (that option, its class).
NEUTRAL = {"uncertainty": ("fixed", FixedUncertainty), "coupling": ("independent", IndependentCoupling)}


def refuse_unused(keys: Collection[str], why: str) -> None:
    """Refuse the keys if the command line names them; in a multirun, whose other jobs may use them, warn.

    Args:
        keys: ``grid`` means the group and all below it, ``task.`` only what is below.
        why: why they have no effect.

    Raises:
        UserError: one of them is named.
    """
    for text in overrides():
        name = text.lstrip("+").partition("=")[0]
        name = name.partition("@")[2] or name
        if any(name.startswith(key) if key.endswith(".") else f"{name}.".startswith(f"{key}.") for key in keys):
            message = f"{text}: it has no effect {why}; try without it"
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                raise UserError(message)
            console.warn(message)


def check_settings(part: Any, group: str) -> None:
    """Refuse settings of a part that its other settings leave without effect.

    Raises:
        UserError: as ``refuse_unused``.
    """
    for name, why in part.unused_settings().items():
        refuse_unused((f"{group}.{name}",), why)


def check_objective_groups(parts: Parts) -> None:
    """Refuse groups that the objective leaves without effect.

    Raises:
        UserError: as ``refuse_unused``; or the configuration itself chooses such a group.
    """
    config, name = parts.config, type(parts.objective).__name__
    taken = list(config["objective"].values())
    for group, (option, neutral) in NEUTRAL.items():
        node = config.get(group)
        if node and node not in taken and target_of(str(node["_target_"]), group, parts.trusted) is not neutral:
            raise UserError(
                f"{group}: {node['_target_']} has no effect, as objective {name} takes none; "
                f"allowed: {group}={option}, or another objective"
            )
    left = [group for group in OF_OBJECTIVE if config.get(group) is None or config[group] not in taken]
    refuse_unused([*left, *(OF_DENOISERS if parts.objective.trains == "classifier" else ())], f"on {name}")
