"""Masks from picture files: which pixels of an image are known."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dfm.basics.errors import UserError

CONVENTION = "white: known, black: missing; or opaque: known, transparent: missing"


def read_mask(path: Path) -> np.ndarray:
    """Read a picture of any format as a mask, float64 (H, W): 1 where a pixel is known, else 0.

    If a pixel is transparent, transparency alone decides, as an editor's eraser leaves it: what is opaque is known,
    whatever its colour. Otherwise brightness decides: what is brighter than half grey is known.

    Raises:
        UserError: the file is not a picture.
    """
    try:
        with Image.open(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.has_transparency_data:
                opaque = np.asarray(picture.convert("RGBA"))[..., 3] > 127
                if not opaque.all():
                    return opaque.astype(np.float64)
            return _bright(picture).astype(np.float64)
    except Exception as error:  # Pillow's plug-ins raise nearly any exception on a broken file
        raise UserError(
            f"mask={path}: cannot be read as a picture ({error}); allowed: a picture file ({CONVENTION}), or a name; "
            "try mask=left"
        ) from None


def _bright(picture: Image.Image) -> np.ndarray:
    """Return whether each pixel is brighter than half grey, (H, W)."""
    if picture.mode.startswith("I"):  # Pillow would clip 16 bits to 8
        grey = np.asarray(picture)
        return grey > (1 << 15 if grey.max() > 255 else 127)
    return np.asarray(picture.convert("L")) > 127
