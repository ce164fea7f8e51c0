"""Examples of a split as a model sees them: levels with their noise, real numbers scaled, and their classes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from dfm.basics.seeding import Purpose, uniform
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.numbers.dequantization import Dequantization
from dfm.data.numbers.units import to_model
from dfm.denoising.denoiser import Denoiser


def dequantize_examples(
    values: Tensor,
    spec: DatasetSpec,
    dequantization: Dequantization,
    seed: int,
    indices: Sequence[int],
    noise: int,
    log_nsr: float,
) -> tuple[Tensor, Tensor]:
    """Return (data float32 (B, *D), log q float64 (B,)) of integer levels, with noise that depends on their index.

    Args:
        values: the levels of the examples numbered ``indices``.
        noise: another number gives other noise.
        log_nsr: the smallest log nsr at which the model is evaluated.
    """
    assert spec.levels is not None
    u = uniform(seed, indices, tuple(values.shape[1:]), Purpose.DEQUANTIZE, noise)
    data, log_q = dequantization.draw(values, spec.levels, u, log_nsr)
    return data.float(), log_q


def labels_for(denoiser: Denoiser, split: Split, indices: Sequence[int], device: torch.device) -> Tensor | None:
    """Return the classes of the examples, int64 (len(indices),), for a model with classes; else None."""
    if denoiser.spec.num_classes == 0:
        return None
    labels = split.labels_of(indices)
    return None if labels is None else labels.to(device)


def examples(
    split: Split, spec: DatasetSpec, indices: Sequence[int], seed: int, dequantization: Dequantization, log_nsr: float
) -> Tensor:
    """Return examples as the model sees them, float32 (n, *D).

    Integer levels get dequantisation noise that depends on the index of the example.

    Args:
        log_nsr: the smallest log nsr at which the model is evaluated.
    """
    values = split.take(indices)
    if spec.levels is None:
        return to_model(values, spec).float()
    return dequantize_examples(values, spec, dequantization, seed, indices, 0, log_nsr)[0]
