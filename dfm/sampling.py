"""Samples 0 .. n-1 of a denoiser in batches, ready to be drawn or stored."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dfm.datasets.base import DatasetSpec
from dfm.denoiser import Denoiser
from dfm.errors import UserError
from dfm.quantization import quantize, to_eight_bits
from dfm.samplers import Sampler, State, start


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A state of the batch that holds the samples numbered ``indices``."""

    indices: Sequence[int]
    state: State


PIXELS = {"cpu": 1 << 16, "cuda": 1 << 19}  # of a batch; README, "Speed and growth", has what the first is from
MOST = 8192  # points


def check_count(n: int, batch_size: int | None) -> None:
    """Refuse a number of samples or a batch size below one.

    Raises:
        UserError: either is.
    """
    for name, value in (("n", n), ("batch_size", batch_size)):
        if value is not None and value < 1:
            raise UserError(f"{name}={value}; allowed: a whole number of at least 1")


def batch_of(given: int | None, spec: DatasetSpec, device: torch.device) -> int:
    """The batch size ``given``, or for None one that suits the device: so many samples as make up its ``PIXELS``.

    On a CPU an image took longer in larger ones, and in smaller ones too; for a GPU 8 times that is assumed, not
    measured.
    """
    return given or max(1, min(MOST, PIXELS.get(device.type, PIXELS["cpu"]) // math.prod(spec.shape[1:])))


def checked_labels(spec: DatasetSpec, label: int | str | None, indices: Sequence[int]) -> Tensor | None:
    """The classes of the samples numbered ``indices``, int64 (n,): all ``label``, or k modulo the classes for sample k.

    ``label`` None or "all" is the latter. An unconditional model has none.

    Raises:
        UserError: the model knows no classes, or not this one.
    """
    if spec.num_classes == 0:
        if label is not None:
            raise UserError(f"label={label}: this model was trained without classes; try conditional=true in training")
        return None
    if label is None or label == "all":
        return torch.tensor([k % spec.num_classes for k in indices])
    if isinstance(label, str) or not 0 <= label < spec.num_classes:
        raise UserError(f"label={label}; allowed: 0 to {spec.num_classes - 1}, or all")
    return torch.full((len(indices),), label)


@torch.no_grad()
def sample_batches(
    denoiser: Denoiser,
    sampler: Sampler,
    indices: Sequence[int],
    *,
    seed: int,
    batch_size: int,
    labels: Tensor | None = None,
    device: torch.device | None = None,
) -> Iterator[Moment]:
    """Every state of every batch; a batch ends with its ``final`` state.

    Args:
        indices: numbers of the samples; sample k is the same in any batch and alone.
        labels: int64 (len(indices),), or None.

    Raises:
        UserError: explicit times that do not begin at t_max, where the prior's draws belong.
    """
    if abs(sampler.start_time(denoiser) - denoiser.t_max) > 1e-9 * abs(denoiser.t_max):
        raise UserError(
            f"sampler.times begins at {sampler.start_time(denoiser):g}; allowed: t_max = {denoiser.t_max:g}, where the "
            "prior is drawn from (from Python, sampler.run takes an x of your own at any time)"
        )
    whole = denoiser.given(None if labels is None else labels.to(device))
    for first in range(0, len(indices), batch_size):
        part = indices[first : first + batch_size]
        x = start(denoiser, seed, part, device)
        for state in sampler.trajectory(whole.rows(torch.arange(first, first + len(part))), x, seed, part):
            yield Moment(indices=part, state=state)


def as_data(samples: Tensor, spec: DatasetSpec) -> Tensor:
    """Samples as ``Split`` has examples: images as levels uint8 (B, C, H, W), points float32 (B, d)."""
    return samples.float().cpu() if spec.levels is None else quantize(samples, spec.levels).cpu()


def stored(samples: Tensor, spec: DatasetSpec) -> Tensor:
    """Samples as they are stored: images uint8 (B, C, H, W) over 0 .. 255, points float32 (B, d)."""
    return spread(as_data(samples, spec), spec)


def spread(values: Tensor, spec: DatasetSpec) -> Tensor:
    """What ``as_data`` gave, with the levels of images over 0 .. 255."""
    return values if spec.levels is None else to_eight_bits(values, spec.levels)
