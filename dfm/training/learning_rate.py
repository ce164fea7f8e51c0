"""The learning rate of each step, also where a resumed run is longer or shorter than it was."""

import math
from collections.abc import Mapping

from dfm.training.trainer_config import TrainerConfig


class LearningRate:
    """Linear warm-up, then constant or a cosine to zero at the end of the run.

        rate = lr min(1, (step + 1) / warmup_steps) f(p),   f = 1, or for a cosine
        f(p) = height (1 + cos(pi (p - begin) / (1 - begin))) / 2

    with the share p of the run that is done. A run begins at begin = 0 with height = 1. If a resumed run has another
    length than before, ``rewarm`` makes this so again: the rate is that of a run of the new length, and may jump.
    ``keep`` makes the cosine begin where the run was, with the rate that it had: no jump, and zero at the new end.

    Attributes:
        last: the rate of the last step, or None if it is not known.
    """

    def __init__(self, config: TrainerConfig) -> None:
        self.config = config
        self.begin, self.height = 0.0, 1.0
        self.last: float | None = None

    def at(self, step: int, progress: float) -> float:
        """Return the rate of a step.

        Args:
            step: the number of steps that are done.
            progress: the share of the run that is done.
        """
        rate = self._warm(step)
        if self.config.lr_schedule != "cosine":
            return rate
        done = (progress - self.begin) / (1 - self.begin) if self.begin < 1 else 1.0
        return rate * self.height * (1 + math.cos(math.pi * done)) / 2

    def rewarm(self) -> None:
        """Follow the rate of a run of the present length from here on."""
        self.begin, self.height = 0.0, 1.0

    def keep(self, step: int, progress: float, last: float) -> None:
        """Go on from the last rate: no jump at this step, and zero at the end.

        Args:
            step: the number of steps that are done, at least 1.
            progress: the share of the run of the present length that is done.
            last: the rate of the last step.
        """
        before = self._warm(step - 1)
        self.begin, self.height = progress, last / before if before else 0.0

    def state(self) -> dict[str, float | None]:
        """Return the state that a checkpoint keeps."""
        return {"begin": self.begin, "height": self.height, "last": self.last}

    def load_state(self, state: Mapping[str, float | None]) -> None:
        """Load the result of ``state()``; nothing of it for a run that was begun before there was any."""
        self.begin, self.height = float(state.get("begin") or 0.0), float(state.get("height", 1.0) or 0.0)
        self.last = state.get("last")

    def _warm(self, step: int) -> float:
        return self.config.lr * min(1.0, (step + 1) / max(1, self.config.warmup_steps))
