"""Inverse problems in ``dfm sample``: held-out images of which a part is known, and a picture of the outcome."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.cli.from_checkpoint import Drawing, examples_of
from dfm.cli.job import Job
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import Split
from dfm.data.pixel_levels import centres
from dfm.denoising.denoiser import Denoiser
from dfm.runs.images import grid, nhwc, read_mask, save_png
from dfm.sampling.draw import stored
from dfm.sampling.inverse_problems import Conditioned

SHOWN = 16


def conditioned(job: Job, drawing: Drawing, indices: range) -> tuple[Denoiser, Split | None]:
    """Return the denoiser for held-out images ``indices`` of which a part is known, and these images.

    Without a task it is the denoiser as it was, and None.

    Raises:
        UserError: the task does not suit the data, or there are not so many images.
    """
    task, spec, name = job.parts.task, drawing.checkpoint.spec, job.settings.split
    if task.is_none:
        refuse_unused(("mask", "split", "task."), "without a task such as task=inpaint")
        return drawing.denoiser, None
    if not task.takes_mask:
        refuse_unused(("mask",), "without task=inpaint")
    if task.mask_file is not None:
        task = task.with_known_pixels(torch.from_numpy(read_mask(Path(task.mask_file))))
    task.projection(spec)  # a task that cannot be is refused before anything is read
    split = examples_of(drawing.checkpoint, job, name)
    if indices[-1] >= len(split):
        raise UserError(f"image {indices[-1]} of split={name}; allowed: 0 to {len(split) - 1}; try a smaller n")
    assert spec.levels is not None
    rows = list(indices)
    truth = replace(split, values=split.values[rows], labels=None if split.labels is None else split.labels[rows])
    return task.observe(drawing.denoiser, centres(truth.values, spec.levels).float()), truth


def write_comparison(denoiser: Denoiser, truth: Split, samples: Tensor, directory: Path) -> dict[str, float]:
    """Write ``task.png``: the images, what is known of them, the samples.

    Returns:
        ``rms_error`` of the samples over all pixels, in grey values of 255.
    """
    spec = denoiser.spec
    assert isinstance(denoiser, Conditioned)
    assert spec.levels is not None
    images = stored(centres(truth.values, spec.levels), spec)
    sheet = torch.cat([part[:SHOWN] for part in (images, stored(denoiser.known, spec), samples)])
    save_png(grid(nhwc(sheet), min(SHOWN, len(samples))), directory / "task.png")
    return {"rms_error": float((samples.double() - images.double()).square().mean().sqrt())}
