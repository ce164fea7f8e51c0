"""Checkpoints: one self-contained file per step. It is written whole or not at all, and no code in it ever runs.

Each file stores the SHA-256 of its contents and is verified when it is read, so a single flipped bit is found. The
file ``weights.safetensors`` of a run holds the averaged weights of its newest checkpoint, for other tools and for
``ckpt=``.
"""

import hashlib
import io
import json
import math
import pickle
import warnings
import zipfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from dfm.basics.errors import ProcessError, UserError
from dfm.basics.files import is_of_the_machine, write_atomically
from dfm.data.dataset import DatasetSpec, Fingerprint
from dfm.runs.directory import checkpoint_files, checkpoints, run_of, step_of
from dfm.runs.old_names import current_config
from dfm.runs.places import without_downloads, without_keys

FORMAT = 2
LARGEST = 2**28  # numbers in one example, at most; a file may claim any shape


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A training state, and everything that is needed to use it.

    Args:
        config: the resolved configuration of the run, in plain containers.
        spec: the form of the data.
        state: ``Trainer.state()``: step, seconds, network, ema, optimizer.
        path: the file that it was read from, or None.
        data: the fingerprint of each split of the data; none in files that dfm 0.1 wrote.
        private: dotted keys of ``config`` that name places of this machine. ``weights.safetensors`` does without them.
    """

    config: dict[str, Any]
    spec: DatasetSpec
    state: dict[str, Any]
    path: Path | None = None
    data: Mapping[str, Fingerprint] = field(default_factory=dict)
    private: Collection[str] = ()

    @property
    def run(self) -> Path:
        """The directory of its run."""
        return run_of(self.path) if self.path else Path()

    @property
    def step(self) -> int:
        """The number of optimiser steps taken."""
        return int(self.state["step"])


def save(checkpoint: Checkpoint, directory: Path, keep: int, best: int | None = None) -> Path:
    """Write ``directory/step_00001000.pt`` whole or not at all, then remove old checkpoints.

    Args:
        keep: how many of the newest checkpoints stay.
        best: the step of a checkpoint that stays as well.

    Raises:
        OSError: the file could not be written. The other files are unchanged.
    """
    directory.mkdir(parents=True, exist_ok=True)
    content = {"config": checkpoint.config, "spec": asdict(checkpoint.spec), "state": checkpoint.state}
    content["data"] = facts_of(checkpoint.data)
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, **content, "sha256": digest(content)}, buffer)
    path = directory / f"step_{checkpoint.step:08d}.pt"
    write_atomically(path, buffer.getbuffer())
    for old in checkpoints(directory.parent)[keep:]:
        if old not in (path, directory / f"step_{best or 0:08d}.pt"):
            old.unlink(missing_ok=True)
    return path


def save_weights(checkpoint: Checkpoint, run: Path) -> None:
    """Write ``weights.safetensors``: the averaged weights, and as metadata everything that is needed to use them.

    The metadata name no path of this machine, because such a file is made to be given away.

    Raises:
        OSError: the file could not be written. The earlier one is unchanged.
    """
    # copies, because parameters may share memory, and this format refuses shared memory
    ema = checkpoint.state["ema"]
    weights = {name: ema[name].detach().cpu().clone(memory_format=torch.contiguous_format) for name in sorted(ema)}
    numbers = {name: value.item() for name, value in checkpoint.state.get("objective", {}).items() if value.ndim == 0}
    facts = {
        "config": without_keys(checkpoint.config, checkpoint.private),
        "spec": asdict(checkpoint.spec),
        "step": checkpoint.step,
        "objective": numbers,
    }
    facts["data"] = facts_of(checkpoint.data)
    facts = json.loads(json.dumps(facts))  # in the form in which they will be read
    metadata = {"dfm": json.dumps(facts), "sha256": digest([facts, weights])}
    write_atomically(run / WEIGHTS, safetensors.torch.save(weights, metadata=metadata))


def facts_of(data: Mapping[str, Fingerprint]) -> dict[str, Any]:
    """Return the fingerprints of the splits in plain containers."""
    return {name: asdict(fingerprint) for name, fingerprint in data.items()}


def set_aside(run: Path, step: int) -> list[Path]:
    """Rename the checkpoints of later steps to ``*.damaged`` and return their former names.

    A resumed run starts from ``step`` because the later checkpoints are damaged. With their old names they would count
    as the newest ones, and whole checkpoints would be removed instead of them.
    """
    damaged = [path for path in checkpoints(run) if step_of(path) > step]
    for path in damaged:
        path.rename(path.with_name(f"{path.name}.damaged"))
    return damaged


WEIGHTS = "weights.safetensors"


def digest(content: Any) -> str:
    """Return the SHA-256 of plain containers, numbers and tensors: of types, keys, shapes and bytes, in their order."""
    sha = hashlib.sha256()
    _feed(sha, content)
    return sha.hexdigest()


def _feed(sha: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        if value.untyped_storage().nbytes() < value.numel() * value.element_size():
            raise UserError("a tensor claims more numbers than it holds; allowed: files that 'dfm train' wrote")
        sha.update(f"tensor {value.dtype} {tuple(value.shape)} ".encode())
        sha.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    elif isinstance(value, dict):
        sha.update(f"dict {len(value)} ".encode())
        for key, item in value.items():
            _feed(sha, key)
            _feed(sha, item)
    elif isinstance(value, (list, tuple)):
        sha.update(f"list {len(value)} ".encode())
        for item in value:
            _feed(sha, item)
    else:
        sha.update(f"{type(value).__name__} {value!r} ".encode())


def read(path: Path) -> Checkpoint:
    """Read a checkpoint file, or a file of weights.

    Raises:
        UserError: the file is damaged, or dfm did not write it.
        Exception: the machine has no memory for it, or the disk refuses to read it. The file may be whole then.
    """
    try:
        content = _read_weights(path) if path.suffix == ".safetensors" else _read_checkpoint(path)
        facts: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content["spec"].items()}
        spec = DatasetSpec(**facts)
        if math.prod(spec.shape) > LARGEST:
            raise UserError(f"{path}: data of shape {spec.shape}; allowed: at most {LARGEST} numbers an example")
        config = without_downloads(current_config(content["config"]))
        state = content["state"]
        if not (isinstance(config, dict) and isinstance(state["step"], int) and isinstance(state["ema"], dict)):
            raise TypeError("config, step or ema has another type")
        data = {name: Fingerprint(**facts) for name, facts in (content.get("data") or {}).items()}
        return Checkpoint(config=config, spec=spec, state=state, path=path, data=data)
    except UserError:
        raise
    except Exception as error:  # torch raises half a dozen types on a damaged file
        if is_of_the_machine(error):
            raise
        # torch's text on a damaged file is advice on how to load it without a check
        reason = "it is damaged" if isinstance(error, pickle.UnpicklingError) else _first_line(error)
        raise UserError(f"{path} is not a whole checkpoint ({reason})") from None


def _read_checkpoint(path: Path) -> dict[str, Any]:
    _refuse_bomb(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of files that are refused below, and the refusal is one line
        content = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(content, dict) or "format" not in content:
        raise UserError(f"{path} is not a checkpoint of dfm; allowed: files that 'dfm train' wrote")
    if content["format"] != FORMAT:
        raise UserError(
            f"{path}: a checkpoint of format {content['format']}; allowed: format {FORMAT}; try another version of dfm"
        )
    body = {name: content[name] for name in ("config", "spec", "state", "data") if name in content}
    if digest(body) != content["sha256"]:
        raise UserError(f"{path} is not a whole checkpoint (its checksum is wrong)")
    return body


def _refuse_bomb(path: Path) -> None:
    """Refuse a file with compressed parts, which could grow without limit when read. torch never compresses them."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise UserError(
                    f"{path}: compressed, unlike every checkpoint of dfm; allowed: files that 'dfm train' wrote"
                )


