"""What the data sets of other libraries share: the form of an example, the splits, and the file of decoded examples."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch

from dfm.basics.errors import UserError
from dfm.basics.locations import PathText, located
from dfm.data.arrays.formats.number_types import for_torch
from dfm.data.arrays.layout import FIRST, LAST
from dfm.data.dataset import Dataset
from dfm.data.hubs.arrays import Arrays
from dfm.data.hubs.source import Listing, Source
from dfm.data.memory_map import as_tensor
from dfm.data.numbers.integer_range import MOST, check_signed, levels_of
from dfm.data.numbers.units import WAYS
from dfm.data.pictures.decoder import Colour, Decoder, colour_of
from dfm.data.pictures.pixels import EIGHT, SIXTEEN
from dfm.data.pictures.size import height_width, picture_shape, whole_shape
from dfm.data.rows.examples import Form
from dfm.data.rows.partition import SPLITS, check_fractions, drawn
from dfm.data.rows.store import Store
from dfm.data.split import Split, real_type

INDEX = 2  # increase it when splits or classes are numbered otherwise: older files are then not read


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
        flip: whether training may mirror the last axis; a table has none.
        labels: whether there are classes, or where they are.
        validation, test: fractions that are drawn from train for a split that the source lacks, by a hash of each
            example's place, so they hold on average.
        broken: stop at examples that cannot be read, or skip them.
        num_workers: threads that decode.
        cache: folder of the file.

    Raises:
        UserError: an argument has another value. On first use: the source cannot be read, examples are broken, or
            neither ``cache`` nor the memory has room.
    """

    size: int | Sequence[int] = 32
    channels: int = 3
    background: Colour = "white"
    crop: str = "center"
    max_pixels: int | None = None
    shape: tuple[int, ...] | None = None
    layout: str = FIRST
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
        self._among("layout", (FIRST, LAST))
        self._among("broken", ("stop", "skip"))
        self._among("integers", ("levels", "real"))
        self._among("normalize", WAYS)
        check_fractions(self.name, self.validation, self.test)
        if self.num_workers < 1:
            raise UserError(f"dataset {self.name}: num_workers={self.num_workers}; allowed: at least 1")
        if self.levels is not None and not 2 <= self.levels <= MOST:
            raise UserError(f"dataset {self.name}: levels={self.levels}; allowed: 2 to {MOST:,}, or null")
        if self._is_picture:
            height_width(self.name, self.size)
            self._among("levels", (None, EIGHT, SIXTEEN))
            self._among("crop", ("center", "none"))
            colour_of(self.background)
            object.__setattr__(self, "levels", self.levels or EIGHT)
        elif shape := self.shape_of(vars(self)):
            self._check_flip(shape)

    @abstractmethod
    def _source(self) -> Source:
        """Return where the examples come from. Nothing is read yet."""

    @classmethod
    def shape_of(cls, arguments: Mapping[str, Any]) -> tuple[int, ...] | None:
        if given := arguments.get("shape"):
            return whole_shape(given)
        return picture_shape(arguments.get("channels", cls.channels), arguments.get("size", cls.size))

    @property
    def num_classes(self) -> int:  # type: ignore[override]
        listing = self._listing
        if listing.labels is None:
            return 0
        return len(listing.class_names) or int(listing.labels.max()) + 1

    @property
    def class_names(self) -> tuple[str, ...]:  # type: ignore[override]
        """The names of the classes, in the order of their labels."""
        return self._listing.class_names

    @property
    def dtype(self) -> str:  # type: ignore[override]
        if self._is_picture:
            return ""
        found = self._store.values.dtype
        return (real_type(found) if self._is_real else found).name

    @property
    def channels_last(self) -> bool:  # type: ignore[override]
        return not self._is_picture and self.layout == LAST

    @property
    def notices(self) -> tuple[str, ...]:
        """What was composited, cut or left out. It decodes the examples."""
        return self._store.notices()

    @property
    def _is_picture(self) -> bool:
        return self.shape is None

    @property
    def _decoder(self) -> Decoder:
        return Decoder(
            height_width=height_width(self.name, self.size),
            channels=self.channels,
            levels=self.levels or EIGHT,
            background=self.background,
            crop=self.crop,
            max_pixels=self.max_pixels,
        )

    @cached_property
    def _store(self) -> Store:
        source = self._source()
        form: Form = self._decoder if self._is_picture else Arrays(channels_last=self.layout == LAST)
        return Store(
            name=self.name,
            source=source,
            form=form,
            key=(INDEX, source.identity, (form.version, form)),
            cache=located(self.cache),
            skip=self.broken == "skip",
            num_workers=self.num_workers,
        )

    @cached_property
    def _listing(self) -> Listing:
        return Listing.of(self._store.columns)

    def _load(self) -> Mapping[str, Split]:
        store = self._store
        array, lowest = store.values, self._lowest()
        if self.shape is not None and array.shape[1:] != tuple(self.shape):
            found = ",".join(map(str, array.shape[1:]))
            raise UserError(
                f"dataset {self.name}: examples of {store.source.where} have the shape {array.shape[1:]}, with the "
                f"channel first; shape={list(self.shape)} was given; try dataset.shape=[{found}]"
            )
        labels, values = self._listing.labels, as_tensor(for_torch(array))
        return {
            name: Split(
                values=values,
                labels=None if labels is None else torch.from_numpy(labels[rows]),
                rows=rows,
                lowest=lowest,
                real=self._is_real,
            )
            for name, rows in self._rows().items()
        }

    def _lowest(self) -> int:
        """Return the integer that is level 0, and set ``levels`` to what the numbers have."""
        store = self._store
        facts, kind = store.facts, store.values.dtype
        check_signed(facts.highest, kind, self.name)
        if self._is_picture or self._is_real:
            return 0
        levels, lowest = levels_of(facts.lowest, facts.highest, kind, self.levels, None, store.source.where)
        object.__setattr__(self, "levels", levels)  # what was found takes the place of None
        return lowest

    @property
    def _is_real(self) -> bool:
        """Whether the numbers are real ones, without levels."""
        return not self._is_picture and (self.integers == "real" or self._store.values.dtype.kind == "f")

    @property
    def _mapped(self) -> Sequence[np.ndarray]:
        return (self._store.values,)

    def _rows(self) -> dict[str, np.ndarray]:
        """Return the rows of each split, in the order of their shares.

        So the first n of a split come from all classes, also where the source is sorted by class.
        """
        listing = self._listing
        splits, shares = listing.splits.copy(), listing.shares
        validation, test = (0.0 if (splits == k).any() else getattr(self, name) for k, name in enumerate(SPLITS) if k)
        own = splits == 0
        splits[own] = drawn(shares[own], validation, test)
        usable = np.ones(len(splits), bool)
        usable[[row for row, _, _ in self._store.facts.broken]] = False
        order = np.argsort(shares, kind="stable")
        return {name: order[(splits[order] == k) & usable[order]] for k, name in enumerate(SPLITS)}
