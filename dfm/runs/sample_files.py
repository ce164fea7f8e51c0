"""The files of samples and of latents, ``samples.npz`` and ``latents.npz``: how they are written and read."""

import contextlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import whole_file, write_atomically
from dfm.basics.locations import located
from dfm.data.dataset import DatasetSpec
from dfm.data.numbers.stored_form import channels_last, from_array, stored_type, to_array
from dfm.runs.old_names import current_config
from dfm.runs.parts import ABSENT, DFM
from dfm.runs.pictures.cells import cells
from dfm.runs.pictures.drawing import picture
from dfm.runs.pictures.images import grid, nhwc, read_images, save_png
from dfm.runs.pictures.letters import legible
from dfm.runs.pictures.named_rows import named_rows
from dfm.runs.places import without_places

GRID_LIMIT = 400  # images


class NpzWriter:
    """A .npz file with one large array, which is written piece by piece; see ``npz_writer``."""

    def __init__(self, archive: zipfile.ZipFile, name: str, count: int) -> None:
        self.archive, self.name, self.count = archive, name, count
        self.written = 0
        self._member: IO[bytes] | None = None

    def write(self, values: np.ndarray) -> None:
        """Append rows to the large array."""
        if self._member is None:
            self._member = self.archive.open(f"{self.name}.npy", "w", force_zip64=True)
            header = {"descr": values.dtype.str, "fortran_order": False, "shape": (self.count, *values.shape[1:])}
            np.lib.format.write_array_header_1_0(self._member, header)
        self._member.write(np.ascontiguousarray(values).data)
        self.written += len(values)

    def close(self) -> None:
        """Finish the large array."""
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
    """Open a .npz file and write the array ``name`` of ``count`` rows into it piece by piece.

    The file has another name until it is whole.
    """
    with whole_file(path) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED, allowZip64=True) as archive:
            writer = NpzWriter(archive, name, count)
            try:
                yield writer
            finally:
                writer.close()  # otherwise an error when the archive closes would hide the first error
        assert writer.written == count, f"{writer.written} of {count} rows"


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays into a compressed .npz file, whole or not at all."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def prior_of(config: Mapping[str, Any]) -> str:
    """Return a run's prior as JSON. It is stored with latents, which mean nothing to a model with another prior."""
    return json.dumps(without_places(config.get("prior") or ABSENT["prior"], DFM, handling=True), sort_keys=True)


def _prior_text(text: str) -> str:
    """Return stored JSON of a prior as ``prior_of`` writes it today. Text that is not JSON is returned unchanged."""
    try:
        return prior_of({"prior": current_config(json.loads(text))})
    except ValueError:
        return text


def read_latents(source: str | None) -> tuple[Tensor, Tensor | None, tuple[str, ...], str | None]:
    """Read latents of a run.

    Args:
        source: ``latents.npz``, or the run directory of ``dfm encode``.

    Returns:
        The latents float32 (n, *D), their labels (n,) or None, the names of classes, and ``prior_of`` the run or None.

    Raises:
        UserError: there are no latents.
    """
    if source is None:
        raise UserError("latents= is not given; allowed: latents.npz of 'dfm encode', or its run directory")
    path = located(source)
    path = path / "latents.npz" if path.is_dir() else path
    try:
        with np.load(_file(path), allow_pickle=False) as content:
            latents = torch.from_numpy(content["latents"]).float()
            labels = torch.from_numpy(content["labels"]).long() if "labels" in content.files else None
            names = _class_names(content)
            prior = _prior_text(str(content["prior"])) if "prior" in content.files else None
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"latents={source}: no latents there ({type(error).__name__}); allowed: latents.npz of 'dfm encode', or "
            "its run directory"
        ) from None
    if latents.ndim < 2 or len(latents) == 0:
        raise UserError(f"latents={source}: shape {tuple(latents.shape)}; allowed: (n, *D) with at least one latent")
    return latents, labels, names, prior


def _class_names(content: np.lib.npyio.NpzFile) -> tuple[str, ...]:
    """Return the names of the classes that stand beside labels in a file; none in files of dfm 0.1."""
    return tuple(map(str, content["class_names"].tolist())) if "class_names" in content.files else ()


