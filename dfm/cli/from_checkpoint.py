"""What every command that starts from a checkpoint does first."""

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch

from dfm.basics.errors import UserError
from dfm.cli import console
from dfm.cli.command_line import choice, overrides
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Dataset, Split
from dfm.denoising.denoiser import Denoiser
from dfm.denoising.flow_map import FlowMapDenoiser
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.runs import parts as assemble
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint, find
from dfm.runs.loading import classifier_of, denoiser_of, students_sampler
from dfm.sampling.classifier_guidance import ClassifierGuidance
from dfm.sampling.guidance import Guidance
from dfm.sampling.samplers import JumpSampler, Sampler


def load_denoiser(
    config: dict[str, Any],
    ckpt: str | None,
    device: torch.device,
    trust: Sequence[str],
    ode: bool = True,
    key: str = "ckpt",
) -> tuple[Checkpoint, NetworkDenoiser]:
    """The newest whole checkpoint that ``ckpt`` means, and its denoiser, on ``schedule`` if the command names one.

    Args:
        ode: whether the command follows the model's ODE, which a few-step model may not have.
        key: what ``ckpt`` is called on the command line.

    Raises:
        UserError: there is none, or it has no ODE and should.
    """
    found, refused = find(ckpt, key)
    for message in refused:
        console.warn(message)
    denoiser = denoiser_of(found, device, trust)
    if ode:
        try:
            denoiser.check_ode()
        except UserError as error:
            raise UserError(f"{found.path}: {error}") from None
    return found, denoiser.on_schedule(assemble.schedule(config, trust)) if config.get("schedule") else denoiser


def own_sampler(config: dict[str, Any], found: Checkpoint, trust: Sequence[str]) -> tuple[Sampler, dict[str, Any], str]:
    """(sampler, its settings, its name) for a checkpoint: the command's, or a few-step model's own if none is named.

    A few-step model's own has as many steps as it was made for; ``sampler.steps=`` and the other keys that it shares
    with the command's default hold for it too.
    """
    own, steps = students_sampler(found, trust)
    if own is None:
        sampler = assemble.sampler(config, trust)
        if sampler.adaptive:
            refuse_unused(("grid",), "on an adaptive sampler, which chooses its times by sampler.solver.rtol and atol")
        return sampler, config["sampler"], choice("sampler")
    named = any(text.partition("=")[0] in ("sampler", "grid") for text in overrides())
    node = config["sampler"] if named else own_settings(own, config, overrides())
    with nullcontext() if named else blame_checkpoint(found):
        sampler = assemble.sampler({"sampler": node}, trust)
    warn_unsuited_sampler(sampler, node, own, steps)
    return sampler, node, choice("sampler") if named else "own"


def warn_unsuited_sampler(sampler: Sampler, node: dict[str, Any], own: dict[str, Any], steps: int | None) -> None:
    """Warn of a sampler that is not what a student was made for: its settings are ``own``, its steps ``steps``."""
    if not isinstance(sampler, JumpSampler):
        name = node["_target_"].rpartition(".")[2]
        console.warn(f"{name}: a few-step model has its own sampler; try without sampler= and grid=, or sampler=jump")
        return
    if steps is not None and node["steps"] != steps:
        console.warn(f"sampler.steps={node['steps']}: this student was made for {steps}; try leaving it out")
    if node["renoise"] != own.get("renoise", node["renoise"]):
        console.warn(f"sampler.renoise={node['renoise']}: this student was made for the other; try without sampler=")


def own_settings(own: dict[str, Any], config: dict[str, Any], given: Sequence[str]) -> dict[str, Any]:
    """A sampler's settings with the ``sampler.KEY=`` and ``grid.KEY=`` of the command line in their places."""
    found = copy.deepcopy(own)
    for text in given:
        first, *path = text.partition("=")[0].lstrip("+").split(".")
        if first in ("sampler", "grid") and path:
            path = ["grid", *path] if first == "grid" else path
            into, source = found, config["sampler"]
            for key in path[:-1]:
                into, source = into.setdefault(key, {}), source[key]
            into[path[-1]] = source[path[-1]]
    return found


def guide(
    guidance: Guidance, found: Checkpoint, denoiser: NetworkDenoiser, device: torch.device, trust: Sequence[str]
) -> Denoiser:
    """The denoiser as the command guides it.

    Raises:
        UserError: the models do not suit, or the weak one would be a network that never saw a hidden class.
    """
    if guidance.ckpt is None:
        return guidance.guide(denoiser)
    other, refused = find(guidance.ckpt, "guidance.ckpt")
    for message in refused:
        console.warn(message)
    second = classifier_of if isinstance(guidance, ClassifierGuidance) else denoiser_of
    return guidance.guide(denoiser, second(other, device, trust))


def check_jumps(sampler: Sampler, denoiser: Denoiser, drawn: Denoiser) -> None:
    """Refuse to steer what one jump of a flow map does: only its velocity at a place can be.

    Raises:
        UserError: a guided flow map with the sampler that jumps.
    """
    if isinstance(denoiser, FlowMapDenoiser) and drawn is not denoiser and isinstance(sampler, JumpSampler):
        raise UserError(
            "guidance or task with a flow map's own jumps: they cannot be steered; allowed: guidance=none task=none, "
            "or sampler=heun, which follows its ODE"
        )


def dataset_of(found: Checkpoint, config: dict[str, Any], trust: Sequence[str]) -> Dataset:
    """The checkpoint's data set, with the keys of it that the command replaces.

    A checkpoint may say where data are read, not where anything is written (``checkpoint.harmless``): who wants a
    download, or a cache elsewhere than where all are, says so on the command line.
    """
    with blame_checkpoint(found):
        return assemble.dataset({"dataset": {**found.config["dataset"], **config["dataset"]}}, trust)


def examples_of(found: Checkpoint, config: dict[str, Any], name: str, trust: Sequence[str]) -> Split:
    """A split of the checkpoint's data set, with the keys of it that the command replaces.

    Raises:
        UserError: there is no such split, it is empty, or its examples or classes are not as those of the training.
    """
    data, spec = dataset_of(found, config, trust), found.spec
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
