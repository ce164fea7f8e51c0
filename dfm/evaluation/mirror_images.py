"""Whether training may mirror images: is a mirrored example as near to the others as the example itself?

If the law of the data is the same from left to right, then of an example and its mirror image either is the nearer one
to the other examples with probability 1/2. Letters, digits and scenes with a fixed side are farther when mirrored.
Pixels decide and no meaning: a measure cannot see that a mirrored left hand is a right one.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from dfm.basics.seeding import Purpose, stream
from dfm.data.split import Split

PROBES, OTHERS, SIDE = 500, 4000, 32  # examples that are mirrored, those beside them, and pixels of their longer side
LEAST, FEWEST = 0.45, 50  # share from which mirroring suits, and examples that it takes to tell


@dataclass(frozen=True, kw_only=True)
class MirrorTest:
    """The share of examples whose mirror image is nearer to its nearest other example than the example is.

    Args:
        share: ties count half; 1/2 where mirroring changes nothing.
        stderr: its standard error.
        examples: how many were mirrored.
        suits: whether training may mirror; None: too few examples to tell.
    """

    share: float
    stderr: float
    examples: int
    suits: bool | None


def mirror_test(split: Split, seed: int = 0) -> MirrorTest | None:
    """Return the test on random examples (N, C, H, W) of a split, each among those of its class; None: no others.

    Distances are Euclidean, of images shrunk to ``SIDE`` pixels. An example that occurs twice does not count.
    """
    order = stream(seed, 0, Purpose.RESAMPLE, step=2).permutation(len(split))[: PROBES + OTHERS]
    count = min(PROBES, len(order) // 2)
    rows = torch.from_numpy(order)
    images, labels = _small(split.take(rows)), split.labels_of(rows)
    alike = None if labels is None else labels[:count, None] == labels[count:]
    itself, mirrored = (_nearest(part, images[count:], alike) for part in (images[:count], images[:count].flip(-1)))
    told = itself.isfinite() & (itself > 0)
    itself, mirrored = itself[told], mirrored[told]
    n = len(itself)
    if n == 0:
        return None
    margin = 1e-6 * itself  # a symmetric image is as near as its mirror image, up to rounding
    share = float(((mirrored < itself - margin).double() + 0.5 * ((mirrored - itself).abs() <= margin)).mean())
    stderr = math.sqrt(max(share * (1 - share), 0.25 / n) / n)
    return MirrorTest(share=share, stderr=stderr, examples=n, suits=share >= LEAST if n >= FEWEST else None)


def _small(images: Tensor) -> Tensor:
    images = images.double()
    height, width = (max(1, round(side * min(1.0, SIDE / max(images.shape[-2:])))) for side in images.shape[-2:])
    return adaptive_avg_pool2d(images, (height, width))


def _nearest(images: Tensor, others: Tensor, alike: Tensor | None) -> Tensor:
    """Return the distance of each image to the nearest other one of its class; infinity: there is none."""
    distances = torch.cdist(images.flatten(1), others.flatten(1), compute_mode="donot_use_mm_for_euclid_dist")
    if alike is not None:
        distances = distances.masked_fill(~alike, torch.inf)
    return distances.amin(1) if len(others) else torch.full((len(images),), torch.inf)
