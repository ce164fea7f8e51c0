"""Data sets: three splits of numbers, and a spec that is small enough to be stored in a checkpoint."""

import hashlib
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from dfm.basics.errors import UserError, unknown

SPLITS = ("train", "validation", "test")

# A mean of more than this many deviations is taken out of the data that a network sees (``DatasetSpec.centre``). With a
# smaller one the mean square of its inputs and targets is at most 5 in place of 1, so it stays.
FAR = 2.0


def data_folder() -> str:
    """Return the default folder of downloads and caches: DFM_DATA in the environment, else ``~/.cache/dfm``."""
    return os.environ.get("DFM_DATA", "~/.cache/dfm")


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """The facts that a model must know about its data: plain numbers, strings and tuples only.

    Args:
        name: name of the data set.
        shape: shape of one example: (C, H, W) for images, (d,) for points.
        levels: K, the number of integer levels 0..K-1 of a pixel; None for points.
        num_classes: labels are 0..num_classes-1; 0 if there are no labels.
        mean: mean of all coordinates of the data, as the model sees them (``moments``).
        std: root of their average variance, in the same units.
        centre: what is taken from the data before a network sees them: their mean if it is more than ``FAR`` deviations
            from 0, else 0. Inputs and targets of a network are scaled by ``std`` alone, so with a mean of 100
            deviations both would have size 100. It is 0 in every file of dfm 0.1.
    """

    name: str
    shape: tuple[int, ...]
    levels: int | None
    num_classes: int
    mean: float
    std: float
    centre: float = 0.0

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise UserError(f"dataset {self.name}: shape {self.shape}; allowed: (C, H, W) or (d,), all at least 1")
        if not (math.isfinite(self.mean) and math.isfinite(self.std) and self.std > 0):
            raise UserError(
                f"dataset {self.name}: mean {self.mean:g}, std {self.std:g}; allowed: finite numbers, std above 0 "
                "(are all training examples the same?)"
            )


@dataclass(frozen=True, kw_only=True)
class Split:
    """One part of a data set.

    Args:
        values: images as integer levels, uint8 (N, C, H, W); points as float32 (N, d).
        labels: int64 (N,), or None.
    """

    values: Tensor
    labels: Tensor | None

    def __post_init__(self) -> None:
        kind = (self.values.dtype, self.values.ndim)
        if kind not in ((torch.uint8, 4), (torch.float32, 2)):
            raise UserError(
                f"split: values {tuple(self.values.shape)} of {self.values.dtype}; "
                "allowed: uint8 (N, C, H, W) or float32 (N, d)"
            )
        labels = self.labels
        if labels is not None and (labels.dtype != torch.int64 or labels.shape != self.values.shape[:1]):
            raise UserError(
                f"split: labels {tuple(labels.shape)} of {labels.dtype}; allowed: int64 ({len(self.values)},) or None"
            )

    def __len__(self) -> int:
        return len(self.values)


@dataclass(frozen=True, kw_only=True)
class Fingerprint:
    """What tells a split from another one without keeping it.

    Args:
        examples: their number.
        blake2b: a hash of the examples and the labels, 32 hexadecimal digits.
    """

    examples: int
    blake2b: str


WHOLE, SAMPLE = 2**28, 1024  # bytes that are hashed whole; examples that stand for a larger split


def fingerprint(split: Split) -> Fingerprint:
    """Return the fingerprint of a split: type, shape, labels and examples.

    All examples count, unless they have more than ``WHOLE`` bytes. Then ``SAMPLE`` of them count, at equal distances
    from the first to the last, because to read a large file that is mapped into memory takes minutes.
    """
    values, labels = split.values, split.labels
    hashed = hashlib.blake2b(f"{values.dtype} {tuple(values.shape)} {labels is not None}".encode(), digest_size=16)
    if values.numel() * values.element_size() > WHOLE:
        values = values[torch.linspace(0, len(values) - 1, SAMPLE, dtype=torch.float64).long()]
    for part in (values, labels):
        if part is not None and len(part):
            hashed.update(part.contiguous().numpy().data)
    return Fingerprint(examples=len(split), blake2b=hashed.hexdigest())


def scale_levels(numbers: Tensor, levels: int) -> Tensor:
    """Return pixels as the model sees them: data = 2 (v + u) / K - 1, in [-1, 1).

    Args:
        numbers: v + u, with integer levels v in 0..K-1 and u in [0, 1); any shape.
        levels: K.
    """
    return numbers * (2 / levels) - 1


