"""``init=RUN``: start a training run with the weights of another run, which can also be a teacher."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.from_checkpoint import warn_other_names
from dfm.cli.job import Job
from dfm.data.dataset import DatasetSpec
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs.build import with_defaults
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint
from dfm.runs.loading import find_checkpoint
from dfm.runs.parts import ABSENT, Parts
from dfm.runs.places import without_places
from dfm.training.trainer import Trainer

# The meaning of the weights depends on these groups. Only dropout may differ.
SAME = ("model", "prediction", "schedule", "prior", "latent")


def find_initial_weights(job: Job) -> Checkpoint | None:
    """Return the checkpoint of the run ``init``; None without ``init``.

    Raises:
        UserError: the objective needs a teacher and there is no ``init``, or no such run.
    """
    ckpt, objective = job.settings.init, job.parts.objective
    if ckpt is not None:
        return find_checkpoint(ckpt, "init", job.trusted)
    if objective.needs_teacher:
        name = type(objective).__name__.lower()
        raise UserError(f"objective={name} needs a teacher; allowed: init=RUN; try init=latest")
    return None


def seen_as_before(spec: DatasetSpec, origin: DatasetSpec) -> DatasetSpec:
    """Return the spec with the centre and the scaling with which these initial weights saw the same data.

    A network sees data without their centre, each channel in a scale of its own; dfm 0.1 had neither. Data whose mean
    is a deviation away, or whose deviation is another by a factor of 2, are others, and have their own.
    """
    if spec.unlike_examples(origin.shape, origin.levels):
        return spec  # it is refused, or scaled in another unit
    (mean, std), (before, spread) = in_users_unit(spec), in_users_unit(origin)
    if abs(mean - before) > std or not 0.5 < spread / std < 2:
        return spec
    if spec.scale == origin.scale:
        return replace(spec, centre=origin.centre)
    names = ("shift", "scale", "mean", "std", "centre")
    return replace(spec, **{name: getattr(origin, name) for name in names})


def in_users_unit(spec: DatasetSpec) -> tuple[float, float]:
    """Return mean and deviation of all numbers in the unit of the user's file; of levels, in that of the model."""
    if not spec.scale:
        return spec.mean, spec.std
    return statistics.fmean(spec.shift), math.sqrt(statistics.fmean(scale**2 for scale in spec.scale))


def load_initial_weights(trainer: Trainer, job: Job, spec: DatasetSpec, origin: Checkpoint) -> None:
    """Load the averaged weights of the run ``init`` in place of fresh ones.

    Raises:
        UserError: the weights of that run have another form or another meaning.
    """
    objective = trainer.objective
    with blame_checkpoint(origin):
        theirs = Parts(origin.config, job.trusted)
        check_origin(origin, theirs, job, spec)
        if objective.needs_teacher:
            check_teacher(origin, theirs, job, spec)
    if objective.needs_teacher:
        objective.check_teacher(cast(NetworkDenoiser, trainer.denoiser))  # check_origin has refused a classifier
    with blame_checkpoint(origin):
        weights, dropped = without_unused(origin, theirs, trainer)
        fresh = trainer.start_from(weights)
    apart = (("fresh", fresh), ("left out", dropped))
    rest = [f"{what}: {', '.join(names)}" for what, names in apart if names]
    console.say(f"starts with the averaged weights of {'; '.join([str(origin.path), *rest])}")


def without_unused(origin: Checkpoint, theirs: Parts, trainer: Trainer) -> tuple[dict[str, Any], list[str]]:
    """Return the averaged weights without those that serve only to tell the network of changes, if this run tells none.

    Without them the network makes the same samples.

    Args:
        theirs: the parts of the checkpoint.

    Returns:
        The weights that stay, and the names of the others.
    """
    weights: dict[str, Any] = origin.state["ema"]
    if trainer.augmentation.warp.numbers or not theirs.augmentation.numbers:
        return weights, []
    layers = theirs.model(origin.spec, torch.device("meta")).module().named_modules()
    unused = [f"{name}." for name, layer in layers if getattr(layer, "adds_nothing_untold", False)]
    dropped = [name for name in weights if name.startswith(tuple(unused))]
    return {name: value for name, value in weights.items() if name not in dropped}, dropped


