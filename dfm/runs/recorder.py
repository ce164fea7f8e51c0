"""The files that a training run writes into its directory.

Nothing that is written here ends the run: a full disk, or a tracker that fails, costs a warning. Files that are there
already stay intact. ``Recorder.saved`` tells which checkpoint is on disk.
"""

import logging
import math
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dfm.basics.errors import UserError
from dfm.basics.files import FULL, remove_unfinished
from dfm.runs import checkpoint
from dfm.runs.checkpoint import Checkpoint
from dfm.runs.directory import checkpoints, step_of
from dfm.runs.loggers import Logger, NoLogger
from dfm.runs.metrics import MetricsFile, best_step
from dfm.runs.pictures.images import save_png

log = logging.getLogger("dfm")
LOGGER = "logger's entry"

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
        self.saved: int | None = None  # the step of the newest checkpoint that is known to be whole
        self._failing: set[str] = set()
        for folder in FOLDERS:  # another command may be at work in any other folder of the run
            remove_unfinished(directory / folder)

    def open(self, step: int) -> None:
        """Go on after optimiser step ``step``. Lines of later steps are dropped.

        Raises:
            UserError: the logger cannot start.
        """
        self.step = step
        self._metrics = MetricsFile(self.directory / "metrics.jsonl", after_step=step)
        threading.excepthook = self._thread_failed
        name = type(self.logger).__name__
        try:
            self.logger.open(self.directory, step)
        except Exception as error:  # a tracker is another program, and may raise anything
            self.logger = NoLogger()
            self.close()
            raise UserError(f"logger: {name} cannot start ({_reason(error)}); try logger=none") from error

    def numbers(self, line: dict[str, Any]) -> None:
        """Write a line of ``metrics.jsonl``, and its numbers to the logger. The line must have the key ``step``."""
        # null for infinity and NaN: JSON has neither, and a gradient may be infinite at one step
        self.line({key: value if math.isfinite(value) else None for key, value in line.items()})
        numbers = {key: value for key, value in line.items() if key not in ("step", "images")}
        self._try(LOGGER, lambda: self.logger.scalars(line["step"], numbers))

    def line(self, line: dict[str, Any]) -> None:
        """Write a line of ``metrics.jsonl`` only."""
        self.step = max(self.step, line["step"])
        if self._metrics is not None:
            self._try("metrics", partial(self._metrics.write, line))

    def picture(self, step: int, image: np.ndarray) -> None:
        """Write a picture as ``samples/step_00001000.png``, and to the logger."""
        self.step = max(self.step, step)
        file = self.directory / "samples" / f"step_{step:08d}.png"
        if self._try("folder of the sample grids", lambda: file.parent.mkdir(exist_ok=True)):
            self._try("sample grid", lambda: save_png(image, file))
        self._try(LOGGER, lambda: self.logger.image(step, "samples", image))

    def data(self, draw: Callable[[], np.ndarray]) -> None:
        """Write the picture of training examples, ``data.png``, unless it is there."""
        file = self.directory / "data.png"
        if not file.exists():
            self._try("picture of the data", lambda: save_png(draw(), file))

    def checkpoint(self, content: Checkpoint) -> None:
        """Write a checkpoint and its weights, after all lines of earlier steps. Remove old checkpoints."""
        self.step = content.step
        if self._metrics is not None:
            self._try("metrics", self._metrics.sync)
        if self._try("checkpoint", lambda: self._save(content), always=True):
            self.saved = content.step
        self.weights(content)

    def weights(self, content: Checkpoint) -> None:
        """Write ``weights.safetensors``."""
        self._try("weights", lambda: checkpoint.save_weights(content, self.directory))

    def close(self) -> None:
        """Close the files."""
        if self._metrics is not None:
            self._try("metrics", self._metrics.close)
        self._try(LOGGER, self.logger.close)
        threading.excepthook = threading.__excepthook__

    def _thread_failed(self, failure: threading.ExceptHookArgs) -> None:
        """Warn once of a failure in a thread of the logger, in place of Python's traceback."""
        if failure.exc_value is not None:
            self._try(LOGGER, partial(_fail, failure.exc_value))

    def _save(self, content: Checkpoint) -> None:
        steps = [step_of(file) for file in checkpoints(self.directory)]
        best = best_step(self.directory, [*steps, content.step])
        try:
            checkpoint.save(content, self.directory / "checkpoints", self.keep, best)
        except OSError as error:
            if error.errno not in FULL or not self._make_room(best_step(self.directory, steps)):
                raise
            checkpoint.save(content, self.directory / "checkpoints", self.keep, best)

    def _make_room(self, best: int | None) -> bool:
        """Remove the checkpoints that are older than the newest whole one, but not the best; return whether any were.

        A checkpoint that is newer, or of which nothing is known, stays.
        """
        old = [file for file in checkpoints(self.directory) if self.saved is not None and step_of(file) < self.saved]
        old = [file for file in old if step_of(file) != best]
        for file in old:
            file.unlink(missing_ok=True)
        if old:
            log.warning(f"the disk is full: {len(old)} older checkpoints were removed to make room")
        return bool(old)

    def _try(self, what: str, write: Callable[[], object], always: bool = False) -> bool:
        """Write something, and return whether that worked.

        The first failure in a row costs a warning; of the logger only the first one ever.

        Args:
            always: whether every failure costs a warning.
        """
        try:
            write()
        except (Exception, SystemExit) as error:  # some trackers exit
            if always or what not in self._failing:
                log.warning(
                    f"{what} of step {self.step} not written ({_reason(error)}); the files on disk are intact and the "
                    f"run goes on{_advice(error)}"
                )
            self._failing.add(what)
            return False
        if what != LOGGER:  # another program, which may fail again at every step
            self._failing.discard(what)
        return True


def _fail(error: BaseException) -> None:
    raise error


def _reason(error: BaseException) -> str:
    """Return an error in a few words."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}".removesuffix(": ")


def _advice(error: BaseException) -> str:
    full = isinstance(error, OSError) and error.errno in FULL
    return "; try to free some space" if full else ""
