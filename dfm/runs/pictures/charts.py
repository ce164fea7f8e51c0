"""Charts as arrays of pixels. Only this module and ``plots`` have matplotlib; it knows nothing of what it draws."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib import colormaps, get_data_path
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ft2font import FT2Font

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
MARKERS = "osD^v<>pPX*h8d"
DPI = 110

# Each meaning has one colour in all figures.
DATA, NOISY, MARK, INK, HEAT = "#1f4e9c", "#7a7f87", "#d1341f", "#222222", "Blues"


class Layer(Protocol):
    """Something that can be drawn into a panel."""

    def draw(self, axes: Axes) -> None:
        """Add it to the axes. Their limits are set already."""


def font_file() -> Path:
    """Return the file of the charts' font, which has the letters of many alphabets."""
    return Path(get_data_path(), "fonts", "ttf", "DejaVuSans.ttf")


@cache
def font_letters() -> frozenset[int]:
    """Return the code points that this font has."""
    return frozenset(FT2Font(str(font_file())).get_charmap())


def render(figure: Figure) -> np.ndarray:
    """Return a figure as uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curves(series: Series, xlabel: str, ylabel: str, title: str, log: bool = True) -> np.ndarray:
    """Draw one line with markers for each series (x, y); return uint8 (H, W, 3).

    Args:
        log: whether both axes are logarithmic.
    """
    figure = Figure(figsize=(9, 5.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    colours = colormaps["tab20"]
    for k, (name, (x, y)) in enumerate(series.items()):
        dash = "--" if "(" in name else "-"
        marker = MARKERS[k % len(MARKERS)]
        axes.plot(x, y, dash, label=name, color=colours(k % 20), marker=marker, markersize=5, linewidth=1.3)
    if log:
        axes.set_xscale("log")
        axes.set_yscale("log")
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(True, which="both", alpha=0.25, linewidth=0.5)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return render(figure)


def bars(edges: np.ndarray, heights: np.ndarray, xlabel: str, ylabel: str, title: str) -> np.ndarray:
    """Draw bars of heights (n,) between edges (n + 1,); return uint8 (H, W, 3)."""
    figure = Figure(figsize=(9, 4.5), dpi=DPI, layout="constrained")
    axes = figure.add_subplot()
    axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=DATA, edgecolor="white", linewidth=0.5)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title, xlim=(edges[0], edges[-1]))
    axes.grid(True, axis="y", alpha=0.25, linewidth=0.5)
    return render(figure)


@dataclass(frozen=True, kw_only=True)
class Dots:
    """Points (n, 2)."""

    points: np.ndarray
    colour: str
    size: float = 3.0
    alpha: float = 0.5
    marker: str = "o"
    label: str | None = None

    def draw(self, axes: Axes) -> None:
        """Scatter the points. Points with a marker other than ``o`` lie above everything else."""
        above = 2 if self.marker == "o" else 7
        x, y = self.points.T
        axes.scatter(
            x,
            y,
            s=self.size,
            c=self.colour,
            alpha=self.alpha,
            marker=self.marker,
            linewidths=0,
            label=self.label,
            zorder=above,
        )


@dataclass(frozen=True, kw_only=True)
class Lines:
    """Lines (moves + 1, n, 2), each in its own colour, with a ring at the start and a dot at the end."""

    paths: np.ndarray
    width: float = 1.2
    alpha: float = 0.9
    marker_size: float = 4.5

    def draw(self, axes: Axes) -> None:
        """Draw one line after the other. Up to 20 lines have clearly different colours; more lines form a rainbow."""
        n = self.paths.shape[1]
        few, many = colormaps["tab20"], colormaps["turbo"]
        for k in range(n):
            colour = few(2 * k % 20 + k // 10) if n <= 20 else many(0.05 + 0.9 * k / n)
            x, y = self.paths[:, k].T
            axes.plot(x, y, "-", color=colour, linewidth=self.width, alpha=self.alpha, zorder=3)
            axes.plot(x[0], y[0], "o", mfc="white", mec=colour, markersize=self.marker_size, mew=1.0, zorder=5)
            axes.plot(x[-1], y[-1], "o", color=colour, mec="black", mew=0.4, markersize=self.marker_size, zorder=6)


@dataclass(frozen=True, kw_only=True)
class Arrows:
    """Arrows for vectors (m, 2) at the places ``at`` (m, 2), each with its middle at its place.

    The drawn length is proportional to the length of the vector to the power ``compress``. The longest arrow is about
    as long as a cell of the raster of places. The 98th percentile counts as the longest, so that a few long vectors do
    not make the others invisible.
    """

    at: np.ndarray
    vectors: np.ndarray
    colour: str = INK
    compress: float = 1.0

    def draw(self, axes: Axes) -> None:
        """Draw the arrows in the unit of the axes."""
        length = np.linalg.norm(self.vectors, axis=1, keepdims=True)
        longest = np.quantile(length, 0.98) or 1.0
        share = np.minimum(length / longest, 1) ** self.compress
        columns = len(np.unique(self.at[:, 0]))
        cell = np.ptp(self.at[:, 0]) / max(1, columns - 1)
        u, v = (self.vectors / np.maximum(length, 1e-300) * share * cell * 1.1).T
        axes.quiver(
            *self.at.T,
            u,
            v,
            color=self.colour,
            angles="xy",
            scale_units="xy",
            scale=1,
            pivot="mid",
            width=0.0042,
            headwidth=3.6,
            headlength=4.2,
            headaxislength=3.8,
            minlength=0.4,
            zorder=3,
        )


@dataclass(frozen=True, kw_only=True)
class Shades:
    """A raster (H, W) of log densities over the whole panel, with the rows from the bottom to the top.

    The shade is proportional to the square root of the density, so that thin parts can be seen.
    """

    log_density: np.ndarray

    def draw(self, axes: Axes) -> None:
        """Fill the panel. Empty cells are white, and the densest cell is the darkest."""
        left, right = axes.get_xlim()
        bottom, top = axes.get_ylim()
        shade = np.exp((self.log_density - self.log_density.max()) / 2)
        axes.imshow(
            shade,
            cmap=HEAT,
            vmin=0,
            vmax=1,
            extent=(left, right, bottom, top),
            origin="lower",
            interpolation="bilinear",
            aspect="equal",
            zorder=0,
        )


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One picture in a figure.

    Args:
        extent: the frame (left, right, bottom, top).
        layers: the layers, from the back to the front.
        equal: whether the units of both axes have the same length.
        xlabel: the text under the panel.
    """

    title: str
    extent: tuple[float, float, float, float]
    layers: Sequence[Layer]
    equal: bool = True
    xlabel: str = ""

    @property
    def aspect(self) -> float:
        """Height divided by width."""
        left, right, bottom, top = self.extent
        return abs(top - bottom) / abs(right - left) if self.equal else 0.6

    def draw(self, axes: Axes) -> None:
        """Draw the frame, then the layers."""
        left, right, bottom, top = self.extent
        axes.set(xlim=(left, right), ylim=(bottom, top))
        for layer in self.layers:
            layer.draw(axes)
        axes.set_aspect("equal" if self.equal else "auto")
        axes.set_title(self.title, fontsize=10)
        axes.set_xlabel(self.xlabel, fontsize=9)
        axes.tick_params(labelsize=7, length=2, color="0.5", labelcolor="0.35")
        axes.locator_params(nbins=6)
        axes.spines[:].set_color("0.6")


def panels(rows: Sequence[Sequence[Panel]], title: str, names: Sequence[str] = (), width: float = 2.9) -> np.ndarray:
    """Draw panels row by row under one title; return uint8 (H, W, 3).

    Args:
        rows: rows of panels, all of the same length.
        names: the names of the rows, written at their left.
        width: the width of a panel in inches.
    """
    heights = [width * max(panel.aspect for panel in row) for row in rows]
    size = (len(rows[0]) * (width + 0.3), sum(heights) + 0.45 * len(rows) + 0.6)
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    figure.suptitle(title, fontsize=12)
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, height_ratios=heights)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, panel in zip(axes_row, row, strict=True):
            panel.draw(axes)
    for axes_row, name in zip(grid, names, strict=False):
        axes_row[0].set_ylabel(name, fontsize=10)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=9, markerscale=2.5)
    return render(figure)