def check_origin(origin: Checkpoint, theirs: Parts, job: Job, spec: DatasetSpec) -> None:
    """Refuse weights that this run cannot start from.

    Args:
        theirs: the parts of the checkpoint.

    Raises:
        UserError: they belong to another kind of model or to other data, or have another meaning.
    """
    objective, ckpt = job.parts.objective, job.settings.init
    if theirs.objective.trains != objective.trains:
        raise UserError(
            f"init={ckpt}: it holds a {theirs.objective.trains}, and this run trains a {objective.trains}; allowed: a "
            f"run that trained a {objective.trains}; try without init={ckpt}"
        )
    if origin.spec.shape != spec.shape:
        raise UserError(f"init={ckpt}: a model of data of shape {origin.spec.shape}; allowed: {spec.shape}, as here")
    if origin.spec.num_classes != spec.num_classes:
        raise UserError(
            f"init={ckpt}: a model of {origin.spec.num_classes} classes; allowed: {spec.num_classes}, as here; try "
            f"conditional={'true' if origin.spec.num_classes else 'false'}"
        )
    for key in SAME:
        before, now = (meaning(config, key, job.trusted) for config in (origin.config, job.config))
        if before != now:
            raise UserError(f"init={ckpt}: {difference(key, before, now)}")
    if theirs.objective.times > objective.times:
        raise UserError(
            f"init={ckpt}: its network takes two times (t, s); allowed: an objective of two times; try "
            "objective=meanflow"
        )
    told, tells = theirs.augmentation.numbers, job.parts.augmentation.numbers
    if told and tells and told != tells:
        raise UserError(
            f"init={ckpt}: its network is told of a change by {told} numbers, here by {tells}; allowed: the same "
            "augmentation, or none; try augmentation=none"
        )
    warn_other_names(f"init={ckpt}", spec, origin.spec)


def check_teacher(origin: Checkpoint, theirs: Parts, job: Job, spec: DatasetSpec) -> None:
    """Refuse a teacher that cannot teach this student, and settings that do not suit training in rounds.

    Raises:
        UserError: the teacher or a setting does not suit.
    """
    objective, config, ckpt = job.parts.objective, job.config, job.settings.init
    outcome = theirs.objective.outcome({})
    if not outcome.has_ode:
        raise UserError(
            f"init={ckpt}: a few-step model ({type(theirs.objective).__name__}) has no ODE to teach; allowed: a run of "
            "an objective with an ODE, such as objective=flow_matching, denoising or score"
        )
    data, mine = (replace(s, name="", num_classes=0, class_names=(), low=(), high=()) for s in (origin.spec, spec))
    if data != mine:
        other = ", ".join(data.unlike(mine)) or "seen in another scale"
        raise UserError(f"init={ckpt}: a teacher of other data: {other}; allowed: a teacher of these data")
    if config.get("label_dropout") and not origin.config.get("label_dropout"):
        raise UserError(
            f"init={ckpt}: this teacher was trained without label_dropout; allowed: label_dropout=0, or a teacher that "
            "was trained with it"
        )
    if unknown := sorted(job.parts.augmentation.kinds - theirs.augmentation.kinds):
        raise UserError(
            f"init={ckpt}: this teacher was trained without {', '.join(unknown)}; allowed: changes that it knows, or "
            "augmentation=none; try augmentation=none"
        )
    couplings = [meaning(each, "coupling", job.trusted) for each in (origin.config, config)]
    if not objective.own_pairs and (not outcome.independent or couplings[0] != couplings[1]):
        raise UserError(f"init={ckpt}: a teacher with another coupling of data and noise; allowed: the same coupling=")
    steps, rounds = int(config["trainer"]["max_steps"]), objective.rounds.count
    if config["trainer"].get("max_minutes") is not None:
        minutes = config["trainer"]["max_minutes"]
        raise UserError(
            f"trainer.max_minutes={minutes}: rounds are counted in steps; allowed: trainer.max_minutes=null"
        )
    if 0 < steps < rounds:
        raise UserError(f"trainer.max_steps={steps} for {rounds} rounds; allowed: at least one step for each round")


def meaning(config: dict[str, Any], key: str, trusted: Sequence[str]) -> dict[str, Any]:
    """Return those keys of a group on which the meaning of the weights depends."""
    node = with_defaults(without_places({**ABSENT, **config}[key], trusted, handling=True), key, trusted)
    return {name: value for name, value in node.items() if name != "dropout"}


def difference(group: str, before: dict[str, Any], now: dict[str, Any]) -> str:
    """Return what differs in a group between the run of ``init`` and this run, as text of an error."""
    classes = [str(node["_target_"]).rpartition(".")[2] for node in (before, now)]
    if classes[0] != classes[1]:
        return f"its {group} is {classes[0]}, here it is {classes[1]}; allowed: the same {group}"
    key = next(name for name in {**before, **now} if before.get(name) != now.get(name))
    return f"its {group}.{key} is {before.get(key)}, here it is {now.get(key)}; allowed: the same value"
