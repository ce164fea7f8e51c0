"""Arrays on disk and work in batches, for the commands that go along the ODE."""

import io
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

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


def save_npz(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays compressed, atomically."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def read_latents(given: str | None) -> tuple[Tensor, Tensor | None]:
    """Latents float32 (n, *D) and labels (n,) or None, from a file or a run directory of ``dfm encode``.

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
    except (OSError, KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"latents={given}: no latents there ({type(error).__name__}); allowed: latents.npz of dfm encode, or its "
            "run directory"
        ) from None
    if latents.ndim < 2 or len(latents) == 0:
        raise UserError(f"latents={given}: no latent in it; allowed: an array (n, *D)")
    return latents, labels
