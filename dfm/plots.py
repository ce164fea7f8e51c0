"""Figures drawn by matplotlib, as arrays: the one module with matplotlib. It knows nothing of what it draws."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
MARKERS = "osD^v<>pPX*h8d"


def rendered(figure: Figure) -> np.ndarray:
    """A figure as uint8 (H, W, 3)."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def curves(series: Series, xlabel: str, ylabel: str, title: str, log: bool = True) -> np.ndarray:
    """One marked line a series, x and y each a sequence; both axes logarithmic where ``log``: uint8 (H, W, 3)."""
    figure = Figure(figsize=(9, 5.5), dpi=110, layout="constrained")
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
    return rendered(figure)
