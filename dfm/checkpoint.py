"""Checkpoints: one self-contained file a step, written whole or not at all, read without running any code in it."""

import io
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dfm.datasets.base import DatasetSpec
from dfm.errors import UserError
from dfm.run_dir import candidates, checkpoints, write_atomically

FORMAT = 1


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


def save(checkpoint: Checkpoint, directory: Path, keep: int) -> Path:
    """Write ``directory/step_00001000.pt`` atomically, then remove all but the newest ``keep``.

    Raises:
        OSError: the file could not be written; those that were there are untouched.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "config": checkpoint.config,
        "spec": asdict(checkpoint.spec),
        "state": checkpoint.state,
    }
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path = directory / f"step_{checkpoint.step:08d}.pt"
    write_atomically(path, buffer.getvalue())
    for old in checkpoints(directory.parent)[keep:]:
        old.unlink(missing_ok=True)
    return path


def read(path: Path) -> Checkpoint:
    """Read one checkpoint file.

    Raises:
        UserError: it is not a whole checkpoint of dfm.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen types on a damaged file
        raise UserError(f"{path} is not a whole checkpoint ({_first_line(error)}); try an older one") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path} is not a checkpoint of dfm (format {FORMAT}); allowed: files that 'dfm train' wrote")
    spec = {**content["spec"], "shape": tuple(content["spec"]["shape"])}
    return Checkpoint(config=content["config"], spec=DatasetSpec(**spec), state=content["state"], path=path)


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
