"""Where numbers and pictures go besides ``metrics.jsonl`` (config group ``logger``)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # help and completion import this room, and need no NumPy
    import numpy as np


class Logger(ABC):
    """Takes what a training run reports."""

    @abstractmethod
    def open(self, directory: Path, step: int) -> None:
        """Start in a run directory, at a step (after 0: the run is resumed)."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at a step."""

    @abstractmethod
    def image(self, step: int, name: str, picture: "np.ndarray") -> None:
        """A picture uint8 (H, W) or (H, W, C) at a step."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


class NoLogger(Logger):
    """Keeps nothing."""

    def open(self, directory: Path, step: int) -> None: ...

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, picture: "np.ndarray") -> None: ...

    def close(self) -> None: ...


class TensorBoard(Logger):
    """Event files below ``tensorboard/``. Its writer is imported at the first number: it must not slow the start."""

    def __init__(self) -> None:
        self._directory: Path | None = None
        self._purge: int | None = None
        self._opened: Any = None

    def open(self, directory: Path, step: int) -> None:
        # Events after the step of a run that goes on, or begins again, are superseded by those that come now.
        self._directory = directory / "tensorboard"
        self._purge = step + 1 if self._directory.exists() else None

    @property
    def _writer(self) -> Any:
        if self._opened is None:
            from torch.utils.tensorboard import SummaryWriter

            self._opened = SummaryWriter(str(self._directory), purge_step=self._purge)
        return self._opened

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def image(self, step: int, name: str, picture: "np.ndarray") -> None:
        self._writer.add_image(name, picture, step, dataformats="HW" if picture.ndim == 2 else "HWC")

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
