"""Loggers: further places for the numbers and pictures of training (config group ``logger``)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help and completion import this room, and need no NumPy
    import numpy as np


class Logger(ABC):
    """A place where a training run reports numbers and pictures."""

    @abstractmethod
    def open(self, directory: Path, step: int) -> None:
        """Start in a run directory at a step. A step above 0 means that the run is resumed."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Report numbers at a step."""

    @abstractmethod
    def image(self, step: int, name: str, picture: "np.ndarray") -> None:
        """Report a picture uint8 (H, W) or (H, W, C) at a step."""

    @abstractmethod
    def close(self) -> None:
        """Write everything that is still in memory."""


class NoLogger(Logger):
    """A logger that keeps nothing."""

    def open(self, directory: Path, step: int) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, picture: "np.ndarray") -> None: ...

    def close(self) -> None: ...


class TensorBoard(Logger):
    """A logger that writes event files below ``tensorboard/``.

    The folder is made at the first number.
    """

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._purge: int | None = None
        self._writer_class: Any = None
        self._summary_writer: Any = None

    def open(self, directory: Path, step: int) -> None:
        """Start in a run directory.

        Raises:
            Exception: any, if the package tensorboard is broken. This is before the first step, so nothing is lost.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._writer_class = SummaryWriter
        # A resumed or restarted run writes the events after this step again; TensorBoard must drop the old ones.
        self._directory = directory / "tensorboard"
        self._purge = step + 1 if self._directory.exists() else None

    @property
    def _writer(self) -> Any:
        if self._summary_writer is None:
            self._summary_writer = self._writer_class(str(self._directory), purge_step=self._purge)
        return self._summary_writer

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: "np.ndarray") -> None:
        self._writer.add_image(name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def close(self) -> None:
        if self._summary_writer is not None:
            self._summary_writer.close()
