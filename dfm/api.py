"""dfm from Python: load a checkpoint, sample, score. All take any Denoiser, an oracle or one of your own included."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from dfm import assemble
from dfm.checkpoint import Checkpoint, find
from dfm.console import warn
from dfm.denoiser import Denoiser, NetworkDenoiser
from dfm.grids import Rho
from dfm.likelihood import OdeLikelihood
from dfm.samplers import GridSampler, Sampler
from dfm.sampling import check_count, checked_labels, sample_batches
from dfm.steppers import Heun
from dfm.trainer import resolve_device


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
    """The denoiser with a checkpoint's averaged weights on a device."""
    fresh = assemble.denoiser(checkpoint.config, checkpoint.spec, trust)
    network: nn.Module = fresh.module()
    network.load_state_dict(checkpoint.state["ema"])
    return replace(fresh, network=network.to(device).eval().requires_grad_(False))


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
        sampler: default Heun's method on a rho grid of 18 steps.
        label: a class for all, or None (for a conditional model: classes in turn).

    Raises:
        UserError: n below 1, or a label that the model does not know.
    """
    check_count(n, batch_size)
    labels = checked_labels(denoiser.spec, label, range(n))
    how = sampler or GridSampler(stepper=Heun(), grid=Rho(), steps=18)
    place = torch.device(device) if device is not None else device_of(denoiser)
    moments = sample_batches(denoiser, how, range(n), seed=seed, batch_size=batch_size, labels=labels, device=place)
    return torch.cat([m.state.x.cpu() for m in moments if m.state.final])


def log_likelihood(
    denoiser: Denoiser, data: Tensor, likelihood: OdeLikelihood | None = None, seed: int = 0, batch_size: int = 256
) -> Tensor:
    """log p(data) in nats, float64 (n,), of data (n, *D) in the unit in which the model was trained.

    Integer images must be dequantised first (``dfm.quantization.dequantize``); ``dfm nll`` does all of it.
    """
    how = likelihood or OdeLikelihood()
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


def device_of(denoiser: Denoiser) -> torch.device:
    """Where a denoiser's network is; the CPU for one without parameters."""
    network = getattr(denoiser, "network", None)
    parameter = next(network.parameters(), None) if isinstance(network, nn.Module) else None
    return parameter.device if parameter is not None else torch.device("cpu")
