"""The trainer's report on a step."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from dfm.training.step_failures import SkippedStep


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """A report on one optimiser step.

    ``loss`` and ``grad_norm`` are tensors. Their float() waits for the device, so call it only to log. ``skipped`` is
    set if the step was not taken. ``measurements`` come from a round that started with this step.
    """

    step: int
    images: int
    loss: Tensor
    grad_norm: Tensor
    learning_rate: float
    seconds: float
    skipped: SkippedStep | None = None
    measurements: Mapping[str, float] = field(default_factory=dict)
