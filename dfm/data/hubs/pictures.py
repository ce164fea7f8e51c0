"""Pictures of a hub: decoded as those of ``dataset=folder`` are."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dfm.data.pictures.decoder import VERSION, Decoder
from dfm.data.pictures.pixels import EIGHT


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The way from the bytes of a picture, or from its file, to integer levels (C, H, W).

    Args:
        decoder: makes the array.
    """

    decoder: Decoder

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the numbers of a result, for the name of a cache file."""
        return VERSION, self.decoder

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Let Pillow refuse pictures of absurd size. This holds for the whole process, in this block."""
        with self.decoder.limited():
            yield

    def form(self, first: object) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and type of the result."""
        assert self.decoder.height_width is not None, "one array has one size"
        kind = np.uint8 if self.decoder.levels == EIGHT else np.uint16
        return (self.decoder.channels, *self.decoder.height_width), np.dtype(kind)

    def array(self, raw: object, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return one picture as numbers, and what a user should know of it: ``opacity``, ``depth``.

        Raises:
            Exception: of nearly any kind on a broken picture, by Pillow's plug-ins.
        """
        if not isinstance(raw, bytes | Path):
            raise ValueError("no picture")
        with io.BytesIO(raw) if isinstance(raw, bytes) else raw.open("rb") as file:
            found = self.decoder.decode(file, "")
        told = [word for word, holds in (("opacity", found.transparent), ("depth", found.deep)) if holds]
        return found.values, tuple(told)

    def notices(self, name: str, counts: dict[str, int], total: int) -> tuple[str, ...]:
        """Return a line for each kind of change that was made."""
        lines = self.decoder.told(counts.get("opacity", 0), counts.get("depth", 0), total)
        return tuple(f"dataset {name}: {line}" for line in lines)
