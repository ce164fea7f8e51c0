"""``init=RUN``: a training run that starts with another run's weights, its teacher's where the objective has one."""

from dataclasses import replace
from typing import Any

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.job import Job
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint, without_downloads
from dfm.runs.loading import find_checkpoint
from dfm.runs.parts import ABSENT, Parts
from dfm.training.trainer import Trainer

# The meaning of weights depends on these; dropout alone may differ.
SAME = ("model", "prediction", "schedule", "prior", "latent")


def load_initial_weights(trainer: Trainer, job: Job, spec: DatasetSpec) -> None:
    """Load the averaged weights of the run ``init``, if one is given, instead of fresh ones.

    Raises:
        UserError: the objective needs a teacher and none is given, or that run's network has another form or another
            meaning.
    """
    ckpt, objective = job.settings.init, trainer.objective
    if ckpt is None:
        if objective.needs_teacher:
            name = type(objective).__name__.lower()
            raise UserError(f"objective={name} needs a teacher; allowed: init=RUN; try init=latest")
        return
    origin = find_checkpoint(ckpt, "init")
    with blame_checkpoint(origin):
        theirs = Parts(origin.config, job.trusted)
        check_origin(origin, theirs, job, spec)
        if objective.needs_teacher:
            check_teacher(origin, theirs, job, spec)
    if objective.needs_teacher:
        assert isinstance(trainer.denoiser, NetworkDenoiser)
        objective.check_teacher(trainer.denoiser)
    with blame_checkpoint(origin):
        trainer.start_from(origin.state["ema"])
    console.say(f"starts with the averaged weights of {origin.path}")


def check_origin(origin: Checkpoint, theirs: Parts, job: Job, spec: DatasetSpec) -> None:
    """Refuse weights that this run cannot start from.

    Args:
        theirs: the parts of the checkpoint.

    Raises:
        UserError: they are of another kind of model, of other data, or have another meaning.
    """
    objective, ckpt = job.parts.objective, job.settings.init
    if theirs.objective.trains != objective.trains:
        raise UserError(
            f"init={ckpt}: it holds a {theirs.objective.trains} and this run trains a {objective.trains}: its weights "
            "do not fit; allowed: a run of the same kind"
        )
    form, mine = (origin.spec.shape, origin.spec.num_classes), (spec.shape, spec.num_classes)
    if form != mine:
        raise UserError(f"init={ckpt}: a model of shape and classes {form}; allowed: {mine}, as the data here")
    for key in SAME:
        before, now = (meaning(config, key) for config in (origin.config, without_downloads(job.config)))
        if before != now:
            raise UserError(f"init={ckpt}: its {key} is {before}, here it is {now}; allowed: the same")
    if theirs.objective.times > objective.times:
        raise UserError(
            f"init={ckpt}: its network takes two times (t, s); only an objective of two times, such as "
            "objective=meanflow, can start from it"
        )


def check_teacher(origin: Checkpoint, theirs: Parts, job: Job, spec: DatasetSpec) -> None:
    """Refuse a teacher that does not know what the student is to learn, and a run that cannot go in rounds.

    Raises:
        UserError: as it says.
    """
    objective, config, ckpt = job.parts.objective, job.config, job.settings.init
    outcome = theirs.objective.outcome({})
    if not outcome.has_ode:
        raise UserError(
            f"init={ckpt}: a few-step model ({type(theirs.objective).__name__}) has no ODE to teach; allowed: a run of "
            "objective=flow_matching, denoising, score or another that has"
        )
    data, mine = (replace(s, name="", num_classes=0) for s in (origin.spec, spec))
    if data != mine:
        raise UserError(f"init={ckpt}: a teacher of other data, {origin.spec}; allowed: of these, {spec}")
    if config.get("label_dropout") and not origin.config.get("label_dropout"):
        raise UserError(f"init={ckpt}: this teacher never saw a hidden class; allowed: label_dropout=0, or another one")
    couplings = [meaning(each, "coupling") for each in (origin.config, without_downloads(config))]
    if not objective.own_pairs and (not outcome.independent or couplings[0] != couplings[1]):
        raise UserError(f"init={ckpt}: a teacher of another coupling of data and noise; allowed: the same coupling=")
    steps, rounds = int(config["trainer"]["max_steps"]), objective.rounds.count
    if config["trainer"].get("max_minutes") is not None:
        raise UserError("trainer.max_minutes: rounds are counted in steps; allowed: trainer.max_minutes=null")
    if 0 < steps < rounds:
        raise UserError(f"trainer.max_steps={steps} for {rounds} rounds; allowed: at least one step a round")


def meaning(config: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a node of a configuration as far as it matters for the meaning of the weights."""
    node = {**ABSENT, **config}[key]
    return {name: value for name, value in node.items() if name != "dropout"}
