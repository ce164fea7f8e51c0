"""The pixels of one open picture as stored: upright, with their opacity, in 8 or 16 bits."""

from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

EIGHT, SIXTEEN = 256, 65536  # levels of a picture file
_HEAD = 4096  # bytes that hold the first marker of a JPEG 2000 file
_LESS = "try dataset.levels=256"
_ORIENTATION = 0x0112  # the EXIF entry
# How EXIF's orientations 2 to 8 become upright, for an array (H, W, C).
_TURNS = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """Pixels as numbers.

    Args:
        colour: uint8 or uint16 (H, W, 1) for grey or (H, W, 3) for RGB.
        opacity: (H, W) of the same type, or None if every pixel is opaque.
    """

    colour: np.ndarray
    opacity: np.ndarray | None

    @property
    def top(self) -> int:
        """The number of full light and full opacity: 255 or 65,535."""
        return int(np.iinfo(self.colour.dtype).max)

    def widened(self) -> "Pixels":
        """Return the same picture in 16 bits: 0 stays 0, and full stays full."""
        if self.top == SIXTEEN - 1:
            return self
        colour, opacity = (
            None if part is None else part.astype(np.uint16) * 257 for part in (self.colour, self.opacity)
        )
        assert colour is not None
        return Pixels(colour=colour, opacity=opacity)


def is_deep(picture: Image.Image, file: IO[Any]) -> bool:
    """Return whether a picture, open from a file, has more than 8 bits a channel."""
    if picture.mode.startswith("I"):
        return True
    if picture.format == "PPM":
        return picture.mode == "RGB" and _ppm_top(picture) > EIGHT - 1
    if picture.format == "JPEG2000":
        file.seek(0)
        return _jpeg_2000_bits(file.read(_HEAD)) > 8
    return any(";16" in str(tile[3]) for tile in getattr(picture, "tile", ()))  # as RGB;16B, which Pillow cuts to 8


def upright(picture: Image.Image, file: IO[Any]) -> Image.Image:
    """Return an open picture with 8 bits a channel, upright: RGBA or LA if it has opacity, else a mode without.

    Of 16 bits the upper 8 are kept: each of 256 levels holds 256 of the 65,536.

    Raises:
        ValueError: its pixels are fractions, or need more than 16 bits.
    """
    if picture.mode.startswith("I"):
        return _upper_bits(deep_pixels(picture, file))
    if picture.mode.startswith("F"):
        raise ValueError(f"pixel format {picture.mode}; allowed: 8 or 16 bits a channel")
    image = ImageOps.exif_transpose(picture)
    if not image.has_transparency_data:
        return image
    image = image.convert("LA" if image.mode in ("LA", "La") else "RGBA")
    if image.getchannel("A").getextrema()[0] == EIGHT - 1:
        return image.convert(image.mode[:-1])
    return image


def pixels_of(image: Image.Image) -> Pixels:
    """Return the 8 bits of what ``upright`` gives."""
    grey = image.mode in ("1", "L", "LA")
    transparent = image.mode in ("LA", "RGBA")
    array = np.asarray(image if transparent else image.convert("L" if grey else "RGB"))
    if not transparent:
        return Pixels(colour=array.reshape(*array.shape[:2], -1), opacity=None)
    return Pixels(colour=array[..., :-1], opacity=array[..., -1])


def deep_pixels(picture: Image.Image, file: IO[Any]) -> Pixels:
    """Return the 16 bits of an open picture, upright.

    Args:
        picture: for which ``is_deep`` holds.
        file: the file that it was opened from.

    Raises:
        ValueError: its numbers need more than 16 bits, or no library here reads them.
    """
    array = _grey(picture) if picture.mode.startswith("I") else _colours(picture, file)
    turn = _TURNS.get(picture.getexif().get(_ORIENTATION, 1))
    array = array if turn is None else turn(array)
    channels = array.shape[-1]
    colour, opacity = (array[..., :-1], array[..., -1]) if channels in (2, 4) else (array, None)
    key = picture.info.get("transparency")
    if isinstance(key, int | tuple) and opacity is None:  # one colour of the file stands for 'nothing here'
        opacity = np.where((colour == np.asarray(key)).all(-1), 0, SIXTEEN - 1).astype(np.uint16)
    if opacity is not None and opacity.min(initial=SIXTEEN - 1) == SIXTEEN - 1:
        opacity = None
    return Pixels(colour=np.ascontiguousarray(colour), opacity=opacity)


def _upper_bits(pixels: Pixels) -> Image.Image:
    image = Image.fromarray((pixels.colour[..., 0] >> 8).astype(np.uint8))
    if pixels.opacity is not None:
        image.putalpha(Image.fromarray((pixels.opacity >> 8).astype(np.uint8)))
    return image


def _grey(picture: Image.Image) -> np.ndarray:
    """Return a picture of one number a pixel, uint16 (H, W, 1)."""
    numbers = np.asarray(picture)
    if numbers.min(initial=0) < 0 or numbers.max(initial=0) >= SIXTEEN:
        raise ValueError(f"pixels of {numbers.min()} to {numbers.max()}; allowed: 0 to {SIXTEEN - 1}")
    return numbers.astype(np.uint16)[..., None]


def _colours(picture: Image.Image, file: IO[Any]) -> np.ndarray:
    """Return a picture of several channels, uint16 (H, W, C), by OpenCV: Pillow would cut it to 8 bits."""
    kind = str(picture.tile[0][3])  # type: ignore[attr-defined]
    if picture.mode == "CMYK" or "RGBa" in kind:
        raise ValueError(f"16 bits a channel as {kind}; allowed: grey or RGB, with opacity or without; {_LESS}")
    try:
        import cv2  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise ValueError(
            f"16 bits a channel in colours, which need OpenCV: try pip install 'dfm[pictures]'; or {_LESS}"
        ) from None
    cv2.utils.logging.setLogLevel(0)  # what is wrong with a file is said here
    file.seek(0)
    array = cv2.imdecode(np.frombuffer(file.read(), np.uint8), cv2.IMREAD_UNCHANGED)
    if array is None or array.dtype != np.uint16:
        raise ValueError(f"OpenCV cannot read this {picture.format} of 16 bits a channel; {_LESS}")
    if picture.format == "PPM":
        array = np.rint(array * ((SIXTEEN - 1) / _ppm_top(picture))).astype(np.uint16)
    array = array[..., None] if array.ndim == 2 else array[..., [2, 1, 0, 3][: array.shape[-1]]]  # from BGR
    return array[..., : len(picture.getbands())]  # a fourth channel that is no opacity is left out


def _ppm_top(picture: Image.Image) -> int:
    """Return the greatest number that a PPM may hold."""
    arguments = picture.tile[0][3]  # type: ignore[attr-defined]
    return int(arguments[-1]) if isinstance(arguments, tuple) and isinstance(arguments[-1], int) else EIGHT - 1


def _jpeg_2000_bits(head: bytes) -> int:
    """Return the bits of the first channel of a JPEG 2000 file, from its SIZ marker (ISO/IEC 15444-1, A.5.1)."""
    start = head.find(b"\xff\x4f\xff\x51") + 42
    return (head[start] & 0x7F) + 1 if 42 <= start < len(head) else 8
