"""From a picture file to the numbers of one example: upright, composited, cut to shape and resized."""

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from dfm.basics.errors import UserError
from dfm.data.pictures.layout import share
from dfm.data.pictures.pixels import EIGHT, Pixels, deep_pixels, is_deep, pixels_of, upright

VERSION = 2  # increase it when ``Decoder.decode`` gives other numbers: older cache files are then not read
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CROPS = ("center", "random", "none")
_GREY = np.array([19595, 38470, 7471]) / 65536  # ITU-R 601-2, as Pillow rounds it
Colour = str | Sequence[int]


def colour_of(background: Colour) -> tuple[int, int, int]:
    """Return a colour as red, green, blue of 0 to 255: a name such as white, #rrggbb, or three numbers.

    Raises:
        UserError: it is no colour.
    """
    try:
        numbers = ImageColor.getrgb(background) if isinstance(background, str) else tuple(background)
        if len(numbers) == 3 and all(type(number) is int and 0 <= number <= 255 for number in numbers):
            return numbers[0], numbers[1], numbers[2]
    except (TypeError, ValueError):
        pass
    raise UserError(
        f"dataset folder: background={background}; allowed: white, black or another name of a colour, '#rrggbb', or "
        "[red, green, blue] of 0 to 255"
    )


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What became of one picture.

    Args:
        values: uint8 or uint16 (C, H, W).
        transparent: whether a pixel of the picture is not opaque.
        deep: whether the picture has more than 8 bits a channel.
    """

    values: np.ndarray
    transparent: bool
    deep: bool


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """The way from a picture file to an array of one size.

    1. The picture is turned as its EXIF entry says. Of several frames the first counts.
    2. With 1 or 3 channels, a colour c of opacity a on the background b becomes a c + (1 - a) b, in the stored numbers
       and at the picture's own size, as viewers show it. With 4 channels the opacity stays, and a pixel of opacity 0
       gets the background's colour.
    3. It is cut to a rectangle with the proportions of the result and resized by Pillow's antialiased Lanczos filter.
       Colours are weighted with their opacity there, so a hidden colour is never seen.

    Args:
        height_width: the size of the result; None: each picture's own size, upright.
        channels: 1 (grey), 3 (RGB) or 4 (RGB and opacity).
        levels: 256 or 65,536.
        background: see ``colour_of``.
        crop: center cuts out the largest rectangle in the middle; random one at a place that depends on the picture's
            name alone; none takes the whole picture and does not keep its proportions.
        max_pixels: a picture with more is not decoded; None: Pillow's limit against decompression bombs.
    """

    height_width: tuple[int, int] | None
    channels: int
    levels: int = EIGHT
    background: Colour = "white"
    crop: str = "center"
    max_pixels: int | None = None

    def decode(self, file: IO[Any], name: str) -> Decoded:
        """Decode one picture, inside ``limited``.

        Args:
            file: its bytes.
            name: decides where ``crop=random`` cuts.

        Raises:
            Exception: of nearly any kind on a broken file, by Pillow's plug-ins.
        """
        with self._opened(file) as picture:
            deep = is_deep(picture, file)
            if self.levels == EIGHT:
                image = upright(picture, file)
                transparent = image.mode in ("LA", "RGBA")
                quick = not transparent or self.channels < 4
                values = self._quick(image, name) if quick else self._exact(pixels_of(image), name)
                return Decoded(values=values, transparent=transparent, deep=deep)
            pixels = deep_pixels(picture, file) if deep else pixels_of(upright(picture, file)).widened()
            return Decoded(values=self._exact(pixels, name), transparent=pixels.opacity is not None, deep=deep)

    @contextmanager
    def limited(self) -> Iterator[None]:
        """Let Pillow refuse pictures with more than ``max_pixels``. This holds for the whole process, in this block."""
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = before if self.max_pixels is None else self.max_pixels
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                yield
        finally:
            Image.MAX_IMAGE_PIXELS = before

    @contextmanager
    def _opened(self, file: IO[Any]) -> Iterator[Image.Image]:
        try:
            picture = Image.open(file)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as problem:
            pixels = re.findall(r"\d+", str(problem))[0]
            raise ValueError(
                f"{int(pixels):,} pixels; allowed: {Image.MAX_IMAGE_PIXELS:,}; try dataset.max_pixels={pixels}"
            ) from None
        except UnidentifiedImageError:
            raise ValueError("not a picture, or one that Pillow does not read") from None
        with picture:
            yield picture

    @cached_property
    def _ground(self) -> tuple[int, int, int]:
        return colour_of(self.background)

    def _quick(self, image: Image.Image, name: str) -> np.ndarray:
        """Return 8 bits of a picture without opacity, or laid on the background; uint8 (C, H, W)."""
        if image.mode in ("LA", "RGBA"):
            picture = Image.new("RGB", image.size, self._ground)
            picture.paste(image.convert("RGB"), mask=image.getchannel("A"))
            image = picture
        image = image.convert(MODES[self.channels])
        height, width = self.height_width or image.size[::-1]
        size, box = (width, height), self._box(image.size, name)
        pixels = np.asarray(image.resize(size, Image.Resampling.LANCZOS, box=box, reducing_gap=3.0))
        return pixels.reshape(height, width, self.channels).transpose(2, 0, 1)

    def _exact(self, pixels: Pixels, name: str) -> np.ndarray:
        """Return pixels of any depth, resized as fractions; (C, H, W) of their own type."""
        top, kind = pixels.top, pixels.colour.dtype
        ground = np.array(self._ground, np.float64) * (top / (EIGHT - 1))
        colour = (
            np.broadcast_to(pixels.colour, (*pixels.colour.shape[:2], 3)) if self._colours(pixels) else pixels.colour
        )
        colour = colour.astype(np.float64)
        weight = np.ones(colour.shape[:2]) if pixels.opacity is None else pixels.opacity / top
        if self.channels < 4:
            if pixels.opacity is not None:
                colour = np.rint(weight[..., None] * colour + (1 - weight[..., None]) * ground)
            if self.channels == 1 and colour.shape[-1] == 3:
                colour = np.rint(colour @ _GREY)[..., None]
            return np.rint(self._resized(colour, name)).clip(0, top).astype(kind)
        laid = np.concatenate([colour * weight[..., None], weight[..., None] * top], -1)
        channels = self._resized(laid, name)
        opacity = np.rint(channels[3:]).clip(0, top)
        with np.errstate(divide="ignore", invalid="ignore"):
            hidden = channels[:3] / channels[3:] * top
        colour = np.where(opacity > 0, hidden, ground[:, None, None])
        return np.rint(np.concatenate([colour, opacity])).clip(0, top).astype(kind)

    def _colours(self, pixels: Pixels) -> bool:
        """Return whether grey pixels must become colours, for the result or for the background."""
        return pixels.colour.shape[-1] == 1 and (self.channels > 1 or pixels.opacity is not None)

    def _resized(self, numbers: np.ndarray, name: str) -> np.ndarray:
        """Resize numbers (H, W, C) to (C, height, width), as float64."""
        height, width = self.height_width or numbers.shape[:2]
        box = self._box((numbers.shape[1], numbers.shape[0]), name)
        bands = [Image.fromarray(np.ascontiguousarray(band, np.float32)) for band in numbers.transpose(2, 0, 1)]
        filter_ = Image.Resampling.LANCZOS
        resized = [band.resize((width, height), filter_, box=box) for band in bands]
        return np.stack([np.asarray(band, np.float64) for band in resized])

    def _box(self, size: tuple[int, int], name: str) -> tuple[float, float, float, float]:
        """Return the rectangle that is resized: left, upper, right, lower."""
        if self.crop == "none" or self.height_width is None:
            return 0, 0, *size
        height, width = self.height_width
        scale = min(size[0] / width, size[1] / height)
        # min(): rounding must not push the box over the edge, which Pillow refuses.
        left, upper = (whole - min(whole, scale * side) for whole, side in zip(size, (width, height), strict=True))
        across, down = (share(f"{name}/{axis}") for axis in "xy") if self.crop == "random" else (0.5, 0.5)
        return left * across, upper * down, size[0] - left * (1 - across), size[1] - upper * (1 - down)
