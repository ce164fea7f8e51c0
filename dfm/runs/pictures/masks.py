"""Masks from picture files: which pixels of an image are known."""

from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from dfm.basics.errors import UserError
from dfm.data.pictures.pixels import Pixels, deep_pixels, pixels_of, upright

CONVENTION = "white: known, black: missing; or opaque: known, transparent: missing"


def read_mask(path: Path) -> np.ndarray:
    """Read a picture of any format as a mask, float64 (H, W): 1 where a pixel is known, else 0.

    If a pixel is transparent, transparency alone decides, as an editor's eraser leaves it: what is opaque is known,
    whatever its colour. Otherwise brightness decides: what is brighter than half grey is known.

    Raises:
        UserError: the file is not a picture.
    """
    try:
        with path.open("rb") as file, Image.open(file) as picture:
            pixels = _pixels(picture, file)
    except Exception as error:  # Pillow's plug-ins raise nearly any exception on a broken file
        raise UserError(
            f"mask={path}: cannot be read as a picture ({error}); allowed: a picture file ({CONVENTION}), or a name; "
            "try mask=left"
        ) from None
    if pixels.opacity is not None and (hidden := pixels.opacity <= pixels.top // 2).any():
        return (~hidden).astype(np.float64)
    colour = pixels.colour
    eight_bits_in_sixteen = colour.dtype == np.uint16 and colour.max() <= 255
    half = 127 if eight_bits_in_sixteen else pixels.top // 2
    grey = colour[..., 0] if colour.shape[-1] == 1 else np.asarray(Image.fromarray(colour).convert("L"))
    return (grey > half).astype(np.float64)


def _pixels(picture: Image.Image, file: BinaryIO) -> Pixels:
    """Return an open picture in the bits that Pillow gives; 8 are enough for a mask."""
    if picture.mode.startswith("I"):
        return deep_pixels(picture, file)
    return pixels_of(upright(picture.convert("L") if picture.mode == "F" else picture, file))
