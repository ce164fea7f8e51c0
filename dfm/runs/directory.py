"""What lands on disk: run directories, their small files, and finding a run or checkpoint again."""

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from dfm.basics.errors import UserError
from dfm.basics.files import lock, write_atomically

CHECKPOINT_NAME = re.compile(r"step_(\d{8})\.pt")


def outputs() -> Path:
    """Where runs are put: ``outputs/`` below the working directory."""
    return Path("outputs")


def write_overrides(directory: Path, overrides: Sequence[str]) -> None:
    """``overrides.txt``: what was given on the command line, one a line."""
    write_atomically(directory / "overrides.txt", "".join(f"{text}\n" for text in overrides).encode())


def environment(device: str) -> dict[str, Any]:
    """What the run ran on: versions, platform, device, git revision of the working directory."""
    import importlib.metadata as metadata

    names = ("dfm", "torch", "torchvision", "numpy", "hydra-core", "omegaconf")
    versions = {name: metadata.version(name) for name in names if _installed(name)}
    return {
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "device": device,
        "versions": versions,
        "git_revision": _git_revision(),
        "command": sys.argv,
    }


def _installed(name: str) -> bool:
    import importlib.metadata as metadata

    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _git_revision() -> str | None:
    try:
        done = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40"], capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def checkpoints(run: Path) -> list[Path]:
    """The checkpoints of a run, newest (highest step) first, whole or not."""
    found = [p for p in (run / "checkpoints").glob("step_*.pt") if CHECKPOINT_NAME.fullmatch(p.name)]
    return sorted(found, reverse=True)


def step_of(path: Path) -> int:
    """The step in a checkpoint's name."""
    found = CHECKPOINT_NAME.fullmatch(path.name)
    assert found is not None
    return int(found[1])


def latest_run(root: Path) -> Path:
    """The training run below ``root`` whose newest checkpoint was written last.

    Raises:
        UserError: there is none.
    """
    found = list(root.glob("**/checkpoints/step_*.pt")) if root.is_dir() else []
    dated = [(_written(p), p.parent.parent) for p in found if CHECKPOINT_NAME.fullmatch(p.name)]
    if not dated or max(dated)[0] == 0:
        raise UserError(f"'latest': no run with a checkpoint below {root.resolve()}; try 'dfm train' first, or a path")
    return max(dated)[1]


def _written(path: Path) -> int:
    """When a file was written, in ns; 0 for one that its run has removed meanwhile."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def lock_run(run: Path) -> IO[bytes]:
    """Lock a run's directory until the returned file is closed or the process ends, however it ends.

    Raises:
        UserError: another process has the lock.
    """
    run.mkdir(parents=True, exist_ok=True)
    try:
        return lock(run / ".lock", wait=False)
    except BlockingIOError:
        raise UserError(f"{run}: another process is at work in it; try another hydra.run.dir, or wait") from None


def checkpoint_files(ckpt: str | None, key: str = "ckpt") -> Iterator[Path]:
    """The checkpoint files that ``ckpt`` may mean, best first: a file, a run directory, or ``latest``.

    Args:
        key: what the user gave it by, for the messages.

    Raises:
        UserError: it names nothing that exists, or a directory without checkpoints.
    """
    allowed = "a checkpoint file, a run directory or 'latest'"
    if not ckpt:
        raise UserError(f"{key} is not given; allowed: {allowed}; try {key}=latest")
    path = latest_run(outputs()) if ckpt == "latest" else Path(ckpt)
    if path.is_file():
        return iter([path])
    if not path.exists():
        raise UserError(f"{key}={ckpt}: no such file or directory; allowed: {allowed}")
    found = checkpoints(path)
    if not found:
        raise UserError(f"{key}={ckpt}: no checkpoints/step_*.pt in this directory; allowed: a training run's")
    return iter(found)


def is_run(directory: Path) -> bool:
    """Whether a directory is that of a training run."""
    return (directory / "config.yaml").is_file()
