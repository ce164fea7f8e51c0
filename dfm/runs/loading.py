"""dfm from Python: load, sample, score, encode. All take any Denoiser, an oracle or one of your own included."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dfm.basics.devices import resolve_device
from dfm.basics.errors import UserError
from dfm.denoising.exact import Oracle
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.runs import parts as assemble
from dfm.runs.build import target_of
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint, find
from dfm.sampling.samplers import JumpSampler

log = logging.getLogger("dfm")


def load(ckpt: str | Path, device: str = "auto", trust: Sequence[str] = ()) -> NetworkDenoiser:
    """The denoiser of a checkpoint, with its averaged weights, ready for use.

    Args:
        ckpt: a checkpoint file, a run directory (its newest whole checkpoint), or ``"latest"``.
        trust: packages beside dfm whose classes the checkpoint may name.

    Raises:
        UserError: no whole checkpoint there.
    """
    checkpoint, refused = find(str(ckpt))
    for message in refused:
        log.warning(message)
    return denoiser_of(checkpoint, resolve_device(device), ("dfm", *trust))


def denoiser_of(checkpoint: Checkpoint, device: torch.device, trust: Sequence[str]) -> NetworkDenoiser:
    """The denoiser with a checkpoint's averaged weights on a device.

    Raises:
        UserError: it is the checkpoint of a classifier.
    """
    with blame_checkpoint(checkpoint):
        if assemble.is_classifier(checkpoint.config):
            raise UserError(
                f"{checkpoint.path}: a noisy classifier, which neither samples nor scores; allowed here: a run of "
                "another objective; try guidance=classifier guidance.ckpt=RUN for it"
            )
        _check_form(checkpoint, trust)
        fresh = assemble.denoiser(checkpoint.config, checkpoint.spec, trust)
        learned, settings = assemble.objective(checkpoint.config, trust), students_sampler(checkpoint, trust)[0]
        own = None if settings is None else assemble.sampler({"sampler": settings}, trust)
        return replace(
            fresh, network=_ready(fresh.module(), checkpoint, device), has_ode=learned.has_ode,
            can_omit_label=not checkpoint.spec.num_classes or bool(checkpoint.config.get("label_dropout")),
            own_sampler=own if learned.has_ode or isinstance(own, JumpSampler) else None,
        )  # fmt: skip


def students_sampler(checkpoint: Checkpoint, trust: Sequence[str]) -> tuple[dict[str, Any] | None, int | None]:
    """(settings of the sampler that a few-step student was made for, its steps if of a certain number).

    Settings are None for any other model.
    """
    with blame_checkpoint(checkpoint):
        learned = assemble.objective(checkpoint.config, trust)
    if not learned.few_steps:
        return None, None
    own, steps = checkpoint.config["sampler"], learned.steps_learned(checkpoint.state.get("objective", {}))
    return (own if steps is None else {**own, "steps": steps}), steps


def _check_form(checkpoint: Checkpoint, trust: Sequence[str]) -> None:
    """Refuse a configuration whose network has other weights than are there, before it takes any memory.

    Of dfm's networks: the oracle computes while it is built, and whose own code builds a network is trusted.

    Raises:
        UserError: as it says.
    """
    made = target_of(str(checkpoint.config["model"].get("_target_")), "model", trust)
    if made is Oracle or not made.__module__.startswith("dfm."):
        return
    form = assemble.model(checkpoint.config, checkpoint.spec, trust, torch.device("meta")).module().state_dict()
    asked, there = ({n: tuple(value.shape) for n, value in w.items()} for w in (form, checkpoint.state["ema"]))
    wrong = sorted(name for name in {*asked, *there} if asked.get(name) != there.get(name))
    if wrong:
        name = wrong[0]
        raise UserError(
            f"{checkpoint.path}: its configuration asks for another network than its weights are of ({name}: "
            f"{asked.get(name, 'none')} and {there.get(name, 'none')}, {len(wrong)} in all); try another checkpoint"
        )


def _ready(network: nn.Module, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """The network with the checkpoint's averaged weights, for use alone."""
    network.load_state_dict(checkpoint.state["ema"])
    return network.to(device).eval().requires_grad_(False)


def classifier_of(checkpoint: Checkpoint, device: torch.device, trust: Sequence[str]) -> NoisyClassifier:
    """The noisy classifier with a checkpoint's averaged weights on a device.

    Raises:
        UserError: it is the checkpoint of something else.
    """
    with blame_checkpoint(checkpoint):
        if not assemble.is_classifier(checkpoint.config):
            raise UserError(f"{checkpoint.path}: not a noisy classifier; allowed here: a run of objective=classifier")
        _check_form(checkpoint, trust)
        fresh = assemble.classifier(checkpoint.config, checkpoint.spec, trust)
        return replace(fresh, network=_ready(fresh.module(), checkpoint, device))
