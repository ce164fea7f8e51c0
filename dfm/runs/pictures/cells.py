"""Cells: each picture, map or volume as one image, uint8 (N, H, W, 1 or 3), ready for a grid."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dfm.data.spec import DatasetSpec
from dfm.runs.pictures.font import font_file
from dfm.runs.pictures.images import GROUND, SMALLEST_CELL
from dfm.runs.pictures.windows import colours, shades

MAPS, SLICES = 16, 8  # channels and slices that a cell shows, at most
SQUARE, LIGHT, DARK = 4, 255, 204  # the checkerboard under opacity: pixels of a square, and its two greys
FRAME = 3  # pixels of white around the panes of an example
TEXT, LETTERS, INK = 15, 9, (30, 30, 30)  # pixels of a line of text and of its letters, and their colour


def cells(samples: Tensor, spec: DatasetSpec) -> np.ndarray:
    """Return stored samples (N, C, H, W) or (N, C, D, H, W) as images, uint8 (N, height, width, 1 or 3).

    One, three and four channels are grey, colour, and colour over a checkerboard. Other channels stand side by side. A
    volume is a row of slices along its first axis, at the middles of equal parts, one row a channel for maps.
    """
    values = shades(samples, spec)
    if values.ndim == 4:
        values = values[:, :, None]
    values = values[:, :, slices(values.shape[2])]
    kind = colours(spec)
    if kind:
        panes = np.moveaxis(values, 1, -1)[:, None]  # (N, 1, slices, H, W, C)
        return joined(over_checkerboard(panes) if kind == 4 else panes)
    maps = values[:, :MAPS, ..., None]  # (N, channels, slices, H, W, 1)
    return joined(maps if len(spec.shape) == 4 else maps.swapaxes(1, 2))


def slices(depth: int) -> np.ndarray:
    """Return the numbers of the slices of a volume that are shown: the middles of at most ``SLICES`` equal parts."""
    count = min(SLICES, depth)
    return ((np.arange(count) + 0.5) * depth / count).astype(int)


def joined(panes: np.ndarray) -> np.ndarray:
    """Join panes uint8 (N, rows, columns, H, W, C) to images (N, height, width, C).

    A line of grey is between panes, and a white frame around those of an example. Small panes are enlarged without blur
    first. A pane alone stays as it is.
    """
    n, rows, columns, height, width, channels = panes.shape
    if rows == columns == 1:
        return panes[:, 0, 0]
    panes = enlarged(panes.reshape(-1, height, width, channels))
    height, width = panes.shape[1:3]
    sheet = np.full((n, rows * (height + 1) - 1, columns * (width + 1) - 1, channels), GROUND, np.uint8)
    for place, pane in enumerate(panes.reshape(n, rows * columns, height, width, channels).swapaxes(0, 1)):
        top, left = place // columns * (height + 1), place % columns * (width + 1)
        sheet[:, top : top + height, left : left + width] = pane
    return np.pad(sheet, ((0, 0), (FRAME, FRAME), (FRAME, FRAME), (0, 0)), constant_values=LIGHT)


def enlarged(images: np.ndarray, smallest: int = SMALLEST_CELL) -> np.ndarray:
    """Enlarge images (N, H, W, C) without blur until the longer side has ``smallest`` pixels."""
    factor = max(1, math.ceil(smallest / max(images.shape[1:3])))
    return images.repeat(factor, 1).repeat(factor, 2)


def over_checkerboard(pixels: np.ndarray) -> np.ndarray:
    """Lay RGB with opacity, uint8 (..., H, W, 4), over a checkerboard: uint8 (..., H, W, 3)."""
    height, width = pixels.shape[-3:-1]
    dark = (np.arange(height)[:, None] // SQUARE + np.arange(width) // SQUARE) % 2
    ground = np.where(dark, DARK, LIGHT)[..., None]
    opacity = pixels[..., 3:] / 255
    return np.rint(pixels[..., :3] * opacity + ground * (1 - opacity)).astype(np.uint8)


def captioned(images: np.ndarray, captions: Sequence[str]) -> np.ndarray:
    """Write a line of text under each image (N, H, W, 1 or 3); return uint8 (N, H + ``TEXT``, W, 3)."""
    images = enlarged(images, 64)
    n, height, width, channels = images.shape
    font = ImageFont.truetype(str(font_file()), LETTERS)
    sheet = np.full((n, height + TEXT, width, 3), LIGHT, np.uint8)
    sheet[:, :height] = images if channels == 3 else images.repeat(3, -1)
    for image, text in zip(sheet, captions, strict=True):
        strip = Image.new("RGB", (width, TEXT), (LIGHT,) * 3)
        ImageDraw.Draw(strip).text((2, 1), fitting(text, font, width - 4), fill=INK, font=font)
        image[height:] = np.asarray(strip)
    return sheet


def fitting(text: str, font: ImageFont.FreeTypeFont, width: float) -> str:
    """Return as much of a text as fits a width in pixels, with two dots where it is cut."""
    if font.getlength(text) <= width:
        return text
    return next((f"{text[:k]}.." for k in range(len(text), 0, -1) if font.getlength(f"{text[:k]}..") <= width), "")
