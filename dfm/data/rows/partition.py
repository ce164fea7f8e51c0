"""Which rows of a file belong to which split: by a hash of each row, of its group, or as a list says."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from dfm.basics.errors import UserError

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {  # of folders, shards, columns and the splits of other libraries, in whatever capitals
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "dev": "validation",
    "test": "test",
}
NUMBERS = {
    **{name: SPLITS.index(split) for name, split in SPLIT_NAMES.items()},
    **{str(number): number for number in range(len(SPLITS))},
}
Parts = dict[str, np.ndarray | None]


def check_fractions(dataset: str, validation: float, test: float) -> None:
    """Refuse fractions of the rows that leave none for training.

    Raises:
        UserError: one is below 0, or together they are 1 or more.
    """
    if min(validation, test) < 0 or validation + test >= 1:
        raise UserError(
            f"dataset {dataset}: validation={validation}, test={test}; allowed: fractions of at least 0, together "
            "below 1"
        )


def share(name: str) -> float:
    """Return a number in [0, 1) that depends on the name of an example only, spread evenly."""
    return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:8], "big") / 2**64


def drawn(shares: Any, validation: float, test: float) -> Any:
    """Return the number in ``SPLITS`` for a share, or an array of them: test below ``test``, then validation, train."""
    return (shares < test + validation) * (1 + (shares < test))


def shares_of_rows(n: int, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each row, float64 (n,), from (seed, row) alone: SplitMix64 (Steele et al. 2014).

    Rows that are appended to a file move no other row to another split.
    """
    start = np.frombuffer(hashlib.sha256(f"rows {seed}".encode()).digest()[:8], np.uint64)
    z = np.arange(1, n + 1, dtype=np.uint64)
    z *= np.uint64(0x9E3779B97F4A7C15)
    z += start
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z ^= z >> np.uint64(shift)
        z *= np.uint64(factor)
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)) * 2.0**-53


def shares_of_names(names: Sequence[object] | np.ndarray, seed: int) -> np.ndarray:
    """Return a number in [0, 1) for each name, float64 (n,), from (seed, name) alone. Equal names have equal ones."""
    unique, places = np.unique(np.asarray(names), return_inverse=True)
    return np.array([share(f"{seed} {name}") for name in unique.tolist()])[places]


def by_share(shares: np.ndarray, order: np.ndarray, validation: float, test: float) -> Parts:
    """Return the rows of each split, as ``drawn`` says.

    Rows of ``train`` are in the order of the file, so a pass over them reads it once. The others are in the order of
    ``order``, so the first of them come from anywhere in the file.

    Returns:
        int64 rows for each split; None: all rows, in the order of the file.
    """
    numbers = drawn(shares, validation, test)
    if not numbers.any():
        return {"train": None, "validation": np.empty(0, np.int64), "test": np.empty(0, np.int64)}
    parts: Parts = {"train": np.flatnonzero(numbers == 0)}
    for number in (1, 2):
        rows, name = np.flatnonzero(numbers == number), SPLITS[number]
        parts[name] = rows[np.argsort(order[rows], kind="stable")]
    return parts


def by_list(values: np.ndarray, what: str) -> Parts:
    """Return the rows of each split, in the order of the file, from one word for each row.

    Raises:
        UserError: a word is no name of a split.
    """
    unique, places = np.unique(values.astype(str), return_inverse=True)
    words = [word.strip().lower() for word in unique.tolist()]
    wrong = next((place for place, word in enumerate(words) if word not in NUMBERS), None)
    if wrong is not None:
        raise UserError(
            f"{what}: {str(unique[wrong])!r} in row {np.flatnonzero(places == wrong)[0]}; allowed: train, validation "
            "(val, valid, dev, 1), test (2), for each row"
        )
    numbers = np.array([NUMBERS[word] for word in words], np.int64)[places]
    return {name: np.flatnonzero(numbers == index) for index, name in enumerate(SPLITS)}