def moments(values: Tensor, levels: int | None) -> tuple[float, float]:
    """Return the mean and the standard deviation of the data, as the model sees them, exact up to rounding.

    For points: the mean of all coordinates, and the root of their average variance. For images of K levels v that are
    dequantised by u ~ U[0, 1) and scaled by ``scale_levels``, over all pixels together:

        mean = E[2 (v + 1/2) / K - 1],    std^2 = Var[2 v / K] + (2 / K)^2 / 12

    Args:
        values: as in ``Split``, at least one example.
    """
    if levels is None:
        points = values.double()
        return points.mean().item(), points.var(0, correction=0).mean().sqrt().item()
    counts = torch.bincount(values.flatten(), minlength=levels).double()
    share = counts / counts.sum()
    v = torch.arange(levels, dtype=torch.float64)
    mean = share @ v
    variance = share @ (v - mean).square() + 1 / 12
    return scale_levels(mean + 0.5, levels).item(), (2 / levels) * variance.sqrt().item()


class Dataset(ABC):
    """A source of examples, loaded once, on first use. The constructor checks all that can be checked without loading.

    A new data set is a class with ``_load``, ``shape_of`` and the attributes below, a YAML in ``configs/dataset`` and a
    row in ``tests/data/test_dataset.py``.

    Attributes:
        name: the name in the spec and in messages.
        levels: number of integer levels of a pixel, or None for points.
        num_classes: 0 if there are no labels.
        flip: whether training may mirror images left to right.
        sources: the parameters that are paths of the data. They may change when the data move.
        caches: the parameters that are paths of files that can be made again.
        handling: the other parameters that change no example, such as a number of threads.
    """

    name: str
    levels: int | None
    num_classes: int
    flip: bool = False
    sources: ClassVar[tuple[str, ...]] = ()
    caches: ClassVar[tuple[str, ...]] = ()
    handling: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return the shape of one example of ``cls(**arguments)`` without reading anything; None: it is not known.

        A network and settings of training that suit it are chosen from it, before the data set is made.
        """
        return None

    @abstractmethod
    def _load(self) -> Mapping[str, Split]:
        """Load all three splits, by name."""

    def split(self, name: str) -> Split:
        """Return the split ``train``, ``validation`` or ``test``.

        Raises:
            UserError: there is no such split, or the data cannot be read.
        """
        if name not in SPLITS:
            raise unknown("split", name, SPLITS)
        return self._splits[name]

    def fingerprint(self, name: str) -> Fingerprint:
        """Return the fingerprint of a split, computed once. It raises what ``split`` raises."""
        if name not in self._fingerprints:
            self._fingerprints[name] = fingerprint(self.split(name))
        return self._fingerprints[name]

    @cached_property
    def _fingerprints(self) -> dict[str, Fingerprint]:
        return {}

    @cached_property
    def spec(self) -> DatasetSpec:
        """Shape, levels, classes and moments, from the train split.

        Raises:
            UserError: the data cannot be read.
        """
        values = self.split("train").values
        mean, std = moments(values, self.levels)
        shape = tuple(values.shape[1:])
        centre = mean if abs(mean) > FAR * std else 0.0
        return DatasetSpec(
            name=self.name,
            shape=shape,
            levels=self.levels,
            num_classes=self.num_classes,
            mean=mean,
            std=std,
            centre=centre,
        )

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        splits = self._load()
        if len(splits["train"]) == 0:
            raise UserError(f"dataset {self.name}: no training examples; allowed: at least 1")
        for name, split in splits.items():
            self._check(name, split)
        return splits

    def _check(self, name: str, split: Split) -> None:
        if len(split) == 0:
            return
        # We compare Python numbers: if a uint8 tensor is compared with 256, torch compares it with 0.
        if self.levels is not None and (highest := int(split.values.max())) >= self.levels:
            raise UserError(f"dataset {self.name}, split {name}: a pixel of {highest}; allowed: 0 to {self.levels - 1}")
        if split.labels is not None and not 0 <= split.labels.min() <= split.labels.max() < self.num_classes:
            raise UserError(
                f"dataset {self.name}, split {name}: labels {split.labels.min()} to {split.labels.max()}; "
                f"allowed: 0 to {self.num_classes - 1}"
            )
