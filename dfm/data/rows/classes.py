"""Classes from a list of values: whole numbers from 0 on, or names in sorted order."""

from collections.abc import Mapping, Sequence

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.rows.natural_order import natural

Names = tuple[str, ...]
NAMED = 5  # names that an error lists


def number_classes(
    lists: Mapping[str, np.ndarray], given: int | Sequence[str] | None
) -> tuple[dict[str, np.ndarray], int, Names]:
    """Return the labels int64 of each list, the number of classes, and their names.

    Whole numbers 0 .. K-1 that all occur are the classes themselves and have no names. Other whole numbers, and text,
    are names: the classes are numbered in the order of their numbers, or of the names (2 before 10).

    Args:
        lists: for messages, what each list is; all share the classes.
        given: the names in the wanted order, or the number of classes 0 .. K-1; None: as they are found.

    Raises:
        UserError: a value is empty or a fraction, or is none of the given classes.
    """
    texts = {what: _texts(values, what) for what, values in lists.items()}
    whole = all(values.dtype.kind in "iu" for values in texts.values())
    found = np.unique(np.concatenate(list(texts.values())))
    if isinstance(given, int):
        if not whole or (len(found) and not 0 <= found[0] <= found[-1] < given):
            raise UserError(f"dataset.classes={given}: a class of {_outside(found, given)}; allowed: 0 to {given - 1}")
        return texts, given, ()
    if given is None and whole and np.array_equal(found, np.arange(len(found))):
        return texts, len(found), ()
    names = [str(name) for name in given] if given is not None else _sorted(found, whole)
    number = {name: index for index, name in enumerate(names)}
    unknown = [str(value) for value in found.tolist() if str(value) not in number]
    if unknown:
        more = f" and {len(unknown) - NAMED} more" if len(unknown) > NAMED else ""
        raise UserError(
            f"dataset.classes: no class {', '.join(map(repr, unknown[:NAMED]))}{more} among {', '.join(names[:20])}; "
            "allowed: values that are named"
        )
    table = np.array([number[str(value)] for value in found.tolist()], np.int64)
    return {what: table[np.searchsorted(found, values)] for what, values in texts.items()}, len(names), tuple(names)


def _sorted(found: np.ndarray, whole: bool) -> list[str]:
    return [str(value) for value in (found.tolist() if whole else sorted(found.tolist(), key=natural))]


def _outside(found: np.ndarray, most: int) -> object:
    return next((value for value in found.tolist() if not isinstance(value, int) or not 0 <= value < most), "text")


def _texts(values: np.ndarray, what: str) -> np.ndarray:
    """Return whole numbers as int64, also those that are written as text or floats, and other text as text."""
    if values.dtype.kind == "f":
        broken = np.flatnonzero(values != np.floor(values))
        if len(broken):
            raise UserError(
                f"classes of {what}: {values[broken[0]]:g} in row {broken[0]}; allowed: classes, as whole numbers or "
                "text"
            )
        return values.astype(np.int64)
    if values.dtype.kind != "U":
        return values.astype(np.int64)
    empty = np.flatnonzero(values == "")
    if len(empty):
        raise UserError(f"classes of {what}: nothing in row {empty[0]}; allowed: a class for each example")
    try:
        return values.astype(np.int64)
    except (ValueError, OverflowError):
        return values
