"""Examples that occur twice: in a split, and in two splits."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dfm.data.split import Split

NAMED = 5  # pairs that are named


@dataclass(frozen=True, kw_only=True)
class Duplicates:
    """The examples of a split that another one equals, number for number.

    Args:
        count: how many; of several equal ones in a split the first does not count.
        pairs: some of them, as (number in the other split, number in this one); of one split the first of the two is
            the earlier one.
    """

    count: int
    pairs: list[tuple[int, int]]


def hashes(split: Split, advance: Callable[[int], None] = lambda count: None) -> np.ndarray:
    """Return a hash of each example, uint64 (N,): 8 bytes an example, whatever its size.

    Two of a million different examples have the same hash with a probability of 3e-8.

    Args:
        advance: told how many examples are done.
    """
    found = np.empty(len(split), np.uint64)
    for first, block in split.blocks():
        rows = np.ascontiguousarray(block.numpy()).reshape(len(block), -1)
        for number, row in enumerate(rows, first):
            found[number] = int.from_bytes(hashlib.blake2b(row.data, digest_size=8).digest(), "little")
        advance(len(block))
    return found


def within(own: np.ndarray) -> Duplicates:
    """Return the examples of a split that equal an earlier one of it."""
    order = np.argsort(own, kind="stable")
    again = np.flatnonzero(own[order][1:] == own[order][:-1]) + 1
    pairs = [(int(order[place - 1]), int(order[place])) for place in again]
    return Duplicates(count=len(again), pairs=sorted(pairs, key=lambda pair: pair[1])[:NAMED])


def across(other: np.ndarray, own: np.ndarray) -> Duplicates:
    """Return the examples of a split that occur in another one too."""
    values, first = np.unique(other, return_index=True)
    place = np.searchsorted(values, own).clip(0, max(0, len(values) - 1))
    same = np.flatnonzero(values[place] == own) if len(values) else np.empty(0, int)
    pairs = [(int(first[place[number]]), int(number)) for number in same[:NAMED]]
    return Duplicates(count=len(same), pairs=pairs)