def store_samples(
    pieces: Iterable[Tensor],
    labels: Tensor | None,
    indices: range,
    spec: DatasetSpec,
    directory: Path,
    *,
    png: bool = False,
    columns: int | None = None,
    rows: Sequence[int] = (),
    decode: Callable[[Tensor], Tensor] | None = None,
) -> None:
    """Write ``samples.npz`` and ``grid.png``, piece by piece.

    Args:
        pieces: samples as they are stored, in order, each piece (m, *D).
        labels: the classes int64 (n,) of the samples, or None.
        indices: the numbers of the samples.
        png: whether to write ``png/000000.png`` ... as well; points and signals have none.
        columns: the number of columns of the grid.
        rows: the classes that have a row of the grid each, if sample k has class rows[k % len(rows)]. Their names stand
            beside the rows. ``samples.npz`` keeps the order of the numbers.
        decode: makes pictures uint8 (m, C, H, W) of stored samples, for ``grid.png`` and ``png/``; None: they are drawn
            as what they are.
    """
    limit = GRID_LIMIT if len(spec.shape) > 1 else len(indices)
    beginning: list[Tensor] = []
    with npz_writer(directory / "samples.npz", "samples", len(indices)) as file:
        for piece in pieces:
            start = file.written
            file.write(to_array(piece, spec))
            if png and len(spec.shape) > 2:
                _save_pngs(_pictures(piece, spec, decode), indices[start : start + len(piece)], directory / "png")
            beginning.append(piece[: max(0, limit - start)].clone())  # a view would keep the whole piece in memory
        if spec.channel_names:
            file.add("columns", np.array(spec.channel_names))
        if labels is not None:
            file.add("labels", labels.numpy())
            if spec.class_names:
                file.add("class_names", np.array(spec.class_names))
    first = torch.cat(beginning)
    shown: list[int] = []
    if rows and labels is not None:
        columns, classes = max(1, len(first) // len(rows)), labels[: len(first)]
        shown = [c for c in rows if bool((classes == c).any())]  # many classes, or one sample alone
        first = torch.cat([first[classes == c][:columns] for c in shown])
    sheet = grid(nhwc(decode(first)), columns) if decode else picture(first, spec, columns)
    if shown and spec.class_names and (decode or spec.is_picture):
        sheet = named_rows(sheet, [legible(spec.class_names[c], f"class {c}") for c in shown])
    save_png(sheet, directory / "grid.png")


def _pictures(piece: Tensor, spec: DatasetSpec, decode: Callable[[Tensor], Tensor] | None) -> np.ndarray:
    """Return stored samples as pictures uint8 (m, H, W, C): as they are, decoded, or drawn as in a grid."""
    if decode or spec.is_picture:
        return nhwc(decode(piece) if decode else piece)
    return cells(piece, spec)


def _save_pngs(images: np.ndarray, numbers: Sequence[int], folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    for number, image in zip(numbers, images, strict=True):
        save_png(image, folder / f"{number:06d}.png")


def read_samples(source: str, spec: DatasetSpec) -> Tensor:
    """Read the samples that ``dfm sample`` stored, in the form of the examples of a ``Split``.

    Args:
        source: a file, a run directory or a folder of PNGs, with images uint8 (n, H, W, C) over 0 .. 255 or points
            (n, d).
        spec: the form of the data that the samples are compared with.

    Returns:
        As ``Split.take``: integer levels, or real numbers in the user's unit, (n, *D).

    Raises:
        UserError: there are no samples, or they have another form.
    """
    array = _read_array(source, spec)
    try:
        return from_array(array, spec)
    except UserError as error:
        raise UserError(f"samples={source}: {error}") from None


def read_labels(source: str, n: int) -> tuple[Tensor, tuple[str, ...]] | None:
    """Return the classes int64 (n,) of n stored samples and the names of classes; None if the file has no classes."""
    path = located(source)
    path = path / "samples.npz" if path.is_dir() else path
    if not path.is_file():  # a folder of PNGs
        return None
    try:
        with np.load(path, allow_pickle=False) as content:
            labels = torch.from_numpy(content["labels"]) if "labels" in content else None
            names = _class_names(content)
    except (ValueError, TypeError):  # objects or text cannot be classes
        return None
    return (labels, names) if labels is not None and labels.shape == (n,) else None


def _file(path: Path) -> Path:
    """Return the path of a file; a pipe would be waited for without end.

    Raises:
        FileNotFoundError: it is none.
    """
    if not path.is_file():
        raise FileNotFoundError(path)
    return path


def _read_array(source: str, spec: DatasetSpec) -> np.ndarray:
    """Read the array of a file, a run directory or a folder of PNGs as it is stored."""
    path = located(source)
    drawn = spec.levels is not None and channels_last(spec) and len(spec.shape) == 3
    if drawn and next(path.glob("*.png"), None) and not (path / "samples.npz").exists():
        return read_images(path, spec.shape[0], 65536 if stored_type(spec) == torch.uint16 else 256)
    path = path / "samples.npz" if path.is_dir() else path
    try:
        with np.load(_file(path), allow_pickle=False) as content:
            return np.asarray(content["samples"])
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"samples={source}: no samples there ({type(error).__name__}); allowed: samples.npz of 'dfm sample', its "
            "run directory, or a folder of PNGs"
        ) from None
