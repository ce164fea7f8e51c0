"""What every command on a checkpoint does first: load the model, its sampler, its guidance, its data."""

import copy
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.job import Job
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Dataset, Split
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs import loading
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint
from dfm.runs.loading import find_checkpoint, outcome_of
from dfm.runs.parts import Parts
from dfm.sampling.samplers import Sampler


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """What a checkpoint is sampled with, as the command line says.

    Args:
        denoiser: guided.
        facts: the same in plain containers, for JSON.
    """

    checkpoint: Checkpoint
    denoiser: Denoiser
    sampler: Sampler
    facts: dict[str, Any]


def load_denoiser(
    job: Job, ckpt: str | None, ode: bool = True, key: str = "ckpt"
) -> tuple[Checkpoint, NetworkDenoiser]:
    """Return the newest whole checkpoint that ``ckpt`` means, and its denoiser, on ``schedule`` if the job names one.

    Args:
        ode: whether the command follows the model's ODE, which a few-step model may lack.
        key: the name of ``ckpt`` on the command line.

    Raises:
        UserError: there is none, or it lacks the ODE.
    """
    checkpoint = find_checkpoint(ckpt, key)
    denoiser = loading.denoiser_of(checkpoint, job.device, job.trusted)
    if ode:
        try:
            denoiser.check_ode()
        except UserError as error:
            raise UserError(f"{checkpoint.path}: {error}") from None
    return checkpoint, denoiser.on_schedule(job.parts.schedule) if job.config.get("schedule") else denoiser


def load_drawing(job: Job) -> Drawing:
    """Load the checkpoint of ``ckpt=`` with its sampler and guidance.

    Raises:
        UserError: there is none, or the sampler, the guidance or the task does not suit it.
    """
    parts = job.parts
    _ = (parts.sampler, parts.guidance)  # a mistake in them is reported before a checkpoint is read
    checkpoint, denoiser = load_denoiser(job, job.settings.ckpt, ode=False)
    sampler, settings, name = own_sampler(job, checkpoint)
    guided = guide(job, denoiser)
    steered = guided is not denoiser or (job.config.get("task") is not None and not parts.task.is_none)
    if denoiser.own_jump and sampler.jumps and steered:
        raise UserError(
            "guidance or task with a flow map's own jumps: they cannot be steered; allowed: guidance=none task=none, "
            "or sampler=heun, which follows its ODE"
        )
    facts = {
        "sampler": name,
        "settings": settings,
        "guidance": job.config["guidance"],
        "schedule": job.config.get("schedule") or checkpoint.config["schedule"],
    }
    return Drawing(checkpoint=checkpoint, denoiser=guided, sampler=sampler, facts=facts)


def own_sampler(job: Job, checkpoint: Checkpoint) -> tuple[Sampler, dict[str, Any], str]:
    """Return (sampler, its settings, its name): the job's, or a few-step model's own if the job names none.

    A few-step model's own sampler has as many steps as the model is made for. ``sampler.steps=`` and the other keys
    that it shares with the command's default hold for it too.
    """
    outcome = outcome_of(checkpoint, Parts(checkpoint.config, job.trusted))
    if not outcome.few_steps:
        if job.parts.sampler.adaptive:
            refuse_unused(("grid",), "on an adaptive sampler, which chooses its times by sampler.solver.rtol and atol")
        return job.parts.sampler, job.config["sampler"], job.choice("sampler")
    named, own = job.names("sampler", "grid"), loading.own_sampler(checkpoint, outcome)
    node = job.config["sampler"] if named else with_overrides(own, job.config, job.overrides)
    with nullcontext() if named else blame_checkpoint(checkpoint):
        sampler = Parts({"sampler": node}, job.trusted).sampler
    warn_unsuited_sampler(sampler, node, own, outcome.steps)
    return sampler, node, job.choice("sampler") if named else "own"


def warn_unsuited_sampler(sampler: Sampler, node: dict[str, Any], own: dict[str, Any], steps: int | None) -> None:
    """Warn of a sampler that a few-step model is not made for.

    Args:
        node: the settings of ``sampler``.
        own: the settings of the model's own sampler.
        steps: the number of steps that the model is made for, if it is one number.
    """
    if not sampler.jumps:
        name = type(sampler).__name__
        console.warn(f"{name}: a few-step model has its own sampler; try without sampler= and grid=, or sampler=jump")
        return
    if steps is not None and node.get("steps") != steps:
        console.warn(f"sampler.steps={node.get('steps')}: this student was made for {steps}; try leaving it out")
    if node.get("renoise") != own.get("renoise", node.get("renoise")):
        console.warn(f"sampler.renoise={node['renoise']}: this student was made for the other; try without sampler=")


def with_overrides(own: dict[str, Any], config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a sampler's settings with the ``sampler.KEY=`` and ``grid.KEY=`` of the command line in their places."""
    settings = copy.deepcopy(own)
    for text in overrides:
        first, *path = text.partition("=")[0].lstrip("+").split(".")
        if first in ("sampler", "grid") and path:
            path = ["grid", *path] if first == "grid" else path
            into, source = settings, config["sampler"]
            for key in path[:-1]:
                into, source = into.setdefault(key, {}), source[key]
            into[path[-1]] = source[path[-1]]
    return settings


def guide(job: Job, denoiser: NetworkDenoiser) -> Denoiser:
    """Return the denoiser as the job guides it.

    Raises:
        UserError: the models do not suit, or the weak one would be a network that never saw a hidden class.
    """
    guidance = job.parts.guidance
    if guidance.ckpt is None:
        return guidance.guide(denoiser)
    other = find_checkpoint(guidance.ckpt, "guidance.ckpt")
    load = loading.classifier_of if guidance.second == "classifier" else loading.denoiser_of
    return guidance.guide(denoiser, load(other, job.device, job.trusted))


def dataset_of(checkpoint: Checkpoint, config: Mapping[str, Any], trusted: Sequence[str]) -> Dataset:
    """Return the checkpoint's data set, with the keys that the command replaces.

    A checkpoint may say where data are read, not where anything is written (``without_downloads``): a user who wants a
    download, or a cache elsewhere than where all caches are, says so on the command line.
    """
    with blame_checkpoint(checkpoint):
        return Parts({"dataset": {**checkpoint.config["dataset"], **config["dataset"]}}, trusted).dataset


def examples_of(checkpoint: Checkpoint, job: Job, name: str) -> Split:
    """Return a split of the checkpoint's data set, with the keys that the command replaces.

    Raises:
        UserError: there is no such split, it is empty, or its examples or classes are not as those of the training.
    """
    data, spec = dataset_of(checkpoint, job.config, job.trusted), checkpoint.spec
    split = data.split(name)
    if len(split) == 0:
        raise UserError(f"split={name}: {spec.name} has no examples in it; try split=train")
    there = (tuple(split.values.shape[1:]), data.levels, data.num_classes if spec.num_classes else 0)
    if there != (spec.shape, spec.levels, spec.num_classes):
        raise UserError(
            f"split={name}: shape, levels and classes of {data.name} are now {there}; allowed: "
            f"{(spec.shape, spec.levels, spec.num_classes)}, as when this model was trained"
        )
    return split
