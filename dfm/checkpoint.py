"""Checkpoints: one self-contained file a step, written whole or not at all, read without running any code in it.

Beside what it holds a file has the SHA-256 of that, which is verified when it is read: a single flipped bit is found.
``weights.safetensors`` of a run has the averaged weights of its newest checkpoint, for other tools and for ``ckpt=``.
"""

import hashlib
import io
import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dfm.datasets.base import DatasetSpec
from dfm.errors import UserError
from dfm.run_dir import candidates, checkpoints, write_atomically

FORMAT = 2


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training state with all that is needed to use it.

    Args:
        config: the run's resolved configuration, plain containers.
        spec: of the data.
        state: ``Trainer.state()``: step, seconds, network, ema, optimizer.
        path: where it was read from, if it was.
    """

    config: dict[str, Any]
    spec: DatasetSpec
    state: dict[str, Any]
    path: Path | None = None

    @property
    def step(self) -> int:
        """Optimiser steps taken."""
        return int(self.state["step"])


def save(checkpoint: Checkpoint, directory: Path, keep: int, best: int | None = None) -> Path:
    """Write ``directory/step_00001000.pt`` atomically, then remove all but the newest ``keep`` and that of ``best``.

    Raises:
        OSError: the file could not be written; those that were there are untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = {"config": checkpoint.config, "spec": asdict(checkpoint.spec), "state": checkpoint.state}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content, "sha256": digest(content)}, buffer)
    path = directory / f"step_{checkpoint.step:08d}.pt"
    write_atomically(path, buffer.getvalue())
    write_atomically(directory.parent / WEIGHTS, _packed(checkpoint))
    for old in checkpoints(directory.parent)[keep:]:
        if old.name != f"step_{best or 0:08d}.pt":
            old.unlink(missing_ok=True)
    return path


WEIGHTS = "weights.safetensors"


def digest(content: Any) -> str:
    """SHA-256 of plain containers, numbers and tensors: types, keys, shapes and bytes, in their order."""
    found = hashlib.sha256()
    _feed(found, content)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        found.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        found.update(f"dict {len(value)} ".encode())
        for key, item in value.items():
            _feed(found, key)
            _feed(found, item)
    elif isinstance(value, (list, tuple)):
        found.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(found, item)
    else:
        found.update(f"{type(value).__name__} {value!r} ".encode())


def _packed(checkpoint: Checkpoint) -> bytes:
    """The averaged weights as safetensors, with what is needed to use them as metadata."""
    metadata = {
        "dfm": json.dumps(
            {"config": checkpoint.config, "spec": asdict(checkpoint.spec), "step": checkpoint.step}, allow_nan=True
        )
    }
    weights = {name: value.detach().cpu().contiguous() for name, value in checkpoint.state["ema"].items()}
    return safetensors.torch.save(weights, metadata=metadata)


def read(path: Path) -> Checkpoint:
    """Read one checkpoint file.

    Raises:
        UserError: it is not a whole checkpoint of dfm.
    """
    try:
        content = _unpacked(path) if path.suffix == ".safetensors" else _loaded(path)
        spec = {**content["spec"], "shape": tuple(content["spec"]["shape"])}
        return Checkpoint(config=content["config"], spec=DatasetSpec(**spec), state=content["state"], path=path)
    except UserError:
        raise
    except Exception as error:  # torch raises half a dozen types on a damaged file
        raise UserError(f"{path} is not a whole checkpoint ({_first_line(error)}); try an older one") from None


def _loaded(path: Path) -> dict[str, Any]:
    content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of dfm (format {FORMAT}); allowed: files that 'dfm train' wrote")
    kept = {name: content[name] for name in ("config", "spec", "state")}
    if digest(kept) != content["sha256"]:
        raise UserError(f"{path} is not a whole checkpoint (its checksum is another one); try an older one")
    return kept


def _unpacked(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        told = json.loads((file.metadata() or {})["dfm"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    return {"config": told["config"], "spec": told["spec"], "state": {"step": int(told["step"]), "ema": weights}}


@contextmanager
def made_use_of(found: Checkpoint) -> Iterator[None]:
    """Within, whatever goes wrong is the fault of what the checkpoint says: anyone may have written it.

    Raises:
        UserError: in the place of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{found.path}: its configuration is not one of dfm's ({_first_line(error)}); try another checkpoint"
        ) from None


def find(ckpt: str | None) -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint that ``ckpt`` (a file, a run directory, ``latest``) means, and what was passed over.

    Raises:
        UserError: there is none.
    """
    return first_whole(candidates(ckpt))


def first_whole(paths: Iterable[Path]) -> tuple[Checkpoint, list[str]]:
    """The first of ``paths`` that can be read, and the messages of those before it.

    Raises:
        UserError: none can.
    """
    refused: list[str] = []
    for path in paths:
        try:
            return read(path), refused
        except UserError as error:
            refused.append(str(error))
    raise UserError(refused[0] if refused else "no checkpoint")


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:80]}" if text else type(error).__name__