def _read_weights(path: Path) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        facts = json.loads(metadata["dfm"])
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a mapping
    if digest([facts, dict(sorted(weights.items()))]) != metadata["sha256"]:
        raise UserError(f"{path} is not a whole file of weights (its checksum is wrong)")
    numbers = facts.get("objective") or {}
    if facts.get("round") is not None:  # written by dfm 0.1
        numbers = {"teacher.round": int(facts["round"])}
    objective = {name: torch.tensor(number) for name, number in numbers.items()}
    state = {"step": facts["step"], "ema": weights, "objective": objective}
    return {"config": facts["config"], "spec": facts["spec"], "state": state, "data": facts.get("data")}


@contextmanager
def blame_checkpoint(checkpoint: Checkpoint) -> Iterator[None]:
    """Report any error inside this block as a fault of the checkpoint, which anyone may have written.

    Raises:
        UserError: in place of any exception that is not a failure of the machine. It names the checkpoint.
    """
    try:
        yield
    except UserError as error:
        if isinstance(error, ProcessError) or str(checkpoint.path) in str(error):
            raise
        raise UserError(f"{checkpoint.path}: {error}") from None
    except Exception as error:
        if is_of_the_machine(error):
            raise
        raise UserError(
            f"{checkpoint.path}: dfm cannot use its configuration ({_first_line(error)}); try another checkpoint"
        ) from None


def find(ckpt: str | None, key: str = "ckpt") -> tuple[Checkpoint, list[str]]:
    """Return the newest whole checkpoint that ``ckpt`` means, and a message about each newer one that is damaged.

    Args:
        ckpt: a file, a run directory or ``latest``.
        key: the name of ``ckpt`` on the command line, for messages.

    Raises:
        UserError: there is no whole checkpoint.
    """
    return first_whole(checkpoint_files(ckpt, key), lambda damaged: instead_of(damaged, key))


def first_whole(paths: Iterable[Path], instead: Callable[[Sequence[Path]], str]) -> tuple[Checkpoint, list[str]]:
    """Return the first of ``paths`` that can be read, and the error messages of the files before it.

    Args:
        instead: returns what to try, as the end of a message, if all of these files are damaged.

    Raises:
        UserError: none can be read.
    """
    messages, damaged = list[str](), list[Path]()
    for path in paths:
        try:
            return read(path), messages
        except UserError as error:
            messages.append(str(error))
            damaged.append(path.resolve())
    others = f", nor are the {len(damaged) - 1} older ones" if len(damaged) > 1 else ""
    raise UserError(f"{messages[0]}{others}; try {instead(damaged)}")


def instead_of(damaged: Sequence[Path], key: str) -> str:
    """Return what to try in place of damaged files of one run."""
    run = run_of(damaged[0])
    if {*checkpoints(run)} - {*damaged}:
        return f"{key}={run}, which takes its newest whole checkpoint"
    weights = run / WEIGHTS
    return f"{key}={weights}" if weights.is_file() and weights not in damaged else "another run"


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:80]}" if text else type(error).__name__
