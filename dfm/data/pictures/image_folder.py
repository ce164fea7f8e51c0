"""A folder or a zip of your own pictures, with sub-folders as classes, decoded once and kept as numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located
from dfm.data.dataset import SPLITS, Dataset, Split
from dfm.data.memory_map import as_tensor
from dfm.data.pictures.decoder import CROPS, MODES, Colour, Decoder, colour_of
from dfm.data.pictures.folder_source import FolderSource
from dfm.data.pictures.layout import Layout
from dfm.data.pictures.pixels import EIGHT, SIXTEEN
from dfm.data.pictures.size import height_width, picture_shape
from dfm.data.pictures.source import PictureSource, endings
from dfm.data.pictures.stock import Stock
from dfm.data.pictures.zip_source import ZipSource
from dfm.data.rows.partition import SPLIT_NAMES, check_fractions
from dfm.data.rows.store import Store


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageFolder(Dataset):
    """Pictures below ``path``, resized and cut to one size, as integer levels (N, C, H, W).

    ``Layout`` says how folders become classes and splits, ``Decoder`` how a file becomes an array, and ``Store`` where
    the array is kept. Every file that the installed Pillow decodes is taken; hidden files and others are counted in
    ``notices``.

    Args:
        path: the folder or the zip; ``~`` is the home folder.
        size: pixels of both sides, or [height, width].
        channels: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        levels: 256 (8 bits), 65536 (16 bits), or None: 16 bits if one of the pictures has them, else 8.
        background: where opacity is not kept, what shines through: white, another name of a colour, #rrggbb, or
            [red, green, blue] of 0 to 255.
        crop: center, random (a place that depends on the picture's name) or none (proportions are not kept).
        flip: whether training may mirror images left to right.
        labels: whether sub-folders, or the classes in ``dataset.json``, are classes.
        splits: whether the folders train, val (valid, validation) and test are splits.
        validation, test: fractions of all images, each at least 0, together below 1. They are drawn by a hash of each
            picture's own path, so they hold on average.
        broken: stop at pictures that cannot be read, or skip them.
        max_pixels: a picture with more counts as broken; None: Pillow's limit.
        num_workers: threads that decode.
        cache: folder for the decoded images, in one file that later runs map into memory. It is used if there are more
            than ``MANY`` images, or if they would fill more than half of the free memory. Each combination of folder,
            image format and fractions has its own file. When the images change, a new file replaces the old one.

    Raises:
        UserError: an argument has another value, there are no images, none is left for training, or their layout is
            not clear. On first use: images are broken, or neither the memory nor ``cache`` has room for them.
    """

    path: PathText | None = None
    size: int | Sequence[int] = 32
    channels: int = 3
    levels: int | None = None
    background: Colour = "white"
    crop: str = "center"
    flip: bool = False
    labels: bool = True
    splits: bool = True
    validation: float = 0.05
    test: float = 0.05
    broken: str = "stop"
    max_pixels: int | None = None
    num_workers: int = 4
    cache: PathText = "~/.cache/dfm"

    name = "folder"
    sources = ("path",)
    caches = ("cache",)
    handling = ("num_workers",)

    def __post_init__(self) -> None:
        if self.path is None:
            raise UserError("dataset folder: no path; give dataset.path=DIR, a folder with images, or a zip of them")
        self._among("channels", tuple(MODES))
        self._among("levels", (EIGHT, SIXTEEN, None))
        self._among("crop", CROPS)
        self._among("broken", ("stop", "skip"))
        colour_of(self.background)
        check_fractions(self.name, self.validation, self.test)
        for key in ("num_workers", "max_pixels"):
            if (number := getattr(self, key)) is not None and number < 1:
                raise UserError(f"dataset folder: {key}={number}; allowed: at least 1")
        pictures, _ = self._layout.pictures, self._layout.num_classes
        if not any(placed.split == "train" for placed in pictures):
            raise UserError(
                f"dataset folder: no training example among {len(pictures)} images; by a hash of the path they are "
                f"all in the shares validation={self.validation:g} and test={self.test:g}; "
                "try dataset.validation=0 dataset.test=0"
            )
        _, kind = self._store.form.form(None)
        deep = kind == np.uint16
        object.__setattr__(self, "levels", SIXTEEN if deep else EIGHT)  # None becomes what the pictures have
        if deep:  # samples are stored as the pictures are; 8 bits have a form of their own
            object.__setattr__(self, "dtype", "uint16")
            object.__setattr__(self, "channels_last", True)

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        return self._layout.num_classes

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the folders that are classes, in the order of their labels."""
        return self._layout.classes

    @property
    def notices(self) -> tuple[str, ...]:
        """What was passed over, composited, cut or left out, a line each. It decodes the pictures."""
        return self._store.notices()

    @classmethod
    def reads(cls, path: Path) -> bool:
        if path.is_dir():
            return any(file.suffix.lower() in endings() for file in path.rglob("*"))
        return path.is_file() and path.suffix.lower() == ".zip"

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        return picture_shape(arguments.get("channels", cls.channels), arguments.get("size", cls.size))

    @cached_property
    def _source(self) -> PictureSource:
        path = located(self.path or "")
        if path.is_dir():
            return FolderSource(path)
        if path.is_file():
            return ZipSource(path, kept=frozenset(SPLIT_NAMES))
        raise UserError(
            f"dataset folder: {path} is not a folder, nor a zip; give dataset.path=DIR, a folder with images"
        )

    @cached_property
    def _layout(self) -> Layout:
        return Layout(
            source=self._source,
            labels=self.labels,
            splits=self.splits,
            validation=self.validation,
            test=self.test,
        )

    @cached_property
    def _store(self) -> Store:
        decoder = Decoder(
            height_width=height_width(self.name, self.size),
            channels=self.channels,
            background=self.background,
            crop=self.crop,
            max_pixels=self.max_pixels,
        )
        stock = Stock(
            source=self._source,
            pictures=[placed.found for placed in self._layout.pictures],
            order=(self.splits, self.validation, self.test),
        )
        return stock.stored(
            self.name, decoder, self.levels, located(self.cache), self.broken == "skip", self.num_workers
        )

    @property
    def _mapped(self) -> Sequence[np.ndarray]:
        return (self._store.values,)

    def _load(self) -> Mapping[str, Split]:
        values = as_tensor(self._store.values)
        pictures, broken = self._layout.pictures, {row for row, _, _ in self._store.facts.broken}
        whole = np.array([row not in broken for row in range(len(pictures))])
        splits = {}
        for name in SPLITS:
            rows = np.flatnonzero(whole & np.array([placed.split == name for placed in pictures]))
            labels = [self._layout.label_of(pictures[row].found.name) for row in rows] if self.num_classes else None
            splits[name] = Split(
                values=values, labels=None if labels is None else torch.tensor(labels, dtype=torch.int64), rows=rows
            )
        return splits
