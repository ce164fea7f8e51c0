"""Checkpoints: one self-contained file a step, written whole or not at all, read without running any code in it.

Each file stores the SHA-256 of its contents and is verified when read: a single flipped bit is found. A run's
``weights.safetensors`` holds the averaged weights of its newest checkpoint, for other tools and for ``ckpt=``.
"""

import hashlib
import io
import json
import math
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.data.dataset import Dataset, DatasetSpec, data_folder
from dfm.runs.build import Node, target_of
from dfm.runs.directory import checkpoint_files, checkpoints, step_of
from dfm.runs.old_names import current_config

FORMAT = 2
LARGEST = 2**28  # numbers in one example: a file may claim any shape


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
    write_atomically(path, buffer.getbuffer())
    for old in checkpoints(directory.parent)[keep:]:
        if old not in (path, directory / f"step_{best or 0:08d}.pt"):
            old.unlink(missing_ok=True)
    return path


def save_weights(checkpoint: Checkpoint, run: Path) -> None:
    """Write ``weights.safetensors``: the averaged weights, with what is needed to use them as metadata.

    Raises:
        OSError: the file could not be written; the one that was there is untouched.
    """
    # copies: parameters may share memory, which this format refuses
    ema = checkpoint.state["ema"]
    weights = {name: ema[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(ema)}
    spec = {**asdict(checkpoint.spec), "shape": list(checkpoint.spec.shape)}
    numbers = {name: value.item() for name, value in checkpoint.state.get("objective", {}).items() if value.ndim == 0}
    facts = {"config": checkpoint.config, "spec": spec, "step": checkpoint.step, "objective": numbers}
    facts = json.loads(json.dumps(facts))  # as they are read
    metadata = {"dfm": json.dumps(facts), "sha256": digest([facts, weights])}
    write_atomically(run / WEIGHTS, safetensors.torch.save(weights, metadata=metadata))


def set_aside(run: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps, which a run that goes on from this one found damaged.

    Else they would count among the newest, and whole ones would be removed in their place.
    """
    found = [path for path in checkpoints(run) if step_of(path) > step]
    for path in found:
        path.rename(path.with_name(f"{path.name}.damaged"))
    return found


WEIGHTS = "weights.safetensors"


def digest(content: Any) -> str:
    """SHA-256 of plain containers, numbers and tensors: types, keys, shapes and bytes, in their order."""
    found = hashlib.sha256()
    _feed(found, content)
    return found.hexdigest()


def _feed(found: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise UserError("a tensor that claims more numbers than it has; allowed: files that 'dfm train' wrote")
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


def read(path: Path) -> Checkpoint:
    """Read one checkpoint file, or weights.

    Raises:
        UserError: it is not a whole one of dfm.
    """
    try:
        content = _unpacked(path) if path.suffix == ".safetensors" else _loaded(path)
        spec = {**content["spec"], "shape": tuple(content["spec"]["shape"])}
        if math.prod(spec["shape"]) > LARGEST:
            raise UserError(f"{path}: data of shape {spec['shape']}; allowed: at most {LARGEST} numbers an example")
        config = without_downloads(current_config(content["config"]))
        found = Checkpoint(config=config, spec=DatasetSpec(**spec), state=content["state"], path=path)
        state = found.state
        if not (isinstance(found.config, dict) and isinstance(state["step"], int) and isinstance(state["ema"], dict)):
            raise TypeError("config, step or ema is of another type")
        return found
    except UserError:
        raise
    except Exception as error:  # torch raises half a dozen types on a damaged file
        raise UserError(f"{path} is not a whole checkpoint ({_first_line(error)}); try an older one") from None


def without_downloads(config: Any) -> Any:
    """A configuration whose data sets read and do not write: no download, and no cache but where all caches are."""
    if isinstance(config, list):
        return [without_downloads(item) for item in config]
    if not isinstance(config, dict):
        return config
    safe = {"download": False, "cache": data_folder()} if may_be_dataset(config) else {}
    return {key: safe.get(key, without_downloads(value)) for key, value in config.items()}


def may_be_dataset(node: Node) -> bool:
    """Whether a node may name a data set: a class of dfm that is one, or any class that cannot be looked at here."""
    try:
        return issubclass(target_of(str(node["_target_"]), "dataset", ("dfm",)), Dataset)
    except UserError:
        return True  # a package of the user's own, which only the command line may have imported
    except KeyError:
        return False


def _loaded(path: Path) -> dict[str, Any]:
    _refuse_bomb(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what torch thinks of a file that is refused anyway: the refusal is one line
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} is not a checkpoint of dfm; allowed: files that 'dfm train' wrote")
    if content["format"] != FORMAT:
        raise UserError(f"{path}: a checkpoint of format {content['format']}; this dfm reads format {FORMAT}")
    kept = {name: content[name] for name in ("config", "spec", "state")}
    if digest(kept) != content["sha256"]:
        raise UserError(f"{path} is not a whole checkpoint (its checksum is another one); try an older one")
    return kept


def _refuse_bomb(path: Path) -> None:
    """Refuse a file whose parts would grow when they are read: torch's own are stored as they are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise UserError(f"{path}: packed, as no checkpoint of dfm is; allowed: files that 'dfm train' wrote")


def _unpacked(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        facts = json.loads(metadata["dfm"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    if digest([facts, dict(sorted(weights.items()))]) != metadata["sha256"]:
        raise UserError(f"{path} is not a whole file of weights (its checksum is another one); try its checkpoint")
    numbers = facts.get("objective") or {}
    if facts.get("round") is not None:  # as dfm 0.1 wrote it
        numbers = {"teacher.round": int(facts["round"])}
    objective = {name: torch.tensor(number) for name, number in numbers.items()}
    state = {"step": facts["step"], "ema": weights, "objective": objective}
    return {"config": facts["config"], "spec": facts["spec"], "state": state}


@contextmanager
def blame_checkpoint(found: Checkpoint) -> Iterator[None]:
    """Report any error inside this block as a fault of the checkpoint, which anyone may have written.

    Raises:
        UserError: instead of any other exception.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{found.path}: its configuration is not one of dfm's ({_first_line(error)}); try another checkpoint"
        ) from None


def find(ckpt: str | None, key: str = "ckpt") -> tuple[Checkpoint, list[str]]:
    """The newest whole checkpoint that ``ckpt`` (a file, a run directory, ``latest``) means, and what was passed over.

    Raises:
        UserError: there is none.
    """
    return first_whole(checkpoint_files(ckpt, key))


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
