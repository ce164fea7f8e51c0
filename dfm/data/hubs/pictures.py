"""Pictures of a hub: decoded as those of ``dataset=folder`` are."""

import hashlib
import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dfm.data.image_folder import DECODER, EXTENSIONS, decode

__all__ = ["DECODER", "EXTENSIONS", "Pictures", "share"]


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """The way from the bytes of a picture, or from its file, to uint8 (C, H, W).

    Args:
        height_width: size of the result.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
    """

    height_width: tuple[int, int]
    channels: int

    @property
    def key(self) -> tuple[object, ...]:
        """What decides the numbers of a result, for the name of a cache file."""
        return DECODER, self

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Let Pillow refuse pictures of absurd size. This holds for the whole process, in this block."""
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield

    def form(self, first: object) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and type of the result."""
        return (self.channels, *self.height_width), np.dtype(np.uint8)

    def array(self, raw: object, shape: tuple[int, ...]) -> np.ndarray:
        """Return one picture as numbers.

        Raises:
            Exception: of nearly any kind on a broken picture, by Pillow's plug-ins.
        """
        if isinstance(raw, bytes):
            return decode(io.BytesIO(raw), self.height_width, self.channels)  # type: ignore[arg-type]
        if isinstance(raw, Path):
            return decode(raw, self.height_width, self.channels)
        raise ValueError("no picture")


def share(name: str) -> float:
    """Return a number in [0, 1) that depends on a name only, spread evenly."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64
