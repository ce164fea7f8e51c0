"""The order of axes: which axis of an array holds the channels, and whether there is one."""

from collections.abc import Sequence

import numpy as np

from dfm.basics.errors import UserError, unknown

FIRST, LAST, NONE, AUTO = "channels_first", "channels_last", "no_channels", "auto"
LAYOUTS = (AUTO, FIRST, LAST, NONE)
FEW = 4  # channels that pictures and signals usually have at most
MANY = 16  # channels above which a guess deserves a word


def layout_of(example: Sequence[int], wanted: str, what: str) -> str:
    """Return the layout of an example of this shape: ``channels_first``, ``channels_last`` or ``no_channels``.

    ``auto`` goes by the shape alone, so it does not change when the data grow:

        ()                                  no_channels: one number
        (d,)                                channels_first: points, one channel for each number
        two or three equal sides above 4    no_channels: square pictures, cubes
        last side <= 4 < first side         channels_last: (H, W, 3), (L, 2)
        otherwise                           channels_first

    Raises:
        UserError: there is no such layout, or the array has too many axes for it.
    """
    if wanted not in LAYOUTS:
        raise unknown("dataset.layout", wanted, LAYOUTS)
    layout = _guess(example) if wanted == AUTO or not example else wanted
    axes = len(example) + (layout == NONE)
    if axes > 4 or (layout == LAST and not example):
        shape = ", ".join(map(str, ("N", *example)))
        raise UserError(
            f"{what} has the shape ({shape}); allowed: (N, d), (N, C, L), (N, C, H, W) or (N, C, D, H, W), with the "
            f"channels last by dataset.layout={LAST}, or without them by dataset.layout={NONE}; try np.reshape"
        )
    return layout


def _guess(example: Sequence[int]) -> str:
    if not example:
        return NONE
    if len(example) in (2, 3) and len(set(example)) == 1 and example[0] > FEW:
        return NONE
    return LAST if len(example) > 1 and example[-1] <= FEW < example[0] else FIRST


def model_shape(example: Sequence[int], layout: str) -> tuple[int, ...]:
    """Return the shape of an example with its channels first."""
    if layout == NONE:
        return (1, *example)
    return (example[-1], *example[:-1]) if layout == LAST else tuple(example)


def channels_first(array: np.ndarray, layout: str) -> np.ndarray:
    """Return a view of an array (N, *example) as (N, C, ...); nothing is copied."""
    if layout == NONE:
        return array[:, None]
    return np.moveaxis(array, -1, 1) if layout == LAST else array


def told(example: Sequence[int], layout: str) -> str | None:
    """Return the line that says how ``auto`` read a shape that might mean something else; None if it could not."""
    shape = model_shape(example, layout)
    if len(example) == 1 and shape[0] > MANY:
        return (
            f"an example of shape {tuple(example)} is read as a row of {shape[0]} numbers, without an order in time or "
            f"space; or dataset.layout={NONE}, as a signal"
        )
    if len(example) < 2 or (layout == FIRST and shape[0] <= MANY):
        return None
    channels = "one channel" if shape[0] == 1 else f"{shape[0]} channels"
    sides = "x".join(map(str, shape[1:]))
    others = ", ".join(f"dataset.layout={other}" for other in (FIRST, LAST, NONE) if other != layout)
    return (
        f"an example of shape {tuple(example)} is read as {channels} of {sides} (dataset.layout={layout}); or {others}"
    )
