"""From a picture file to the numbers of one example: upright, composited, cut to shape and resized."""

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageColor, UnidentifiedImageError

from dfm.basics.errors import UserError
from dfm.data.pictures.pixels import EIGHT, Pixels, deep_pixels, is_deep, pixels_of, upright
from dfm.data.pictures.source import PictureFile
from dfm.data.rows.examples import Form
from dfm.data.rows.partition import share

VERSION = 2  # increase it when ``Decoder.decode`` gives other numbers: older cache files are then not read
MODES = {1: "L", 3: "RGB", 4: "RGBA"}
CROPS = ("center", "random", "none")
_GREY = np.array([19595, 38470, 7471], np.float32) / np.float32(65536)  # ITU-R 601-2, as Pillow rounds it
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
class Decoder(Form):
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

    version = VERSION
    smaller = "a smaller dataset.size"

    def form(self, first: object) -> tuple[tuple[int, ...], np.dtype]:
        assert self.height_width is not None, "one array has one size"
        return (self.channels, *self.height_width), np.dtype(np.uint8 if self.levels == EIGHT else np.uint16)

    def array(self, raw: object, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, list[str]]:
        """Return a picture as numbers (C, H, W), and of ``transparent`` and ``deep`` what holds.

        Args:
            raw: its bytes, or its file.
        """
        opened: IO[Any]
        match raw:
            case bytes():
                opened, name = io.BytesIO(raw), ""
            case Path():
                opened, name = raw.open("rb"), ""
            case PictureFile():
                opened, name = raw.opened(), raw.name
            case _:
                raise ValueError("no picture")
        with opened as file:
            found = self.decode(file, name)
        return found.values, [word for word in ("transparent", "deep") if getattr(found, word)]

    def told(self, counts: Mapping[str, int], total: int) -> list[str]:
        lines, n = [], f"of {total:,} pictures"
        transparent, deep = counts.get("transparent", 0), counts.get("deep", 0)
        if transparent and self.channels < 4:
            lines.append(f"{transparent:,} {n} have opacity; composited on {self.background} (dataset.background=...)")
        if deep:
            cut = "the lower bits are cut (dataset.levels=65536 keeps them)"
            told = cut if self.levels == EIGHT else "all are read as 65,536 levels (dataset.levels=256 for 8 bits)"
            lines.append(f"{deep:,} {n} have more than 8 bits a channel; {told}")
        return lines

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
                warnings.simplefilter("ignore", UserWarning)  # of Pillow about entries that are no pixels
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
        top = pixels.top
        resized = np.stack([self._resized(band, name) for band in self._bands(pixels)])
        if self.channels == 4:
            opacity = np.rint(resized[3]).clip(0, top)
            with np.errstate(divide="ignore", invalid="ignore"):
                colour = resized[:3] / resized[3] * top
            resized[:3] = np.where(opacity > 0, colour, self._scaled_ground(top)[:, None, None])
        return np.rint(resized).clip(0, top).astype(pixels.colour.dtype)

    def _bands(self, pixels: Pixels) -> Iterator[np.ndarray]:
        """Yield the channels that are resized, float32 (H, W), one at a time: a picture may be huge.

        For a result with opacity a these are c a of each colour c, and a itself.
        """
        bands = [pixels.colour[..., channel] for channel in range(pixels.colour.shape[-1])]
        if len(bands) == 1 and (self.channels > 1 or pixels.opacity is not None):
            bands *= 3
        whole = (band.astype(np.float32) for band in bands)
        if self.channels < 4:
            yield from self._laid(whole, len(bands), pixels)
            return
        weight = np.float32(1) if pixels.opacity is None else pixels.opacity.astype(np.float32) / np.float32(pixels.top)
        yield from (band * weight for band in whole)
        yield np.broadcast_to(weight * np.float32(pixels.top), bands[0].shape)

    def _laid(self, bands: Iterator[np.ndarray], count: int, pixels: Pixels) -> Iterator[np.ndarray]:
        """Yield the channels of a result without opacity: laid on the background, and made grey if it has one."""
        if pixels.opacity is not None:
            weight = pixels.opacity.astype(np.float32) / np.float32(pixels.top)
            ground = self._scaled_ground(pixels.top).astype(np.float32)
            bands = (np.rint(weight * band + (1 - weight) * g) for band, g in zip(bands, ground, strict=True))
        if count > self.channels:
            yield np.rint(sum(part * band for part, band in zip(_GREY, bands, strict=True)))
        else:
            yield from bands

    def _scaled_ground(self, top: int) -> np.ndarray:
        return np.array(self._ground, np.float64) * (top / (EIGHT - 1))

    def _resized(self, band: np.ndarray, name: str) -> np.ndarray:
        """Resize numbers (H, W) to (height, width), as float64."""
        height, width = self.height_width or band.shape
        box = self._box((band.shape[1], band.shape[0]), name)
        image = Image.fromarray(np.ascontiguousarray(band, np.float32))
        return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box), np.float64)

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
