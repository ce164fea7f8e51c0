"""What every command that starts from a checkpoint does first."""

from collections.abc import Sequence
from typing import Any

import torch

from dfm import assemble, console
from dfm.api import classifier_of, denoiser_of
from dfm.checkpoint import Checkpoint, find
from dfm.datasets.base import Dataset, Split
from dfm.denoiser import Denoiser, NetworkDenoiser
from dfm.errors import UserError
from dfm.guidance import ByClassifier, ClassifierFree, Guidance


def loaded(
    config: dict[str, Any], ckpt: str | None, device: torch.device, trust: Sequence[str]
) -> tuple[Checkpoint, NetworkDenoiser]:
    """The newest whole checkpoint that ``ckpt`` means, and its denoiser, on ``schedule`` if the command names one.

    Raises:
        UserError: there is none.
    """
    found, refused = find(ckpt)
    for message in refused:
        console.warn(message)
    denoiser = denoiser_of(found, device, trust)
    return found, denoiser.on(assemble.schedule(config, trust)) if config.get("schedule") else denoiser


def guided(
    guidance: Guidance, found: Checkpoint, denoiser: NetworkDenoiser, device: torch.device, trust: Sequence[str]
) -> Denoiser:
    """The denoiser as the command guides it.

    Raises:
        UserError: the models do not suit, or the weak one would be a network that never saw a hidden class.
    """
    if isinstance(guidance, ClassifierFree) and found.spec.num_classes and not found.config.get("label_dropout"):
        raise UserError(
            "guidance=cfg: this model was trained without label_dropout, so it does not know what 'no class' means; "
            "try guidance=autoguidance, or training with label_dropout=0.1"
        )
    if guidance.ckpt is None:
        return guidance.guide(denoiser)
    other, refused = find(guidance.ckpt)
    for message in refused:
        console.warn(message)
    second = classifier_of if isinstance(guidance, ByClassifier) else denoiser_of
    return guidance.guide(denoiser, second(other, device, trust))


def dataset_of(found: Checkpoint, config: dict[str, Any], trust: Sequence[str]) -> Dataset:
    """The checkpoint's data set, with the keys of it that the command replaces."""
    return assemble.dataset({"dataset": {**found.config["dataset"], **config["dataset"]}}, trust)


def examples_of(found: Checkpoint, config: dict[str, Any], name: str, trust: Sequence[str]) -> Split:
    """A split of the checkpoint's data set, with the keys of it that the command replaces.

    Raises:
        UserError: there is no such split, or it is empty.
    """
    split = dataset_of(found, config, trust).split(name)
    if len(split) == 0:
        raise UserError(f"split={name}: {found.spec.name} has no examples in it; try split=train")
    return split
