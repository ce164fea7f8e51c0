"""Plots of what has no pixels: the columns of a table, and the lines of signals."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from dfm.runs.pictures.charts import DATA, DPI, HEAT, INK, render
from dfm.runs.pictures.letters import legible
from dfm.runs.pictures.windows import Window

PAIRED, COLUMNS = 6, 30  # columns of a table that are drawn in pairs, and columns that are drawn at all
CHANNELS = 8  # of a signal that are drawn
PANEL, MARGIN, GAP, CAPTION = (220, 130), 64, 12, 14  # pixels of a signal's panel, and of what is around panels


def pairs(points: np.ndarray, shown: Sequence[Window], names: Sequence[str] = ()) -> np.ndarray:
    """Draw points (N, d) as histograms of their columns and clouds of their pairs; return uint8 (H, W, 3).

    The first ``PAIRED`` columns stand in pairs below the diagonal; up to ``COLUMNS`` have a histogram. Dark cells are
    dense: the darkness is the square root of the count.

    Args:
        shown: the window of each column.
        names: those of the columns; empty: their numbers.
    """
    d = min(points.shape[1], COLUMNS)
    side = min(d, PAIRED)
    rows = side + math.ceil((d - side) / side)
    titles = [legible(names[k], f"column {k}") if names else f"column {k}" for k in range(d)]
    inch = 2.1 if side > 1 else 3.6
    size = (inch * side + 0.2, inch * rows + 0.3)
    figure = Figure(figsize=size, dpi=DPI)

    def panel(row: int, column: int) -> Axes:
        place = (0.65 + column * inch, size[1] - 0.5 - (row + 1) * inch + 0.55, inch - 0.7, inch - 0.7)  # inches
        return figure.add_axes((place[0] / size[0], place[1] / size[1], place[2] / size[0], place[3] / size[1]))

    for row in range(side):
        for column in range(row):
            cloud(panel(row, column), points[:, [column, row]], shown[column], shown[row])
    for column in range(d):
        row, place = (column, column) if column < side else (side + (column - side) // side, (column - side) % side)
        histogram(panel(row, place), points[:, column], shown[column], titles[column])
    if d < points.shape[1]:
        figure.suptitle(f"the first {d} of {points.shape[1]} columns", fontsize=8)
    return render(figure)


def histogram(axes: Axes, values: np.ndarray, window: Window, title: str) -> None:
    """Draw the histogram of a column over its window."""
    counts, edges = np.histogram(values, bins=min(60, max(12, round(math.sqrt(len(values))))), range=window)
    axes.stairs(counts, edges, fill=True, color=DATA)
    axes.set(xlim=window, ylim=(0, max(1, counts.max()) * 1.05), yticks=[])
    _plain(axes, title)


def cloud(axes: Axes, points: np.ndarray, across: Window, up: Window) -> None:
    """Draw points (N, 2) as the shades of their counts over two windows."""
    bins = max(24, min(120, int(math.sqrt(len(points)) * 1.5)))
    counts, _, _ = np.histogram2d(points[:, 1], points[:, 0], bins=bins, range=(up, across))
    shade = np.sqrt(counts / max(1.0, counts.max()))
    axes.imshow(shade, cmap=HEAT, vmin=0, vmax=1, extent=(*across, *up), origin="lower", aspect="auto")
    _plain(axes, "")


def _plain(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=8, parse_math=False)  # a name may have dollars
    axes.tick_params(labelsize=7, length=2, color="0.5", labelcolor="0.35")
    axes.locator_params(nbins=3)
    axes.spines[:].set_color("0.6")


def lines(
    signals: np.ndarray,
    shown: Sequence[Window],
    columns: int,
    captions: Sequence[str] = (),
    size: tuple[int, int] = PANEL,
) -> np.ndarray:
    """Draw signals (N, C, L), each in a panel of its own; return uint8 (H, W, 3).

    A panel has a strip for each channel, the first at the top, from the lower to the upper end of its window; a line
    leaves its strip at no place. The ends are written beside the first panel of a row. All is placed in pixels, so a
    hundred panels take no longer than a few.

    Args:
        shown: the window of each channel.
        columns: how many panels stand in a row.
        captions: a text over each panel.
    """
    n, channels, length = signals.shape
    channels = min(channels, CHANNELS)
    width, height = PANEL
    rows, line = math.ceil(n / columns), CAPTION if captions else 0
    cell = (width + GAP, height + GAP + line)
    whole = (MARGIN + columns * cell[0], rows * cell[1] + 24)
    figure = Figure(figsize=(whole[0] / DPI, whole[1] / DPI), dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, whole[0]), ylim=(whole[1], 0))  # y counts from the top, as pixels do
    axes.axis("off")
    strip, places = height / channels, np.linspace(0, width, max(length, 2))
    text: dict[str, Any] = {"fontsize": 6, "color": "0.35"}
    for number in range(n):
        left, top = MARGIN + number % columns * cell[0], GAP + line + number // columns * cell[1]
        frame = [(left, top), (left + width, top), (left + width, top + height), (left, top + height), (left, top)]
        borders = [[(left, top + k * strip), (left + width, top + k * strip)] for k in range(1, channels)]
        axes.add_collection(LineCollection([frame, *borders], colors="0.75", linewidths=0.6))
        if captions:
            axes.text(left, top - 3, captions[number], fontsize=6.5, color=INK)
        for channel, (low, high) in enumerate(shown[:channels]):
            share = ((signals[number, channel].astype(float) - low) / (high - low)).clip(0, 1)
            y = top + (channel + 1) * strip - 1 - share * (strip - 2)
            x = left + places if length > 1 else left + np.array([0, width])
            path = np.stack([x, y if length > 1 else y.repeat(2)], 1)
            colour = DATA if channels == 1 else colormaps["tab10"](channel)
            axes.add_collection(LineCollection([path], colors=[colour], linewidths=0.9))
            if number % columns == 0:
                axes.text(left - 4, top + channel * strip + 1, f"{high:.4g}", ha="right", va="top", **text)
                axes.text(left - 4, top + (channel + 1) * strip - 1, f"{low:.4g}", ha="right", va="bottom", **text)
    more = "" if channels == signals.shape[1] else f"; the first {channels} of {signals.shape[1]} channels"
    axes.text(MARGIN, whole[1] - 8, f"places 0 to {length - 1}{more}", **text)
    return render(figure)
