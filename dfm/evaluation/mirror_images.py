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

PROBES, OTHERS, SIDE = 500, 4000, 32  # examples that are mirrored, all that are looked at, pixels of the longer side
CLEAR, UNLIKE = 0.40, 0.45  # mirroring suits if the share is surely above the one, and not if surely below the other


@dataclass(frozen=True, kw_only=True)
class MirrorTest:
    """The share of examples whose mirror image is nearer to its nearest other example than the example is.

    Args:
        share: ties count half; 1/2 where mirroring changes nothing.
        stderr: its standard error.
        examples: how many were mirrored.
        suits: whether training may mirror: True if the share is above ``CLEAR`` by two standard errors, False if it is
            below ``UNLIKE`` by two; None: neither or both, so it does not tell.
    """

    share: float
    stderr: float
    examples: int
    suits: bool | None


def mirror_test(split: Split, seed: int = 0) -> MirrorTest | None:
    """Return the test on random examples (N, C, H, W) of a split, each beside the others of its class; None: no others.

    Distances are Euclidean, of images shrunk to ``SIDE`` pixels. An example that occurs twice does not count.
    """
    order = stream(seed, 0, Purpose.RESAMPLE, step=2).permutation(len(split))[:OTHERS]
    rows = torch.from_numpy(order)
    images, labels = _small(split, rows), split.labels_of(rows)
    probes = images[:PROBES]
    other = ~torch.eye(len(probes), len(images), dtype=torch.bool)
    if labels is not None:
        other &= labels[:PROBES, None] == labels
    itself, mirrored = (_nearest(part, images, other) for part in (probes, probes.flip(-1)))
    told = itself.isfinite() & (itself > 0)
    itself, mirrored = itself[told], mirrored[told]
    n = len(itself)
    if n == 0:
        return None
    margin = 1e-6 * itself  # a symmetric image is as near as its mirror image, up to rounding
    share = float(((mirrored < itself - margin).double() + 0.5 * ((mirrored - itself).abs() <= margin)).mean())
    stderr = math.sqrt(max(share * (1 - share), 0.25 / n) / n)
    yes, no = share - 2 * stderr > CLEAR, share + 2 * stderr < UNLIKE
    return MirrorTest(share=share, stderr=stderr, examples=n, suits=None if yes == no else yes)


def _small(split: Split, rows: Tensor) -> Tensor:
    """Return images shrunk to ``SIDE`` pixels, float64, read a few at a time."""
    sides = split.shape[-2:]
    height, width = (max(1, round(side * min(1.0, SIDE / max(sides)))) for side in sides)
    return torch.cat([adaptive_avg_pool2d(split.take(part).double(), (height, width)) for part in rows.split(64)])


def _nearest(images: Tensor, others: Tensor, allowed: Tensor) -> Tensor:
    """Return the distance of each image to the nearest one allowed, bool (images, others); infinity: none is."""
    a, b = (part.flatten(1) - others.flatten(1).mean(0) for part in (images, others))
    # a matrix product finds the nearest one fifty times faster than differences do, and a difference tells how near
    squares = (b.square().sum(1) - 2 * a @ b.T).masked_fill(~allowed, torch.inf)
    nearest = squares.argmin(1)
    distances = (a - b[nearest]).square().sum(1).sqrt()
    return distances.masked_fill(~allowed.any(1), torch.inf)
