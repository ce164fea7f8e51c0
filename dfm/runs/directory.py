"""Run directories: their small files, their lock, and the search for a run or a checkpoint."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from dfm.basics.errors import UserError
from dfm.basics.files import lock, write_text
from dfm.basics.locations import located

OVERRIDES = "overrides.txt"
LOCK = ".lock"  # the file that a command locks while it works in a directory
CHECKPOINT_NAME = re.compile(r"step_(\d{8})\.pt")


def outputs() -> Path:
    """Return the directory of all runs: ``outputs/`` below the directory where the command was typed."""
    return located("outputs")


def write_overrides(directory: Path, overrides: Sequence[str]) -> None:
    """Write ``overrides.txt``: the overrides of the command line, one per line."""
    write_text(directory / OVERRIDES, "".join(f"{text}\n" for text in overrides))


def environment(device: str) -> dict[str, Any]:
    """Return what a run depends on: versions, platform, device, command, git revision of the working directory."""
    import importlib.metadata as metadata

    names = ("dfm", "torch", "torchvision", "numpy", "hydra-core", "omegaconf")
    versions = {name: metadata.version(name) for name in names if _is_installed(name)}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "device": device,
        "versions": versions,
        "git_revision": _git_revision(),
        "command": sys.argv,
    }


def _is_installed(name: str) -> bool:
    import importlib.metadata as metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_revision() -> str | None:
    try:
        words = ["git", "describe", "--always", "--dirty", "--abbrev=40"]
        process = subprocess.run(words, capture_output=True, encoding="utf-8", errors="replace", timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return process.stdout.strip() or None if process.returncode == 0 else None


def checkpoints(run: Path) -> list[Path]:
    """Return the checkpoint files of a run, highest step first. Some may be damaged."""
    files = [p for p in (run / "checkpoints").glob("step_*.pt") if CHECKPOINT_NAME.fullmatch(p.name)]
    return sorted(files, reverse=True)


def run_of(file: Path) -> Path:
    """Return the directory of the run of a checkpoint, or of a file of weights."""
    folder = file.resolve().parent
    return folder.parent if folder.name == "checkpoints" else folder


def step_of(path: Path) -> int:
    """Return the step in the name of a checkpoint file."""
    match = CHECKPOINT_NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1])


def latest_run(root: Path) -> Path:
    """Return the training run below ``root`` whose newest checkpoint was written last.

    Raises:
        UserError: there is no run with a checkpoint.
    """
    files = list(root.glob("**/checkpoints/step_*.pt")) if root.is_dir() else []
    runs = [(_time_written(p), p.parent.parent) for p in files if CHECKPOINT_NAME.fullmatch(p.name)]
    if not runs or max(runs)[0] == 0:
        raise UserError(f"'latest': no run with a checkpoint below {root.resolve()}; try 'dfm train' first, or a path")
    return max(runs)[1]


def _time_written(path: Path) -> int:
    """Return the time in ns when a file was written; 0 if its run has removed the file by now."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def lock_run(run: Path, key: str = "hydra.run.dir") -> IO[bytes]:
    """Lock a run's directory until the returned file is closed or the process ends in any way.

    Args:
        run: the directory, which is made if it does not exist.
        key: the key of the command line that chooses it, for the message.

    Raises:
        UserError: another process holds the lock.
        OSError: nothing can be written there.
    """
    while True:
        run.mkdir(parents=True, exist_ok=True)
        try:
            file = lock(run / LOCK, wait=False)
        except BlockingIOError:
            raise UserError(f"{run}: another process is working in it; try another {key}=DIR, or wait") from None
        if (run / LOCK).exists() and os.path.samestat(os.fstat(file.fileno()), (run / LOCK).stat()):
            return file
        file.close()  # a refused command has removed this file before it was locked


def checkpoint_files(ckpt: str | None, key: str = "ckpt") -> Iterator[Path]:
    """Return the checkpoint files that ``ckpt`` may mean, newest first.

    Args:
        ckpt: a file, a run directory or ``latest``.
        key: the name of ``ckpt`` on the command line, for messages.

    Raises:
        UserError: the path does not exist, or the directory has no checkpoints.
    """
    allowed = "a checkpoint file, a run directory or 'latest'"
    if not ckpt:
        raise UserError(f"{key} is not given; allowed: {allowed}; try {key}=latest")
    path = latest_run(outputs()) if ckpt == "latest" else located(ckpt)
    if path.is_file():
        return iter([path])
    if not path.exists():
        raise UserError(f"{key}={ckpt}: no such file or directory; allowed: {allowed}")
    files = checkpoints(path)
    if not files:
        raise UserError(f"{key}={ckpt}: no checkpoints/step_*.pt in it; allowed: the directory of a training run")
    return iter(files)


def is_run(directory: Path) -> bool:
    """Whether a directory belongs to a training run."""
    return (directory / "config.yaml").is_file()
