"""An array or a table of the user's own: a file, mapped into memory, with its own type, unit and order of axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfm.basics.errors import UserError, unknown
from dfm.basics.locations import PathText, located
from dfm.basics.seeding import check_seed
from dfm.data.arrays import layout as axes
from dfm.data.arrays.formats.number_types import for_torch
from dfm.data.arrays.formats.open_source import ALLOWED, holds_arrays, names_file, open_source, read_list
from dfm.data.arrays.formats.source import Source
from dfm.data.dataset import Dataset
from dfm.data.memory_map import as_tensor
from dfm.data.numbers.integer_range import found_range, levels_of
from dfm.data.numbers.units import WAYS
from dfm.data.rows.classes import Names, number_classes
from dfm.data.rows.partition import Parts, by_list, by_share, check_fractions, shares_of_names, shares_of_rows
from dfm.data.spec import DatasetSpec
from dfm.data.split import Split, real_type

LEVELS, REAL = "levels", "real"
LISTS = ("labels", "groups", "splits")  # a file, or a column or key of the data
HELD = ("validation", "test")
Labels = tuple[dict[str, np.ndarray], int, Names]


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayFile(Dataset):
    """Examples of a file ``.npy``, ``.npz``, ``.csv``, ``.tsv`` or ``.parquet``, or of a folder of ``.npy`` files.

    The first axis counts the examples: (N, d) points, (N, C, L) signals, (N, C, H, W) pictures or maps, (N, C, D, H, W)
    volumes, in the order of ``layout``. Nothing is copied that can be mapped; the rest is decoded once, into a file.

    The split of a row depends on ``seed`` and its number alone (on its name in a folder of examples), so rows that are
    appended move no other one. Splits therefore have their fractions only on average.

    Args:
        path: the file or folder; ``~`` is the home folder.
        key: of an ``.npz`` file; None: the only one.
        columns: of a table, by name and in this order; None: all that are not labels, groups or splits.
        files: what a folder holds: ``examples`` (each file is one), ``pieces`` of one array, or ``auto``.
        layout: ``channels_first``, ``channels_last``, ``no_channels`` or ``auto`` (``layout_of``).
        integers: whole numbers are ``levels`` with bits/dim, or ``real`` numbers with nats.
        levels: their number K; None: found (``levels_of``).
        lowest: the number that is level 0; None: found.
        normalize: how real numbers are scaled for the model (``dfm.data.numbers.units.constants``).
        flip: whether training may mirror the last axis; a table has none.
        labels: a file, column or key with the class of each example; ``folder``: the sub-folder of each file.
        classes: the names in the wanted order, or their number; None: found (``number_classes``).
        groups: likewise: examples of one group are all in one split.
        splits: likewise: train, validation or test for each example, in place of the fractions.
        validation, test: fractions of the rows, each at least 0, together below 1.
        seed: of the choice of these rows.
        validation_path, test_path: files that are these splits, in place of the fractions.
        validation_key, test_key: of these files; None: ``key``.
        validation_labels, test_labels: their classes; None: ``labels``, if it names a column or key.
        cache: folder for what has to be decoded: compressed, in another byte order, a table, or many files.

    Raises:
        UserError: an argument has another value, or the file is not there, is broken or holds no numbers.
    """

    path: PathText | None = None
    key: str | None = None
    columns: Sequence[str | int] | None = None
    files: str = "auto"
    layout: str = axes.AUTO
    integers: str = LEVELS
    levels: int | None = None
    lowest: int | None = None
    normalize: str = "channel"
    flip: bool = False
    labels: str | None = None
    classes: int | Sequence[str] | None = None
    groups: str | None = None
    splits: str | None = None
    validation: float = 0.05
    test: float = 0.05
    seed: int = 0
    validation_path: PathText | None = None
    validation_key: str | None = None
    validation_labels: str | None = None
    test_path: PathText | None = None
    test_key: str | None = None
    test_labels: str | None = None
    cache: PathText = "~/.cache/dfm"

    name = "array"
    sources = ("path", *LISTS, "validation_path", "validation_labels", "test_path", "test_labels")
    caches = ("cache",)

    def __post_init__(self) -> None:
        if self.path is None:
            raise UserError(f"dataset array: no path; give dataset.path=FILE, {ALLOWED}")
        check_fractions(self.name, self.validation, self.test)
        for key, value, allowed in (("integers", self.integers, (LEVELS, REAL)), ("normalize", self.normalize, WAYS)):
            if value not in allowed:
                raise unknown(f"dataset.{key}", value, allowed)
        check_seed(self.seed)
        kind = self._sources["train"].dtype
        if kind.kind == "f" and (self.levels, self.lowest) != (None, None):
            raise UserError(
                f"dataset.levels={self.levels}, lowest={self.lowest}: {self.path} holds {kind}; allowed: levels of "
                "whole numbers; try np.save of x.astype(int)"
            )
        self._check_flip(self._shape)

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        try:
            return cls(**{key: value for key, value in arguments.items() if key != "_target_"})._shape
        except (UserError, TypeError):
            return None  # it is refused when the data set is made

    @classmethod
    def reads(cls, path: Path) -> bool:
        return holds_arrays(path)

    @classmethod
    def paths_in(cls, arguments: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the sources that are paths: labels, groups and splits may name a column or a key instead."""
        values = {name: arguments.get(name) for name in cls.sources}
        return tuple(n for n, v in values.items() if n.endswith("path") or (isinstance(v, str) and names_file(v)))

    def like(self, spec: DatasetSpec) -> "ArrayFile":
        """Return the same data with the levels and classes that a model was trained on, where none are given."""
        whole = self._sources["train"].dtype.kind != "f" and spec.levels is not None
        classes = self.classes
        if classes is None and self.labels:
            classes = spec.class_names or spec.num_classes or None
        return replace(
            self,
            levels=spec.levels if whole and self.levels is None else self.levels,
            lowest=spec.lowest if whole and self.lowest is None else self.lowest,
            classes=classes,
        )

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self._labels[1]

    @property
    def class_names(self) -> Names:  # type: ignore[override]
        return self._labels[2]

    @property
    def dtype(self) -> str:  # type: ignore[override]
        kind = self._sources["train"].dtype
        if kind.kind == "f" or self.integers == LEVELS:
            return kind.name
        return real_type(kind).name

    @property
    def channels_last(self) -> bool:  # type: ignore[override]
        return self._layout == axes.LAST

    @property
    def channel_axis(self) -> bool:  # type: ignore[override]
        return self._layout != axes.NONE

    @property
    def channel_names(self) -> Names:  # type: ignore[override]
        return self._sources["train"].columns if len(self._shape) == 1 else ()

    @property
    def notices(self) -> tuple[str, ...]:
        source = self._sources["train"]
        guess = axes.told(source.example, self._layout) if self.layout == axes.AUTO and not source.columns else None
        whole = self._whole_columns()
        return (*source.notices, *([guess] if guess else ()), *([whole] if whole else ()))

    @cached_property
    def _sources(self) -> dict[str, Source]:
        """The files of the splits; one that is not here is a part of ``train``."""
        apart = [name for name in (self.labels, self.groups, self.splits) if name and not names_file(name)]
        lists = [located(name) for name in (self.labels, self.groups, self.splits) if name and names_file(name)]
        main = open_source(located(self.path or ""), self.key, self.columns, apart, self.files, lists)
        found = {"train": main}
        for name in HELD:
            path = getattr(self, f"{name}_path")
            if path is None:
                continue
            key, columns = getattr(self, f"{name}_key") or self.key, main.columns or None
            found[name] = other = open_source(located(path), key, columns, (), self.files)
            if (other.example, other.dtype) != (main.example, main.dtype):
                raise UserError(
                    f"dataset.{name}_path={path}: examples {other.example} of {other.dtype}; allowed: {main.example} "
                    f"of {main.dtype}, as in {self.path}"
                )
        return found

    @cached_property
    def _layout(self) -> str:
        return axes.layout_of(self._sources["train"].example, self.layout, str(self.path))

    @cached_property
    def _shape(self) -> tuple[int, ...]:
        return axes.model_shape(self._sources["train"].example, self._layout)

    @cached_property
    def _labels(self) -> Labels:
        """The classes of each file, their number and names."""
        if self.labels is None:
            return {}, 0, ()
        lists = {}
        for name, source in self._sources.items():
            key = "labels" if name == "train" else f"{name}_labels"
            text = getattr(self, key) or ("" if names_file(self.labels) else self.labels)
            if not text:
                raise UserError(
                    f"dataset.{key} is missing: dataset.labels={self.labels} holds the classes of {self.path} alone; "
                    f"allowed: a file for {source.path} too"
                )
            lists[name] = read_list(text, source, source.count(), f"dataset.{key}")
        return number_classes(lists, self.classes)

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        arrays = {name: source.array(located(self.cache)) for name, source in self._sources.items()}
        for name, array in arrays.items():
            if len(array) == 0:
                raise UserError(f"dataset array: {self._sources[name].path} has no examples; allowed: at least one")
        return arrays

    @property
    def _mapped(self) -> Sequence[np.ndarray]:
        return tuple(self._arrays.values())

    def _load(self) -> Mapping[str, Split]:
        arrays, lowest = self._arrays, 0
        kind = arrays["train"].dtype
        real = kind.kind == "f" or self.integers == REAL
        if not real or for_torch(arrays["train"][:0]).dtype.kind != kind.kind:
            low, high = found_range(list(arrays.values()), self.name)
        if not real:
            levels, lowest = levels_of(low, high, kind, self.levels, self.lowest, self.path)
            object.__setattr__(self, "levels", levels)  # what was found takes the place of None
        whole = {
            name: Split(
                values=as_tensor(axes.channels_first(for_torch(array), self._layout)),
                labels=torch.from_numpy(self._labels[0][name]) if self.labels else None,
                lowest=lowest,
                real=real,
            )
            for name, array in arrays.items()
        }
        parts = self._parts(len(arrays["train"]))
        main = {name: whole["train"] if rows is None else whole["train"].part(rows) for name, rows in parts.items()}
        return {**main, **{name: whole[name] for name in HELD if name in whole}}

    def _parts(self, n: int) -> Parts:
        """Return the rows of the file ``path`` for each split."""
        source = self._sources["train"]
        if self.splits is not None:
            return by_list(read_list(self.splits, source, n, "dataset.splits"), f"dataset.splits={self.splits}")
        order = shares_of_rows(n, self.seed)
        shares = order if source.names is None else shares_of_names(source.names, self.seed)
        if self.groups is not None:
            shares = shares_of_names(read_list(self.groups, source, n, "dataset.groups"), self.seed)
        fractions = [0.0 if name in self._sources else getattr(self, name) for name in HELD]
        return by_share(shares, order, *fractions)

    def _whole_columns(self) -> str | None:
        """Return the line about columns of a table that hold whole numbers only, whose nats mean little."""
        names, head = self.channel_names, self._arrays["train"][:10_000]
        flat = [name for i, name in enumerate(names) if np.isfinite(head[:, i]).all() and not (head[:, i] % 1).any()]
        if not flat:
            return None
        return (
            f"whole numbers only in column {', '.join(flat[:8])}{' ...' if len(flat) > 8 else ''}: a density can grow "
            "at each of them without end, so nats mean little there"
        )
