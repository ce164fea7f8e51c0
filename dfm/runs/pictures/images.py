"""Pictures: grids of samples, clouds of points, single images."""

import io
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.basics.files import write_atomically
from dfm.data.pictures.decoder import Decoder

SMALLEST_CELL = 48  # pixels
GAP, GROUND = 2, 128


def save_png(image: np.ndarray, path: Path) -> None:
    """Write an image uint8 (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) as a PNG, whole or not at all."""
    picture = Image.fromarray(image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    write_atomically(path, buffer.getvalue())


def grid(images: np.ndarray, columns: int | None = None) -> np.ndarray:
    """Return images uint8 (N, H, W, C) row by row on a mid-grey background.

    Small images are enlarged without blur, and one alone has no background. The layout is that of torchvision's
    ``make_grid``, whose import would cost every command a second.

    Args:
        columns: the number of columns; by default the smallest that makes the grid at least as wide as high.
    """
    n, height, width, channels = images.shape
    factor = max(1, math.ceil(SMALLEST_CELL / max(height, width)))
    cells = images.repeat(factor, 1).repeat(factor, 2)
    if n == 1:
        return cells[0]
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    high, wide = cells.shape[1] + GAP, cells.shape[2] + GAP
    sheet = np.full((GAP + math.ceil(n / columns) * high, GAP + columns * wide, channels), GROUND, images.dtype)
    for k, cell in enumerate(cells):
        top, left = GAP + k // columns * high, GAP + k % columns * wide
        sheet[top : top + cell.shape[0], left : left + cell.shape[1]] = cell
    return sheet


def cloud(points: np.ndarray, shown: Sequence[tuple[float, float]], size: int = 480) -> np.ndarray:
    """Draw points (N, 1 or 2) as a picture uint8 (size, size): a histogram over the windows of their coordinates.

    Dark cells are dense. The darkness is the square root of the count, so that thin parts can be seen. One-dimensional
    points are drawn as the bars of their histogram.
    """
    if points.shape[1] == 1:
        counts, _ = np.histogram(points[:, 0], bins=size // 4, range=shown[0])
        heights = (counts.repeat(4) / max(1, counts.max()) * (size - 1)).astype(int)
        bars = np.arange(size)[::-1, None] <= heights[None, :]
        return np.where(bars, 40, 255).astype(np.uint8)
    bins = max(24, min(size // 2, int(math.sqrt(len(points)) * 3)))
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=bins, range=(shown[1], shown[0]))
    shade = 255 - 235 * np.sqrt(counts[::-1] / max(1.0, np.quantile(counts[counts > 0], 0.99) if counts.any() else 1.0))
    picture = shade.clip(0, 255).astype(np.uint8)
    factor = math.ceil(size / bins)
    return picture.repeat(factor, 0).repeat(factor, 1)


def nhwc(images: Tensor) -> np.ndarray:
    """Return images uint8 (N, C, H, W) as an array (N, H, W, C)."""
    return images.permute(0, 2, 3, 1).cpu().numpy()


def read_images(folder: Path, channels: int, levels: int = 256) -> np.ndarray:
    """Read the ``*.png`` of a folder in the order of their names, (n, H, W, channels), as ``dataset=folder`` does.

    Opacity is composited on white unless it is a channel, and a picture is turned as its EXIF entry says.

    Args:
        channels: 1 for grey, 3 for RGB, 4 for RGB with opacity.
        levels: 256 for uint8, 65,536 for uint16.

    Raises:
        UserError: a file cannot be read, or has another size than the first.
    """
    decoder = Decoder(height_width=None, channels=channels, levels=levels)
    images: list[np.ndarray] = []
    for path in sorted(folder.glob("*.png")):
        try:
            with path.open("rb") as file, decoder.limited():
                pixels = decoder.decode(file, path.name).values.transpose(1, 2, 0)
        except Exception as error:  # Pillow's plug-ins raise nearly any exception on a broken file
            raise UserError(f"{path}: cannot be read as a picture ({error}); allowed: a PNG") from None
        if images and pixels.shape[:2] != images[0].shape[:2]:
            raise UserError(f"{path}: {pixels.shape[:2]} pixels; allowed: {images[0].shape[:2]}, as in the first file")
        images.append(pixels)
    return np.stack(images)
