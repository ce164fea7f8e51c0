"""What the data sets of other libraries share: the form of an example, the splits, and the file of decoded examples."""

import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located
from dfm.data.dataset import SPLITS, Dataset, Split
from dfm.data.hubs.arrays import MOST, Arrays, levels_of
from dfm.data.hubs.pictures import Pictures
from dfm.data.hubs.source import Source
from dfm.data.hubs.store import Store
from dfm.data.numbers.units import WAYS
from dfm.data.pictures.decoder import Colour, Decoder, colour_of
from dfm.data.pictures.pixels import EIGHT, SIXTEEN

LAYOUTS = ("channels_first", "channels_last")


@dataclass(frozen=True, kw_only=True, eq=False)
class HubDataset(Dataset):
    """Examples that another library stores, decoded once into one array file that all runs and processes map.

    So the order never changes, a resumed run draws what it would have drawn, two processes see what one sees, and an
    array larger than the memory can be trained on.

    Args:
        size: of pictures: pixels of both sides, or [height, width].
        channels: of pictures: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        background, crop, max_pixels: of pictures, as those of ``dataset=folder``; a crop is center or none.
        shape: of examples that are arrays or numbers, with the channel first; None: examples are pictures.
        layout: channels_first or channels_last, of arrays.
        integers: whole numbers of arrays are ``levels`` with bits/dim, or ``real`` numbers with nats.
        levels: their number; None: found (``levels_of``). Of pictures: 256, or 65536 for 16 bits; None: 256.
        normalize: how real numbers are scaled for the model.
        flip: whether training may mirror images left to right.
        labels: whether there are classes, or where they are.
        validation, test: fractions that are drawn from train for a split that the source lacks, by a hash of each
            example's place, so they hold on average.
        broken: stop at examples that cannot be read, or skip them.
        num_workers: threads that decode.
        cache: folder of the file.

    Raises:
        UserError: an argument has another value. On first use: the source cannot be read, examples are broken, or
            ``cache`` has no room.
    """

    size: int | Sequence[int] = 32
    channels: int = 3
    background: Colour = "white"
    crop: str = "center"
    max_pixels: int | None = None
    shape: tuple[int, ...] | None = None
    layout: str = "channels_first"
    integers: str = "levels"
    levels: int | None = None
    normalize: str = "channel"
    flip: bool = False
    labels: bool | str = True
    validation: float = 0.05
    test: float = 0.05
    broken: str = "stop"
    num_workers: int = 4
    cache: PathText = "~/.cache/dfm"

    caches = ("cache",)
    handling: ClassVar[tuple[str, ...]] = ("num_workers",)

    def __post_init__(self) -> None:
        self._among("channels", (1, 3, 4))
        self._among("layout", LAYOUTS)
        self._among("broken", ("stop", "skip"))
        self._among("integers", ("levels", "real"))
        self._among("normalize", WAYS)
        if min(self.validation, self.test) < 0 or self.validation + self.test >= 1:
            raise UserError(
                f"dataset {self.name}: validation={self.validation}, test={self.test}; "
                "allowed: fractions of at least 0, together below 1"
            )
        if self.num_workers < 1:
            raise UserError(f"dataset {self.name}: num_workers={self.num_workers}; allowed: at least 1")
        if self.levels is not None and not 2 <= self.levels <= MOST:
            raise UserError(f"dataset {self.name}: levels={self.levels}; allowed: 2 to {MOST:,}, or null")
        if self._is_picture:
            _ = self._height_width
            self._among("levels", (None, EIGHT, SIXTEEN))
            self._among("crop", ("center", "none"))
            colour_of(self.background)
            object.__setattr__(self, "levels", self.levels or EIGHT)

    def _among(self, key: str, allowed: tuple[Any, ...]) -> None:
        if (value := getattr(self, key)) not in allowed:
            names = ", ".join("null" if one is None else str(one) for one in allowed)
            raise UserError(f"dataset {self.name}: {key}={value}; allowed: {names}")

    @abstractmethod
    def _source(self) -> Source:
        """Return where the examples come from. Nothing is read yet."""

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        given = arguments.get("shape")
        size, channels = arguments.get("size", cls.size), arguments.get("channels", cls.channels)
        sides = [size, size] if isinstance(size, int) else size
        numbers = given or ([channels, *sides] if isinstance(sides, Sequence) else [])
        whole = bool(numbers) and all(isinstance(number, int) and number > 0 for number in numbers)
        return tuple(numbers) if whole else None  # a value of another kind is refused when the data set is made

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        listing = self._store.listing
        if listing.labels is None:
            return 0
        return len(listing.class_names) or int(listing.labels.max()) + 1

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the classes, in the order of their labels."""
        return self._store.listing.class_names

    @property
    def dtype(self) -> str:  # type: ignore[override]
        return "" if self._is_picture else self._store.values.dtype.name

    @property
    def channels_last(self) -> bool:  # type: ignore[override]
        return not self._is_picture and self.layout == LAYOUTS[1]

    @property
    def notices(self) -> tuple[str, ...]:
        """What was composited, cut or left out. It decodes the examples."""
        return (*self._store.source.notices, *self._store.notices())

    @property
    def _is_picture(self) -> bool:
        return self.shape is None

    @cached_property
    def _height_width(self) -> tuple[int, int]:
        sides = list(self.size) if isinstance(self.size, Sequence) else [self.size, self.size]
        if len(sides) != 2 or min(sides) < 1:
            raise UserError(f"dataset {self.name}: size={self.size}; allowed: a count of pixels, or [height, width]")
        return sides[0], sides[1]

    @property
    def _decoder(self) -> Decoder:
        return Decoder(
            height_width=self._height_width,
            channels=self.channels,
            levels=self.levels or EIGHT,
            background=self.background,
            crop=self.crop,
            max_pixels=self.max_pixels,
        )

    @cached_property
    def _store(self) -> Store:
        pictures = self._is_picture
        form = (
            Pictures(decoder=self._decoder)
            if pictures
            else Arrays(channels_last=self.layout == LAYOUTS[1], real=self.integers == "real")
        )
        return Store(
            name=self.name,
            source=self._source(),
            form=form,
            cache=located(self.cache),
            skip=self.broken == "skip",
            num_workers=self.num_workers,
        )

    def _load(self) -> Mapping[str, Split]:
        store = self._store
        array, lowest = store.values, self._lowest()
        if self.shape is not None and array.shape[1:] != tuple(self.shape):
            found = ",".join(map(str, array.shape[1:]))
            raise UserError(
                f"dataset {self.name}: examples of {store.source.where} have the shape {array.shape[1:]}, with the "
                f"channel first; shape={list(self.shape)} was given; try dataset.shape=[{found}]"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch warns that the file is read-only: nothing writes to it
            values = torch.from_numpy(array)
        labels = store.listing.labels
        return {
            name: Split(
                values=values,
                labels=None if labels is None else torch.from_numpy(labels[rows]),
                rows=rows,
                lowest=lowest,
            )
            for name, rows in self._rows().items()
        }

    def _lowest(self) -> int:
        """Return the integer that is level 0, and set ``levels`` to what the numbers have."""
        store = self._store
        if self._is_picture or store.values.dtype.kind == "f":
            return 0
        facts = store.facts
        try:
            lowest, levels = levels_of(store.values.dtype, facts.lowest, facts.highest)
        except ValueError as problem:
            raise UserError(f"dataset {self.name}: {store.source.where}: {problem}") from None
        if self.levels is None:
            object.__setattr__(self, "levels", levels)  # not known before the numbers are read
        elif not lowest <= facts.highest < lowest + self.levels:
            raise UserError(
                f"dataset {self.name}: levels={self.levels}: {store.source.where} holds the number {facts.highest}; "
                f"allowed: {lowest} to {lowest + self.levels - 1}; try dataset.levels={levels}"
            )
        return lowest

    def _rows(self) -> dict[str, np.ndarray]:
        """Return the rows of each split, in the order of their shares.

        So the first n of a split come from all classes, also where the source is sorted by class.
        """
        listing = self._store.listing
        train, validation, test = range(len(SPLITS))
        splits, shares = listing.splits.copy(), listing.shares
        below = self.test if not (splits == test).any() else 0.0
        above = self.validation if not (splits == validation).any() else 0.0
        own = splits == train
        splits[own & (shares < below + above)] = validation
        splits[own & (shares < below)] = test
        usable = np.ones(len(listing), bool)
        usable[[row for row, _, _ in self._store.facts.broken]] = False
        order = np.argsort(shares, kind="stable")
        return {name: order[(splits[order] == k) & usable[order]] for k, name in enumerate(SPLITS)}
