"""The files that a training run writes into its directory.

When the disk is full, the recorder warns and the run goes on. Files that are there already stay intact.
"""

import logging
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dfm.basics.files import remove_unfinished
from dfm.runs import checkpoint
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.directory import checkpoints, step_of
from dfm.runs.loggers import Logger
from dfm.runs.metrics import MetricsFile, best_step
from dfm.runs.pictures.images import save_png

log = logging.getLogger("dfm")

FOLDERS = (".", "checkpoints", "samples", "pairs")  # where a run writes its files


class Recorder:
    """The files of a run while it trains. The directory is claimed already (``dfm.runs.claim``).

    Args:
        directory: the directory of the run.
        logger: a further place for numbers and pictures.
        keep: how many checkpoints stay, beside the one with the lowest validation loss.
    """

    def __init__(self, directory: Path, logger: Logger, keep: int) -> None:
        self.directory, self.logger, self.keep = directory, logger, keep
        self._metrics: MetricsFile | None = None
        self.step = 0
        for folder in FOLDERS:  # another command may be at work in any other folder of the run
            remove_unfinished(directory / folder)

    def open(self, step: int) -> None:
        """Go on after optimiser step ``step``. Lines of later steps are dropped."""
        self.step = step
        self._metrics = MetricsFile(self.directory / "metrics.jsonl", after_step=step)
        self.logger.open(self.directory, step)

    def numbers(self, line: dict[str, Any]) -> None:
        """Write a line of ``metrics.jsonl``, and its numbers to the logger. The line must have the key ``step``."""
        # null for infinity and NaN: JSON has neither, and a gradient may be infinite at one step
        self.line({key: value if math.isfinite(value) else None for key, value in line.items()})
        numbers = {key: value for key, value in line.items() if key not in ("step", "images")}
        self._try("logger's numbers", lambda: self.logger.scalars(line["step"], numbers))

    def line(self, line: dict[str, Any]) -> None:
        """Write a line of ``metrics.jsonl`` only."""
        self.step = max(self.step, line["step"])
        if self._metrics is not None:
            self._try("metrics", partial(self._metrics.write, line))

    def picture(self, step: int, image: np.ndarray) -> None:
        """Write a picture as ``samples/step_00001000.png``, and to the logger."""
        file = self.directory / "samples" / f"step_{step:08d}.png"
        self._try("sample grid", lambda: file.parent.mkdir(exist_ok=True))
        self._try("sample grid", lambda: save_png(image, file))
        self._try("logger's picture", lambda: self.logger.image(step, "samples", image))

    def checkpoint(self, content: Checkpoint) -> None:
        """Write a checkpoint and its weights, after all lines of earlier steps. Remove old checkpoints."""
        self.step = content.step
        if self._metrics is not None:
            self._try("metrics", self._metrics.sync)
        self._try("checkpoint", lambda: self._save(content))
        self.weights(content)

    def weights(self, content: Checkpoint) -> None:
        """Write ``weights.safetensors``."""
        self._try("weights", lambda: checkpoint.save_weights(content, self.directory))

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            self._try("metrics", self._metrics.close)
        self._try("logger's numbers", self.logger.close)

    def _save(self, content: Checkpoint) -> None:
        steps = [step_of(file) for file in checkpoints(self.directory)]
        best = best_step(self.directory, [*steps, content.step])
        checkpoint.save(content, self.directory / "checkpoints", self.keep, best)

    def _try(self, what: str, write: Callable[[], object]) -> None:
        try:
            write()
        except OSError as error:
            log.warning(
                f"{what} of step {self.step} not written ({error.strerror or error}); the files on disk are intact and "
                "the run goes on; try to free some space"
            )
