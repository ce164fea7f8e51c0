"""dfm from Python: load, sample, score, encode. All take any Denoiser, an oracle or one of your own included."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfm import assemble, flows
from dfm.checkpoint import Checkpoint, find, made_use_of
from dfm.classifiers import NoisyClassifier
from dfm.config import target_of
from dfm.console import warn
from dfm.denoiser import Denoiser
from dfm.devices import resolve_device
from dfm.errors import UserError
from dfm.grids import NoiseShare
from dfm.likelihood import Likelihood, OdeLikelihood
from dfm.models.oracle import Oracle
from dfm.networks import NetworkDenoiser
from dfm.samplers import GridSampler, JumpSampler, Sampler
from dfm.sampling import check_count, checked_labels, sample_batches
from dfm.steppers import Midpoint

DEFAULT_SAMPLER = GridSampler(stepper=Midpoint(), grid=NoiseShare(power=0.6), steps=14)  # as configs/sampler/midpoint


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
        warn(message)
    return denoiser_of(checkpoint, resolve_device(device), ("dfm", *trust))


def denoiser_of(checkpoint: Checkpoint, device: torch.device, trust: Sequence[str]) -> NetworkDenoiser:
    """The denoiser with a checkpoint's averaged weights on a device.

    Raises:
        UserError: it is the checkpoint of a classifier.
    """
    with made_use_of(checkpoint):
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
            unlabelled=not checkpoint.spec.num_classes or bool(checkpoint.config.get("label_dropout")),
            own_sampler=own if learned.has_ode or isinstance(own, JumpSampler) else None,
        )  # fmt: skip


def students_sampler(checkpoint: Checkpoint, trust: Sequence[str]) -> tuple[dict[str, Any] | None, int | None]:
    """(settings of the sampler that a few-step student was made for, its steps if of a certain number).

    Settings are None for any other model.
    """
    with made_use_of(checkpoint):
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
    with made_use_of(checkpoint):
        if not assemble.is_classifier(checkpoint.config):
            raise UserError(f"{checkpoint.path}: not a noisy classifier; allowed here: a run of objective=classifier")
        _check_form(checkpoint, trust)
        fresh = assemble.classifier(checkpoint.config, checkpoint.spec, trust)
        return replace(fresh, network=_ready(fresh.module(), checkpoint, device))


def sample(
    denoiser: Denoiser,
    n: int,
    sampler: Sampler | None = None,
    seed: int = 0,
    batch_size: int = 256,
    label: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Samples 0 .. n-1 in the unit of the data, float32 (n, *D): [-1, 1] for images.

    Args:
        sampler: default that of ``dfm sample``: a few-step student's own, else the midpoint rule in 14 steps, 29 NFE.
        label: a class for all, or None: the classes of ``denoiser.given(labels)``, else, for a conditional model,
            classes in turn.

    Raises:
        UserError: n below 1 or not as many as the classes given, a label that the model does not know, or a student
            whose own sampler is not known.
    """
    check_count(n, batch_size)
    labels = denoiser.label if label is None else None
    if labels is None:
        labels = checked_labels(denoiser.spec, label, range(n))
    elif len(labels) != n:
        raise UserError(f"n={n} of a denoiser that was given {len(labels)} classes; allowed: n={len(labels)}")
    own = getattr(denoiser, "own_sampler", None)
    how = sampler or (own if isinstance(own, Sampler) else None)
    if how is None and not denoiser.has_ode:
        raise UserError("a few-step model has no ODE for the default sampler; try sampler=dfm.load(ckpt).own_sampler")
    how = how or DEFAULT_SAMPLER
    place = torch.device(device) if device is not None else device_of(denoiser)
    moments = sample_batches(denoiser, how, range(n), seed=seed, batch_size=batch_size, labels=labels, device=place)
    return torch.cat([m.state.x.cpu() for m in moments if m.state.final])


def log_likelihood(
    denoiser: Denoiser, data: Tensor, likelihood: Likelihood | None = None, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """log p(data) in nats, float64 (n,), of data (n, *D) in the unit in which the model was trained.

    Integer images must be dequantised first (``dfm.quantization.dequantize``); ``dfm nll`` does all of it.

    Args:
        denoiser: for a conditional model ``denoiser.given(labels)``, int64 (n,): the classes of the data.
        likelihood: the estimator; default the ODE by Dormand-Prince with tolerances of 1e-5, Hutchinson's divergence.
        seed: of the probes; row i of the data has those of (seed, i).

    Raises:
        UserError: a few-step model, which has no density; data of another shape than the model's; integer levels for
            an estimator of real numbers, or the other way round.
    """
    denoiser.check_ode()
    how = likelihood or OdeLikelihood(solver="dopri5")
    if not how.discrete(denoiser.spec):
        flows.check_real(denoiser, "data", data)
    elif data.is_floating_point():
        raise UserError(f"data are {data.dtype}; this estimator scores integer levels; try uint8 levels as in a Split")
    place, parts = device_of(denoiser), range(0, len(data), batch_size)
    values = [
        how.log_density(
            denoiser.rows(torch.arange(i, min(i + batch_size, len(data)))),
            data[i : i + batch_size].to(place),
            seed,
            range(i, min(i + batch_size, len(data))),
        ).value.cpu()
        for i in parts
    ]
    return torch.cat(values) if values else torch.zeros(0, dtype=torch.float64)


def encode(denoiser: Denoiser, data: Tensor, flow: flows.OdeFlow | None = None, batch_size: int = 256) -> Tensor:
    """Latents (n, *D) of data (n, *D) along the probability-flow ODE, of the type of the data.

    The data are in the unit in which the model was trained, integer images dequantised; for a conditional model give
    it their classes first: ``denoiser.given(labels)``.

    Args:
        flow: how to follow the ODE; default Dormand-Prince with tolerances of 1e-5.

    Raises:
        UserError: data of another shape than the model's, or integer levels; or a few-step model without an ODE.
    """
    return _carried(flows.encode, denoiser, data, flow, batch_size)


def decode(denoiser: Denoiser, latents: Tensor, flow: flows.OdeFlow | None = None, batch_size: int = 256) -> Tensor:
    """Data (n, *D) of latents (n, *D): the inverse of ``encode``; arguments and errors as there."""
    return _carried(flows.decode, denoiser, latents, flow, batch_size)


def _carried(
    go: Callable[[Denoiser, Tensor, flows.OdeFlow], flows.Carried],
    denoiser: Denoiser,
    x: Tensor,
    flow: flows.OdeFlow | None,
    batch_size: int,
) -> Tensor:
    how, place = flow or flows.OdeFlow(), device_of(denoiser)
    parts = [
        go(denoiser.rows(torch.arange(i, min(i + batch_size, len(x)))), x[i : i + batch_size].to(place), how).x.cpu()
        for i in range(0, len(x), batch_size)
    ]
    return torch.cat(parts) if parts else x.clone()


def device_of(denoiser: Denoiser) -> torch.device:
    """Where a denoiser's network is; the CPU for one without parameters."""
    network = getattr(denoiser, "network", None)
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return parameter.device if parameter is not None else torch.device("cpu")
