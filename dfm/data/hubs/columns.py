"""Columns of Hugging Face's library ``datasets``: what they hold, and their values row by row."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from dfm.data.hubs.library import library

_AT_A_TIME = 32  # rows in memory


def leaf(feature: Any) -> str:
    """Return the type of the numbers in a column, as ``float32``; empty if it has none."""
    while hasattr(feature, "feature"):
        feature = feature.feature
    return str(getattr(feature, "dtype", "") or "")


def is_picture(feature: Any) -> bool:
    """Whether a column holds pictures."""
    return isinstance(feature, library().Image)


def is_number(feature: Any) -> bool:
    """Whether a column holds one number a row."""
    return isinstance(feature, library().Value) and _is_type(leaf(feature))


def is_array(feature: Any) -> bool:
    """Whether a column holds an array of numbers, or a list of them, a row."""
    return not isinstance(feature, library().Value | library().ClassLabel) and _is_type(leaf(feature))


def is_class(feature: Any) -> bool:
    """Whether a column holds classes with names."""
    return isinstance(feature, library().ClassLabel)


def is_label(feature: Any) -> bool:
    """Whether a column can be one of classes: names, whole numbers or texts."""
    numbers_or_texts = ("int", "uint", "bool", "string", "large_string")
    return is_class(feature) or (isinstance(feature, library().Value) and leaf(feature).startswith(numbers_or_texts))


def _is_type(name: str) -> bool:
    return name.startswith(("int", "uint", "float", "bool"))


def kind_of(feature: Any) -> str:
    """Return what a column holds, in a word."""
    return "picture" if is_picture(feature) else "classes" if is_class(feature) else leaf(feature) or "other"


def pictures(part: Any, column: str) -> Iterator[object]:
    """Yield the bytes of each picture, or the path of its file."""
    kept = part.select_columns([column]).cast_column(column, library().Image(decode=False))
    for batch in kept.iter(batch_size=_AT_A_TIME):
        for value in batch[column]:
            if value is None or not (value["bytes"] or value["path"]):
                yield None
            else:
                yield value["bytes"] or Path(value["path"])


def arrays(part: Any, column: str) -> Iterator[object]:
    """Yield the array of each row, of the column's own type, which the library's NumPy format would change."""
    dtype = np.dtype(leaf(part.features[column]))
    kept = part.select_columns([column]).with_format("numpy", dtype=dtype)
    for batch in kept.iter(batch_size=_AT_A_TIME):
        yield from batch[column]


def joined(part: Any, columns: list[str]) -> Iterator[object]:
    """Yield one vector for each row: the numbers of several columns, float64."""
    kept = part.select_columns(columns).with_format("numpy", dtype=np.float64)
    for batch in kept.iter(batch_size=_AT_A_TIME):
        yield from np.stack([batch[name] for name in columns], 1)
