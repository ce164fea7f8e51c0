"""Windows: from which number to which a picture shows, in the unit of the user's file.

The rule: mean -+ some deviations of the training data, and for lines as far as their smallest and largest number, which
every model of the same data knows from its spec. Samples of all steps and all models have the same window, so that they
can be compared.
"""

import numpy as np
from torch import Tensor

from dfm.data.spec import DatasetSpec

PLACE, LINE, SHADE = 3.0, 4.0, 2.0  # deviations beside the mean: for points, for lines, for brightness

Window = tuple[float, float]


def windows(spec: DatasetSpec, deviations: float) -> list[Window]:
    """Return (lowest, highest number shown) of each channel of stored samples: mean -+ ``deviations``.

    Levels have no numbers beyond the first and the last.
    """
    low, high = spec.mean - deviations * spec.std, spec.mean + deviations * spec.std  # as the model sees them
    channels = spec.shape[0]
    if spec.levels is None:
        shift, scale = spec.shift or (0.0,) * channels, spec.scale or (1.0,) * channels
        return [(s + c * low, s + c * high) for s, c in zip(shift, scale, strict=True)]
    first, last = ends(spec)
    step = (last - first) / (spec.levels - 1) if spec.levels > 1 else 1.0
    # the inverse of data = 2 (v + 1/2)/K - 1 for the level v
    lowest, highest = (first + step * (spec.levels * (x + 1) / 2 - 0.5) for x in (low, high))
    return [(max(lowest, first), min(highest, last))] * channels


def with_extremes(spec: DatasetSpec, shown: list[Window]) -> list[Window]:
    """Return windows that also reach the smallest and the largest number of the training data, so that peaks are seen.

    The data of an older model are not known so far; its windows stay.
    """
    if not spec.low:
        return shown
    channels = spec.shape[0]
    found = zip(spec.low * (channels // len(spec.low)), spec.high * (channels // len(spec.high)), strict=True)
    return [(min(a, low), max(b, high)) for (a, b), (low, high) in zip(shown, found, strict=True)]


def ends(spec: DatasetSpec) -> Window:
    """Return the number of the first level and that of the last, as they are stored."""
    assert spec.levels is not None
    return (0.0, 255.0) if spec.is_picture else (float(spec.lowest), float(spec.lowest + spec.levels - 1))


def shades(samples: Tensor, spec: DatasetSpec) -> np.ndarray:
    """Return stored samples (N, C, *places) as brightness uint8: black is 0, white is 255.

    Up to 256 levels are spread over 0 .. 255. More levels and real numbers are shown from mean - 2 to mean + 2
    deviations, and what lies beyond is black or white. One and three channels are grey and colour, which share one
    window; four channels of levels are colour with opacity, whose last channel counts from the first level to the last;
    other channels are maps with windows of their own.
    """
    if spec.is_picture:
        return samples.cpu().numpy()
    found = [ends(spec)] * spec.shape[0] if spec.levels and spec.levels <= 256 else windows(spec, SHADE)
    if colours(spec):
        found = [(min(low for low, _ in found), max(high for _, high in found))] * spec.shape[0]
    if spec.levels and spec.shape[0] == 4:
        found[3] = ends(spec)
    places = (-1, *(1,) * (samples.ndim - 2))
    low, high = (np.array(side).reshape(places) for side in zip(*found, strict=True))
    share = (samples.cpu().double().numpy() - low) / np.maximum(high - low, 1e-300)
    return np.rint(share.clip(0, 1) * 255).astype(np.uint8)


def colours(spec: DatasetSpec) -> int:
    """Return how many channels of a pixel are one colour: 1 grey, 3 colour, 4 with opacity; 0: they are maps.

    Four channels of real numbers are maps: nothing says which number is opaque.
    """
    channels = spec.shape[0]
    return channels if channels in (1, 3) or (channels == 4 and spec.levels is not None) else 0
