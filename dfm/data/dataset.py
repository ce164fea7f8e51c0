"""Data sets: three splits of numbers, and a spec that is small enough to be stored in a checkpoint."""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from dfm.basics.errors import UserError, unknown
from dfm.data.fields.law import Law
from dfm.data.memory_map import expect_random_access, file_of
from dfm.data.numbers.statistics import Statistics, statistics
from dfm.data.numbers.units import constants, moments_seen
from dfm.data.rows.partition import SPLITS
from dfm.data.spec import FAR, DatasetSpec
from dfm.data.split import Fingerprint, Split, fingerprint

__all__ = ["SPLITS", "Dataset", "DatasetSpec", "Fingerprint", "Split", "data_folder"]


def data_folder() -> str:
    """Return the default folder of downloads and caches: DFM_DATA in the environment, else ``~/.cache/dfm``."""
    return os.environ.get("DFM_DATA", "~/.cache/dfm")


class Dataset(ABC):
    """A source of examples, loaded once, on first use. The constructor checks all that can be checked without loading.

    A new data set is a class with ``_load``, ``shape_of`` and the attributes below, a YAML in ``configs/dataset`` and a
    row in ``tests/data/test_dataset.py``.

    Attributes:
        name: the name in the spec and in messages.
        levels: number of integer levels, or None for real numbers.
        num_classes: 0 if there are no labels.
        class_names: their names, in the order of the labels; empty: they have none.
        normalize: how real numbers are scaled for the model (``dfm.data.numbers.units.constants``).
        dtype, channels_last, channel_axis: how samples are stored, see ``DatasetSpec``.
        channel_names: names of the channels, as of the columns of a table; empty: they have none.
        flip: whether training may mirror examples along their last axis: images left to right, signals in time.
        sources: the parameters that are paths of the data. They may change when the data move.
        caches: the parameters that are paths of files that can be made again.
        handling: the other parameters that change no example, such as a number of threads.
    """

    name: str
    levels: int | None
    num_classes: int
    class_names: tuple[str, ...] = ()
    normalize: str = "none"
    dtype: str = ""
    channels_last: bool = False
    channel_axis: bool = True
    channel_names: tuple[str, ...] = ()
    flip: bool = False
    sources: ClassVar[tuple[str, ...]] = ()
    caches: ClassVar[tuple[str, ...]] = ()
    handling: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        """Return the shape of one example of ``cls(**arguments)``; None: it is not known. At most headers are read.

        A network and settings of training that suit it are chosen from it, before the data set is made.
        """
        return None

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether a path may hold data of this class, as far as its kind and names tell; nothing is opened."""
        return False

    @classmethod
    def paths_in(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return those of ``sources`` that are paths in these arguments; a source may also name a part of the data."""
        return cls.sources

    def like(self, spec: DatasetSpec) -> "Dataset":
        """Return the same data in the form of those that a model was trained on, for what was not given but found."""
        return self

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

    def _among(self, key: str, allowed: tuple[Any, ...]) -> None:
        """Refuse a parameter with another value than these."""
        if (value := getattr(self, key)) not in allowed:
            names = ", ".join("null" if one is None else str(one) for one in allowed)
            raise UserError(f"dataset {self.name}: {key}={value}; allowed: {names}")

    def _check_flip(self, shape: tuple[int, ...]) -> None:
        """Refuse to mirror examples of this shape if they have no side."""
        if self.flip and len(shape) < 2:
            raise UserError(
                f"dataset.flip=true: an example has the shape {shape}; allowed: signals, pictures, maps and volumes, "
                "which have a last side to mirror"
            )

    @property
    def law(self) -> Law | None:
        """The exact law of the examples, in the unit of the data; None: it is unknown. A ``mixture`` is such a law."""
        return getattr(self, "mixture", None)

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know of the data, one line each, after they are loaded: what was changed or left out."""
        return ()

    @property
    def all_notices(self) -> tuple[str, ...]:
        """The ``notices``, and one more if all training examples hold one integer only.

        Real numbers without a deviation are refused, because they have no density. One integer has the probability 1.
        """
        split, found = self.split("train"), self.statistics("train")
        if self.levels is None or float(found.low.min()) < float(found.high.max()):
            return self.notices
        only = int(found.low[0]) + split.lowest
        return (
            *self.notices,
            f"dataset {self.name}: all numbers of all training examples are {only}, one of {self.levels} levels; a "
            "model learns that number alone, and a likelihood is that of the noise inside a level",
        )

    @property
    def facts(self) -> Mapping[str, Any]:
        """What this source found in its files, for ``dfm data``: names with numbers, texts, or lists and maps of both.

        An example: how many files were broken, and which.
        """
        return {}

    @cached_property
    def spec(self) -> DatasetSpec:
        """Shape, levels, classes, scaling and moments, from the train split.

        Raises:
            UserError: the data cannot be read, or have no density.
        """
        split, found = self.split("train"), self.statistics("train")
        points = len(split.shape) == 1
        shift, scale = (
            ((), ())
            if self.levels
            else constants(found, self.normalize, f"dataset {self.name}", points, self.channel_names)
        )
        mean, std = moments_seen(found, shift, scale, points)
        return DatasetSpec(
            name=self.name,
            shape=split.shape,
            levels=self.levels,
            num_classes=self.num_classes,
            mean=mean,
            std=std,
            centre=mean if abs(mean) > FAR * std else 0.0,
            shift=shift,
            scale=scale,
            dtype=self.dtype,
            lowest=split.lowest,
            channels_last=self.channels_last,
            channel_axis=self.channel_axis,
            class_names=self.class_names,
            channel_names=self.channel_names,
            low=tuple((found.low + split.lowest).tolist()),
            high=tuple((found.high + split.lowest).tolist()),
        )

    @property
    def mapped_files(self) -> tuple[str, ...]:
        """The files that examples are mapped from, once they are loaded; empty: all are in memory."""
        found = [file_of(array) for array in self._mapped]
        return tuple(dict.fromkeys(file for file in found if file is not None))

    def statistics(self, name: str) -> Statistics:
        """Return range, mean and variance of a split with at least one example, computed once."""
        self.split(name)
        return self._statistics[name]

    @cached_property
    def _statistics(self) -> dict[str, Statistics]:
        return {}

    @cached_property
    def _splits(self) -> Mapping[str, Split]:
        splits = self._load()
        if len(splits["train"]) == 0:
            raise UserError(f"dataset {self.name}: no training examples; allowed: at least 1")
        for name, split in splits.items():
            self._check(name, split)
        for array in self._mapped:  # from here on batches are read; before, a pass in the order of the file
            expect_random_access(array)
        return splits

    @property
    def _mapped(self) -> Sequence[np.ndarray]:
        """The arrays of the splits that may be mapped from files."""
        return ()

    def _check(self, name: str, split: Split) -> None:
        if len(split) == 0:
            return
        what = f"dataset {self.name}, split {name}"
        if 0 in split.shape:
            raise UserError(f"{what}: examples of shape {split.shape}; allowed: at least one number in each")
        if split.is_real != (self.levels is None):
            raise UserError(f"{what}: {split.values.dtype} and levels={self.levels}; allowed: integers with levels")
        self._statistics[name] = statistics(split.in_file_order(), what, self.levels, self.channel_names)
        if split.labels is not None and not 0 <= split.labels.min() <= split.labels.max() < self.num_classes:
            raise UserError(
                f"{what}: labels {split.labels.min()} to {split.labels.max()}; allowed: 0 to {self.num_classes - 1}"
            )
