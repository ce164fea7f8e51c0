"""Examples of Hugging Face's library ``datasets``: a local folder or file, or a data set of the hub."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dfm.basics.errors import UserError, unknown
from dfm.data.hubs import columns
from dfm.data.hubs.columns import is_array, is_class, is_label, is_number, is_picture, kind_of
from dfm.data.hubs.library import library, quiet
from dfm.data.hubs.source import Listing, Source, numbered
from dfm.data.rows.partition import SPLIT_NAMES, SPLITS, share

_SAVED = ("dataset_dict.json", "state.json")  # what ``save_to_disk`` writes
_BUILDERS = {".parquet": "parquet", ".csv": "csv", ".json": "json", ".jsonl": "json", ".arrow": "arrow"}
_NO_LABEL = -1  # of a ClassLabel


class HuggingFaceSource(Source):
    """Examples of one column.

    Args:
        path: a local file or folder; None: ``hub`` counts.
        hub: the name of a data set of the hub.
        subset: which of several parts of the data set, which the hub calls configurations.
        revision: which version of the hub's data set.
        download: whether a server may be asked.
        arrays: whether an example is an array or numbers, or a picture.
        column: the column of the examples, or several columns of numbers; None: the only one that fits.
        labels: the column of the classes; True: the only ClassLabel, or ``label`` or ``labels``; False: no classes.
        splits: {train, validation or test: the split of the library}; None: by its name.
        cache: where the library keeps its own copy of local files.
    """

    def __init__(
        self,
        *,
        path: Path | None,
        hub: str | None,
        subset: str | None,
        revision: str | None,
        download: bool,
        arrays: bool,
        column: str | Sequence[str] | None,
        labels: bool | str,
        splits: Mapping[str, str | None],
        cache: Path,
    ) -> None:
        self.path, self.hub, self.subset, self.revision, self.download = path, hub, subset, revision, download
        self.arrays, self.column, self.labels, self.splits, self.cache = arrays, column, labels, splits, cache
        self.where = str(path) if path is not None else str(hub)
        place = str(path.resolve()) if path is not None else ("hub", hub, revision)
        self.identity = repr((place, subset, arrays, column, labels, dict(splits)))

    def stamp(self) -> str:
        return repr([(name, part._fingerprint, len(part)) for name, part in self._parts])

    def listing(self) -> Listing:
        sizes = [len(part) for _, part in self._parts]
        splits = np.repeat(np.array([SPLITS.index(name) for name, _ in self._parts], np.int8), sizes)
        shares = [share(f"{name}/{row}") for name, part in self._parts for row in range(len(part))]
        labels, names = self._labels()
        return Listing(splits=splits, shares=np.array(shares, np.float64), labels=labels, class_names=names)

    def named(self, row: int) -> str:
        for name, part in self._parts:
            if row < len(part):
                return f"row {row} of {name}"
            row -= len(part)
        return super().named(row)

    def values(self) -> Iterator[object]:
        column = self._column
        for _, part in self._parts:
            with quiet(True):
                if isinstance(column, list):
                    yield from columns.joined(part, column)
                elif self.arrays:
                    yield from columns.arrays(part, column)
                else:
                    yield from columns.pictures(part, column)

    @cached_property
    def _parts(self) -> list[tuple[str, Any]]:
        """(train, validation or test, its rows), in this order, without splits that are not used."""
        found = self._loaded()
        unknown = sorted({*self.splits} - {*SPLITS})
        if unknown:
            raise UserError(f"dataset hf: splits.{unknown[0]}; allowed: {', '.join(SPLITS)}")
        parts = []
        for name in SPLITS:
            wanted = self.splits.get(name)
            theirs = wanted or next((one for one in found if SPLIT_NAMES.get(one.lower()) == name), None)
            if wanted is not None and wanted not in found:
                raise UserError(f"dataset hf: splits.{name}={wanted}; allowed for {self.where}: {', '.join(found)}")
            if theirs is None and name == "train":
                if len(found) > 1:
                    names = ", ".join(found)
                    raise UserError(
                        f"dataset hf: {self.where} has the splits {names}, and none is called train; try "
                        f"dataset.splits.train={next(iter(found))}"
                    )
                theirs = next(iter(found))
            if theirs is not None:
                parts.append((name, found[theirs]))
        return parts

    def _loaded(self) -> Mapping[str, Any]:
        """Return the library's splits by their names."""
        datasets = library()
        try:
            with quiet(self.path is not None or not self.download):
                found = self._local(datasets) if self.path is not None else self._of_hub(datasets)
        except UserError:
            raise
        except Exception as problem:  # the library raises nearly anything
            reason = " ".join(str(problem).split())[:300] or type(problem).__name__
            if self.path is not None:
                raise UserError(
                    f"dataset hf: {self.path} cannot be read ({reason}); allowed: a folder that save_to_disk wrote, a "
                    f"folder of {', '.join(_BUILDERS)} or of pictures, or one such file"
                ) from None
            if not self.download:
                raise UserError(
                    f"dataset hf: {self.hub} is not in this machine's cache ({reason}); try dataset.download=true"
                ) from None
            raise UserError(
                f"dataset hf: {self.hub} cannot be fetched ({reason}); try dataset.path=DIR with a local copy"
            ) from None
        return found if isinstance(found, dict) else {"train": found}

    def _local(self, datasets: Any) -> Any:
        assert self.path is not None
        path, cache = self.path.absolute(), str(self.cache)
        if any((path / name).exists() for name in _SAVED):
            return datasets.load_from_disk(str(path))
        if path.is_dir():
            return datasets.load_dataset(str(path), name=self.subset, cache_dir=cache)
        builder = _BUILDERS.get(path.suffix.lower())
        if builder is None:
            raise ValueError(f"a file that ends in {path.suffix or 'nothing'}")
        return datasets.load_dataset(builder, data_files={"train": str(path)}, cache_dir=cache)

    def _of_hub(self, datasets: Any) -> Any:
        return datasets.load_dataset(self.hub, name=self.subset, revision=self.revision)

    @cached_property
    def _features(self) -> Mapping[str, Any]:
        features: Mapping[str, Any] = self._parts[0][1].features
        for name, part in self._parts:
            if part.features != features:
                raise UserError(f"dataset hf: {self.where}: {name} has other columns than train; allowed: equal ones")
        return features

    @cached_property
    def _column(self) -> str | list[str]:
        """The column of the examples, checked; or the columns of numbers."""
        if self.column is not None and not isinstance(self.column, str):
            return [self._existing("column", name, is_number, "numbers") for name in self.column]
        fits, what = (is_array, "arrays") if self.arrays else (is_picture, "pictures")
        if self.column is not None:
            return self._existing("column", self.column, fits, what)
        found = [name for name, feature in self._features.items() if fits(feature)]
        if len(found) != 1:
            raise UserError(
                f"dataset hf: {self.where} has {len(found) or 'no'} columns of {what}; allowed: one that is named, of "
                f"{self._described()}; try {f'dataset.column={found[0]}' if found else self._way(*self._features)}"
            )
        return found[0]

    def _existing(self, key: str, name: str, fits: Callable[[Any], bool], what: str) -> str:
        feature = self._features.get(name)
        if feature is None:
            raise unknown(f"dataset.{key}", name, self._features)
        if not fits(feature):
            way = "dataset.labels=false" if key == "labels" else self._way(name, *self._features)
            raise UserError(
                f"dataset.{key}={name}: this column holds no {what}; allowed: one that does, of {self._described()}; "
                f"try {way}"
            )
        return name

    def _described(self) -> str:
        return ", ".join(f"{name} ({kind_of(feature)})" for name, feature in self._features.items())

    def _way(self, *names: str) -> str:
        """Return the settings with which the first of these columns that can be read is read."""
        for name in names:
            feature = self._features[name]
            if is_picture(feature):
                return f"dataset.column={name} dataset.shape=null"
            if is_number(feature):
                return f"dataset.column=[{name}]"
            if is_array(feature):
                shape = np.asarray(next(iter(columns.arrays(self._parts[0][1], name)))).shape
                return f"dataset.column={name} dataset.shape=[{','.join(map(str, shape))}]"
        return "another dataset.path=DIR"

    def _labels(self) -> tuple[np.ndarray | None, tuple[str, ...]]:
        name = self._label_column()
        if name is None:
            return None, ()
        feature = self._features[name]
        values = [value for _, part in self._parts for value in part[name]]
        if is_class(feature):
            names = tuple(feature.names)
            labels = np.array([_NO_LABEL if value is None else value for value in values], np.int64)
            if (labels == _NO_LABEL).any():
                raise UserError(
                    f"dataset hf: {self.named(int((labels == _NO_LABEL).argmax()))} has no class in {name}; try "
                    "dataset.labels=false"
                )
            return labels, names
        return numbered(values, f"dataset hf: {self.where}, column {name}")

    @property
    def notices(self) -> tuple[str, ...]:
        """Columns of classes among which the user has to choose, and a revision that nobody could look up."""
        lines = []
        if self.labels is True and self._label_column() is None and self._class_columns:
            lines.append(
                f"dataset hf: the columns {', '.join(self._class_columns)} hold classes, and none is read "
                "(dataset.labels=NAME)"
            )
        if self.hub is not None and not self.download and self.revision is not None:
            lines.append(
                f"dataset hf: {self.hub} is read from this machine's cache, whatever revision={self.revision} is now"
            )
        return tuple(lines)

    @cached_property
    def _class_columns(self) -> list[str]:
        return [name for name, feature in self._features.items() if is_class(feature)]

    def _label_column(self) -> str | None:
        if isinstance(self.labels, str):
            return self._existing("labels", self.labels, is_label, "classes")
        if not self.labels:
            return None
        named = [name for name in ("label", "labels") if name in self._features and is_label(self._features[name])]
        taken = self._column if isinstance(self._column, list) else [self._column]
        found = self._class_columns if len(self._class_columns) == 1 else named
        return next((name for name in found if name not in taken), None)
