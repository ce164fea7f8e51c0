"""The files of samples and latents, ``samples.npz`` and ``latents.npz``: written piece by piece, and read back."""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.data.dataset import DatasetSpec
from dfm.data.pixel_levels import from_eight_bits
from dfm.runs.images import nhwc, picture, read_images, save_png
from dfm.runs.old_names import current_json
from dfm.runs.parts import ABSENT

GRID_LIMIT = 400  # images


class NpzWriter:
    """A .npz file whose one large array is written piece by piece; see ``npz_writer``."""

    def __init__(self, archive: zipfile.ZipFile, name: str, count: int) -> None:
        self.archive, self.name, self.count = archive, name, count
        self.written = 0
        self._member: IO[bytes] | None = None

    def write(self, values: np.ndarray) -> None:
        """Append rows."""
        if self._member is None:
            self._member = self.archive.open(f"{self.name}.npy", "w", force_zip64=True)
            header = {"descr": values.dtype.str, "fortran_order": False, "shape": (self.count, *values.shape[1:])}
            np.lib.format.write_array_header_1_0(self._member, header)
        self._member.write(np.ascontiguousarray(values).data)
        self.written += len(values)

    def close(self) -> None:
        """End the large array."""
        if self._member is not None:
            self._member.close()
            self._member = None

    def add(self, name: str, values: np.ndarray) -> None:
        """Add a small array, after the last row of the large one."""
        self.close()
        with self.archive.open(f"{name}.npy", "w") as member:
            np.save(member, values)


@contextlib.contextmanager
def npz_writer(path: Path, name: str, count: int) -> Iterator[NpzWriter]:
    """Write ``name``, an array of ``count`` rows, as its rows come; the file gets its name when it is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            writer = NpzWriter(archive, name, count)
            try:
                yield writer
            finally:
                writer.close()  # else the archive's own closing hides what went wrong
        assert writer.written == count, f"{writer.written} of {count} rows"
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays compressed, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def prior_of(config: Mapping[str, Any]) -> str:
    """Return a run's prior as JSON, to stand beside latents: a latent of one prior means nothing to another."""
    return json.dumps(config.get("prior") or ABSENT["prior"], sort_keys=True)


def read_latents(given: str | None) -> tuple[Tensor, Tensor | None, str | None]:
    """Read latents float32 (n, *D), labels (n,) or None, and ``prior_of`` their run if it stands there.

    Args:
        given: a file or a run directory of ``dfm encode``.

    Raises:
        UserError: there are none.
    """
    if given is None:
        raise UserError("latents= is not given; allowed: latents.npz of dfm encode, or its run directory")
    path = Path(given)
    path = path / "latents.npz" if path.is_dir() else path
    try:
        with np.load(path, allow_pickle=False) as content:
            latents = torch.from_numpy(content["latents"]).float()
            labels = torch.from_numpy(content["labels"]).long() if "labels" in content.files else None
            prior = current_json(str(content["prior"])) if "prior" in content.files else None
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"latents={given}: no latents there ({type(error).__name__}); allowed: latents.npz of dfm encode, or its "
            "run directory"
        ) from None
    if latents.ndim < 2 or len(latents) == 0:
        raise UserError(f"latents={given}: no latent in it; allowed: an array (n, *D)")
    return latents, labels, prior


def store_samples(
    pieces: Iterable[Tensor],
    labels: Tensor | None,
    indices: range,
    spec: DatasetSpec,
    directory: Path,
    *,
    png: bool = False,
    columns: int | None = None,
    by_class: bool = False,
) -> None:
    """Write ``samples.npz`` and ``grid.png``, and ``png/000000.png`` ... if asked for, as the samples come.

    Args:
        pieces: stored samples in order, uint8 images (m, C, H, W) or float points (m, d) each.
        indices: the numbers of the samples.
        columns: of the grid.
        by_class: a row of the grid is a class; ``samples.npz`` stays in the order of the samples' numbers.
    """
    limit = GRID_LIMIT if spec.levels is not None else len(indices)
    shown: list[Tensor] = []
    with npz_writer(directory / "samples.npz", "samples", len(indices)) as file:
        for piece in pieces:
            done = file.written
            values = nhwc(piece) if spec.levels is not None else piece.numpy()
            file.write(values)
            if png and spec.levels is not None:
                _save_pngs(values, indices[done : done + len(piece)], directory / "png")
            shown.append(piece[: max(0, limit - done)].clone())  # not a view: the rest of the piece is let go
        if labels is not None:
            file.add("labels", labels.numpy())
    first = torch.cat(shown)
    if by_class and labels is not None:  # classes come in turn, so each has its samples among the first
        columns = max(1, len(first) // spec.num_classes)
        own = labels[: len(first)]
        first = torch.cat([first[own == c][:columns] for c in range(spec.num_classes)])
    save_png(picture(first, spec, columns), directory / "grid.png")


def _save_pngs(images: np.ndarray, numbers: Sequence[int], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, image in zip(numbers, images, strict=True):
        save_png(image, folder / f"{number:06d}.png")


def read_samples(given: str, spec: DatasetSpec) -> Tensor:
    """Read samples that ``dfm sample`` stored, as ``Split`` has examples: levels uint8 (n, C, H, W), points float32 (n, d).

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
    """Read the classes int64 (n,) of n stored samples; None where the file has none."""
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
