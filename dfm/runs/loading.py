"""Make models from checkpoints: ``dfm.load``, and the functions by which the commands do it."""

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
from dfm.runs.parts import DFM, Config, Parts
from dfm.runs.places import find_sources, with_places_beside
from dfm.training.objectives.base import Outcome

log = logging.getLogger("dfm")


def load(ckpt: str | Path, device: str = "auto", trust: str | Sequence[str] = ()) -> NetworkDenoiser:
    """Return the denoiser of a checkpoint with its averaged weights, ready for use.

    Args:
        ckpt: a checkpoint file, a run directory (its newest whole checkpoint), or ``"latest"``.
        trust: further packages whose classes the checkpoint may name. dfm is always trusted.

    Raises:
        UserError: there is no whole checkpoint, or the checkpoint holds a classifier.
    """
    packages = [trust] if isinstance(trust, str) else trust
    trusted = ("dfm", *packages)
    return denoiser_of(find_checkpoint(str(ckpt), trusted=trusted), resolve_device(device), trusted)


def find_checkpoint(ckpt: str | None, key: str = "ckpt", trusted: Sequence[str] = DFM) -> Checkpoint:
    """Return the newest whole checkpoint that ``ckpt`` means. Warn of each newer one that is damaged.

    The data of a prior are looked for beside the run if they are not where they were.

    Args:
        key: the name of ``ckpt`` on the command line.
        trusted: the packages whose classes the checkpoint may name.

    Raises:
        UserError: there is no whole checkpoint.
    """
    checkpoint, messages = find(ckpt, key)
    for message in messages:
        log.warning(message)
    config = checkpoint.config
    if checkpoint.path is not None and checkpoint.path.suffix == ".safetensors":
        config = with_places_beside(config, checkpoint.path, trusted)
    if "prior" in config:
        config = {**config, "prior": find_sources(config["prior"], trusted, checkpoint.run)}
    return replace(checkpoint, config=config)


def denoiser_of(checkpoint: Checkpoint, device: torch.device, trusted: Sequence[str]) -> NetworkDenoiser:
    """Return the denoiser with a checkpoint's averaged weights on a device.

    Raises:
        UserError: the checkpoint holds a classifier, or names a class that is not trusted.
    """
    with blame_checkpoint(checkpoint):
        parts = Parts(checkpoint.config, trusted)
        if parts.objective.trains != "denoiser":
            raise UserError(
                f"{checkpoint.path}: a noisy classifier, which cannot draw samples or score data; allowed here: a run "
                "of another objective, which it can guide (guidance=classifier guidance.ckpt=RUN); try another ckpt=RUN"
            )
        outcome = outcome_of(checkpoint, parts)
        own = Parts({"sampler": own_sampler(checkpoint, outcome)}, trusted).sampler if outcome.few_steps else None
        _check_form(checkpoint, parts)
        fresh = parts.denoiser(checkpoint.spec)
        return replace(
            fresh,
            network=_with_weights(fresh.module(), checkpoint, device),
            has_ode=outcome.has_ode,
            can_omit_label=not checkpoint.spec.num_classes or bool(checkpoint.config.get("label_dropout")),
            own_sampler=own if own is not None and (outcome.has_ode or own.jumps) else None,
        )


def classifier_of(checkpoint: Checkpoint, device: torch.device, trusted: Sequence[str]) -> NoisyClassifier:
    """Return the noisy classifier with a checkpoint's averaged weights on a device.

    Raises:
        UserError: the checkpoint holds another kind of model.
    """
    with blame_checkpoint(checkpoint):
        parts = Parts(checkpoint.config, trusted)
        if parts.objective.trains != "classifier":
            raise UserError(f"{checkpoint.path}: not a noisy classifier; allowed here: a run of objective=classifier")
        _check_form(checkpoint, parts)
        fresh = parts.classifier(checkpoint.spec)
        return replace(fresh, network=_with_weights(fresh.module(), checkpoint, device))


def outcome_of(checkpoint: Checkpoint, parts: Parts) -> Outcome:
    """Return what the checkpoint's run has trained: the kind of model, and the number of steps it is made for."""
    with blame_checkpoint(checkpoint):
        return parts.objective.outcome(checkpoint.state.get("objective", {}))


def own_sampler(checkpoint: Checkpoint, outcome: Outcome) -> Config:
    """Return the settings of the sampler that a few-step model is made for."""
    own: Config = checkpoint.config["sampler"]
    return own if outcome.steps is None else {**own, "steps": outcome.steps}


def _check_form(checkpoint: Checkpoint, parts: Parts) -> None:
    """Refuse a checkpoint whose weights do not fit its own network, before that network takes memory.

    The shapes come from a network on the device ``meta``, which takes no memory. The networks of dfm can be built
    there, except the oracle, which computes while it is built. A user's own network can be built there if it has the
    attribute ``shapes_without_memory = True``.

    Raises:
        UserError: the weights have other names or shapes than the network.
    """
    kind = target_of(str(checkpoint.config["model"].get("_target_")), "model", parts.trusted)
    if getattr(kind, "shapes_without_memory", kind.__module__.startswith("dfm.")):
        form = parts.model(checkpoint.spec, torch.device("meta")).module().state_dict()
        expected, actual = ({n: tuple(w.shape) for n, w in ws.items()} for ws in (form, checkpoint.state["ema"]))
        wrong = sorted(name for name in {*expected, *actual} if expected.get(name) != actual.get(name))
        if wrong:
            name = wrong[0]
            raise UserError(
                f"{checkpoint.path}: its weights do not fit its configuration ({name}: shape "
                f"{actual.get(name, 'none')} instead of {expected.get(name, 'none')}; {len(wrong)} such weights); "
                "try another checkpoint"
            )


def _with_weights(network: nn.Module, checkpoint: Checkpoint, device: torch.device) -> nn.Module:
    """Return the network with the checkpoint's averaged weights, for evaluation only."""
    network.load_state_dict(checkpoint.state["ema"])
    return network.to(device).eval().requires_grad_(False)
