"""The user's unit and the model's: real numbers are shifted and scaled for each channel, and the likelihood knows it.

A model sees data = (value - shift_c)/scale_c of channel c. A density p of data is a density of values,

    log p(value) = log p(data) - sum of log scale_c over all coordinates

so nats are in the unit of the user's file: a column that is multiplied by k has log k more. Integer levels have their
own fixed scaling (``dfm.data.numbers.pixel_levels``).
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from dfm.basics.errors import UserError, unknown
from dfm.data.numbers.statistics import Statistics, statistics
from dfm.data.spec import DatasetSpec
from dfm.data.split import Split

WAYS = ("channel", "all", "none", "auto")
UNLIKE = 4.0  # channels whose deviations differ by more than this factor are scaled each for itself by ``auto``

Constants = tuple[tuple[float, ...], tuple[float, ...]]


def scale_levels(numbers: Tensor, levels: int) -> Tensor:
    """Return pixels as the model sees them: data = 2 (v + u) / K - 1, in [-1, 1).

    Args:
        numbers: v + u, with integer levels v in 0..K-1 and u in [0, 1); any shape.
        levels: K.
    """
    return numbers * (2 / levels) - 1


def constants(found: Statistics, way: str, name: str, points: bool, names: Sequence[str] = ()) -> Constants:
    """Return shift and scale for each channel, or empty tuples where nothing is changed.

    Args:
        found: the statistics of the training examples.
        way: ``channel``: each has mean 0 and deviation 1; ``all``: one shift and one scale for all; ``none``;
            ``auto``: as ``channel`` if their deviations differ by more than a factor of ``UNLIKE``, else as ``none``.
        points: whether an example is a point (d,), whose coordinates have variances of their own.
        names: of the channels, for messages.

    Raises:
        UserError: there is no such way, or a channel has one value only.
    """
    if way not in WAYS:
        raise unknown("dataset.normalize", way, WAYS)
    deviation = found.variance.sqrt()
    flat = (deviation <= 1e-12 * found.mean.abs().clamp_min(1e-300)).nonzero().flatten().tolist()
    if way == "auto":
        way = "channel" if not flat and float(deviation.max() / deviation.min()) > UNLIKE else "none"
    if way == "none":
        return (), ()
    if way == "channel":
        if flat:
            what, which = "column" if points else "channel", names[flat[0]] if names else flat[0]
            raise UserError(
                f"{name}: {what} {which} has one value only ({found.mean[flat[0]]:g}), so it has no density; "
                f"allowed: {what}s that vary; remove it"
            )
        return tuple(found.mean.tolist()), tuple(deviation.tolist())
    mean, variance = overall(found.mean, found.variance, points)
    if not variance > 0:
        raise UserError(f"{name}: all training examples are the same; allowed: examples that vary")
    return (mean,) * len(found.mean), (math.sqrt(variance),) * len(found.mean)


def overall(mean: Tensor, variance: Tensor, points: bool) -> tuple[float, float]:
    """Return the mean of all numbers and their variance: that of all, or for points the average of a coordinate's."""
    between = 0.0 if points else float(mean.var(correction=0))
    return float(mean.mean()), float(variance.mean()) + between


def moments(values: Tensor, levels: int | None) -> tuple[float, float]:
    """Return ``moments_seen`` of values (N, *D) that are not scaled: integer levels, or real numbers for None."""
    found = statistics(Split(values=values, labels=None), "values", levels)
    return moments_seen(found, (), (), values.ndim == 2)


def moments_seen(
    found: Statistics, shift: Sequence[float], scale: Sequence[float], points: bool
) -> tuple[float, float]:
    """Return the mean and the standard deviation of the data, as the model sees them, exact up to rounding.

    For points: the mean of all coordinates, and the root of their average variance. For K integer levels v that are
    dequantised by u ~ U[0, 1) and scaled by ``scale_levels``, over all numbers together:

        mean = E[2 (v + 1/2) / K - 1],    std^2 = Var[2 v / K] + (2 / K)^2 / 12
    """
    if found.levels is None:
        mean, variance = found.mean, found.variance
        if scale:
            by = torch.tensor(scale, dtype=torch.float64)
            mean, variance = (mean - torch.tensor(shift, dtype=torch.float64)) / by, variance / by.square()
        m, v = overall(mean, variance, points)
        return m, math.sqrt(v)
    levels, counts = len(found.levels), found.levels.double()
    share = counts / counts.sum()
    places = torch.arange(levels, dtype=torch.float64)
    average = share @ places
    spread = share @ (places - average).square() + 1 / 12
    return scale_levels(average + 0.5, levels).item(), (2 / levels) * spread.sqrt().item()


def to_model(values: Tensor, spec: DatasetSpec) -> Tensor:
    """Return real numbers (B, *D) as the model sees them: (value - shift)/scale; float64 stays, else float32.

    The difference is taken in float64: a date in seconds has nine digits before the first that matters.
    """
    wanted = torch.promote_types(values.dtype, torch.float32)
    if not spec.scale:
        return values.to(wanted)
    shift, scale = _along_channels(spec)
    return ((values.cpu().double() - shift) / scale).to(values.device, wanted)


def from_model(data: Tensor, spec: DatasetSpec) -> Tensor:
    """Return real numbers (B, *D) in the user's unit: data scale + shift, float64 on the CPU if there is a scale."""
    if not spec.scale:
        return data
    shift, scale = _along_channels(spec)
    return data.cpu().double() * scale + shift


def log_volume(spec: DatasetSpec) -> float:
    """Return the sum of log scale over all coordinates, in nats: -log p(value) = -log p(data) + log_volume."""
    places = math.prod(spec.shape[1:])
    return places * math.fsum(math.log(scale) for scale in spec.scale)


def _along_channels(spec: DatasetSpec) -> Sequence[Tensor]:
    """Return shift and scale float64 (C, 1, ...)."""
    ones = (1,) * (len(spec.shape) - 1)
    return [torch.tensor(c, dtype=torch.float64).reshape(-1, *ones) for c in (spec.shift, spec.scale)]
