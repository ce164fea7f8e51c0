"""The types of numbers that a file may hold, and what to do with the others."""

import numpy as np

from dfm.basics.errors import UserError

ALLOWED = "whole numbers, float16, float32, float64 or bool"
WAYS = {  # kinds of NumPy's types that are no numbers of ours: what they are, and what to save instead
    "O": ("Python objects", "np.save of np.stack(rows), where all rows have one shape"),
    "U": ("text", "it as dataset.labels=, and numbers as the data"),
    "S": ("text", "it as dataset.labels=, and numbers as the data"),
    "c": ("complex numbers", "np.save of np.stack([x.real, x.imag], 1)"),
    "V": ("records", "np.save of np.lib.recfunctions.structured_to_unstructured(x), or a CSV file"),
    "f": ("long floats", 'np.save of x.astype("float64")'),
    "M": ("dates", 'np.save of x.astype("datetime64[s]").astype("float64")'),
    "m": ("time spans", 'np.save of x.astype("timedelta64[s]").astype("float64")'),
}


def is_number(dtype: np.dtype) -> bool:
    """Whether a type is a number of ours."""
    return dtype.kind in "uib" or (dtype.kind == "f" and dtype.itemsize <= 8)


def check_type(dtype: np.dtype, what: str) -> None:
    """Refuse a type that is no number of ours; say what to save instead.

    Args:
        what: the file, for the message.

    Raises:
        UserError: the type is text, objects, records, complex numbers, dates, or a float of more than 64 bits.
    """
    if is_number(dtype):
        return
    found, way = WAYS.get(dtype.kind, (str(dtype), 'np.save of x.astype("float64")'))
    raise UserError(f"{what} holds {found} ({dtype}); allowed: {ALLOWED}; try {way}")


def for_torch(array: np.ndarray) -> np.ndarray:
    """Return the same bytes in a type that torch knows: bool as uint8, and uint32 and uint64 as signed ones.

    Numbers that need the last bit of uint32 or uint64 become negative. ``check_signed`` refuses them.
    """
    kinds = {"bool": np.uint8, "uint32": np.int32, "uint64": np.int64}
    return array.view(kinds[array.dtype.name]) if array.dtype.name in kinds else array
