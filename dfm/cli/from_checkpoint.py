"""The first steps of every command on a checkpoint: load the model, its sampler, its guidance, its data."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from dfm.basics.errors import UserError, unknown
from dfm.cli import console
from dfm.cli.composition.stored_run import look_up
from dfm.cli.composition.unused_settings import refuse_unused
from dfm.cli.job import Job
from dfm.data.dataset import Dataset, DatasetSpec, Split
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs import loading
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint
from dfm.runs.loading import find_checkpoint, outcome_of
from dfm.runs.parts import Parts
from dfm.runs.places import check_sources, find_sources, movable_keys, with_values
from dfm.sampling.labels import AskedClasses, asked_classes, other_meaning
from dfm.sampling.samplers import Sampler


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A checkpoint with everything that is needed to draw samples from it.

    Args:
        denoiser: the checkpoint's denoiser with the guidance of the command line.
        facts: sampler, guidance and schedule in plain containers, for JSON.
    """

    checkpoint: Checkpoint
    denoiser: Denoiser
    sampler: Sampler
    facts: dict[str, Any]


def load_denoiser(
    job: Job, ckpt: str | None, ode: bool = True, key: str = "ckpt"
) -> tuple[Checkpoint, NetworkDenoiser]:
    """Return the newest whole checkpoint that ``ckpt`` means, and its denoiser.

    The denoiser is on the job's ``schedule`` if the job has one.

    Args:
        ode: whether the command follows the model's ODE. Some few-step models have none.
        key: the name of ``ckpt`` on the command line.

    Raises:
        UserError: there is no whole checkpoint, or the model lacks the ODE.
    """
    checkpoint = read_checkpoint(job, ckpt, key)
    denoiser = loading.denoiser_of(checkpoint, job.device, job.trusted)
    if ode:
        try:
            denoiser.check_ode()
        except UserError as error:
            raise UserError(f"{checkpoint.path}: {error}") from None
    return checkpoint, denoiser.on_schedule(job.parts.schedule) if job.config.get("schedule") else denoiser


def read_checkpoint(job: Job, ckpt: str | None, key: str = "ckpt") -> Checkpoint:
    """Return the newest whole checkpoint that ``ckpt`` means, with the keys of its data that the job names.

    The job may replace keys of the data set (``dataset.path=``) and places of the prior's (``prior.dataset.path=``).
    A command that reads no data heeds the places alone.

    Raises:
        UserError: there is no whole checkpoint, or the prior has no such place.
    """
    found = find_checkpoint(ckpt, key, job.trusted)
    changes = data_changes(job)
    of_prior = {name: value for name, value in changes.items() if name.startswith("prior.")}
    places = movable_keys(found.config, job.trusted)
    if strange := of_prior.keys() - places:
        raise unknown("key", min(strange), places)
    return replace(found, config=with_values(found.config, changes))


def data_changes(job: Job) -> dict[str, Any]:
    """Return {dotted key: value} for the keys of a data set that the command line gives, e.g. ``dataset.path``."""
    names = (text.lstrip("+").partition("=")[0] for text in job.overrides)
    return {name: look_up(job.config, name) for name in names if name.startswith(("dataset.", "prior.dataset."))}


def refuse_unread(job: Job, checkpoint: Checkpoint, why: str) -> None:
    """Refuse keys of a data set that is not read, except places: they may stand in every command after a move.

    Raises:
        UserError: the command line names such a key.
    """
    refuse_unused(data_changes(job).keys() - movable_keys(checkpoint.config, job.trusted), why)


