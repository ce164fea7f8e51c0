"""The base class of features, and the simplest features: the coordinates themselves."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.dataset import Dataset, DatasetSpec
from dfm.data.numbers.pixel_levels import centres
from dfm.data.numbers.units import to_model
from dfm.training.step_report import StepReport


class Features(ABC):
    """Numbers that describe the examples of one data set (config group ``features``).

    Args:
        data: the data set.
    """

    def __init__(self, *, data: Dataset) -> None:
        self.data = data

    @abstractmethod
    def of(self, values: Tensor) -> Tensor:
        """Return features float64 (n, k) of examples.

        Args:
            values: as ``Split.take`` gives them: integer levels, or real numbers in the user's unit.
        """

    @property
    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """A description for a JSON file. Distances can be compared only where ``sha256`` is equal."""

    @property
    def steps(self) -> int:
        """The largest number of reports that ``prepare`` yields."""
        return 0

    def prepare(self) -> Iterator[StepReport]:
        """Prepare the features once; yield a report for each training step. ``of`` and ``facts`` call it themselves."""
        return iter(())


class Coordinates(Features):
    """The coordinates as the model sees them: the centres of the cells of integer levels, in [-1, 1]."""

    def of(self, values: Tensor) -> Tensor:
        levels = self.data.spec.levels
        return (to_model(values, self.data.spec).double() if levels is None else centres(values, levels)).flatten(1)

    @property
    def facts(self) -> dict[str, Any]:
        """The number of coordinates. There is no hash, because coordinates are the same everywhere."""
        return {"kind": "coordinates", "dimensions": torch.Size(self.data.spec.shape).numel(), "sha256": None}


def kind_for(spec: DatasetSpec) -> str:
    """Return the option of group ``features`` for these data: coordinates for points, a classifier for images.

    Raises:
        UserError: images without classes, on which no classifier can be trained.
    """
    if spec.levels is None:
        return "coordinates"
    if spec.num_classes < 2:
        raise UserError(
            f"features: dataset {spec.name} has images without classes, so no classifier can be trained on them; "
            "allowed: features=coordinates, or a data set with at least 2 classes"
        )
    return "classifier"
