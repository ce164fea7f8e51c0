"""The drawing of examples and samples: one for each shape of data, the same in all commands.

Points are clouds, tables are histograms and clouds of pairs, signals are lines, images and maps are a grid, volumes are
rows of slices. All are drawn from the samples as they are stored, over windows of the spec (``windows``).
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from dfm.data.spec import DatasetSpec
from dfm.runs.pictures.cells import captioned, cells
from dfm.runs.pictures.images import GAP, GROUND, cloud, grid
from dfm.runs.pictures.letters import legible
from dfm.runs.pictures.windows import LINE, PLACE, windows, with_extremes

SHOWN = 200  # pairs of ``side_by_side``
PIXELS = 2**22  # of a sheet of maps or volumes, at most
PANELS = 64  # of a sheet of signals


EXAMPLES = {1: 4096, 2: 24, 3: 64, 4: 12}  # that a picture of the data shows, by the number of axes of one


def enough(spec: DatasetSpec) -> int:
    """Return how many examples a picture of the data shows: fewer of large images, four at least."""
    most = EXAMPLES[len(spec.shape)]
    return max(4, min(most, PIXELS // math.prod(spec.shape[-2:]))) if len(spec.shape) > 2 else most


class Drawing(Protocol):
    """The drawing of stored samples (N, *D), as uint8 (H, W) or (H, W, 1, 3 or 4)."""

    def __call__(self, samples: Tensor, spec: DatasetSpec, columns: int | None, captions: Sequence[str]) -> np.ndarray:
        """Draw them; ``columns`` and ``captions`` as in ``picture``."""


def picture(samples: Tensor, spec: DatasetSpec, columns: int | None = None, captions: Sequence[str] = ()) -> np.ndarray:
    """Return stored samples (N, *D) as one picture, uint8 (H, W) or (H, W, 1 or 3).

    Args:
        columns: how many stand in a row; by default about as many as rows. Clouds and tables have no rows.
        captions: a text for each sample, such as the name of its class; points and tables have none.
    """
    return DRAWINGS[len(spec.shape)](samples, spec, columns, captions)


def of_points(samples: Tensor, spec: DatasetSpec, columns: int | None, captions: Sequence[str]) -> np.ndarray:
    """Draw points (N, d), each column over mean -+ 3 deviations in the unit of the user's file.

    Points of the line and the plane are a bare cloud; more columns, and columns of the user's own array, have axes.
    """
    shown = windows(spec, PLACE)
    if spec.shape[0] > 2 or spec.dtype:
        from dfm.runs.pictures.plots import pairs  # only what has axes waits for matplotlib

        return pairs(samples.double().numpy(), shown, spec.channel_names)
    return cloud(samples.numpy(), shown)


def of_signals(samples: Tensor, spec: DatasetSpec, columns: int | None, captions: Sequence[str]) -> np.ndarray:
    """Draw signals (N, C, L) as lines, at most ``PANELS`` of them.

    Each channel is over mean -+ 4 deviations, and as far as its lowest and highest number.
    """
    from dfm.runs.pictures.plots import lines

    columns = columns or min(4, len(samples))
    n = min(len(samples), max(1, PANELS // columns) * columns)
    return lines(samples[:n].double().numpy(), with_extremes(spec, windows(spec, LINE)), columns, captions[:n])


def of_images(samples: Tensor, spec: DatasetSpec, columns: int | None, captions: Sequence[str]) -> np.ndarray:
    """Draw images, maps (N, C, H, W) and volumes (N, C, D, H, W) as a grid of ``cells``."""
    one = cells(samples[:1], spec)
    height, width = one.shape[1:3]
    if one.shape[1:3] != spec.shape[1:]:  # several panes: a sheet would soon be too large to look at
        n = max(1, min(len(samples), PIXELS // (height * width)))
        columns = columns or max(1, round(math.sqrt(n * height / width)))
        samples = samples[: max(columns, n // columns * columns)]
    images = cells(samples, spec)
    return grid(captioned(images, captions[: len(images)]) if captions else images, columns)


DRAWINGS: dict[int, Drawing] = {1: of_points, 2: of_signals, 3: of_images, 4: of_images}


def captions_of(labels: Tensor | None, spec: DatasetSpec) -> list[str]:
    """Return the names of the classes of examples, and of a hidden class; numbers for classes without names."""
    if labels is None or not spec.num_classes:
        return []
    numbers = [f"class {k}" for k in range(spec.num_classes)]
    names = [legible(*pair) for pair in zip(spec.class_names, numbers, strict=True)] if spec.class_names else numbers
    return [names[k] if k < spec.num_classes else "(hidden)" for k in labels.tolist()]


def side_by_side(sets: Sequence[Tensor], spec: DatasetSpec) -> np.ndarray:
    """Return two sets of stored samples in one picture, at most ``SHOWN`` of each.

    Each of the first set stands above its partner of the second set, in 8 columns (signals: 4, at most ``PANELS``
    panels in all). Clouds of points stand side by side.
    """
    if len(spec.shape) == 1:
        clouds = [picture(samples, spec) for samples in sets]
        line = np.full((len(clouds[0]), GAP, *clouds[0].shape[2:]), GROUND, np.uint8)
        return np.concatenate([clouds[0], line, clouds[1]], 1)
    if len(spec.shape) == 2:
        columns = min(4, len(sets[0]))
        n = min(PANELS // 2, len(sets[0])) // columns * columns
        return picture(torch.cat([_in_rows(samples[:n], columns) for samples in sets], 1).flatten(0, 2), spec, columns)
    n = min(SHOWN, len(sets[0]))
    images = [cells(samples[:n], spec) for samples in sets]
    width = images[0].shape[2]
    columns = max(1, min(8, n, 8 * spec.shape[-1] // width if width > spec.shape[-1] else 8))
    # the last pair of rows is filled with the grey of the background
    filling = np.full((-n % columns, *images[0].shape[1:]), GROUND, np.uint8)
    rows = [_in_rows(torch.from_numpy(np.concatenate([part, filling])), columns) for part in images]
    return grid(torch.cat(rows, 1).flatten(0, 2).numpy(), columns)


def _in_rows(values: Tensor, columns: int) -> Tensor:
    """Return (N, ...) as (rows, 1, columns, ...), so that the rows of two sets can alternate."""
    return values.unflatten(0, (-1, 1, columns))
