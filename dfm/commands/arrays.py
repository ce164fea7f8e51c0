"""Arrays on disk and work in batches, for the commands that go along the ODE."""

import contextlib
import io
import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from dfm import assemble
from dfm.errors import UserError
from dfm.flows import Carried
from dfm.networks import NetworkDenoiser
from dfm.run_dir import write_atomically


def in_batches(
    go: Callable[[NetworkDenoiser, Tensor], Carried],
    denoiser: NetworkDenoiser,
    x: Tensor,
    labels: Tensor | None,
    batch_size: int,
) -> tuple[Tensor, float]:
    """``go`` on parts of x (n, *D): all results, and the mean number of evaluations."""
    parts, evaluations = [], 0.0
    for first in range(0, len(x), batch_size):
        rows = slice(first, first + batch_size)
        given = denoiser.given(None if labels is None else labels[rows].to(x.device))
        carried = go(given, x[rows])
        parts.append(carried.x)
        evaluations += carried.nfe * len(carried.x)
    return torch.cat(parts), evaluations / len(x)


class NpzWriter:
    """An .npz whose one large array is written piece by piece; see ``npz_writer``."""

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
        """No more rows come."""
        if self._member is not None:
            self._member.close()
            self._member = None

    def add(self, name: str, values: np.ndarray) -> None:
        """A small array beside it, after its last row."""
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
    """A run's prior as it stands beside latents: a latent of one means nothing to another."""
    return json.dumps(config.get("prior") or assemble.ABSENT["prior"], sort_keys=True)


def read_latents(given: str | None) -> tuple[Tensor, Tensor | None, str | None]:
    """Latents float32 (n, *D), labels (n,) or None, and ``prior_of`` their run if it stands there.

    They are of a file or a run directory of ``dfm encode``.

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
            prior = str(content["prior"]) if "prior" in content.files else None
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"latents={given}: no latents there ({type(error).__name__}); allowed: latents.npz of dfm encode, or its "
            "run directory"
        ) from None
    if latents.ndim < 2 or len(latents) == 0:
        raise UserError(f"latents={given}: no latent in it; allowed: an array (n, *D)")
    return latents, labels, prior
