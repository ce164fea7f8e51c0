"""A source of examples that are decoded once: what it lists, and what it gives in the same order."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dfm.basics.errors import UserError
from dfm.data.rows.classes import number_classes


@dataclass(frozen=True, kw_only=True)
class Listing:
    """All examples of a source, in the order in which it gives them.

    Args:
        splits: the number of the split in ``SPLITS`` that the source itself names, int8 (N,).
        shares: a number in [0, 1) of each example, which decides the splits that are drawn; float64 (N,).
        labels: int64 (N,), or None.
        class_names: the names of the classes, in the order of the labels; empty: they have none.
    """

    splits: np.ndarray
    shares: np.ndarray
    labels: np.ndarray | None
    class_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.splits)


class Source(ABC):
    """A place of examples.

    Attributes:
        where: what messages call it.
        identity: a text that tells it from another source, for the family of its cache file.
    """

    where: str
    identity: str

    @abstractmethod
    def stamp(self) -> str:
        """Return a text that changes when an example changes.

        Raises:
            UserError: the source cannot be read.
        """

    @abstractmethod
    def listing(self) -> Listing:
        """Return all examples without their numbers.

        Raises:
            UserError: the source cannot be read, or has no such labels.
        """

    @abstractmethod
    def values(self) -> Iterator[object]:
        """Yield every example, in the order of the listing: a picture's bytes or file, an array, or None.

        Raises:
            UserError: the source cannot be read.
        """

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know of the choice of examples and classes, a line each."""
        return ()

    def named(self, row: int) -> str:
        """Return what messages call an example."""
        return f"example {row}"


def numbered(values: Iterable[object], what: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels int64 (N,) and class names of values: whole numbers or texts, as ``number_classes`` does.

    Args:
        what: what messages call them.

    Raises:
        UserError: a value is neither.
    """
    found: list[Any] = [value.item() if isinstance(value, np.generic) else value for value in values]
    wrong = [one for one in found if not isinstance(one, str) and not (isinstance(one, int) and abs(one) < 2**63)]
    if wrong or len({isinstance(value, str) for value in found}) > 1:
        problem = f"the label {wrong[0]!r}" if wrong else "labels that are partly numbers and partly texts"
        raise UserError(f"{what}: {problem}; allowed: whole numbers, or texts; try dataset.labels=false")
    labels, _, names = number_classes({what: np.array(found)}, None)
    return labels[what], names
