"""``init=RUN``: a training run that begins with another one's weights, its teacher's where the objective has one."""

from dataclasses import replace
from typing import Any

from dfm import assemble, checkpoint, console
from dfm.checkpoint import Checkpoint
from dfm.datasets.base import DatasetSpec
from dfm.distillation import Taught
from dfm.errors import UserError
from dfm.meanflow import MeanFlow
from dfm.networks import NetworkDenoiser
from dfm.objectives import Objective
from dfm.reflow import Reflow
from dfm.trainer import Trainer

# What weights mean depends on these; dropout alone may differ.
SAME = ("model", "prediction", "schedule", "prior", "latent")


def begin(trainer: Trainer, objective: Objective, config: dict[str, Any], ckpt: str | None, spec: DatasetSpec) -> None:
    """The averaged weights of the run ``ckpt``, if one is given, in the place of fresh ones.

    Raises:
        UserError: the objective needs a teacher and none is given, or that run's network has another form or another
            meaning.
    """
    if ckpt is None:
        if objective.taught:
            name = type(objective).__name__.lower()
            raise UserError(f"objective={name} needs a teacher; allowed: init=RUN; try init=latest")
        return
    found, refused = checkpoint.find(ckpt, "init")
    for message in refused:
        console.warn(message)
    with checkpoint.made_use_of(found):
        check(found, objective, config, ckpt, spec)
        if isinstance(objective, Taught):
            check_taught(found, objective, config, ckpt, spec)
    if isinstance(objective, Taught):
        assert isinstance(trainer.denoiser, NetworkDenoiser)
        objective.check(trainer.denoiser)
    with checkpoint.made_use_of(found):
        trainer.begin_with(found.state["ema"])
    console.say(f"begins with the averaged weights of {found.path}")


def check(found: Checkpoint, objective: Objective, config: dict[str, Any], ckpt: str, spec: DatasetSpec) -> None:
    """Refuse what is not to begin with.

    Raises:
        UserError: as ``begin``.
    """
    if assemble.is_classifier(found.config) != assemble.is_classifier(config):
        raise UserError(f"init={ckpt}: of a classifier and a denoiser one is no beginning for the other")
    theirs, mine = (found.spec.shape, found.spec.num_classes), (spec.shape, spec.num_classes)
    if theirs != mine:
        raise UserError(f"init={ckpt}: a model of shape and classes {theirs}; allowed: {mine}, as the data here")
    for key in SAME:
        before, now = (part(c, key) for c in (found.config, checkpoint.harmless(config)))
        if before != now:
            raise UserError(f"init={ckpt}: its {key} is {before}, here it is {now}; allowed: the same")
    learned = assemble.objective(found.config, assemble.trusted(config))
    if isinstance(learned, MeanFlow) and not isinstance(objective, MeanFlow):
        raise UserError(f"init={ckpt}: its network is told two times; allowed: objective=meanflow, or another run")


def check_taught(found: Checkpoint, objective: Taught, config: dict[str, Any], ckpt: str, spec: DatasetSpec) -> None:
    """Refuse a teacher that does not know what the student is to learn from it, and a run that cannot go in rounds.

    Raises:
        UserError: as it says.
    """
    learned = assemble.objective(found.config, assemble.trusted(config))
    if not learned.has_ode:
        raise UserError(
            f"init={ckpt}: a few-step model ({type(learned).__name__}) has no ODE to teach; allowed: a run of "
            "objective=flow_matching, denoising, score or another that has"
        )
    theirs, mine = (replace(s, name="", num_classes=0) for s in (found.spec, spec))
    if theirs != mine:
        raise UserError(f"init={ckpt}: a teacher of other data, {found.spec}; allowed: of these, {spec}")
    if config.get("label_dropout") and not found.config.get("label_dropout"):
        raise UserError(f"init={ckpt}: this teacher never saw a hidden class; allowed: label_dropout=0, or another one")
    pairs = isinstance(objective, Reflow)
    if not pairs and (
        not learned.independent or part(found.config, "coupling") != part(checkpoint.harmless(config), "coupling")
    ):
        raise UserError(f"init={ckpt}: a teacher of another coupling of data and noise; allowed: the same coupling=")
    steps = int(config["trainer"]["max_steps"])
    if config["trainer"].get("max_minutes") is not None:
        raise UserError("trainer.max_minutes: rounds are counted in steps; allowed: trainer.max_minutes=null")
    if 0 < steps < objective.rounds:
        raise UserError(f"trainer.max_steps={steps} for {objective.rounds} rounds; allowed: at least one step a round")


def part(config: dict[str, Any], key: str) -> dict[str, Any]:
    """A part of a configuration as far as the meaning of the weights goes."""
    found = {**assemble.ABSENT, **config}[key]
    return {name: value for name, value in found.items() if name != "dropout"}
