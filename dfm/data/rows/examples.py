"""Examples that are decoded once: where they lie, and how one of them becomes numbers."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import ClassVar

import numpy as np


class Examples(ABC):
    """Examples that lie in one place, in an order that never changes.

    Attributes:
        where: what messages call the place.
        kind: what messages call the examples, in front of the place.
        at_a_time: how many examples for each thread are decoded together; what ``values`` gives of them is in memory.
    """

    where: str
    kind: ClassVar[str] = "examples of"
    at_a_time: ClassVar[int] = 8

    @abstractmethod
    def stamp(self) -> str:
        """Return a text that changes when an example changes.

        Raises:
            UserError: the place cannot be read.
        """

    @abstractmethod
    def count(self) -> int:
        """Return how many examples there are."""

    @abstractmethod
    def values(self) -> Iterator[object]:
        """Yield every example, in order, as a ``Form`` takes it.

        Raises:
            UserError: the place cannot be read.
        """

    def columns(self) -> Mapping[str, np.ndarray]:
        """Return what is known of the examples besides their numbers, by name."""
        return {}

    @property
    def notices(self) -> tuple[str, ...]:
        """What a user should know of the choice of examples and classes, a line each."""
        return ()

    def named(self, row: int) -> str:
        """Return what messages call an example."""
        return f"example {row}"

    def session(self) -> AbstractContextManager[None]:
        """Keep open, inside a block, what is needed to decode the examples."""
        return nullcontext()


class Form(ABC):
    """The way from an example to its row of an array.

    Attributes:
        version: increase it when ``array`` gives other numbers: older files are then not read.
        smaller: a setting that makes the rows smaller, for messages; empty: there is none.
    """

    version: ClassVar[int]
    smaller: ClassVar[str] = ""

    @abstractmethod
    def form(self, first: object) -> tuple[tuple[int, ...], np.dtype]:
        """Return shape and type of all rows.

        Args:
            first: an example, which may be broken.

        Raises:
            ValueError: it cannot be a row.
        """

    @abstractmethod
    def array(self, raw: object, shape: tuple[int, ...], dtype: np.dtype) -> tuple[np.ndarray, Sequence[str]]:
        """Return the row of one example, and words for what was changed, which are counted.

        Raises:
            Exception: of nearly any kind, if the example is broken.
        """

    def told(self, counts: Mapping[str, int], total: int) -> Sequence[str]:
        """Return what a user should know of the words that were counted over ``total`` examples, a line each."""
        return ()

    def limited(self) -> AbstractContextManager[None]:
        """Refuse examples of absurd size, inside a block. This holds for the whole process."""
        return nullcontext()
