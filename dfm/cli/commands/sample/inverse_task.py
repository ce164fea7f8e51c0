"""Inverse problems in ``dfm sample``: held-out images of which a part is known, and a picture of the result."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.locations import located
from dfm.cli.composition.unused_settings import refuse_unused
from dfm.cli.from_checkpoint import Drawing, examples_of, refuse_unread
from dfm.cli.job import Job
from dfm.data.numbers.pixel_levels import centres
from dfm.data.numbers.stored_form import stored, to_stored
from dfm.runs.pictures.drawing import picture
from dfm.runs.pictures.images import save_png
from dfm.runs.pictures.masks import read_mask
from dfm.sampling.inverse_problems import Conditioned
from dfm.sampling.labels import AskedClasses

COLUMNS = 16  # of the picture, at most


@dataclass(frozen=True, kw_only=True)
class KnownImages:
    """Held-out images of which a task gives away a part.

    Args:
        images: the whole images, as levels.
        labels: their classes, or None.
        denoiser: the denoiser that respects the known part of each image.
    """

    images: Tensor
    labels: Tensor | None
    denoiser: Conditioned

    def restore(self, samples: Tensor, rows: Tensor) -> Tensor:
        """Return samples ``rows`` of the draw with their known part exact."""
        return self.denoiser.select(rows).restore(samples)

    def write_comparison(self, samples: Tensor, directory: Path) -> dict[str, float]:
        """Write ``task.png``: the images, their known part, the samples.

        Returns:
            ``rms_error``: the error of the samples over all pixels, in grey values of 255.
        """
        spec = self.denoiser.spec
        assert spec.levels is not None
        images = to_stored(self.images, spec)
        sheet = torch.cat([part[:COLUMNS] for part in (images, stored(self.denoiser.known, spec), samples)])
        save_png(picture(sheet, spec, min(COLUMNS, len(samples))), directory / "task.png")
        return {"rms_error": float((samples.double() - images.double()).square().mean().sqrt())}


def known_images(job: Job, drawing: Drawing, indices: range, asked: AskedClasses) -> KnownImages | None:
    """Return held-out images ``indices`` with the part that the job's task makes known; None without a task.

    Args:
        asked: the classes of the samples, which may need whole rows of a grid.

    Raises:
        UserError: the task does not suit the data, or there are too few images.
    """
    task, spec, name = job.parts.task, drawing.checkpoint.spec, job.settings.split
    if task.is_none:
        refuse_unused(("mask", "split", "task."), "without a task such as task=inpaint")
        refuse_unread(job, drawing.checkpoint, "without a task such as task=inpaint")
        return None
    if not task.takes_mask:
        refuse_unused(("mask",), "without task=inpaint")
    if task.mask_file is not None:
        task = task.with_known_pixels(torch.from_numpy(read_mask(located(task.mask_file))))
    task.projection(spec)  # an impossible task is refused before any data are read
    split = examples_of(drawing.checkpoint, job, name)
    if indices[-1] >= len(split):
        most = len(split) - len(split) % max(1, len(asked.rows))
        fix = f"n={most} or less" if job.settings.index is None else f"index={len(split) - 1} or less"
        raise UserError(f"image {indices[-1]} of split={name}; allowed: 0 to {len(split) - 1}; try {fix}")
    assert spec.levels is not None
    rows = list(indices)
    images = split.take(rows)
    denoiser = task.observe(drawing.denoiser, centres(images, spec.levels).float())
    return KnownImages(images=images, labels=split.labels_of(rows), denoiser=denoiser)
