"""A checkpoint into the model that it holds: ``dfm.load``, and what the commands load."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from dfm.basics.devices import resolve_device
from dfm.basics.errors import UserError
from dfm.denoising.network_denoiser import NetworkDenoiser
from dfm.denoising.noisy_classifier import NoisyClassifier
from dfm.runs.build import target_of
from dfm.runs.checkpoint import Checkpoint, blame_checkpoint, find
from dfm.runs.parts import Config, Parts
from dfm.training.objectives.base import Outcome

log = logging.getLogger("dfm")


def load(ckpt: str | Path, device: str = "auto", trust: Sequence[str] = ()) -> NetworkDenoiser:
    """Return the denoiser of a checkpoint, with its averaged weights, ready for use.

    Args:
        ckpt: a checkpoint file, a run directory (its newest whole checkpoint), or ``"latest"``.
        trust: packages beside dfm whose classes the checkpoint may name.

    Raises:
        UserError: there is no whole checkpoint, or it holds a classifier.
    """
    return denoiser_of(find_checkpoint(str(ckpt)), resolve_device(device), ("dfm", *trust))


def find_checkpoint(ckpt: str | None, key: str = "ckpt") -> Checkpoint:
    """Return the newest whole checkpoint that ``ckpt`` means; warn of those that are passed over.

    Args:
        key: the name of ``ckpt`` on the command line.

    Raises:
        UserError: there is none.
    """
    checkpoint, refused = find(ckpt, key)
    for message in refused:
        log.warning(message)
    return checkpoint


def denoiser_of(checkpoint: Checkpoint, device: torch.device, trusted: Sequence[str]) -> NetworkDenoiser:
    """Return the denoiser with a checkpoint's averaged weights, on a device.

    Raises:
        UserError: the checkpoint holds a classifier, or names a class that is not trusted.
    """
    with blame_checkpoint(checkpoint):
        parts = Parts(checkpoint.config, trusted)
        if parts.objective.trains != "denoiser":
            raise UserError(
                f"{checkpoint.path}: a noisy classifier, which neither samples nor scores; allowed here: a run of "
                "another objective; try guidance=classifier guidance.ckpt=RUN for it"
            )
        outcome = outcome_of(checkpoint, parts)
        own = Parts({"sampler": own_sampler(checkpoint, outcome)}, trusted).sampler if outcome.few_steps else None
        fresh = _fresh_model(checkpoint, parts)
        assert isinstance(fresh, NetworkDenoiser)
        return replace(
            fresh,
            network=_trained(fresh.module(), checkpoint, device),
            has_ode=outcome.has_ode,
            can_omit_label=not checkpoint.spec.num_classes or bool(checkpoint.config.get("label_dropout")),
            own_sampler=own if own is not None and (outcome.has_ode or own.jumps) else None,
        )


def classifier_of(checkpoint: Checkpoint, device: torch.device, trusted: Sequence[str]) -> NoisyClassifier:
    """Return the noisy classifier with a checkpoint's averaged weights, on a device.

    Raises:
        UserError: the checkpoint holds something else.
    """
    with blame_checkpoint(checkpoint):
        parts = Parts(checkpoint.config, trusted)
        if parts.objective.trains != "classifier":
            raise UserError(f"{checkpoint.path}: not a noisy classifier; allowed here: a run of objective=classifier")
        fresh = _fresh_model(checkpoint, parts)
        assert isinstance(fresh, NoisyClassifier)
        return replace(fresh, network=_trained(fresh.module(), checkpoint, device))


def outcome_of(checkpoint: Checkpoint, parts: Parts) -> Outcome:
    """Return what the checkpoint's run left: its kind of model, and the steps that it is made for."""
    with blame_checkpoint(checkpoint):
        return parts.objective.outcome(checkpoint.state.get("objective", {}))


def own_sampler(checkpoint: Checkpoint, outcome: Outcome) -> Config:
    """Return the settings of the sampler that a few-step model is made for."""
    own: Config = checkpoint.config["sampler"]
    return own if outcome.steps is None else {**own, "steps": outcome.steps}


def _fresh_model(checkpoint: Checkpoint, parts: Parts) -> NetworkDenoiser | NoisyClassifier:
    """The model that the configuration describes; refused before it takes memory if its weights have another form.

    dfm's networks can be built without memory, but for the oracle, which computes meanwhile; a network of the user's
    own says so by ``shapes_without_memory``.
    """
    kind = target_of(str(checkpoint.config["model"].get("_target_")), "model", parts.trusted)
    if getattr(kind, "shapes_without_memory", kind.__module__.startswith("dfm.")):
        form = parts.model(checkpoint.spec, torch.device("meta")).module().state_dict()
        asked, there = ({n: tuple(value.shape) for n, value in w.items()} for w in (form, checkpoint.state["ema"]))
        wrong = sorted(name for name in {*asked, *there} if asked.get(name) != there.get(name))
        if wrong:
            name = wrong[0]
            raise UserError(
                f"{checkpoint.path}: its configuration asks for another network than its weights are of ({name}: "
                f"{asked.get(name, 'none')} and {there.get(name, 'none')}, {len(wrong)} in all); try another checkpoint"
            )
    return parts.model(checkpoint.spec)


def _trained(network: nn.Module, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """The network with the checkpoint's averaged weights, for use alone."""
    network.load_state_dict(checkpoint.state["ema"])
    return network.to(device).eval().requires_grad_(False)
