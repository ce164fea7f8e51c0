"""Inverse problems in ``dfm sample``: held-out images of which a part is known, and a picture of the outcome."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.cli.from_checkpoint import examples_of
from dfm.cli.unused_settings import refuse_unused
from dfm.data.dataset import DatasetSpec, Split
from dfm.data.pixel_levels import centres
from dfm.denoising.denoiser import Denoiser
from dfm.runs import images as images_io
from dfm.runs.checkpoint import Checkpoint
from dfm.sampling.draw import stored
from dfm.sampling.inverse_problems import Conditioned, Inpaint, NoTask, Task

SHOWN = 16


def conditioned(
    task: Task, denoiser: Denoiser, found: Checkpoint, config: dict[str, Any], indices: range, trust: Sequence[str]
) -> tuple[Denoiser, Split | None]:
    """The denoiser for held-out images ``indices`` of which a part is known, and these images; without a task, neither.

    Raises:
        UserError: the task does not suit the data, or there are not so many images.
    """
    if isinstance(task, NoTask):
        refuse_unused(("mask", "split", "task."), "without a task such as task=inpaint")
        return denoiser, None
    if not isinstance(task, Inpaint):
        refuse_unused(("mask",), "without task=inpaint")
    if isinstance(task, Inpaint) and (task.mask or "").lower().endswith(".png"):
        task = replace(task, known=torch.from_numpy(images_io.read_mask(Path(str(task.mask)))))
    task.projection(found.spec)  # what cannot be is said before anything is read
    split = examples_of(found, config, config["split"], trust)
    if indices[-1] >= len(split):
        raise UserError(
            f"image {indices[-1]} of split={config['split']}; allowed: 0 to {len(split) - 1}; try a smaller n"
        )
    assert found.spec.levels is not None
    rows = list(indices)
    labels = None if split.labels is None else split.labels[rows]
    truth = Split(values=split.values[rows], labels=labels)
    return task.observe(denoiser, centres(truth.values, found.spec.levels).float()), truth


def restore_known(denoiser: Denoiser, data: Tensor, rows: Tensor) -> Tensor:
    """Samples ``rows`` of the draw with their known part exact."""
    return denoiser.select(rows).restore(data) if isinstance(denoiser, Conditioned) else data


def report(
    denoiser: Conditioned, truth: Split, samples: Tensor, spec: DatasetSpec, directory: Path
) -> dict[str, float]:
    """``task.png`` (the images, what is known of them, the samples), and how far the samples are from the images.

    Returns:
        ``rms_error`` over all pixels, in grey values of 255.
    """
    assert spec.levels is not None
    images = stored(centres(truth.values, spec.levels), spec)
    known = stored(denoiser.known, spec)
    sheet = torch.cat([part[:SHOWN] for part in (images, known, samples)])
    images_io.save_png(images_io.grid(images_io.nhwc(sheet), min(SHOWN, len(samples))), directory / "task.png")
    return {"rms_error": float((samples.double() - images.double()).square().mean().sqrt())}
