"""Samples on disk, as ``dfm sample`` leaves them, read back."""

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dfm.datasets.base import DatasetSpec
from dfm.errors import UserError
from dfm.images_io import read_images
from dfm.quantization import from_eight_bits


def read_samples(given: str, spec: DatasetSpec) -> Tensor:
    """Samples that ``dfm sample`` stored, as ``Split`` has examples: levels uint8 (n, C, H, W), points float32 (n, d).

    Args:
        given: a file, a run directory, or a folder of PNGs; images uint8 (n, H, W, C) over 0 .. 255, points (n, d).
        spec: of the data that they are to be like.

    Raises:
        UserError: there are none, or they are of another form.
    """
    found = _stored(given, spec)
    if spec.levels is not None and found.ndim == 4:
        found = found.permute(0, 3, 1, 2)
    fits = found.is_floating_point() if spec.levels is None else found.dtype == torch.uint8
    if found.shape[1:] != spec.shape or not fits:
        raise UserError(
            f"samples={given}: {found.dtype}, each of shape {tuple(found.shape[1:])}; allowed for dataset {spec.name}: "
            f"those of dfm sample, each of shape {spec.shape}; try another dataset=NAME"
        )
    try:
        return found.float() if spec.levels is None else from_eight_bits(found, spec.levels)
    except UserError as error:
        raise UserError(f"samples={given}: {error}") from None


def read_labels(given: str, n: int) -> Tensor | None:
    """The classes int64 (n,) that stand beside n stored samples, or None where none do."""
    path = Path(given) / "samples.npz" if Path(given).is_dir() else Path(given)
    if not path.is_file():  # a folder of PNGs
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            labels = torch.from_numpy(content["labels"]) if "labels" in content else None
    except (ValueError, TypeError):  # objects or words: no classes
        return None
    return labels if labels is not None and labels.shape == (n,) else None


def _stored(given: str, spec: DatasetSpec) -> Tensor:
    path = Path(given)
    if spec.levels is not None and next(path.glob("*.png"), None) and not (path / "samples.npz").exists():
        return torch.from_numpy(read_images(path, spec.shape[0]))
    path = path / "samples.npz" if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as content:
            return torch.from_numpy(content["samples"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"samples={given}: no samples there ({type(error).__name__}); allowed: samples.npz of dfm sample, its run "
            "directory, or a folder of PNGs"
        ) from None
