"""What features are, and the simplest: the coordinates themselves."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.pixel_levels import centres
from dfm.training.trainer import StepReport


class Features(ABC):
    """Numbers that describe examples. The parts of config group ``features``, made for one data set.

    Args:
        data: the data set.
    """

    def __init__(self, *, data: Dataset) -> None:
        self.data = data

    @abstractmethod
    def of(self, values: Tensor) -> Tensor:
        """Features float64 (n, k) of examples as ``Split`` has them: levels uint8 (n, C, H, W) or points (n, d)."""

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What tells these features from others, for a JSON: figures are comparable where ``sha256`` is equal."""

    @property
    def steps(self) -> int:
        """How many reports ``prepare`` yields at most."""
        return 0

    def prepare(self) -> Iterator[StepReport]:
        """Do what must be done once, a report a step of it; ``of`` and ``facts`` do it themselves if need be."""
        return iter(())


class Coordinates(Features):
    """The coordinates themselves; of images the centres of the pixels' cells, in [-1, 1]."""

    def of(self, values: Tensor) -> Tensor:
        levels = self.data.spec.levels
        return (values.double() if levels is None else centres(values, levels)).flatten(1)

    @property
    def facts(self) -> dict[str, Any]:
        """Their number; they are the same everywhere, so there is no hash."""
        return {"kind": "coordinates", "dimensions": torch.Size(self.data.spec.shape).numel(), "sha256": None}


def kind_for(spec: DatasetSpec) -> str:
    """The option of group ``features`` that goes with data: coordinates for points, a classifier for images.

    Raises:
        UserError: images without classes, of which no classifier can be trained.
    """
    if spec.levels is None:
        return "coordinates"
    if spec.num_classes < 2:
        raise UserError(
            f"features: dataset {spec.name} has images without classes, so no classifier can be trained on them; "
            "allowed: features=coordinates, or a data set with at least 2 classes"
        )
    return "classifier"