def load_drawing(job: Job) -> Drawing:
    """Load the checkpoint of ``ckpt=`` with its sampler and guidance.

    Raises:
        UserError: there is no checkpoint, or the sampler, the guidance or the task does not suit it.
    """
    parts = job.parts
    _ = (parts.sampler, parts.guidance)  # a mistake in them is reported before a checkpoint is read
    checkpoint, denoiser = load_denoiser(job, job.settings.ckpt, ode=False)
    sampler, settings, name = own_sampler(job, checkpoint)
    guided = guide(job, denoiser)
    steered = guided is not denoiser or (job.config.get("task") is not None and not parts.task.is_none)
    if denoiser.own_jump and sampler.jumps and steered:
        raise UserError(
            "guidance or task with a flow map's own jumps: jumps cannot be guided; allowed: guidance=none task=none, "
            "or sampler=heun, which follows the ODE"
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

    A few-step model's own sampler takes the number of steps that the model is made for. The command line can change its
    keys too, e.g. by ``sampler.steps=``, if the command's default sampler has the same keys.
    """
    outcome = outcome_of(checkpoint, Parts(checkpoint.config, job.trusted))
    if not outcome.few_steps:
        if job.parts.sampler.adaptive:
            refuse_unused(("grid",), "on an adaptive sampler, which chooses its times by sampler.solver.rtol and atol")
        return job.parts.sampler, job.config["sampler"], job.choice("sampler")
    by_user, own = job.names("sampler", "grid"), loading.own_sampler(checkpoint, outcome)
    node = job.config["sampler"] if by_user else with_overrides(own, job.config, job.overrides)
    with nullcontext() if by_user else blame_checkpoint(checkpoint):
        sampler = Parts({"sampler": node}, job.trusted).sampler
    warn_unsuited_sampler(sampler, node, own, outcome.steps)
    return sampler, node, job.choice("sampler") if by_user else "own"


def warn_unsuited_sampler(sampler: Sampler, node: dict[str, Any], own: dict[str, Any], steps: int | None) -> None:
    """Warn if a few-step model is not made for this sampler.

    Args:
        node: the settings of ``sampler``.
        own: the settings of the model's own sampler.
        steps: the number of steps that the model is made for, if it is one number.
    """
    if not sampler.jumps:
        name = type(sampler).__name__
        console.warn(f"{name}: a few-step model has its own sampler; try without sampler= and grid=")
        return
    if steps is not None and node.get("steps") != steps:
        console.warn(f"sampler.steps={node.get('steps')}: this student is made for {steps}; try sampler.steps={steps}")
    if node.get("renoise") != own.get("renoise", node.get("renoise")):
        console.warn(f"sampler.renoise={node['renoise']}: this student is made for {own['renoise']}; try without it")


def with_overrides(own: dict[str, Any], config: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a sampler's settings with the values of ``sampler.KEY=`` and ``grid.KEY=`` on the command line."""
    settings = copy.deepcopy(own)
    for text in overrides:
        first, *path = text.partition("=")[0].lstrip("+").split(".")
        if first in ("sampler", "grid") and path:
            path = ["grid", *path] if first == "grid" else path
            target, source = settings, config["sampler"]
            for key in path[:-1]:
                target, source = target.setdefault(key, {}), source[key]
            target[path[-1]] = source[path[-1]]
    return settings


def guide(job: Job, denoiser: NetworkDenoiser) -> Denoiser:
    """Return the denoiser with the job's guidance.

    Raises:
        UserError: the guidance does not suit the models. For example, it needs a model that was trained with hidden
            classes.
    """
    guidance = job.parts.guidance
    if guidance.ckpt is None:
        return guidance.guide(denoiser)
    other = find_checkpoint(guidance.ckpt, "guidance.ckpt", job.trusted)
    warn_other_names("guidance.ckpt=", denoiser.spec, other.spec)
    load = loading.classifier_of if guidance.second == "classifier" else loading.denoiser_of
    return guidance.guide(denoiser, load(other, job.device, job.trusted))


def classes_for(job: Job, denoiser: Denoiser) -> AskedClasses:
    """Return the classes that the job's ``label`` asks of a denoiser. Say so where a word hides a class of its name.

    Raises:
        UserError: the model does not know such a class, or needs one; or there is no class, and a guidance towards it.
    """
    asked = asked_classes(denoiser.spec, job.settings.label, can_omit=denoiser.can_omit_label)
    if asked.kind == "none" and "guidance" in job.config and job.parts.guidance.towards_class:
        raise UserError(
            f"label=none with guidance={job.choice('guidance')}, which leads towards a class; allowed: a class, or "
            "guidance=none; try guidance=none"
        )
    if line := other_meaning(denoiser.spec, job.settings.label):
        console.say(line)
    return asked


def warn_other_names(where: str, mine: DatasetSpec, theirs: DatasetSpec) -> None:
    """Warn if a class has another name in a second model or in the data, which ``where`` names, than in this model."""
    if changed := mine.names_changed(theirs):
        console.warn(f"{where}: classes of the same number have other names: {changed}")


def dataset_of(checkpoint: Checkpoint, trusted: Sequence[str]) -> Dataset:
    """Return the checkpoint's data set. If its files are not where they were, they are looked for beside the run.

    A checkpoint may say where to read data, but not where to write (``without_downloads``). Only the command line can
    ask for a download or for another place of the cache.

    Raises:
        UserError: the data are not there.
    """
    with blame_checkpoint(checkpoint):
        node = find_sources(checkpoint.config["dataset"], trusted, checkpoint.run)
        check_sources({"dataset": node}, trusted, checkpoint.run)
        return Parts({"dataset": node}, trusted).dataset.like(checkpoint.spec)


def warn_other_data(checkpoint: Checkpoint, data: Dataset, name: str) -> None:
    """Warn if a split has other examples, or its classes other names, than in the training of this model.

    Old checkpoints do not know theirs.
    """
    warn_other_names(f"split={name}", checkpoint.spec, data.spec)
    trained = checkpoint.data.get(name)
    if trained is not None and trained != (found := data.fingerprint(name)):
        what = f"{found.examples} examples instead of {trained.examples}"
        console.warn(
            f"split={name}: not the {name} data of the run that trained this model "
            f"({what if found.examples != trained.examples else 'their content differs'})"
        )


def how_many(n: int | None, split: Split, name: str) -> int:
    """Return how many of a split's examples a command takes: n, or all if n is None. Say so if there are fewer."""
    if n is not None and n > len(split):
        console.warn(f"n={n}: split={name} has {len(split)} examples; all of them are taken")
    return len(split) if n is None else min(n, len(split))


def refuse_other_form(job: Job, spec: DatasetSpec, data: Dataset, split: Split, num_classes: int | None = None) -> None:
    """Refuse examples that a model cannot see.

    Args:
        spec: of the model.
        num_classes: of the data; None: it does not count.

    Raises:
        UserError: their shape, levels or classes are not those of the model's data.
    """
    if not (other := spec.unlike_examples(split.shape, data.levels, num_classes)):
        return
    typed = [text for text in job.overrides if text.lstrip("+").partition("=")[0].split(".")[0] == "dataset"]
    names = " and ".join(text.lstrip("+").partition("=")[0] for text in typed)
    raise UserError(
        f"{typed[0].lstrip('+') if typed else f'the data ({data.name})'}: {other}; allowed: examples as in the "
        f"training of this model{f'; try without {names}' if names else ''}"
    )


def examples_of(checkpoint: Checkpoint, job: Job, name: str) -> Split:
    """Return a split of the checkpoint's data set, with the keys that the command replaces.

    Raises:
        UserError: there is no such split, it is empty, or its examples or classes differ from the training data.
    """
    data, spec = dataset_of(checkpoint, job.trusted), checkpoint.spec
    split = data.split(name)
    if len(split) == 0:
        raise UserError(f"split={name}: {spec.name} has no examples in it; try split=train")
    refuse_other_form(job, spec, data, split, data.num_classes if spec.num_classes else 0)
    console.notices(data.all_notices)
    warn_other_data(checkpoint, data, name)
    return split
