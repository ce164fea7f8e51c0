"""How names of pictures tell classes and splits."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from dfm.basics.errors import UserError
from dfm.data.pictures.source import Found, PictureSource, endings
from dfm.data.rows.partition import SPLIT_NAMES, SPLITS, drawn, share


@dataclass(frozen=True, slots=True)
class Placed:
    """A picture and where it belongs.

    Args:
        found: the picture.
        split: train, validation or test.
        share: its number in [0, 1).
    """

    found: Found
    split: str
    share: float


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Classes and splits of the pictures of a source.

    * Folders ``train``, ``val`` and ``test``, or other words of ``SPLIT_NAMES``, are splits if ``train`` is there and
      nothing else is beside them. A split without a folder is drawn from ``train``.
    * Every other split is drawn by a hash of each picture's own name. Other pictures that come or go never move it.
    * A file ``dataset.json`` above all pictures, {"labels": [[name, class], ...]} or {"labels": null}, gives the
      classes (the layout of EDM and StyleGAN). Otherwise the folders at the top, or directly below a split, are the
      classes. They are sorted by name, or by number if all names are numbers.

    Args:
        source: where the pictures lie.
        labels: whether there are classes.
        splits: whether folders may be splits.
        validation, test: fractions of the pictures that are drawn for a split without a folder.

    Raises:
        UserError: there is no picture, or the layout is not clear.
    """

    source: PictureSource
    labels: bool
    splits: bool
    validation: float
    test: float

    @cached_property
    def pictures(self) -> list[Placed]:
        """All pictures in the order train, validation, test, within a split by their share.

        So the first n of a split come from all classes and not only from the first names.
        """
        found = self.source.listing.pictures
        if not found:
            raise UserError(
                f"dataset folder: no picture in {self.source.where}; allowed: files ending in "
                f"{', '.join(sorted(endings()))}"
            )
        shares = [(one, share(one.name)) for one in found]
        placed = [Placed(one, self._split_of(one.name, number), number) for one, number in shares]
        return sorted(placed, key=lambda one: (SPLITS.index(one.split), one.share, one.found.name))

    @cached_property
    def split_folders(self) -> frozenset[str]:
        """The split that each folder at the top gives; empty if these folders are no splits."""
        tops = {one.name.partition("/")[0] if "/" in one.name else "" for one in self.source.listing.pictures}
        given = {SPLIT_NAMES[top.lower()] for top in tops if top.lower() in SPLIT_NAMES}
        others = sorted(top for top in tops if top.lower() not in SPLIT_NAMES)
        if not self.splits or "train" not in given or (others and given == {"train"}):
            return frozenset()  # beside others and without a test, 'train' is a class: a vehicle
        if others:
            raise UserError(
                f"dataset folder: {self.source.where} has the folders {', '.join(sorted(tops - set(others)))}, which "
                f"are splits, and beside them {others[0] or 'pictures'}; allowed: splits alone, or classes alone; try "
                "dataset.splits=false, and all folders are classes"
            )
        return frozenset(given)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their numbers; none without classes, and none in a labels file."""
        return tuple(self._folder_numbers)

    @property
    def num_classes(self) -> int:
        if self._listed is not None:
            return max(self._listed.values(), default=-1) + 1
        return len(self.classes)

    def label_of(self, name: str) -> int | None:
        """Return the class of a picture, or None without classes."""
        if self._listed is not None:
            return self._listed.get(name)
        return self._folder_numbers[self._within(name).partition("/")[0]] if self.classes else None

    def _split_of(self, name: str, number: float) -> str:
        """Return the split of a picture: of its folder, or ``drawn`` by its share."""
        given = self.split_folders
        if given and (folder := SPLIT_NAMES[name.partition("/")[0].lower()]) != "train":
            return folder
        test = 0 if "test" in given else self.test
        validation = 0 if "validation" in given else self.validation
        return SPLITS[drawn(number, validation, test)]

    def _within(self, name: str) -> str:
        """Return a name without the folder that is its split."""
        return name.partition("/")[2] if self.split_folders else name

    @cached_property
    def _folder_numbers(self) -> Mapping[str, int]:
        if not self.labels or self._file:
            return {}
        names = [self._within(one.name) for one in self.source.listing.pictures]
        loose = [name for name in names if "/" not in name]
        if 0 < len(loose) < len(names):
            raise UserError(
                f"dataset folder: {self.source.where} has images ({loose[0]}) beside sub-folders with images; "
                "allowed: one or the other, or dataset.labels=false"
            )
        tops = {name.partition("/")[0] for name in names if "/" in name}
        numbers = all(re.fullmatch("[0-9]+", top) for top in tops)
        ordered = sorted(tops, key=lambda top: (int(top) if numbers else 0, top))
        return {top: index for index, top in enumerate(ordered)}

    @cached_property
    def _file(self) -> Mapping[str, Any]:
        """What the labels file holds; nothing if there is none, or if it is a file of another kind."""
        name = self.source.listing.labels_file
        if name is None or not self.labels:
            return {}
        try:
            with self.source.session(), self.source.opened(name) as opened:
                content = json.load(opened)
        except Exception as problem:  # zipfile and json raise nearly any exception on a broken file
            reason = " ".join(str(problem).split()) or type(problem).__name__
            raise self._wrong(f"cannot be read ({reason})") from None
        return content if isinstance(content, dict) and "labels" in content else {}

    @cached_property
    def _listed(self) -> Mapping[str, int] | None:
        """The classes of the labels file, by name; None if it holds no classes."""
        rows = self._file.get("labels")
        if rows is None:
            return None
        if not isinstance(rows, list) or not all(isinstance(row, list) and len(row) == 2 for row in rows):
            raise self._wrong("'labels' is no list of pairs")
        for name, number in rows:
            if type(number) is not int or number < 0:
                raise self._wrong(f"{name} has the class {number!r}")
        numbers = {str(name).replace("\\", "/"): number for name, number in rows}
        pictures = self.source.listing.pictures
        missing = [one.name for one in pictures if one.name not in numbers]
        if missing:
            raise self._wrong(f"{len(missing)} of {len(pictures)} pictures are not in it, as {missing[0]}")
        return numbers

    def _wrong(self, problem: str) -> UserError:
        return UserError(
            f"dataset folder: {self.source.where}: {self.source.listing.labels_file}: {problem}; allowed: "
            '{"labels": [[name, class], ...]} with a class of 0, 1, ... for every picture, or {"labels": null}; try '
            "dataset.labels=false, and no class is read"
        )
