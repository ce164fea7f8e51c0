"""``metrics.jsonl``: what training writes of its steps, and reading it again."""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from dfm.basics.files import write_atomically


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


def best_step(run: Path, steps: Iterable[int]) -> int | None:
    """Of these steps the one with the lowest ``validation_loss`` in the run's metrics; None where none has one."""
    path, wanted = run / "metrics.jsonl", set(steps)
    lines = read_metrics(path) if path.exists() else []
    losses = {line["step"]: line["validation_loss"] for line in lines if line.get("validation_loss") is not None}
    return min((step for step in losses if step in wanted), key=lambda step: losses[step], default=None)
