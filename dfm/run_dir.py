"""What lands on disk: run directories, their small files, and finding a run or checkpoint again."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from dfm.errors import UserError

CHECKPOINT_NAME = re.compile(r"step_(\d{8})\.pt")


def outputs() -> Path:
    """Where runs are put: ``outputs/`` below the working directory."""
    return Path("outputs")


def write_atomically(path: Path, data: bytes | memoryview) -> None:
    """The whole file or, after a crash or on a full disk, the file that was there: temporary file, fsync, rename.

    Raises:
        OSError: it could not be written; no part of it is left.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_directory(path.parent)


def remove_unfinished(run: Path) -> None:
    """Remove what a killed process was in the midst of writing below a run's directory."""
    for path in run.rglob(".*.tmp"):
        path.unlink(missing_ok=True)


def _sync_directory(path: Path) -> None:
    # A rename survives a power cut only once the directory itself is on disk.
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """One JSON object, atomically; NaN and infinities are refused, since JSON has none (write None)."""
    write_atomically(path, (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())


def write_overrides(directory: Path, overrides: Sequence[str]) -> None:
    """``overrides.txt``: what was given on the command line, one a line."""
    write_atomically(directory / "overrides.txt", "".join(f"{text}\n" for text in overrides).encode())


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, each on disk when ``write`` returns.

    Args:
        path: the file, continued if it is there.
        after_step: a run that resumes at this step drops later lines first, so that none stands twice.
    """

    def __init__(self, path: Path, after_step: int = 0) -> None:
        if path.exists():
            kept = [line for line in read_metrics(path) if line["step"] <= after_step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it must have ``step``.

        Raises:
            OSError: the disk took less than the whole of it; the rest is kept and goes first at the next write.
        """
        self._pending += (json.dumps(line) + "\n").encode()
        self.flush()

    def flush(self) -> None:
        """Write what an earlier write could not."""
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) or 0 :]

    def sync(self) -> None:
        """Have all lines on disk, power cut or not: before a checkpoint that stands for them."""
        self.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file, with what was pending if the disk takes it now."""
        try:
            self.flush()
        finally:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a last line cut short by a crash is left out."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


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


def best_step(run: Path, steps: Iterable[int]) -> int | None:
    """Of these steps the one with the lowest ``validation_loss`` in the run's metrics; None where none has one."""
    path, wanted = run / "metrics.jsonl", set(steps)
    lines = read_metrics(path) if path.exists() else []
    losses = {line["step"]: line["validation_loss"] for line in lines if line.get("validation_loss") is not None}
    return min((step for step in losses if step in wanted), key=lambda step: losses[step], default=None)


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


def occupied(run: Path) -> IO[bytes]:
    """A lock on a run's directory, held until it is closed or the process ends, however it ends.

    Raises:
        UserError: another process holds it.
    """
    run.mkdir(parents=True, exist_ok=True)
    lock = (run / ".lock").open("wb")
    try:
        import fcntl

        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        raise UserError(f"{run}: another process is at work in it; try another hydra.run.dir, or wait") from None
    except (ImportError, OSError):
        pass  # a system or file system without such locks: nothing can be known
    return lock


def candidates(ckpt: str | None, key: str = "ckpt") -> Iterator[Path]:
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
