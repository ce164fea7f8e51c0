"""The pictures of a folder or a zip as examples that are decoded once."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from dfm.data.pictures.decoder import VERSION, Decoder
from dfm.data.pictures.pixels import EIGHT, SIXTEEN, is_deep
from dfm.data.pictures.source import Found, PictureFile, PictureSource
from dfm.data.rows.examples import Examples
from dfm.data.rows.store import Store

MANY = 10_000  # pictures; their decoding takes some seconds
# The first bytes of files that may have more than 8 bits a channel, but for PNG: TIFF, PGM and PPM, SGI, JPEG 2000.
_MAY_BE_DEEP = (b"II*\0", b"MM\0*", b"P2", b"P3", b"P5", b"P6", b"\x01\xda", b"\0\0\0\x0cjP", b"\xff\x4f\xff\x51")


@dataclass(frozen=True, kw_only=True, eq=False)
class Stock(Examples):
    """The pictures of a source, in an order of its own.

    Args:
        source: where the pictures lie.
        pictures: in the order of the rows.
        order: what else this order depends on, so that each has a file of its own.
    """

    source: PictureSource
    pictures: Sequence[Found]
    order: tuple[object, ...] = ()

    kind = "pictures in"
    at_a_time = 500  # ``values`` gives no more than their names

    @property
    def where(self) -> str:  # type: ignore[override]
        return self.source.where

    @property
    def notices(self) -> tuple[str, ...]:
        return self.source.listing.notice(self.where)

    def stamp(self) -> str:
        return "".join(repr((found.name, *found.stamp)) for found in self.pictures)

    def count(self) -> int:
        return len(self.pictures)

    def named(self, row: int) -> str:
        return self.pictures[row].name

    def values(self) -> Iterator[object]:
        return (PictureFile(self.source, found) for found in self.pictures)

    def session(self) -> AbstractContextManager[None]:
        return self.source.session()

    def stored(
        self, name: str, decoder: Decoder, levels: int | None, cache: Path, skip: bool, num_workers: int
    ) -> Store:
        """Return the store of these pictures.

        The files are looked at for their depth only if neither ``levels`` nor the store tells it.

        Args:
            decoder: of 256 levels; the store's has the levels that are found.
            levels: 256, 65,536, or None for what the pictures have: 65,536 if one of them has more than 8 bits.
            name, cache, skip, num_workers: of the store.
        """
        store = Store(
            name=name,
            source=self,
            form=decoder,
            key=(VERSION, self.source.identity, decoder, levels, self.order, find_spec("cv2") is not None),
            cache=cache,
            skip=skip,
            num_workers=num_workers,
            few=MANY,
        )
        if levels is None:
            kept = store.kept()
            deep = self._any_deep(num_workers) if kept is None else kept.values.dtype == np.uint16
            levels = SIXTEEN if deep else EIGHT
        return store if levels == decoder.levels else replace(store, form=replace(decoder, levels=levels))

    def _any_deep(self, num_workers: int) -> bool:
        """Return whether a picture has more than 8 bits a channel, from the heads of the files alone."""
        sound = [found for found in self.pictures if not found.problem]
        parts = [sound[start : start + self.at_a_time] for start in range(0, len(sound), self.at_a_time)]
        with self.session(), ThreadPoolExecutor(num_workers) as pool:
            return any(pool.map(lambda part: any(map(self._is_deep, part)), parts))

    def _is_deep(self, found: Found) -> bool:
        try:
            with self.source.opened(found.name) as file:
                head = file.read(26)
                if head.startswith(b"\x89PNG"):
                    return head[24:25] == b"\x10"
                if not head.startswith(_MAY_BE_DEEP):
                    return False
                file.seek(0)
                with Image.open(file) as picture:
                    return is_deep(picture, file)
        except Exception:  # it is found to be broken later, where it is decoded
            return False
