"""Names of classes beside the rows of a grid."""

from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dfm.runs.pictures.font import font_file

HEIGHT = 14  # pixels of a line of text
LONGEST = 24  # letters of a name; a longer one ends with three dots
MARGIN = 6  # pixels on both sides of the names
PAPER, INK = 255, 0


@cache
def _font(height: int) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(str(font_file()), height)


def named_rows(sheet: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Return a grid uint8 (H, W, C) with the names of its rows, from top to bottom, in a margin on the left.

    Args:
        sheet: rows of equal height. Its pixels stay as they are.
        names: one for each row.
    """
    height, _, channels = sheet.shape
    font = _font(min(HEIGHT, max(6, height // len(names) - 2)))
    texts = [_short(name) for name in names]
    width = int(max(font.getlength(text) for text in texts)) + 2 * MARGIN
    margin = Image.new("L", (width, height), PAPER)
    draw = ImageDraw.Draw(margin)
    for row, text in enumerate(texts):
        middle = (row + 0.5) * height / len(names)
        draw.text((width - MARGIN, middle), text, fill=INK, font=font, anchor="rm")
    pixels = np.asarray(margin)[..., None].repeat(channels, 2)
    if channels == 4:
        pixels[..., 3] = 255  # opaque
    return np.concatenate([pixels, sheet], 1)


def _short(name: str) -> str:
    """Return a name in one line, at most ``LONGEST`` letters."""
    line = "".join(letter if letter.isprintable() else " " for letter in name)
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"
