"""Refusing what the command line sets and nothing would heed: a figure must not look as if it came from it."""

from collections.abc import Collection
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode

from dfm import console
from dfm.config import overrides
from dfm.errors import UserError
from dfm.flows import OdeFlow
from dfm.likelihood import EvidenceBound, Likelihood, OdeLikelihood, Several

# Groups that some objectives take no part of; the classifier sees standard normal noise and predicts classes.
OF_OBJECTIVE = ("weight", "density", "pacing")
OF_DENOISERS = ("prior", "prediction")


def refuse_idle(keys: Collection[str], why: str) -> None:
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


def check_flow(flow: OdeFlow) -> None:
    """Refuse settings of another solver than the flow's.

    Raises:
        UserError: as ``refuse_idle``.
    """
    if flow.solver == "dopri5":
        refuse_idle(("flow.steps", "flow.grid"), "on flow.solver=dopri5, which chooses its steps by flow.rtol and atol")
    else:
        refuse_idle(("flow.rtol", "flow.atol"), f"on flow.solver={flow.solver}, which goes along flow.grid")


def check_likelihood(likelihood: Likelihood | Several) -> None:
    """Refuse settings of another solver or divergence than the likelihood's.

    Raises:
        UserError: as ``refuse_idle``.
    """
    if isinstance(likelihood, EvidenceBound):
        if likelihood.time == "continuous":
            refuse_idle(("likelihood.grid", "likelihood.variance"), "on a bound in continuous time")
        if likelihood.decoder == "gaussian":
            refuse_idle(("likelihood.cut",), "on likelihood.decoder=gaussian")
    if not isinstance(likelihood, OdeLikelihood):
        return
    if likelihood.adaptive:
        keys = [f"likelihood.{key}" for key in ("steps", "tolerance", "grid")]
        refuse_idle(keys, "on likelihood.solver=dopri5, which chooses its steps by likelihood.rtol and atol")
    else:
        refuse_idle(("likelihood.rtol", "likelihood.atol"), f"on likelihood.solver={likelihood.solver}")
    if likelihood.steps is not None:
        refuse_idle(("likelihood.tolerance",), "beside likelihood.steps, which it is to find")
    if likelihood.divergence == "hutchinson":
        refuse_idle(("likelihood.chunk",), "on likelihood.divergence=hutchinson")


def check_objective(config: dict[str, Any], classifier: bool) -> None:
    """Refuse groups that the objective has no place for.

    Raises:
        UserError: as ``refuse_idle``.
    """
    own = config["objective"]
    absent = [group for group in OF_OBJECTIVE if config.get(group) is None or config[group] not in own.values()]
    refuse_idle([*absent, *(OF_DENOISERS if classifier else ())], f"on {own['_target_'].rpartition('.')[2]}")
