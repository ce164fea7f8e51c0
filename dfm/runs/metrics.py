"""``metrics.jsonl``: the numbers of each training step. This module writes the file and reads it."""

import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from dfm.basics.files import sync, write_atomically


class MetricsFile:
    """``metrics.jsonl``, open for writing: one JSON object per line, each on disk when ``write`` returns.

    Args:
        path: the file. If it exists, it is continued.
        after_step: the step where the run goes on. Lines of later steps are dropped, so that none appears twice.
    """

    def __init__(self, path: Path, after_step: int = 0) -> None:
        if path.exists():
            lines = [line for line in read_metrics(path) if line["step"] <= after_step]
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line; it must have the key ``step``.

        Raises:
            OSError: the disk did not take the whole line. The rest stays in memory and is written first next time.
        """
        self._pending += (json.dumps(line) + "\n").encode()
        self.flush()

    def flush(self) -> None:
        """Write the rest that an earlier write could not."""
        while self._pending:
            self._pending = self._pending[self._file.write(self._pending) or 0 :]

    def sync(self) -> None:
        """Bring all lines to the disk, safe from a power cut: a checkpoint that counts on them may follow."""
        self.flush()
        sync(self._file.fileno())

    def close(self) -> None:
        """Write what is left, if the disk takes it now, and close the file."""
        try:
            self.flush()
        finally:
            self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a ``metrics.jsonl``. One that a crash cut short, or a disk spoilt, costs no other line."""
    lines = []
    for text in path.read_bytes().splitlines():
        with suppress(ValueError):  # no JSON, or no UTF-8
            line = json.loads(text)
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
    return lines


def best_step(run: Path, steps: Iterable[int]) -> int | None:
    """Return the step, among ``steps``, with the lowest ``validation_loss`` in the run's metrics; None without any."""
    path, wanted = run / "metrics.jsonl", set(steps)
    lines = read_metrics(path) if path.exists() else []
    losses = {line["step"]: line["validation_loss"] for line in lines if line.get("validation_loss") is not None}
    return min((step for step in losses if step in wanted), key=lambda step: losses[step], default=None)
