"""The form in which samples are stored: that of the user's own array, or pictures of 8 bits.

what a model draws   ->  what ``Split.take`` gives   ->  tensor as stored   ->  array of the file
(``as_data``)            (``to_stored``)                 (``to_array``)
"""

import numpy as np
import torch
from torch import Tensor

from dfm.basics.errors import UserError
from dfm.data.numbers.pixel_levels import from_eight_bits, quantize, to_eight_bits
from dfm.data.numbers.units import from_model
from dfm.data.spec import DatasetSpec


def as_data(samples: Tensor, spec: DatasetSpec) -> Tensor:
    """Return samples of a model in the form of ``Split.take``: levels, or real numbers in the user's unit."""
    if spec.levels is not None:
        return quantize(samples, spec.levels).cpu()
    return from_model(samples, spec).to(stored_type(spec)).cpu()


def to_stored(values: Tensor, spec: DatasetSpec) -> Tensor:
    """Return examples (of ``Split.take``) as they are stored: (B, *D), of ``stored_type``.

    Levels of pictures are spread over 0 .. 255; other integers have the user's own numbers and type.
    """
    if spec.levels is None:
        return values.to(stored_type(spec))
    if spec.is_picture:
        return to_eight_bits(values, spec.levels)
    return (values.long() + spec.lowest).to(stored_type(spec))


def stored(samples: Tensor, spec: DatasetSpec) -> Tensor:
    """Return samples of a model as they are stored."""
    return to_stored(as_data(samples, spec), spec)


def to_array(values: Tensor, spec: DatasetSpec) -> np.ndarray:
    """Return stored samples as the array of a file: pictures have their channels last, other data as in the user's."""
    array = values.cpu().numpy()
    if not spec.channel_axis:
        return array[:, 0]
    return np.moveaxis(array, 1, -1) if channels_last(spec) else array


def from_array(array: np.ndarray, spec: DatasetSpec) -> Tensor:
    """Return the array of a file in the form of ``Split.take``; the inverse of ``to_array`` and ``to_stored``.

    Raises:
        UserError: the array has another type or shape, or a number that is no level.
    """
    wanted = stored_type(spec)
    name = str(wanted).removeprefix("torch.")
    fits = array.dtype.kind == "f" if spec.levels is None else array.dtype.name == name
    if not spec.channel_axis:
        array = array[:, None]
    elif channels_last(spec) and array.ndim > 1:
        array = np.moveaxis(array, -1, 1)
    if array.shape[1:] != spec.shape or not fits:
        raise UserError(
            f"{array.dtype}, each of shape {array.shape[1:]}; allowed for dataset {spec.name}: "
            f"{'floats' if spec.levels is None else name}, each of shape {spec.shape}; try another dataset=NAME"
        )
    values = torch.from_numpy(np.ascontiguousarray(array))
    if spec.levels is None:
        return values.to(stored_type(spec))
    if spec.is_picture:
        return from_eight_bits(values, spec.levels)
    levels = values.long() - spec.lowest
    if len(levels) and not 0 <= int(levels.min()) <= int(levels.max()) < spec.levels:
        raise UserError(
            f"numbers from {int(levels.min()) + spec.lowest} to {int(levels.max()) + spec.lowest}; allowed for dataset "
            f"{spec.name}: {spec.lowest} to {spec.lowest + spec.levels - 1}"
        )
    return levels.to(torch.uint8 if wanted == torch.uint8 and spec.lowest == 0 else torch.int32)


def channels_last(spec: DatasetSpec) -> bool:
    """Whether the array of a file has its channels as the last axis."""
    return spec.channels_last or (spec.is_picture and len(spec.shape) > 1)


def stored_type(spec: DatasetSpec) -> torch.dtype:
    """Return the type of stored samples."""
    usual = torch.float32 if spec.levels is None else torch.uint8
    return getattr(torch, spec.dtype) if spec.dtype else usual
