"""``init=RUN``: a training run that begins with another one's weights, its teacher's where the objective has one."""

from dataclasses import replace
from typing import Any

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs import checkpoint
from dfm.runs import parts as assemble
from dfm.runs.checkpoint import Checkpoint
from dfm.training.few_steps.meanflow import MeanFlow
from dfm.training.few_steps.reflow import Reflow
from dfm.training.few_steps.rounds import TaughtInRounds
from dfm.training.objectives.base import Objective
from dfm.training.trainer import Trainer

# What weights mean depends on these; dropout alone may differ.
SAME = ("model", "prediction", "schedule", "prior", "latent")


def load_initial_weights(
    trainer: Trainer, objective: Objective, config: dict[str, Any], ckpt: str | None, spec: DatasetSpec
) -> None:
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
    with checkpoint.blame_checkpoint(found):
        check_origin(found, objective, config, ckpt, spec)
        if isinstance(objective, TaughtInRounds):
            check_teacher(found, objective, config, ckpt, spec)
    if isinstance(objective, TaughtInRounds):
        assert isinstance(trainer.denoiser, NetworkDenoiser)
        objective.check(trainer.denoiser)
    with checkpoint.blame_checkpoint(found):
        trainer.begin_with(found.state["ema"])
    console.say(f"begins with the averaged weights of {found.path}")


def check_origin(found: Checkpoint, objective: Objective, config: dict[str, Any], ckpt: str, spec: DatasetSpec) -> None:
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
        before, now = (part(c, key) for c in (found.config, checkpoint.without_downloads(config)))
        if before != now:
            raise UserError(f"init={ckpt}: its {key} is {before}, here it is {now}; allowed: the same")
    learned = assemble.objective(found.config, assemble.trusted(config))
    if isinstance(learned, MeanFlow) and not isinstance(objective, MeanFlow):
        raise UserError(f"init={ckpt}: its network is told two times; allowed: objective=meanflow, or another run")


def check_teacher(
    found: Checkpoint, objective: TaughtInRounds, config: dict[str, Any], ckpt: str, spec: DatasetSpec
) -> None:
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
        not learned.independent
        or part(found.config, "coupling") != part(checkpoint.without_downloads(config), "coupling")
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
