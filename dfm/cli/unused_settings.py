"""Refusing what the command line sets and nothing would heed: a figure must not look as if it came from it."""

from collections.abc import Collection
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.command_line import overrides

# Groups that some objectives take no part of; the classifier sees standard normal noise and predicts classes.
OF_OBJECTIVE = ("weight", "density", "pacing")
OF_DENOISERS = ("prior", "prediction")


def refuse_unused(keys: Collection[str], why: str) -> None:
    """Refuse the keys if the command line names them; in a multirun, whose other jobs may heed them, warn.

    Args:
        keys: ``grid`` means the group and all below it, ``task.`` only what is below.
        why: what makes them idle.

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


def check_objective(config: dict[str, Any], classifier: bool) -> None:
    """Refuse groups that the objective has no place for.

    Raises:
        UserError: as ``refuse_idle``.
    """
    own = config["objective"]
    absent = [group for group in OF_OBJECTIVE if config.get(group) is None or config[group] not in own.values()]
    refuse_unused([*absent, *(OF_DENOISERS if classifier else ())], f"on {own['_target_'].rpartition('.')[2]}")
